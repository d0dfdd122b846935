"""A/B by version: real Tritons that serve several versions of a model, behind the real gateway."""

from __future__ import annotations

import collections
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from echo_repository import echo
from kfp_trtllm.cli import main
from kfp_trtllm.core.evidence import binomial
from kfp_trtllm.core.targets.base import SERVED_BY_HEADER, SERVED_VERSION_HEADER, Revision
from kfp_trtllm.core.targets.local import LocalTarget, loopback
from kfp_trtllm.errors import DeployFailed, InvalidSpec

pytestmark = pytest.mark.slow

ALARM = 1e-6  # of each comparison with chance
REQUESTS = 400


def deploy(target: LocalTarget, deployment: tuple[Revision, Path]) -> Revision:
    revision, repository = deployment
    target.deploy(revision, repository)
    target.wait_ready(revision, 60)
    return revision


def release(target: LocalTarget, deployment: tuple[Revision, Path]) -> Revision:
    revision = deploy(target, deployment)
    target.promote(revision.model)
    return revision


def ask(
    target: LocalTarget, path: str = "generate", revision: Revision | None = None, text: str = "version"
) -> httpx.Response:
    endpoint = target.endpoint("echo", revision)
    body: dict[str, Any] = {"text_input": text}
    if path.startswith("infer"):
        body = {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    url = f"{endpoint.url}/v2/models/echo/{path}"
    return httpx.post(url, json=body, headers=dict(endpoint.headers), timeout=30)


def served(target: LocalTarget, count: int = REQUESTS) -> collections.Counter[tuple[str, int]]:
    """Unaddressed requests by the revision and the version that the gateway names, which Triton must confirm."""
    seen: collections.Counter[tuple[str, int]] = collections.Counter()
    with httpx.Client() as client:
        url = f"{target.endpoint('echo').url}/v2/models/echo/generate"
        for _ in range(count):
            answer = client.post(url, json={"text_input": "version"})
            assert answer.status_code == 200, answer.text
            version = answer.headers.get(SERVED_VERSION_HEADER, answer.json()["text_output"])
            assert answer.json()["text_output"] == answer.json()["model_version"] == version
            seen[answer.headers[SERVED_BY_HEADER], int(version)] += 1
    return seen


def assert_shares(seen: collections.Counter[tuple[str, int]], shares: Mapping[tuple[str, int], float]) -> None:
    """Every share within what chance can do to it, and nothing where there is none."""
    assert seen.keys() <= shares.keys()
    for who, share in shares.items():
        assert binomial.two_sided_p_value(seen[who], seen.total(), share) > ALARM, (who, seen)


@pytest.fixture
def stable(target: LocalTarget, tmp_path: Path) -> Iterator[Revision]:
    yield release(target, echo(tmp_path, "one", versions=(1, 2)))


def test_unaddressed_requests_follow_the_weights_of_versions(target: LocalTarget, stable: Revision) -> None:
    assert target.state("echo").versions == {1: 0, 2: 100}
    assert SERVED_VERSION_HEADER not in ask(target).headers, "the gateway leaves the choice to Triton"
    assert served(target, 20) == {(stable.name, 2): 20}
    for share in (10, 50, 97):
        target.split_versions("echo", {1: 100 - share, 2: share})
        state = target.state("echo")
        assert (state.versions, state.weights) == ({1: 100 - share, 2: share}, {stable.name: 100})
        assert_shares(served(target), {(stable.name, 1): 1 - share / 100, (stable.name, 2): share / 100})
    target.split_versions("echo", {1: 100, 2: 0})
    assert served(target, 20) == {(stable.name, 1): 20}
    target.split_versions("echo", {2: 100})
    assert SERVED_VERSION_HEADER not in ask(target).headers
    assert served(target, 20) == {(stable.name, 2): 20}


def test_addressed_requests_are_never_rewritten(target: LocalTarget, stable: Revision) -> None:
    target.split_versions("echo", {1: 100})
    assert ask(target).json()["text_output"] == "1"
    for version, path in itertools.product((1, 2), ("generate", "generate_stream")):
        answer = ask(target, f"versions/{version}/{path}")
        assert f'"text_output":"{version}"' in answer.text
        assert answer.headers[SERVED_BY_HEADER] == stable.name
        assert SERVED_VERSION_HEADER not in answer.headers
    addressed = ask(target, revision=stable)
    assert (addressed.json()["text_output"], addressed.headers[SERVED_BY_HEADER]) == ("2", stable.name)
    assert ask(target, "versions/1/generate", revision=stable).json()["text_output"] == "1"
    unknown = ask(target, "versions/3/generate")
    assert (unknown.status_code, unknown.headers[SERVED_BY_HEADER]) == (404, stable.name), "Triton says so itself"
    url = target.endpoint("echo").url
    assert httpx.get(f"{url}/v2/models/echo").json()["versions"] == ["1", "2"]
    assert httpx.get(f"{url}/v2/models/echo/ready").status_code == 200


@pytest.mark.parametrize(
    ("decoupled", "paths"), [(True, ("generate", "generate_stream")), (False, ("generate", "infer"))]
)
def test_every_way_to_generate_follows_the_weights(
    target: LocalTarget, tmp_path: Path, decoupled: bool, paths: tuple[str, ...]
) -> None:
    release(target, echo(tmp_path, versions=(1, 2), decoupled=decoupled))
    target.split_versions("echo", {1: 100})
    for path in paths:
        answer = ask(target, f"{path}?any=query")
        assert answer.status_code == 200, answer.text
        assert '"model_version":"1"' in answer.text
        assert answer.headers[SERVED_VERSION_HEADER] == "1"


def test_two_splits_at_once_are_independent(target: LocalTarget, stable: Revision, tmp_path: Path) -> None:
    target.split_versions("echo", {1: 50, 2: 50})
    canary = deploy(target, echo(tmp_path, "two", versions=(1, 2, 3)))
    target.split("echo", {stable.name: 80, canary.name: 20})
    state = target.state("echo")
    assert (state.weights, state.versions) == ({stable.name: 80, canary.name: 20}, {1: 50, 2: 50})
    assert [(row.role, row.version, row.weight) for row in target.versions("echo")] == [
        ("stable", 1, 50),
        ("stable", 2, 50),
        ("canary", 1, 50),
        ("canary", 2, 50),
        ("canary", 3, 0),
    ]
    cells = {(stable.name, 1): 0.4, (stable.name, 2): 0.4, (canary.name, 1): 0.1, (canary.name, 2): 0.1}
    assert_shares(served(target), cells)
    for revision in (stable, canary):
        assert ask(target, revision=revision).headers[SERVED_BY_HEADER] == revision.name
    assert ask(target, revision=canary).json()["text_output"] == "3", "the arm that is measured chooses by itself"
    target.split_versions("echo", {1: 0, 2: 100})
    assert target.state("echo").weights == {stable.name: 80, canary.name: 20}


def test_a_promotion_keeps_the_weights_where_the_new_revision_can(
    target: LocalTarget, stable: Revision, tmp_path: Path
) -> None:
    target.split_versions("echo", {1: 70, 2: 30})
    more = release(target, echo(tmp_path, "two", versions=(1, 2, 3)))
    assert target.state("echo").versions == {1: 70, 2: 30, 3: 0}
    assert_shares(served(target), {(more.name, 1): 0.7, (more.name, 2): 0.3})

    other = deploy(target, echo(tmp_path, "three", versions=(2, 4)))
    target.split("echo", {more.name: 50, other.name: 50})
    assert_shares(served(target), {(more.name, 1): 0.35, (more.name, 2): 0.15, (other.name, 4): 0.5})
    target.promote("echo")
    assert target.state("echo").versions == {2: 0, 4: 100}
    assert SERVED_VERSION_HEADER not in ask(target).headers
    assert served(target, 20) == {(other.name, 4): 20}
    back = release(target, echo(tmp_path, "four", versions=(1, 2)))
    assert target.state("echo").versions == {1: 0, 2: 100}, "forgotten is forgotten"
    assert target.state("echo").stable == back


def test_a_rollback_leaves_stable_as_it_was(target: LocalTarget, stable: Revision, tmp_path: Path) -> None:
    target.split_versions("echo", {1: 100})
    canary = deploy(target, echo(tmp_path, "two", versions=(3,)))
    target.split("echo", {stable.name: 0, canary.name: 100})
    assert target.state("echo").versions == {}, "stable gets no traffic"
    assert served(target, 20) == {(canary.name, 3): 20}
    target.restore("echo")
    assert target.state("echo").versions == {1: 100, 2: 0}
    assert served(target, 20) == {(stable.name, 1): 20}
    target.stop("echo")
    assert target.state("echo").versions == {}
    again = release(target, echo(tmp_path / "again", "one", versions=(1, 2)))
    assert served(target, 20) == {(again.name, 2): 20}, "what was stopped is forgotten"


def test_the_weights_survive_the_gateway(target: LocalTarget, stable: Revision) -> None:
    target.split_versions("echo", {1: 100})
    gateway = target._file.read().gateway
    assert gateway is not None and gateway.process is not None
    os.kill(gateway.process.pid, signal.SIGKILL)
    while gateway.process.alive:
        time.sleep(0.01)
    assert target.state("echo").versions == {}, "there is nobody who could tell"
    target.split("echo", {stable.name: 100})
    assert target.state("echo").versions == {1: 100, 2: 0}
    assert served(target, 20) == {(stable.name, 1): 20}


def test_weights_that_somebody_else_changed_are_seen(target: LocalTarget, stable: Revision) -> None:
    target.split_versions("echo", {1: 75, 2: 25})
    gateway = target._file.read().gateway
    assert gateway is not None
    path = "/id/versions%20of%20echo/handle/0/routes/0/match/0/expression"
    half = '{http.request.uuid} < "80000000"'
    assert loopback.call(gateway.admin, "PATCH", path, document=half).status == 200
    assert target.state("echo").versions == {1: 50, 2: 50}
    target.split_versions("echo", {1: 75, 2: 25})
    assert target.state("echo").versions == {1: 75, 2: 25}


def test_refusals_leave_the_weights_alone(target: LocalTarget, tmp_path: Path) -> None:
    with pytest.raises(DeployFailed, match="echo has no stable revision whose versions could get weights"):
        target.split_versions("echo", {1: 100})
    canary = deploy(target, echo(tmp_path, versions=(1, 2)))
    with pytest.raises(DeployFailed, match="has no stable revision"):
        target.split_versions("echo", {1: 100})
    target.promote("echo")
    target.split_versions("echo", {1: 60, 2: 40})
    for wrong in ({3: 100}, {1: 60}, {1: 120, 2: -20}, {}):
        with pytest.raises(InvalidSpec, match="version weights of echo must be"):
            target.split_versions("echo", wrong)
    assert target.state("echo").versions == {1: 60, 2: 40}
    (tmp_path / "echo-one" / "echo" / "7").mkdir()
    facts = type(canary.facts)(**{**vars(canary.facts), "versions": (1, 2, 7)})
    with target._file.locked() as state:
        server = state.servers[canary.name]
        lying = type(canary)(**{**vars(canary), "facts": facts})
        state.servers[canary.name] = type(server)(**{**vars(server), "revision": lying})
    with pytest.raises(DeployFailed, match=f"version 7 of {canary.name} can't be reached through the gateway"):
        target.split_versions("echo", {1: 60, 7: 40})
    assert served(target, 20).keys() <= {(canary.name, 1), (canary.name, 2)}


def test_a_change_of_weights_fails_no_request(target: LocalTarget, stable: Revision) -> None:
    url = f"{target.endpoint('echo').url}/v2/models/echo/generate"
    ended = threading.Event()
    statuses: collections.Counter[Any] = collections.Counter()

    def hammer() -> None:
        with httpx.Client(timeout=30) as client:
            while not ended.is_set():
                try:
                    statuses[client.post(url, json={"text_input": "x"}).status_code] += 1
                except (httpx.ReadError, httpx.RemoteProtocolError):
                    statuses["refused"] += 1

    clients = [threading.Thread(target=hammer) for _ in range(2)]
    for client in clients:
        client.start()
    slow: list[httpx.Response] = []
    stream = threading.Thread(target=lambda: slow.append(ask(target, "generate_stream", text="a sleep=2 version")))
    stream.start()
    time.sleep(0.3)
    for share in (10, 25, 50, 75, 90):
        target.split_versions("echo", {1: 100 - share, 2: share})
        time.sleep(0.2)
    ended.set()
    for client in [*clients, stream]:
        client.join()
    # Caddy closes connections that have not sent a request yet when its configuration changes.
    assert statuses.pop("refused", 0) <= 12
    assert set(statuses) == {200}, statuses
    assert '"text_output":"2"' in slow[0].text, "a stream ends with the version that it began with"


def kfp_trtllm(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["local", *arguments], env={"COLUMNS": "80"})


def test_the_command_line(target: LocalTarget, tmp_path: Path) -> None:
    nothing = kfp_trtllm("versions", "echo")
    assert (nothing.exit_code, nothing.output) == (2, "kfp-trtllm: nothing runs, so there are no versions.\n")
    revision, repository = echo(tmp_path, versions=(1, 2))
    facts = type(revision.facts)(**{**vars(revision.facts), "variants": {"1": "fp16", "2": "fp8"}})
    release(target, (type(revision)(**{**vars(revision), "facts": facts}), repository))

    def cells(result: Result) -> list[list[str]]:
        assert result.exit_code == 0, result.output
        return [line.split() for line in result.output.splitlines()]

    assert cells(kfp_trtllm("versions", "echo")) == [
        ["version", "variant", "weight", "revision", "role"],
        ["1", "fp16", "0", "%", revision.name, "stable"],
        ["2", "fp8", "100", "%", revision.name, "stable"],
    ]
    assert "by version" not in kfp_trtllm("status").output
    assert cells(kfp_trtllm("versions", "echo", "1=90", "2=10"))[1:] == [
        ["1", "fp16", "90", "%", revision.name, "stable"],
        ["2", "fp8", "10", "%", revision.name, "stable"],
    ]
    status = kfp_trtllm("status").output.splitlines()
    assert status[-1] == f"{revision.name} by version: 1=90 2=10"
    assert max(map(len, status)) <= 80
    for arguments, words in (
        (("echo", "1=90", "3=10"), "must be of versions that"),
        (("echo", "1=120", "2=-20"), "must be 0 or more and add up to 100, but got 1=120 2=-20."),
        (("echo", "1=90"), "must be 0 or more and add up to 100, but got 1=90."),
        (("echo", "1"), "weights must be VERSION=PERCENT in whole numbers, but got '1'."),
        (("echo", "1=half"), "weights must be VERSION=PERCENT in whole numbers, but got '1=half'."),
        (("echo", "1=50", "1=50"), "weights must not name a version twice, but got '1=50 1=50'."),
        (("ecco",), "MODEL must be one of echo, but got 'ecco'. Did you mean 'echo'?"),
    ):
        refused = kfp_trtllm("versions", *arguments)
        assert refused.exit_code == 2
        assert words in refused.output and len(refused.output.splitlines()) == 1, refused.output
    assert target.state("echo").versions == {1: 90, 2: 10}
