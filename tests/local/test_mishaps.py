"""What goes wrong in releases: bad checkpoints, broken engines, worse canaries, kills and rivals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kfp_trtllm.core.manifest import Manifest
from kfp_trtllm.core.store import open_store

pytestmark = pytest.mark.slow

# Model files of broken engines: the served code with one fault each, below the protocol that everybody talks to.
FAULTS = {
    "dies": "raise RuntimeError('no such kernel for this machine')",
    "empty": """
def silent(self, *, finish_reason="", error="", _emit=service.Answer._emit):
    self._pending = ""
    _emit(self, finish_reason=finish_reason, error=error)
service.Answer._emit = silent
""",
    "fails": """
count = 0
def fails(self, request, on_piece, _submit=service.Service.submit):
    global count
    count += 1
    if count > 12 and count % 5 == 0:
        raise ValueError("a kernel was lost")
    return _submit(self, request, on_piece)
service.Service.submit = fails
""",
    "slow": """
import time
count = 0
def slow(self, request, on_piece, _submit=service.Service.submit):
    global count
    count += 1
    if count > 12:
        time.sleep(0.5)
    return _submit(self, request, on_piece)
service.Service.submit = slow
""",
}


def steps(machine) -> list[str]:
    return [str(event["step"]) for event in machine.facts() if event["event"] == "start"]


def broken(machine, fault: str) -> str:
    """A repository like the one that serves, with a fault; returns its digest."""
    store = open_store(f"file://{machine.home}/store")
    sound = next(entry.manifest for entry in store.ls() if entry.manifest.kind == "repository")
    known = {file.path: file for file in sound.files if not file.path.endswith("/1/model.py")}
    with store.workspace(f"broken-{fault}") as work:
        root = work / "repository"
        store.materialize(sound, root)
        (root / "tiny/1/model.py").unlink()
        (root / "tiny/1/model.py").write_text(
            f"from serving import service\nfrom serving.triton import TritonPythonModel\n{FAULTS[fault]}\n"
        )
        facts = {**sound.facts}
        manifest: Manifest = store.put_folder(root, kind="repository", facts=facts, known=known)
    return manifest.digest


def deploy(machine, digest: str) -> subprocess.CompletedProcess[str]:
    return machine(
        "run", "deploy_llm_cpu", "--local", "-p", f"repository={digest}", "-p", "model_name=tiny", "-p", "probe_max_tokens=4",
        "-p", "ready_timeout_seconds=60",
    )  # fmt: skip


@pytest.fixture(scope="module")
def serving(shared_machine, tiny_qwen: Path):
    """A machine that serves the tiny model."""
    done = shared_machine.release(tiny_qwen)
    assert done.returncode == 0, done.stdout + done.stderr
    return shared_machine


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("dies", 1, "no such kernel for this machine"),
        ("empty", 4, "the answer was empty"),
        ("fails", 3, "Rolled back: "),
        ("slow", 3, "Rolled back: "),
    ],
)
def test_a_broken_engine_never_keeps_the_traffic(serving, fault: str, code: int, words: str) -> None:
    before = serving("local", "status").stdout
    done = deploy(serving, broken(serving, fault))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    assert "Traceback (most" not in done.stdout.split("deploy_triton:")[0]
    after = serving("local", "status").stdout
    assert after.splitlines()[1].split()[:4] == before.splitlines()[1].split()[:4], "stable has all traffic as before"
    assert len(after.splitlines()) == 2, "nothing half-deployed is left"
    if code == 3:
        page = next(line.split()[1] for line in done.stdout.splitlines() if "roll-out-canary" in line)
        assert "rolled" in Path(page).read_text().lower()


def bad_checkpoint(source: Path, target: Path, fault: str) -> Path:
    if fault != "missing":
        shutil.copytree(source, target)
    if fault == "config":
        (target / "config.json").unlink()
    elif fault == "truncated":
        data = (target / "model.safetensors").read_bytes()
        (target / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif fault == "architecture":
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    elif fault == "pickle":
        (target / "model.safetensors").rename(target / "pytorch_model.bin")
    return target


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "does not exist"),
        ("config", "config.json"),
        ("truncated", "model.safetensors"),
        ("architecture", "MambaForCausalLM"),
        ("pickle", "pickles only"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_words_before_anything_is_built(
    serving, tiny_qwen: Path, tmp_path: Path, fault: str, words: str
) -> None:
    source = bad_checkpoint(tiny_qwen, tmp_path / "model", fault)
    done = serving.release(source, name="bad")
    assert done.returncode in (1, 2)
    last = done.stdout.strip().splitlines()[-1]
    assert words in last, done.stdout
    assert "Traceback" not in done.stdout
    assert "build_engine" not in steps(serving)
    assert serving("store", "verify").returncode == 0
    assert "bad" not in serving("local", "status").stdout


def test_kill_9_in_every_step_and_the_next_run_completes(machine, tiny_qwen: Path) -> None:
    first = machine.release(tiny_qwen)
    assert first.returncode == 0, first.stdout
    everything = [step for step in dict.fromkeys(steps(machine)) if step != "close_release"]
    assert len(everything) == 14
    parameters = {"model_version": 2, "max_seq_len": 200}  # another engine, another repository
    for step in everything:
        argv = machine.argv("run", "release_llm_cpu", "--local", *machine.pairs(tiny_qwen, **parameters))
        run = subprocess.Popen(argv, env=machine.env, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        before = len(list((machine.home / "runs").iterdir()))
        while time.monotonic() < until and run.poll() is None:
            if len(list((machine.home / "runs").iterdir())) > before - 1 and step in _started(machine, run.pid):
                break
            time.sleep(0.01)
        assert run.poll() is None, f"the run ended before {step}"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    done = machine.release(tiny_qwen, **parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted" in done.stdout
    status = machine("local", "status").stdout
    assert len(status.splitlines()) == 2, status
    assert machine("store", "verify").returncode == 0
    assert not list((machine.home / "store/work").glob("read-*"))[3:], "at most what the last kills left"


def _started(machine, pid: int) -> list[str]:
    """Steps of the newest run, when it is the one that this process made."""
    newest = max((machine.home / "runs").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    events = newest / "events.jsonl"
    if not events.exists() or newest.stat().st_ctime < _born(pid):
        return []
    found = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    return [event["step"] for event in found if event["event"] == "start"]


def _born(pid: int) -> float:
    return Path(f"/proc/{pid}").stat().st_ctime


def test_two_runs_at_once_on_one_store_both_complete(machine, tiny_qwen: Path) -> None:
    runs = []
    for name in ("one", "two"):
        argv = machine.argv("run", "release_llm_cpu", "--local", *machine.pairs(tiny_qwen, name))
        runs.append(subprocess.Popen(argv, env=machine.env, stdout=subprocess.PIPE, text=True))
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
    status = machine("local", "status").stdout
    assert "one-" in status and "two-" in status
    builds = [output.count("build_engine") for output in outputs]
    assert builds == [2, 2]
    reused = [
        event for run in (machine.home / "runs").iterdir() for event in _facts(run) if event["step"] == "build_engine"
    ]
    assert sum(bool(event.get("reused")) for event in reused) == 1, "the engine was built once"


def _facts(run: Path) -> list[dict[str, object]]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "fact"]


def test_facts_of_a_repository_survive_json(serving) -> None:
    from kfp_trtllm.core.manifest import RepositoryFacts

    store = open_store(f"file://{serving.home}/store")
    entry = next(entry for entry in store.ls() if entry.manifest.kind == "repository")
    facts = entry.manifest.facts_as(RepositoryFacts)
    assert facts.versions == (1,)
    assert Manifest.from_json(entry.manifest.to_json()).facts_as(RepositoryFacts) == facts
    assert dataclasses.asdict(facts)["decoupled"] is True
