"""The local target against the real Triton and the real gateway."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from echo_repository import echo
from kfp_trtllm.core.targets import get
from kfp_trtllm.core.targets.base import REVISION_HEADER, SERVED_BY_HEADER, Revision
from kfp_trtllm.core.targets.local import LocalTarget, loopback, processes, triton
from kfp_trtllm.errors import DeployFailed, InvalidSpec

pytestmark = pytest.mark.slow


def deploy(target: LocalTarget, deployment: tuple[Revision, Path]) -> Revision:
    revision, repository = deployment
    target.deploy(revision, repository)
    target.wait_ready(revision, 60)
    return revision


def release(target: LocalTarget, deployment: tuple[Revision, Path]) -> Revision:
    revision = deploy(target, deployment)
    target.promote(revision.model)
    return revision


def ask(target: LocalTarget, text: str, revision: Revision | None = None, model: str = "echo") -> httpx.Response:
    endpoint = target.endpoint(model, revision)
    url = f"{endpoint.url}/v2/models/{model}/generate_stream"
    return httpx.post(url, json={"text_input": text}, headers=dict(endpoint.headers), timeout=30)


def words(response: httpx.Response) -> list[str]:
    return [json.loads(line[6:])["text_output"] for line in response.text.splitlines() if line.startswith("data: ")]


def running(target: LocalTarget) -> int:
    return sum(len(found) for found in processes.marked(target.root).values())


def test_first_release(target: LocalTarget, tmp_path: Path) -> None:
    assert isinstance(get("local"), LocalTarget)
    revision, repository = echo(tmp_path)
    assert target.preflight(revision) == []
    assert target.state("echo") == target.state("never-heard-of")
    target.deploy(revision, repository)
    target.wait_ready(revision, 60)
    assert target.state("echo").canary == revision
    assert target.state("echo").weights == {}
    assert words(ask(target, "hello there", revision)) == ["hello", "there"]

    url = target.endpoint("echo").url
    assert target.endpoint("echo").grpc == ""
    assert ask(target, "hello").status_code == 503, "no traffic before the release"
    assert httpx.get(f"{url}/v2/health/ready").status_code == 503
    target.promote("echo")
    assert httpx.get(f"{url}/v2/health/ready").status_code == 200
    answer = ask(target, "hello")
    assert words(answer) == ["hello"]
    assert answer.headers[SERVED_BY_HEADER] == revision.name
    state = target.state("echo")
    assert (state.stable, state.canary, state.weights) == (revision, None, {revision.name: 100})

    counters = target.observe(revision)
    assert (counters.success, counters.failure, counters.restarts, counters.alive) == (2, 0, 0, True)
    [row] = target.status()
    assert (row.revision, row.role, row.weight, row.alive) == (revision.name, "stable", 100, True)
    assert row.repository == revision.repository
    assert row.pid and row.uptime_seconds > 0
    assert target.repositories_in_use() == {revision.repository}
    assert "Started HTTPService" in target.logs(revision)


def test_packages_come_from_this_environment(target: LocalTarget, tmp_path: Path) -> None:
    load = "import numpy, tokenizers, onnxruntime"
    revision = deploy(target, echo(tmp_path, initialize=load))
    assert words(ask(target, "packages", revision)) == [__import__("numpy").__file__]


def test_grpc_reaches_the_revision(target: LocalTarget, tmp_path: Path) -> None:
    import tritonclient.grpc as grpc

    revision = release(target, echo(tmp_path))
    address = target.endpoint("echo").grpc
    assert address == target.endpoint("echo", revision).grpc
    client = grpc.InferenceServerClient(address)
    assert client.is_model_ready("echo")
    client.close()


def test_split_is_what_clients_see(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    canary = deploy(target, echo(tmp_path, "two"))
    assert target.state("echo").weights == {stable.name: 100, canary.name: 0}

    def served(count: int) -> collections.Counter[str]:
        endpoint = target.endpoint("echo")
        with httpx.Client() as client:
            url = f"{endpoint.url}/v2/models/echo/generate"
            answers = [client.post(url, json={"text_input": "x"}) for _ in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return collections.Counter(answer.headers[SERVED_BY_HEADER] for answer in answers)

    assert served(20) == {stable.name: 20}
    for share in (10, 33, 50):
        target.split("echo", {stable.name: 100 - share, canary.name: share})
        assert target.state("echo").weights == {stable.name: 100 - share, canary.name: share}
        assert served(100) == {stable.name: 100 - share, canary.name: share}
    target.split("echo", {stable.name: 0, canary.name: 100})
    assert served(20) == {canary.name: 20}
    assert target.endpoint("echo", stable).headers == {REVISION_HEADER: stable.name}
    assert ask(target, "x", stable).headers[SERVED_BY_HEADER] == stable.name
    with pytest.raises(InvalidSpec, match="add up to 100"):
        target.split("echo", {stable.name: 50})
    with pytest.raises(InvalidSpec, match="but got echo-else"):
        target.split("echo", {"echo-else": 100})
    with pytest.raises(DeployFailed, match="gets 100 % of the traffic"):
        target.delete(canary)
    with pytest.raises(DeployFailed, match=f"has the canary {canary.name} already"):
        target.deploy(*echo(tmp_path, "three"))
    target.restore("echo")
    assert target.state("echo").weights == {stable.name: 100}
    assert served(20) == {stable.name: 20}


def test_promote_ends_the_old_stable(target: LocalTarget, tmp_path: Path) -> None:
    old = release(target, echo(tmp_path, "one"))
    new = release(target, echo(tmp_path, "two"))
    state = target.state("echo")
    assert (state.stable, state.canary, state.weights) == (new, None, {new.name: 100})
    assert not target.observe(old).alive
    assert [row.revision for row in target.status()] == [new.name]
    assert ask(target, "x", new).status_code == 200
    with pytest.raises(DeployFailed, match="is not deployed"):
        target.endpoint("echo", old)
    target.promote("echo")  # again, as after a kill
    assert target.state("echo") == state
    assert "Started HTTPService" in target.logs(old), "the log outlives its revision"


def test_restore_without_a_stable_leaves_nothing(target: LocalTarget, tmp_path: Path) -> None:
    revision = deploy(target, echo(tmp_path))
    target.save_rollout("echo", {"step": 1})
    target.restore("echo")
    target.restore("echo")
    assert target.state("echo").canary is None
    assert running(target) == 1, "the gateway only"
    assert ask_url(target, "/v2/models/echo/ready") == 404
    assert target.load_rollout("echo") == {"step": 1}, "whose rollout it was may still want to know"
    target.save_rollout("echo", None)
    assert target.load_rollout("echo") is None
    assert target.repositories_in_use() == frozenset()
    assert not target.observe(revision).alive


def ask_url(target: LocalTarget, path: str, **headers: str) -> int:
    gateway = target._file.read().gateway
    assert gateway is not None
    return httpx.get(f"http://127.0.0.1:{gateway.port}{path}", headers=headers).status_code


def test_delete(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    revision, repository = echo(tmp_path, "two")
    kept = target.repository_folder(revision)
    kept.parent.mkdir(parents=True)
    repository.rename(kept)
    target.deploy(revision, kept)
    target.delete(revision)
    target.delete(revision)
    assert target.state("echo").canary is None
    assert not kept.exists()
    assert target.repository_folder(stable).parent.exists()


def test_an_unknown_revision_is_never_answered_by_another(target: LocalTarget, tmp_path: Path) -> None:
    revision = release(target, echo(tmp_path))
    url = target.endpoint("echo").url
    for name in ("echo-0000000000", "", "*", revision.name + "0", revision.name.upper()):
        answer = httpx.get(f"{url}/v2/models/echo/ready", headers={REVISION_HEADER: name})
        assert answer.status_code == 404, name
        assert "no revision" in answer.json()["error"]
        assert SERVED_BY_HEADER not in answer.headers
    assert httpx.get(f"{url}/v2/models/echo-2/ready").status_code == 404
    assert httpx.get(f"{url}/v2/repository/index", headers={REVISION_HEADER: revision.name}).status_code == 404
    ready = httpx.get(f"{url}/v2/health/ready", headers={REVISION_HEADER: revision.name})
    assert (ready.status_code, ready.headers[SERVED_BY_HEADER]) == (200, revision.name)


def test_two_models_share_the_gateway(target: LocalTarget, tmp_path: Path) -> None:
    one = release(target, echo(tmp_path))
    two = release(target, echo(tmp_path, model="echo-b"))
    assert target.endpoint("echo").url == target.endpoint("echo-b").url
    assert ask(target, "x").headers[SERVED_BY_HEADER] == one.name
    assert ask(target, "x", model="echo-b").headers[SERVED_BY_HEADER] == two.name
    target.stop("echo")
    assert ask(target, "x", model="echo-b").status_code == 200
    assert [row.model for row in target.status()] == ["echo-b"]


def test_a_model_that_does_not_load(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    bad, repository = echo(tmp_path, "bad", initialize="raise RuntimeError('weights.onnx is missing')")
    target.deploy(bad, repository)
    started = time.monotonic()
    with pytest.raises(DeployFailed, match="ended before it was ready") as error:
        target.wait_ready(bad, 60)
    assert time.monotonic() - started < 20
    assert "RuntimeError: weights.onnx is missing" in str(error.value)
    assert len(str(error.value).splitlines()) <= 16
    assert "+--" not in str(error.value) and "CudaDriverHelper" not in str(error.value)
    assert [row.alive for row in target.status()] == [True, False]
    assert set(processes.marked(target.root)) == {
        target._file.read().servers[stable.name].token,
        target._file.read().gateway.token,  # type: ignore[union-attr]
    }
    assert target.observe(bad).restarts == 0
    with pytest.raises(DeployFailed, match="can't be promoted"):
        target.promote("echo")
    target.restore("echo")
    assert "weights.onnx is missing" in target.logs(bad)
    assert target.state("echo").stable == stable


def test_a_model_that_dies_while_loading(target: LocalTarget, tmp_path: Path) -> None:
    bad, repository = echo(tmp_path, initialize="os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    target.deploy(bad, repository)
    with pytest.raises(DeployFailed, match="ended before it was ready"):
        target.wait_ready(bad, 60)
    target.stop()
    assert running(target) == 0


def test_a_repository_that_is_none(target: LocalTarget, tmp_path: Path) -> None:
    revision, _ = echo(tmp_path)
    with pytest.raises(DeployFailed, match=r"lacks its config\.pbtxt"):
        target.deploy(revision, tmp_path)
    with pytest.raises(DeployFailed, match="needs the repository as a folder"):
        target.deploy(revision, "gs://bucket/repository")
    assert not target.status()


@pytest.mark.parametrize("word", ["die", "kill-triton"])
def test_a_death_while_serving_is_seen_and_mended(target: LocalTarget, tmp_path: Path, word: str) -> None:
    revision, repository = echo(tmp_path)
    release(target, (revision, repository))
    try:
        ask(target, f"a {word}", revision)
    except httpx.HTTPError:
        pass
    deadline = time.monotonic() + 10
    while target.observe(revision).alive and time.monotonic() < deadline:
        time.sleep(0.1)
    counters = target.observe(revision)
    assert (counters.restarts, counters.alive) == (1, False)
    assert [row.alive for row in target.status()] == [False]
    if word == "kill-triton":
        answer = ask(target, "x")
        assert answer.status_code == 502
        assert "does not answer" in answer.json()["error"]
        assert SERVED_BY_HEADER not in answer.headers, "what the gateway says comes from no revision"
    with pytest.raises(DeployFailed, match="died"):
        target.wait_ready(revision, 5)
    deploy(target, (revision, repository))
    assert words(ask(target, "back again")) == ["back", "again"]
    assert target.state("echo").stable == revision
    counters = target.observe(revision)
    assert (counters.restarts, counters.alive) == (1, True)


def test_restore_mends_a_dead_stable_first(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    canary = deploy(target, echo(tmp_path, "two"))
    target.split("echo", {stable.name: 50, canary.name: 50})
    triton_process = target._file.read().servers[stable.name].process
    assert triton_process is not None
    os.kill(triton_process.pid, signal.SIGKILL)
    while triton_process.alive:
        time.sleep(0.01)
    target.restore("echo")
    assert words(ask(target, "still here")) == ["still", "here"]
    assert ask(target, "x").headers[SERVED_BY_HEADER] == stable.name


def test_streams_are_not_held_back(target: LocalTarget, tmp_path: Path) -> None:
    revision = release(target, echo(tmp_path))
    seen: list[float] = []
    url = f"{target.endpoint('echo').url}/v2/models/echo/generate_stream"
    with httpx.stream("POST", url, json={"text_input": "first sleep=1.5"}, timeout=30) as response:
        assert response.headers[SERVED_BY_HEADER] == revision.name
        for line in response.iter_lines():
            if line.startswith("data: "):
                seen.append(time.monotonic())
    assert len(seen) == 2
    assert seen[1] - seen[0] > 1


def test_a_drain_does_not_wait_for_ever(tmp_path: Path, target: LocalTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "EXIT_TIMEOUT_SECONDS", 1)
    revision = release(target, echo(tmp_path))
    with httpx.stream(
        "POST",
        f"{target.endpoint('echo').url}/v2/models/echo/generate_stream",
        json={"text_input": "first sleep=60"},
        timeout=30,
    ) as response:
        next(response.iter_lines())
        started = time.monotonic()
        LocalTarget(drain_seconds=1).stop("echo")
        assert time.monotonic() - started < 10
    assert running(target) == 0
    assert not target.observe(revision).alive


def test_streams_survive_a_split_and_a_promotion(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    canary = deploy(target, echo(tmp_path, "two"))
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(ask(target, "a sleep=3 b")))
    slow.start()
    time.sleep(0.5)
    target.split("echo", {stable.name: 50, canary.name: 50})
    target.promote("echo")
    slow.join()
    assert words(answers[0]) == ["a", "sleep=3", "b"], "drained before it was stopped"
    assert answers[0].headers[SERVED_BY_HEADER] == stable.name


def test_splits_fail_no_request(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    canary = deploy(target, echo(tmp_path, "two"))
    url = f"{target.endpoint('echo').url}/v2/models/echo/generate"
    ended = threading.Event()
    statuses: collections.Counter[Any] = collections.Counter()

    def hammer() -> None:
        with httpx.Client(timeout=30) as client:
            while not ended.is_set():
                try:
                    answer = client.post(url, json={"text_input": "x"})
                    statuses[answer.status_code] += SERVED_BY_HEADER in answer.headers
                except (httpx.ReadError, httpx.RemoteProtocolError):
                    statuses["refused"] += 1

    clients = [threading.Thread(target=hammer) for _ in range(2)]
    for client in clients:
        client.start()
    for share in (10, 25, 50, 75, 90):
        target.split("echo", {stable.name: 100 - share, canary.name: share})
        time.sleep(0.2)
    target.promote("echo")
    ended.set()
    for client in clients:
        client.join()
    # Caddy closes connections that have not sent a request yet when its configuration changes.
    assert statuses.pop("refused", 0) <= 14
    assert set(statuses) == {200}, statuses


def test_ports_that_others_hold(target: LocalTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    held = []
    wanted = loopback.free_ports(1)[0]
    monkeypatch.setenv("KFP_TRTLLM_GATEWAY_PORT", str(wanted))
    for port in (8000, 8001, 8002, wanted):
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("0.0.0.0", port))
            other.listen()
        except OSError:
            continue
        held.append(other)
    revision = release(target, echo(tmp_path))
    url = target.endpoint("echo").url
    assert url != f"http://127.0.0.1:{wanted}"
    assert ask(target, "x").headers[SERVED_BY_HEADER] == revision.name
    for other in held:
        other.close()
    release(target, echo(tmp_path, "two"))
    assert target.endpoint("echo").url == url, "remembered, also when the wanted one is free again"


def test_a_port_taken_between_choice_and_use(
    target: LocalTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    other = socket.create_server(("127.0.0.1", 0))
    asked = loopback.free_ports
    answers = iter([[asked(1)[0], other.getsockname()[1], asked(1)[0]]])

    def free_ports(count: int, taken: Any = ()) -> list[int]:
        return next(answers, None) or asked(count, taken) if count == 3 else asked(count, taken)

    monkeypatch.setattr(loopback, "free_ports", free_ports)
    revision = deploy(target, echo(tmp_path))
    assert words(ask(target, "x", revision)) == ["x"]
    assert target.observe(revision).restarts == 0
    other.close()


def test_the_gateway_is_started_again_on_its_port(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    url = target.endpoint("echo").url
    gateway = target._file.read().gateway
    assert gateway is not None and gateway.process is not None
    os.kill(gateway.process.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert target.state("echo").weights == {}
    target.split("echo", {stable.name: 100})
    assert target.endpoint("echo").url == url
    assert ask(target, "x").status_code == 200


def test_a_split_that_somebody_else_changed_is_seen(target: LocalTarget, tmp_path: Path) -> None:
    stable = release(target, echo(tmp_path, "one"))
    canary = deploy(target, echo(tmp_path, "two"))
    target.split("echo", {stable.name: 90, canary.name: 10})
    gateway = target._file.read().gateway
    assert gateway is not None
    path = "/id/shares%20of%20echo/handle/1/load_balancing/selection_policy/weights"
    assert loopback.call(gateway.admin, "PATCH", path, document=[1, 2, 1]).status == 200
    assert target.state("echo").weights == {stable.name: 50, canary.name: 50}
    target.split("echo", {stable.name: 90, canary.name: 10})
    assert target.state("echo").weights == {stable.name: 90, canary.name: 10}


_KILLED = """
import os, signal, sys
from pathlib import Path
from echo_repository import echo
from kfp_trtllm.core.targets.local import LocalTarget, processes, state
moment = sys.argv[2]
start, write = processes.start, state.StateFile.write
def killed(*args, **kwargs):
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    start(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
processes.start = killed
LocalTarget().deploy(*echo(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_the_middle_of_a_deployment(target: LocalTarget, tmp_path: Path, moment: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(elsewhere), moment],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    revision, repository = echo(tmp_path)
    survivors = processes.marked(target.root)
    assert bool(survivors) == (moment == "after")
    recorded = target._file.read().servers[revision.name]
    assert recorded.process is None
    deploy(target, (revision, repository))
    assert words(ask(target, "x", revision)) == ["x"]
    server = target._file.read().servers[revision.name]
    assert (server.token == recorded.token) == (moment == "after"), "what survived was taken over"
    target.stop()
    assert running(target) == 0


def test_a_server_that_nobody_knows_is_ended(target: LocalTarget, tmp_path: Path) -> None:
    target.root.mkdir(parents=True)
    log = tmp_path / "stray.log"
    processes.start(["sleep", "600"], env=dict(os.environ), log=log, root=target.root, token="stray")
    release(target, echo(tmp_path))
    assert "stray" not in processes.marked(target.root)


def test_a_kill_between_promotion_and_stop(target: LocalTarget, tmp_path: Path) -> None:
    old = release(target, echo(tmp_path, "one"))
    new = deploy(target, echo(tmp_path, "two"))
    with target._file.locked() as state:  # as promote leaves it before it drains
        state.change("echo", stable=new.name, canary="", retiring=(old.name,), weights={new.name: 100})
    assert [row.role for row in target.status()] == ["stable", "retiring"]
    target.promote("echo")
    assert [row.revision for row in target.status()] == [new.name]
    assert ask(target, "x").headers[SERVED_BY_HEADER] == new.name
    assert len(processes.marked(target.root)) == 2


def test_a_recycled_process_id_is_not_killed(target: LocalTarget, tmp_path: Path) -> None:
    revision = release(target, echo(tmp_path))
    innocent = subprocess.Popen(["sleep", "600"])
    try:
        with target._file.locked() as state:
            server = state.servers[revision.name]
            processes.stop(target.root, [server.token], grace_seconds=0)
            assert server.process is not None
            stolen = processes.Process(innocent.pid, server.process.born)
            state.servers[revision.name] = type(server)(**{**vars(server), "process": stolen})
        assert not target.observe(revision).alive
        target.stop()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_stop_leaves_nothing_and_all_can_start_again(target: LocalTarget, tmp_path: Path) -> None:
    deployment = echo(tmp_path)
    release(target, deployment)
    deploy(target, echo(tmp_path, "two"))
    tokens = list(processes.marked(target.root))
    assert len(tokens) == 3
    target.stop()
    target.stop()
    assert running(target) == 0
    assert target.status() == []
    assert not [region for token in tokens for region in Path("/dev/shm").glob(f"*{token}*")]
    with pytest.raises(DeployFailed, match="is not deployed"):
        target.endpoint("echo")
    release(target, deployment)
    deploy(target, deployment)
    assert target.state("echo").canary is None, "what is stable already stays so"
    assert words(ask(target, "again")) == ["again"]


def test_stop_needs_no_gateway(target: LocalTarget, tmp_path: Path) -> None:
    release(target, echo(tmp_path))
    gateway = target._file.read().gateway
    assert gateway is not None
    processes.stop(target.root, [gateway.token], grace_seconds=0)
    target.stop()
    assert running(target) == 0
    assert target._file.read().gateway is None


def test_two_processes_take_turns(target: LocalTarget, tmp_path: Path) -> None:
    one, two = echo(tmp_path, model="echo"), echo(tmp_path, model="echo-b")
    others = [LocalTarget(), LocalTarget()]
    failures: list[BaseException] = []

    def run(local: LocalTarget, deployment: tuple[Revision, Path]) -> None:
        try:
            release(local, deployment)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(others, (one, two), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [row.alive for row in target.status()] == [True, True]
    assert len(processes.marked(target.root)) == 3


def test_a_state_of_a_newer_version(target: LocalTarget, tmp_path: Path) -> None:
    target.root.mkdir(parents=True)
    text = json.dumps({"schema": 99, "all": "different"})
    target._file.path.write_text(text)
    for call in (lambda: target.state("echo"), lambda: target.deploy(*echo(tmp_path)), target.stop):
        with pytest.raises(DeployFailed, match=r"written by schema 99.*upgrade kfp-trtllm"):
            call()
    assert target._file.path.read_text() == text, "left as it is"


def test_nothing_is_logged_of_what_was_asked(target: LocalTarget, tmp_path: Path) -> None:
    revision = release(target, echo(tmp_path))
    ask(target, "secretword", revision)
    for path in target.root.rglob("*"):
        if path.is_file():
            assert b"secretword" not in path.read_bytes(), path


def test_preflight_names_what_is_missing(target: LocalTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision, _ = echo(tmp_path)
    facts = type(revision.facts)(**{**vars(revision.facts), "launch": {"argv": ["mpirun", "-n", "2"]}})
    other = type(revision)(**{**vars(revision), "facts": facts})
    assert target.preflight(other) == [
        f"{revision.name} must be started by mpirun, but target local starts tritonserver only."
    ]
    absent = type(triton.installation())(**{**vars(triton.installation()), "server": Path("/absent")})
    monkeypatch.setattr(triton, "installation", lambda: absent)
    [problem] = target.preflight(revision)
    assert problem.startswith("tritonserver can't be run:")
