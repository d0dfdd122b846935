from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.backends.pytorch import ARGUMENTS, PyTorch
from kfp_trtllm.errors import BuildFailed
from tiny_model import build_plan, write_checkpoint

FACTS = {
    "max_batch_size": 4,
    "max_input_len": 64,
    "max_seq_len": 128,
    "max_num_tokens": 256,
    "tp_size": 2,
    "pp_size": 1,
    "trtllm_version": "1.2.1",
    "options": {"llm_args": {"enable_chunked_prefill": True}},
}


def plan(variant: str) -> BuildPlan:
    return dataclasses.replace(
        build_plan("int4"), backend="pytorch", variant=variant, options={"llm_args": {"stream_interval": 2}}
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def build(variant: str, checkpoint: Path, root: Path) -> tuple[Path, list[tuple[float, float]]]:
    steps: list[tuple[float, float]] = []
    PyTorch().build(
        plan(variant),
        checkpoint,
        root / "engine",
        cache=root,
        log=root / "log",
        on_progress=lambda done, total: steps.append((done, total)),
    )
    return root / "engine", steps


def test_the_engine_is_the_checkpoint_linked_and_the_arguments(checkpoint: Path, tmp_path: Path) -> None:
    engine, steps = build("bf16", checkpoint, tmp_path)
    for path in checkpoint.iterdir():
        assert (engine / path.name).samefile(path)
    assert json.loads((engine / ARGUMENTS).read_text()) == {"architecture": "LlamaForCausalLM", "stream_interval": 2}
    assert steps[-1][0] == steps[-1][1]


def test_a_checkpoint_of_another_precision_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="must be quantized as FP8 for the variant fp8, but is not quantized"):
        build("fp8", checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("versions", "fraction"),
    [(1, 0.8), (2, 0.4)],
)
def test_versions_share_the_memory_that_keys_and_values_get(versions: int, fraction: float) -> None:
    options = PyTorch().serving_options(FACTS, versions=versions, memory_fraction=0.8)
    assert options == {
        "enable_chunked_prefill": True,
        "kv_cache_config": {"free_gpu_memory_fraction": pytest.approx(fraction)},
        "max_num_tokens": 256,
        "tensor_parallel_size": 2,
    }


def test_a_fraction_that_the_user_gave_stays() -> None:
    given: dict[str, Any] = {"llm_args": {"kv_cache_config": {"free_gpu_memory_fraction": 0.5}}}
    options = PyTorch().serving_options({**FACTS, "options": given}, versions=2, memory_fraction=0.8)
    assert options["kv_cache_config"] == {"free_gpu_memory_fraction": 0.5}


def test_loading_without_tensorrt_llm_says_where_to_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)  # also where other tests have put a stand-in on the path
    engine, _ = build("bf16", checkpoint, tmp_path)
    with pytest.raises(BuildFailed, match="can't be loaded: adapter pytorch needs another image: "):
        PyTorch().load(engine, FACTS)
