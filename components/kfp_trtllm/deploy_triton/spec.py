"""What deploy_triton needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import rules, targets
from kfp_trtllm.core.store import check_url


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A revision to start, with no traffic.

    Attributes:
        store: URL of the store.
        repository: Digest of the Triton model repository's manifest.
        target: Where Triton runs: local.
        ready_timeout_seconds: Time for the revision to load its model.
        run_id: Names the run that owns this rollout; another run is kept from interfering.
    """

    store: str
    repository: str
    target: str = "local"
    ready_timeout_seconds: int = 300
    run_id: str = ""

    def __post_init__(self) -> None:
        check_url(self.store)
        rules.digest("repository", self.repository)
        targets.check(self.target)
        rules.at_least("ready_timeout_seconds", self.ready_timeout_seconds, 1)
