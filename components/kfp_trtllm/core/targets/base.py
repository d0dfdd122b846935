"""What a target (a place where Triton runs) must do. The rollout engine knows only this protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kfp_trtllm.core.manifest import Manifest, RepositoryFacts
from kfp_trtllm.errors import InvalidSpec

REVISION_HEADER = "x-kfp-trtllm-revision"  # a request with it reaches that revision, through the gateway
SERVED_BY_HEADER = "x-served-by"  # every response names the revision that answered
SERVED_VERSION_HEADER = "x-served-version"  # and the version, where the gateway chose one

_MODEL_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def check_model_name(name: str) -> str:
    """A name that is safe as a path, a Kubernetes label and a Triton model name."""
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidSpec(
            f"model_name must be 1 to 40 of a-z, 0-9 and -, starting and ending with a letter or digit, but got {name!r}."
        )
    return name


def version_shares(facts: RepositoryFacts, weights: Mapping[int, int]) -> dict[int, int]:
    """How a revision's unaddressed requests fall to its versions: the one rule for stable and canary alike.

    Args:
        facts: Of the revision's repository.
        weights: Of the model, as `Target.split_versions` keeps them; empty when nobody set any.

    Returns:
        Percent by version, ascending, of every version that the revision serves. The newest, which is Triton's own
        choice, gets everything when there are no weights, or when one is of a version that this revision lacks.
    """
    shares = weights if weights and weights.keys() <= set(facts.versions) else {max(facts.versions): 100}
    return {version: shares.get(version, 0) for version in sorted(facts.versions)}


def kept_weights(facts: RepositoryFacts, weights: Mapping[int, int]) -> dict[int, int]:
    """The weights that are to be kept once a revision is stable; empty where they are what Triton does by itself."""
    shares = version_shares(facts, weights)
    return {} if shares[max(shares)] == 100 else {version: share for version, share in shares.items() if share}


def check_version_weights(revision: Revision, weights: Mapping[int, int]) -> None:
    """InvalidSpec unless the weights are percents, sum to 100, and are of versions that the revision serves."""
    strangers = sorted(weights.keys() - set(revision.facts.versions))
    if strangers:
        served, given = (", ".join(map(str, versions)) for versions in (revision.facts.versions, strangers))
        raise InvalidSpec(
            f"version weights of {revision.model} must be of versions that {revision.name} serves ({served}), "
            f"but got {given}."
        )
    if min(weights.values(), default=0) < 0 or sum(weights.values()) != 100:
        raise InvalidSpec(
            f"version weights of {revision.model} must be 0 or more and add up to 100, "
            f"but got {show_weights(weights) or 'none'}."
        )


def show_weights(weights: Mapping[int, int]) -> str:
    """Version weights for people, as the command line takes them: "1=90 2=10"."""
    return " ".join(f"{version}={weight}" for version, weight in weights.items())


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One deployed repository: immutable, with its own Triton.

    Attributes:
        name: "<model>-<first 10 digits of the repository's digest>".
        model: Model name.
        repository: Digest of the repository's manifest.
        facts: The repository's facts.
    """

    name: str
    model: str
    repository: str
    facts: RepositoryFacts

    @classmethod
    def of(cls, manifest: Manifest) -> Revision:
        """The revision that a repository's manifest makes: same digest, same name."""
        facts = manifest.facts_as(RepositoryFacts)
        digest = manifest.digest
        name = f"{facts.model_name}-{digest.removeprefix('sha256:')[:10]}"
        return cls(name=name, model=facts.model_name, repository=digest, facts=facts)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to send requests.

    Attributes:
        url: HTTP base, for example "http://127.0.0.1:8080"; Triton's paths follow it.
        grpc: "host:port" of Triton's gRPC service, "" where it can't be reached.
        headers: To be sent with every request (addresses one arm, or authenticates).
    """

    url: str
    grpc: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the target itself counts for a revision, since the revision started.

    Attributes:
        success: Requests that Triton counts as served.
        failure: Requests that Triton counts as failed.
        restarts: Times that its process or pods died.
        alive: Whether it runs and is ready now.
    """

    success: int
    failure: int
    restarts: int
    alive: bool


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What runs for a model.

    Attributes:
        stable: The revision that users get, None before the first release.
        canary: The revision on trial, None when there is none.
        weights: Share of unaddressed requests by revision name, as the gateway itself tells it; sums to 100 or is empty.
        versions: How stable's share falls to its versions, in percent of it, as the gateway itself tells it; sums to
            100, or is empty when stable gets no traffic.
    """

    stable: Revision | None
    canary: Revision | None
    weights: Mapping[str, int]
    versions: Mapping[int, int] = field(default_factory=dict)


class Target(Protocol):
    """A place where Triton runs. Every method is idempotent: it may be called again after a kill at any moment."""

    name: str

    def preflight(self, revision: Revision) -> list[str]:
        """Everything that would keep the revision from being deployed, one line each; empty when nothing would."""

    def state(self, model: str) -> ModelState:
        """What runs for the model now."""

    def repository_folder(self, revision: Revision) -> Path | None:
        """Where the revision's repository is to be put before `deploy`, removed with the revision; None for a URL."""

    def deploy(self, revision: Revision, repository: Path | str) -> None:
        """Starts a revision with no traffic, as the canary (also when there is no stable yet).

        Args:
            revision: What to start. One that runs already is left alone; another canary is refused with DeployFailed.
            repository: Folder (or URL) of the Triton model repository.
        """

    def wait_ready(self, revision: Revision, timeout_seconds: float) -> None:
        """Returns when the revision answers; DeployFailed as soon as it can't any more, with its log's last lines."""

    def endpoint(self, model: str, revision: Revision | None = None) -> Endpoint:
        """The gateway's endpoint; with a revision, the headers that always reach it."""

    def split(self, model: str, weights: Mapping[str, int]) -> None:
        """Sets the share of unaddressed requests by revision name (sum 100), reads it back, DeployFailed if it differs."""

    def split_versions(self, model: str, weights: Mapping[int, int]) -> None:
        """Sets how stable's unaddressed requests fall to its versions (percent, sum 100), and reads it back.

        A revision that serves all of these versions follows the weights in every role, so they outlive a promotion;
        one that lacks any gives all to its newest, and its promotion forgets the weights, as does giving the newest
        everything. Requests that name a version or a revision are never touched. InvalidSpec for weights that are
        none, DeployFailed when there is no stable, when a version does not answer, or when the gateway differs.
        """

    def observe(self, revision: Revision) -> Counters:
        """The target's own counters."""

    def promote(self, model: str) -> None:
        """Makes the canary stable with all traffic, and deletes the old stable after it has drained."""

    def restore(self, model: str) -> None:
        """All traffic to stable (confirmed), then the canary drained and deleted. Does nothing without a canary."""

    def delete(self, revision: Revision) -> None:
        """Removes a revision that gets no traffic."""

    def load_rollout(self, model: str) -> dict[str, Any] | None:
        """The rollout's saved state, None when there is none."""

    def save_rollout(self, model: str, state: Mapping[str, Any] | None) -> None:
        """Saves the rollout's state where the next attempt finds it; None deletes it."""

    def logs(self, revision: Revision, lines: int = 40) -> str:
        """The end of the revision's log."""
