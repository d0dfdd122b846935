"""Whole releases of a model that nobody prepared, by the compiled pipeline, on a real Triton and a real gateway."""

import json
import re
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def ask(url: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.loads(answer.read())
    return found


def test_first_release_then_a_canary_then_nothing_to_do(shared_machine, tiny_qwen: Path) -> None:
    first = shared_machine.release(tiny_qwen)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "First release" in first.stdout
    curl = re.search(r"curl -s (\S+/v2/models/tiny/generate) -d", first.stdout)
    assert curl, first.stdout
    answer = ask(curl[1], {"text_input": "The capital", "max_tokens": 4, "temperature": 0.0})
    assert set(answer) >= {"text_output", "finish_reason", "input_tokens", "output_tokens"}
    assert answer["output_tokens"] in range(1, 5)

    # A new version of the same engine is a healthy canary.
    second = shared_machine.release(tiny_qwen, model_version=2)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "decision  promoted: Promoted: every metric is shown to be good" in second.stdout
    report = re.search(r"report\s+(\S*roll-out-canary\S*\.html)", second.stdout)
    assert report and "<svg" in Path(report[1]).read_text()
    built = [event for event in shared_machine.facts() if event["event"] == "fact" and event["step"] == "build_engine"]
    assert built[0]["reused"] is True

    third = shared_machine.release(tiny_qwen, model_version=2)
    assert third.returncode == 0, third.stdout + third.stderr
    assert "serves already: nothing to roll out" in third.stdout
    rows = shared_machine("local", "status").stdout
    assert rows.count("stable") == 1 and "canary" not in rows

    found = shared_machine("store", "verify")
    assert (found.returncode, found.stdout) == (0, "everything is whole\n")
    listed = shared_machine("store", "ls").stdout
    assert {line.split()[0] for line in listed.splitlines()[1:]} == {"checkpoint", "engine", "repository"}


def test_a_model_that_answers_in_one_piece_is_rolled_out_by_its_errors(shared_machine, tiny_qwen: Path) -> None:
    for version, words in ((1, "First release"), (2, "every metric is shown to be good at alpha 0.05 (errors 0/")):
        done = shared_machine.release(tiny_qwen, "whole", decoupled=False, model_version=version)
        assert done.returncode == 0, done.stdout + done.stderr
        assert words in done.stdout
    assert "ttft" not in done.stdout.partition("decision")[2].partition("report")[0]
    curl = re.search(r"curl -s (\S+/v2/models/whole/infer) -d '(.*)'", done.stdout)
    assert curl, done.stdout
    body = json.loads(curl[2])
    # This model has no chat template.
    body["inputs"] = [tensor for tensor in body["inputs"] if tensor["name"] != "apply_chat_template"]
    outputs = {output["name"] for output in ask(curl[1], body)["outputs"]}  # type: ignore[attr-defined]
    assert "text_output" in outputs


def test_weights_exist_once_on_disk(shared_machine) -> None:
    """Checkpoint, engine and repositories share inodes: a second version adds none of the weights' bytes."""
    blobs = {path.stat().st_ino for path in (shared_machine.home / "store/blobs").rglob("*") if path.is_file()}
    served = [path for path in (shared_machine.home / "local/repositories").rglob("engine/*") if path.is_file()]
    assert "model.onnx.data" in {path.name for path in served}
    assert all(path.stat().st_ino in blobs for path in served)
    assert not list((shared_machine.home / "store/work").iterdir())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"source": "s3:/x"}, "source must be a URL"),
        ({"source": "hg://org/name"}, "source's scheme must be one of file, hf, sample, but got 'hg'"),
        (
            {"backend": "onnxruntim"},
            "backend must be one of onnxruntime, pytorch, tensorrt, but got 'onnxruntim'. Did you mean",
        ),
        ({"variants": ["int5"]}, "but got 'int5'. Did you mean 'int"),
        ({"target": "locale"}, "target must be one of local, but got 'locale'. Did you mean 'local'?"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, but got 0."),
        ({"max_seq_len": -5}, "max_seq_len must be at least 129, but got -5."),
        ({"model_name": "../etc"}, "model_name must be 1 to 40 of a-z, 0-9 and -"),
        ({"rollout_steps": [10, 50]}, "rollout_steps must rise from at least 1 to exactly 100"),
        ({"smoke_expect": "("}, "smoke_expect must be a regular expression"),
        ({"store": "data"}, "store must be a URL such as file:///data/store, but got 'data'."),
    ],
)
def test_one_wrong_parameter_is_refused_first_in_one_line(machine, tiny_qwen: Path, parameters, words: str) -> None:
    pairs = machine.pairs(tiny_qwen)
    for name, value in parameters.items():
        pairs += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    done = machine("run", "release_llm_cpu", "--local", *pairs)
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in done.stdout + done.stderr
    steps = {event["step"] for event in machine.facts()}
    assert steps <= {"check_release", "close_release"}
    assert not (machine.home / "store").exists()


def test_a_wrong_name_or_type_is_refused_before_a_run_is_made(machine) -> None:
    for pair, words in (
        ("max_batch=3", "Did you mean 'max_batch_size'?"),
        ("max_batch_size=three", "max_batch_size must be a whole number, but got 'three'."),
        ("decoupled=maybe", "decoupled must be true or false, but got 'maybe'."),
    ):
        done = machine("run", "release_llm_cpu", "--local", "-p", pair)
        assert done.returncode == 2
        assert words in done.stderr
    assert not (machine.home / "runs").exists()
