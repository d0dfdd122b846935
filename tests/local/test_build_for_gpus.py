"""The GPU pipelines, run here with stand-ins for what needs a GPU: NVIDIA's tools and package.

Planning, quantization by ModelOpt, the simulated verdict, checks, retries and packaging are the real thing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cpp_templates import write_templates
from kfp_trtllm.core.backends.trtllm.probe import probe
from kfp_trtllm.core.quantization.casting import cast_checkpoint

pytestmark = pytest.mark.slow

STANDIN = Path(__file__).with_name("standin")
PACKAGE = Path(__file__).parents[1] / "core/serving/standin"


@pytest.fixture
def gpu_machine(machine: Any) -> Any:
    """A machine where NVIDIA's tools are on the path; `misbehave` makes them fail."""
    path = os.pathsep.join([str(PACKAGE), str(STANDIN)])
    machine.environment |= {
        "PATH": os.pathsep.join([str(STANDIN / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": path,
        "TENSORRT_LLM_EXAMPLES": str(STANDIN / "examples"),
    }
    return machine


def build(machine: Any, source: Path, misbehavior: dict[str, Any] | None = None, **parameters: Any) -> Any:
    machine.environment["TRTLLM_TOOLS"] = json.dumps(misbehavior or {})
    values = {"accuracy_gate": False, "gpu_kind": "l4", "kv_cache_dtype": "auto", **parameters}
    pairs = machine.pairs(source, "tiny", **values)
    probing = next(place for place, pair in enumerate(pairs) if pair.startswith("probe_"))  # nothing is rolled out here
    return machine("run", "build_llm", "--local", *pairs[: probing - 1], *pairs[probing + 1 :])


def manifests(machine: Any, kind: str) -> list[dict[str, Any]]:
    found = []
    for path in (machine.home / "store/manifests/sha256").rglob("*.json"):
        document = json.loads(path.read_text())
        if document["kind"] == kind:
            found.append(document)
    return found


def only(machine: Any, kind: str) -> dict[str, Any]:
    (found,) = manifests(machine, kind)
    return found


def test_tensorrt_is_planned_converted_built_and_packaged(gpu_machine: Any, tiny_qwen: Path) -> None:
    done = build(
        gpu_machine,
        tiny_qwen,
        backend="tensorrt",
        variants=["int8_wo"],
        build_options={"gemm_plugin": "float8"},
    )
    assert done.returncode == 2, done.stdout
    assert "gemm_plugin fp8 needs variant fp8, but variant is int8_wo" in done.stdout

    done = build(
        gpu_machine,
        tiny_qwen,
        backend="tensorrt",
        variants=["int8_wo"],
        # A user of an old guide, who gets what was meant: max_seq_len is 128 + 64.
        build_options={"max_output_len": 64, "gemm_plugin": "float16", "use_inflight_batching": True},
        model_version=3,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    engine, repository = only(gpu_machine, "engine"), only(gpu_machine, "repository")
    assert engine["facts"]["backend"] == "tensorrt"
    assert engine["facts"]["options"]["build"]["gemm_plugin"] == "float16"
    assert "use_inflight_batching" not in engine["facts"]["options"]["build"]
    names = {file["path"] for file in engine["files"]}
    assert {"config.json", "rank0.engine", "tokenizer.json"} <= names and not any("safetensors" in n for n in names)
    assert only(gpu_machine, "cache")["files"][0]["path"] == "model.cache"
    facts = repository["facts"]
    assert (facts["versions"], facts["variants"], facts["gpus"]) == ([3], {"3": "int8_wo"}, 1)
    assert facts["launch"]["argv"][0] == "tritonserver"
    assert "tiny/3/engine/rank0.engine" in {file["path"] for file in repository["files"]}


def test_a_build_that_runs_out_of_memory_succeeds_smaller(gpu_machine: Any, tiny_qwen: Path) -> None:
    done = build(gpu_machine, tiny_qwen, {"oom": 4096}, backend="tensorrt", variants=["fp16"])
    assert done.returncode == 0, done.stdout + done.stderr
    facts = only(gpu_machine, "engine")["facts"]
    assert facts["max_num_tokens"] == 2048
    assert facts["max_batch_size"] == 2
    again = build(gpu_machine, tiny_qwen, {"oom": 4096}, backend="tensorrt", variants=["fp16"])
    assert again.returncode == 0 and len(manifests(gpu_machine, "engine")) == 1

    never = build(gpu_machine, tiny_qwen, {"oom": 1}, backend="tensorrt", variants=["bf16"])
    assert never.returncode == 1
    assert "set tp_size to 2 and gpu_count to 2" in never.stdout


@pytest.mark.parametrize(
    ("misbehavior", "message"),
    [
        ({"lose_rank": True}, "the checkpoint lacks rank1.safetensors of 2 rank files"),
        ({"version": "1.1.0"}, "must be built by TensorRT-LLM 1.2.1, which serves it, but config.json says 1.1.0"),
        ({"unsupported": True}, "Unsupported model architecture: Qwen2ForCausalLM"),
    ],
)
def test_what_a_tool_leaves_is_checked(
    gpu_machine: Any, tiny_qwen: Path, misbehavior: dict[str, Any], message: str
) -> None:
    done = build(gpu_machine, tiny_qwen, misbehavior, backend="tensorrt", variants=["fp16"], tp_size=2, gpu_count="2")
    assert done.returncode == 1
    assert message in done.stdout
    assert not manifests(gpu_machine, "engine")
    assert not list((gpu_machine.home / "store/work").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensorrt_falls_back_to_pytorch_where_it_may(
    gpu_machine: Any, tiny_qwen: Path, tmp_path: Path, dtype: str
) -> None:
    source = tiny_qwen
    if dtype == "bfloat16":  # then there is nothing to convert for pytorch
        source = tmp_path / "bf16"
        assert cast_checkpoint(tiny_qwen, source, dtype=dtype)
    done = build(
        gpu_machine,
        source,
        {"unsupported": True},
        backend="tensorrt",
        variants=["bf16"],
        allow_fallback=True,
        build_options={"gemm_plugin": "auto"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert only(gpu_machine, "repository")["facts"]["backend"] == "pytorch"


def test_weights_are_converted_once_whatever_the_limits(gpu_machine: Any, tiny_qwen: Path) -> None:
    for batch in (2, 4):
        done = build(gpu_machine, tiny_qwen, backend="tensorrt", variants=["int8_wo"], max_batch_size=batch)
        assert done.returncode == 0, done.stdout + done.stderr
    reused = {e["step"]: e["reused"] for e in gpu_machine.facts() if e["event"] == "fact" and "reused" in e}
    assert reused.get("convert_checkpoint") is True
    assert "build_engine" not in reused
    assert len(manifests(gpu_machine, "engine")) == 2


def test_pytorch_knows_its_accuracy_before_a_gpu_builds(gpu_machine: Any, tiny_qwen: Path) -> None:
    done = build(
        gpu_machine,
        tiny_qwen,
        backend="pytorch",
        variants=["fp8"],
        accuracy_gate=True,
        accuracy_subject="checkpoint",
        accuracy_tasks=["kfp_core"],
        accuracy_limit=8,
        accuracy_margin=0.9,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("✓", "✗"))]
    assert lines
    engine = only(gpu_machine, "engine")
    checkpoints = {json.dumps(m["facts"]["variant"]): m for m in manifests(gpu_machine, "checkpoint")}
    converted = checkpoints['"fp8"']
    linked = {file["sha256"] for file in converted["files"]}
    assert linked <= {file["sha256"] for file in engine["files"]}
    assert json.loads((gpu_machine.home / "store").joinpath(blob(engine, "hf_quant_config.json")).read_text())
    events = [event for event in gpu_machine.facts() if event["event"] == "note"]
    texts = [str(event["text"]) for event in events]
    assert any(text.startswith("fp8 scores") for text in texts), texts


def blob(manifest: dict[str, Any], name: str) -> str:
    digest = next(file["sha256"] for file in manifest["files"] if file["path"] == name)
    return f"blobs/sha256/{digest[:2]}/{digest}"


def test_three_versions_with_their_own_engines_share_the_gpu(gpu_machine: Any, tiny_qwen: Path) -> None:
    base = ""
    for version, variant in ((1, "fp16"), (2, "fp8"), (3, "bf16")):
        done = build(
            gpu_machine, tiny_qwen, backend="pytorch", variants=[variant], model_version=version, base_repository=base
        )
        assert done.returncode == 0, done.stdout + done.stderr
        base = max(
            (
                path
                for path in (gpu_machine.home / "store/manifests/sha256").rglob("*.json")
                if json.loads(path.read_text())["kind"] == "repository"
            ),
            key=lambda path: path.stat().st_mtime_ns,
        ).stem
        base = f"sha256:{base}"
    facts = next(m for m in manifests(gpu_machine, "repository") if m["facts"]["versions"] == [1, 2, 3])["facts"]
    assert facts["variants"] == {"1": "fp16", "2": "fp8", "3": "bf16"}
    repository = next(m for m in manifests(gpu_machine, "repository") if m["facts"]["versions"] == [1, 2, 3])
    for version in (1, 2, 3):
        settings = json.loads(
            (gpu_machine.home / "store" / blob(repository, f"tiny/{version}/serving.json")).read_text()
        )
        assert settings["options"]["kv_cache_config"]["free_gpu_memory_fraction"] == pytest.approx(0.3)


def test_nvidia_s_layout_is_filled_from_the_templates_of_the_image(
    gpu_machine: Any, tiny_qwen: Path, tmp_path: Path
) -> None:
    gpu_machine.environment["TRITON_TRTLLM_TEMPLATES"] = str(tmp_path / "nowhere")
    options: dict[str, Any] = {"backend": "tensorrt", "variants": ["fp16"], "layout": "cpp"}
    missing = build(gpu_machine, tiny_qwen, **options)
    assert missing.returncode == 2 and "nowhere" in missing.stdout, missing.stdout
    gpu_machine.environment["TRITON_TRTLLM_TEMPLATES"] = str(write_templates(tmp_path / "inflight_batcher_llm"))
    done = build(gpu_machine, tiny_qwen, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    repository = only(gpu_machine, "repository")
    assert repository["facts"]["layout"] == "cpp"
    names = {file["path"] for file in repository["files"]}
    assert {"tiny/config.pbtxt", "tensorrt_llm/config.pbtxt", "tensorrt_llm/1/engine/rank0.engine"} <= names
    text = (gpu_machine.home / "store" / blob(repository, "tensorrt_llm/config.pbtxt")).read_text()
    assert "/models/tensorrt_llm/1/engine" in text and "${" not in text


WRONG = [
    ({"tp_size": 3, "gpu_count": "3"}, "tp_size must"),
    ({"gpu_count": "2"}, "tp_size × pp_size must be gpu_count (2), but got 1 × 1"),
    ({"pp_size": 4, "gpu_count": "4"}, "pp_size must be at most the model's layers (2), but got 4"),
    ({"gpu_kind": "a100-80", "variants": ["fp8"]}, "fp8"),
    ({"gpu_kind": "h100", "variants": ["nvfp4"]}, "nvfp4"),
    ({"gpu_kind": "h1000"}, "Did you mean 'h100'?"),
    ({"trtllm_version": "1.3.0"}, "backend tensorrt needs TensorRT-LLM 1.2.1 or older, but got 1.3.0"),
    ({"build_options": {"gemm_plugin": "float8000"}}, "gemm_plugin"),
    ({"build_options": {"max_batchsize": 3}}, "Did you mean"),
    ({"backend": "pytorch", "variants": ["int8_wo"]}, "variant of backend pytorch must be one of"),
    ({"gpu_task_memory": "lots"}, "gpu_task_memory must be an amount as Kubernetes writes it"),
    ({"gpu_task_memory": "100k"}, "gpu_task_memory must hold the checkpoint"),
    ({"backend": "pytorch", "layout": "cpp"}, "layout must be python with backend pytorch, but got cpp"),
    ({"layout": "cpp", "allow_fallback": True}, "layout must be python with backend tensorrt and a fallback"),
    ({"accuracy_gate": True, "accuracy_subject": "checkpoint"}, "accuracy_subject must be engine on backend tensorrt"),
    ({"accuracy_gate": True, "accuracy_tasks": ["kfp_core"]}, "accuracy_tasks must be tasks that generate"),
    (
        {
            "backend": "pytorch",
            "accuracy_gate": True,
            "accuracy_subject": "checkpoint",
            "variants": ["fp8", "bf16"],
        },
        "variants must be one with accuracy_subject checkpoint",
    ),
    ({"gpu_count": ""}, "gpu_count must not be empty"),
    ({"layout": "cpp", "base_repository": "sha256:" + "0" * 64}, "base_repository must be empty with layout cpp"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[",".join(changes) for changes, _ in WRONG])
def test_what_can_not_work_is_refused_before_a_gpu_is_asked_for(
    gpu_machine: Any, tiny_qwen: Path, changes: dict[str, Any], message: str
) -> None:
    done = build(gpu_machine, tiny_qwen, **{"backend": "tensorrt", "variants": ["fp16"], **changes})
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stdout
    assert not manifests(gpu_machine, "engine")


def test_the_stand_ins_are_what_the_tables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folders in (("PATH", [STANDIN / "bin", Path(sys.executable).parent]), ("PYTHONPATH", [STANDIN])):
        monkeypatch.setenv(name, os.pathsep.join([*map(str, folders), os.environ.get(name, "")]))
    reports = probe(["build", "convert_checkpoint", "quantize"], version="1.2.1", examples=str(STANDIN / "examples"))
    found = {report.tool: report.differences for report in reports if report.state not in ("absent", "skipped")}
    assert found == {"build": (), "convert_checkpoint llama": (), "convert_checkpoint qwen": (), "quantize": ()}
