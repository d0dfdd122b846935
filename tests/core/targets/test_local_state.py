"""The local target's parts that need no server."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from echo_repository import echo
from kfp_trtllm.core.targets.local import gateway, loopback, processes, triton
from kfp_trtllm.core.targets.local.state import Gateway, Model, Server, State, StateFile
from kfp_trtllm.errors import DeployFailed


def a_state(
    folder: Path,
    weights: dict[str, int] | None = None,
    *,
    served: tuple[tuple[int, ...], tuple[int, ...]] = ((1,), (1,)),
    versions: dict[int, int] | None = None,
) -> State:
    one, repository = echo(folder, "one", versions=served[0])
    two, _ = echo(folder, "two", versions=served[1])
    servers = {
        revision.name: Server(
            revision=revision,
            repository=str(repository),
            http=port,
            grpc=port + 1,
            metrics=port + 2,
            token=processes.new_token(),
            process=processes.Process(4711, "42"),
            started=1.5,
        )
        for revision, port in ((one, 20000), (two, 20010))
    }
    shares = dict(zip(servers, (90, 10), strict=True)) if weights is None else weights
    model = Model(
        stable=one.name, canary=two.name, weights=shares, rollout={"step": [1, None]}, versions=versions or {}
    )
    return State(
        models={"echo": model},
        servers=servers,
        gateway=Gateway(port=1, admin=2, token="t", process=None),
    )


def test_state_survives_the_disk(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "local")
    assert file.read() == State()
    state = a_state(tmp_path, served=((1, 2), (1,)), versions={1: 90, 2: 10})
    with file.locked() as empty:
        empty.models, empty.servers, empty.gateway = state.models, state.servers, state.gateway
    assert file.read() == state
    assert file.path.parent.stat().st_mode & 0o077 == 0, "nobody else's business"


def test_a_state_of_the_first_schema_is_read(tmp_path: Path) -> None:
    state = a_state(tmp_path)
    file = StateFile(tmp_path)
    file.write(state)
    document = json.loads(file.path.read_text())
    document["schema"] = 1
    for model in document["models"].values():
        del model["versions"]
    for server in document["servers"].values():
        server["revision"]["facts"]["launch"] = "tritonserver"
        del server["revision"]["facts"]["variants"]
    file.path.write_text(json.dumps(document))
    assert file.read() == state
    with file.locked():
        pass
    assert json.loads(file.path.read_text())["schema"] == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "models": 3}'])
def test_a_file_that_is_no_state(tmp_path: Path, text: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(text)
    with pytest.raises(DeployFailed, match="is not the local target's state"):
        file.read()


def test_changes_take_turns(tmp_path: Path) -> None:
    file = StateFile(tmp_path)

    def count() -> None:
        for _ in range(20):
            with file.locked() as state:
                seen = (state.model("m").rollout or {"n": 0})["n"]
                state.change("m", rollout={"n": seen + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read().model("m").rollout == {"n": 80}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "state.json"]


def test_a_killed_writer_leaves_the_old_state(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.write(a_state(tmp_path))
    before = file.path.read_bytes()
    script = (
        "import os, signal, sys; from pathlib import Path; from kfp_trtllm.core.targets.local.state import *\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with StateFile(Path(sys.argv[1])).locked() as state: state.models.clear()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert file.path.read_bytes() == before
    with file.locked():
        pass


def test_a_model_with_nothing_left_is_forgotten() -> None:
    state = State()
    state.change("m", rollout={"step": 1})
    assert state.models
    state.change("m", rollout=None)
    assert not state.models


def test_turns_are_exact_and_spread() -> None:
    assert gateway.interleaved({}) == []
    assert gateway.interleaved({"a": 100, "b": 0}) == [("a", 1)]
    assert gateway.interleaved({"a": 90, "b": 10}) == [("a", 5), ("b", 1), ("a", 4)]
    random.seed(1)
    for share in [1, 50, 99, *(random.randrange(1, 100) for _ in range(20))]:
        turns = gateway.interleaved({"a": 100 - share, "b": share})
        totals = {name: sum(count for who, count in turns if who == name) for name in ("a", "b")}
        assert totals["b"] * 100 == share * sum(totals.values())
        rarer = min(share, 100 - share)
        longest = max(count for _, count in turns)
        assert longest <= -(-100 // rarer) + 1, "no arm waits much longer than its share says"


@pytest.mark.parametrize("share", [0, 1, 10, 33, 50, 100])
def test_shares_are_read_from_the_configuration(tmp_path: Path, share: int) -> None:
    names = list(a_state(tmp_path / "names").servers)
    weights = dict(zip(names, (100 - share, share), strict=True))
    config = gateway.configuration(a_state(tmp_path, weights), tmp_path)
    assert gateway.shares(config, "echo") == {name: weight for name, weight in weights.items() if weight}
    assert gateway.shares(config, "other") == {}
    assert gateway.shares(None, "echo") == {}


@pytest.mark.parametrize(
    ("share", "served", "versions", "expected"),
    [
        (0, ((1, 2), (1, 2)), {1: 90, 2: 10}, ({1: 90, 2: 10}, None)),
        (10, ((1, 2), (1, 2, 3)), {1: 90, 2: 10}, ({1: 90, 2: 10}, {1: 90, 2: 10})),
        (33, ((1, 2), (2, 3)), {1: 1, 2: 99}, ({1: 1, 2: 99}, {3: 100})),
        (97, ((1, 2, 3), (1,)), {1: 33, 2: 34, 3: 33}, ({1: 33, 2: 34, 3: 33}, {1: 100})),
        (100, ((1, 2), (2,)), {1: 100}, (None, {2: 100})),
        (10, ((1, 2), (1, 2)), {}, (None, None)),
    ],
)
def test_shares_of_versions_are_read_from_the_configuration(
    tmp_path: Path,
    share: int,
    served: tuple[tuple[int, ...], tuple[int, ...]],
    versions: dict[int, int],
    expected: tuple[dict[int, int] | None, ...],
) -> None:
    names = list(a_state(tmp_path / "names", served=served).servers)
    weights = dict(zip(names, (100 - share, share), strict=True))
    config = gateway.configuration(a_state(tmp_path, weights, served=served, versions=versions), tmp_path)
    assert gateway.shares(config, "echo") == {name: weight for name, weight in weights.items() if weight}
    told = gateway.versions(config, "echo")
    assert told == {name: found for name, found in zip(names, expected, strict=True) if found}
    assert gateway.versions(config, "other") == gateway.versions(None, "echo") == {}


def test_the_whole_configuration_is_the_golden_one(tmp_path: Path) -> None:
    """After an intended change, look at the difference and replace the file by what the failure shows."""
    golden = Path(__file__).with_name("gateway.json")
    state = a_state(tmp_path, served=((1, 2), (1,)), versions={1: 60, 2: 40})
    config = gateway.configuration(state, Path("/target/gateway"))
    assert config == json.loads(golden.read_text()), json.dumps(config, indent=2)


def test_the_gateway_port_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gateway.PORT_VARIABLE, "9123")
    assert gateway.wanted_port() == 9123
    for nonsense in ("", "no", "0", "70000", "-1"):
        monkeypatch.setenv(gateway.PORT_VARIABLE, nonsense)
        assert gateway.wanted_port() == gateway.DEFAULT_PORT


def test_free_ports_avoid_promised_ones() -> None:
    import socket

    ports = loopback.free_ports(50)
    assert len(set(ports)) == 50
    assert not set(loopback.free_ports(50, ports)) & set(ports)
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        assert not loopback.is_free(port)
    assert loopback.is_free(port)


def test_the_last_words_of_triton() -> None:
    log = (
        'E1123 10:44:03.836859 8078 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        'I1123 10:44:03.838213 8078 model_lifecycle.cc:472] "loading: echo:1"\n'
        "E1123 10:44:04.189200 8078 model_lifecycle.cc:642] \"failed to load 'echo' version 1: Internal: "
        'RuntimeError: no engine\\n\\nAt:\\n  /r/echo/1/model.py(6): initialize\\n"\n'
        "+-------+---------+\n| Model | Version |\n"
        "error: creating server: Internal - failed to load all models"
    )
    assert triton.last_words(log).splitlines() == [
        "model_lifecycle.cc:642] \"failed to load 'echo' version 1: Internal: RuntimeError: no engine",
        "At:",
        "  /r/echo/1/model.py(6): initialize",
        "error: creating server: Internal - failed to load all models",
    ]
    assert triton.last_words("Segmentation fault\n") == "Segmentation fault"
    assert triton.last_words("I1123 only banners") == "I1123 only banners"


def test_counters_are_summed_over_versions() -> None:
    metrics = (
        "# TYPE nv_inference_request_success counter\n"
        'nv_inference_request_success{model="echo",version="1"} 6\n'
        'nv_inference_request_success{model="echo",version="2"} 1\n'
        'nv_inference_request_success{model="echo-b",version="1"} 100\n'
        'nv_inference_request_failure{model="echo",reason="OTHER",version="1"} 1\n'
        'nv_inference_request_failure{model="echo",reason="BACKEND",version="1"} 2\n'
    )
    assert triton.counters(metrics, "echo") == (7, 3)
    assert triton.counters("", "echo") == (0, 0)


def test_servers_are_found_by_their_token_and_ended_with_their_children(tmp_path: Path) -> None:
    argv = ["sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600"]
    one = processes.start(argv, env=dict(os.environ), log=tmp_path / "log", root=tmp_path, token="one")
    two = processes.start(["sleep", "600"], env=dict(os.environ), log=tmp_path / "log", root=tmp_path, token="two")
    try:
        assert processes.leader(tmp_path, "one") == one
        assert processes.leader(tmp_path, "three") is None
        assert processes.marked(tmp_path / "other") == {}
        assert one.alive and not processes.Process(one.pid, "1").alive
        processes.stop(tmp_path, ["one"], grace_seconds=0.3)
        assert not one.alive and two.alive
        assert set(processes.marked(tmp_path)) == {"two"}
    finally:
        processes.stop(tmp_path, ["one", "two"], grace_seconds=0)
    assert processes.marked(tmp_path) == {}


def test_ports_are_chosen_by_one_process_at_a_time() -> None:
    script = (
        "import time; from kfp_trtllm.core.targets.local import loopback\n"
        "with loopback.choosing_ports():\n    print(time.monotonic(), flush=True); time.sleep(0.5); print(time.monotonic())"
    )
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    spans = sorted(tuple(map(float, process.communicate(timeout=60)[0].split())) for process in running)
    assert all(before[1] <= after[0] + 0.01 for before, after in itertools.pairwise(spans)), spans
