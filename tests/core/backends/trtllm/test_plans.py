from __future__ import annotations

import json

import pytest
from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import PlanRequest
from kfp_trtllm.errors import InvalidSpec, Unsupported
from plans import GOLDEN, PLANS, plan
from published_models import config, headers

LIMITS = {"max_batch_size": 8, "max_input_len": 1024, "max_seq_len": 2048}


@pytest.mark.parametrize("name", PLANS)
def test_a_well_known_model_s_plan_is_the_golden_one(name: str) -> None:
    assert plan(name) == (GOLDEN / f"plan-{name}.json").read_text(), "if this is wanted: make golden, and read the diff"


def test_no_golden_is_left_behind() -> None:
    assert {path.stem.removeprefix("plan-") for path in GOLDEN.glob("plan-*.json")} == set(PLANS)


def test_an_old_guide_s_user_gets_what_was_meant() -> None:
    document = json.loads((GOLDEN / "plan-llama-3.1-8b-old-guide.json").read_text())
    request, build = document["request"], document["options"]["build"]
    assert (request["tp_size"], request["max_batch_size"], request["max_seq_len"]) == (2, 64, 2048)
    assert (build["gemm_plugin"], build["kv_cache_type"], build["max_seq_len"]) == ("fp8", "paged", 2048)
    assert document["options"]["convert"]["tp_size"] == 2 and "tp_size" not in build
    assert len(document["notes"]) >= 3


@pytest.mark.parametrize(
    ("backend", "model", "asked", "message"),
    [
        ("tensorrt", "llama-3.1-8b-instruct", {"variant": "fp8", "gpu_kind": "a100-80"}, "fp8"),
        ("tensorrt", "llama-3.1-8b-instruct", {"variant": "nvfp4", "gpu_kind": "h100"}, "nvfp4"),
        ("tensorrt", "llama-3.1-8b-instruct", {"variant": "fp16", "gpu_kind": ""}, "gpu_kind must be given"),
        ("tensorrt", "llama-3.1-8b-instruct", {"variant": "int4", "gpu_kind": "l4"}, "Did you mean 'int4_wo'?"),
        ("pytorch", "llama-3.1-8b-instruct", {"variant": "int4_wo", "gpu_kind": "l4"}, "variant of backend pytorch"),
        (
            "tensorrt",
            "llama-3.3-70b-instruct",
            {"variant": "fp8", "gpu_kind": "h100", "tp_size": 3, "gpu_count": 3},
            "tp_size must",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "pp_size": 33, "gpu_count": 33},
            "pp_size must be at most the model's layers (32), but got 33",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "tp_size": 2, "gpu_count": 1},
            "tp_size × pp_size must be gpu_count (1), but got 2 × 1",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "l4", "max_batch_size": 64},
            "needs 2 × L4 or 1 × ",
        ),
        (
            "pytorch",
            "llama-3.1-8b-instruct",
            {"variant": "bf16", "gpu_kind": "h100", "kv_cache_dtype": "fp8"},
            "kv_cache_dtype must be auto with variant bf16",
        ),
        (
            "pytorch",
            "llama-3.1-8b-instruct",
            {"variant": "fp8", "gpu_kind": "h100", "kv_cache_dtype": "int8"},
            "kv_cache_dtype on backend pytorch must be one of auto, fp8",
        ),
        (
            "pytorch",
            "llama-3.1-8b-instruct",
            {"variant": "fp8", "gpu_kind": "h100", "build_options": {"enable_chunked_prefil": True}},
            "Did you mean 'enable_chunked_prefill'?",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "max_num_tokens": 4},
            "max_num_tokens must be at least max_batch_size (8)",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "max_seq_len": 200_000},
            "max_seq_len must be at most the model's max_position_embeddings (131072)",
        ),
        (
            "tensorrt",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "trtllm_version": "1.3.0"},
            "trtllm-build was removed in 1.3",
        ),
        (
            "pytorch",
            "llama-3.1-8b-instruct",
            {"variant": "fp16", "gpu_kind": "h100", "trtllm_version": "0.20.0"},
            "backend pytorch needs TensorRT-LLM 1.0 or newer, but got 0.20.0",
        ),
    ],
)
def test_what_can_not_work_is_refused_in_one_line(
    backend: str, model: str, asked: dict[str, object], message: str
) -> None:
    request = PlanRequest(**{**LIMITS, **asked})  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec) as caught:
        backends.get(backend).plan(config(model), headers(config(model)), request)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_needs_no_checkpoint_is_refused_without_one() -> None:
    for name in ("tensorrt", "pytorch"):
        backend = backends.get(name)
        settled = backend.check(PlanRequest(variant="fp8", gpu_kind="l4", gpu_count=1, **LIMITS))
        assert (settled.trtllm_version, settled.max_num_tokens, settled.gpu_count) == ("1.2.1", 8192, 1)
        with pytest.raises(InvalidSpec, match="tp_size"):
            backend.check(PlanRequest(variant="fp8", gpu_kind="l4", gpu_count=2, **LIMITS))


def test_an_architecture_that_only_the_other_backend_knows_is_unsupported_and_so_can_fall_back() -> None:
    strange = {**config("llama-3.1-8b-instruct"), "architectures": ["DeepseekV3ForCausalLM"]}
    request = PlanRequest(variant="fp8", gpu_kind="h100", **LIMITS)
    with pytest.raises(Unsupported, match="use backend pytorch"):
        backends.get("tensorrt").plan(strange, headers(config("llama-3.1-8b-instruct")), request)


def test_a_checkpoint_that_is_quantized_already_is_refused() -> None:
    packed = {**config("llama-3.1-8b-instruct"), "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(InvalidSpec, match="weights are awq already: give the checkpoint that it was made from"):
        backends.get("pytorch").plan(
            packed, headers(config("llama-3.1-8b-instruct")), PlanRequest(variant="fp8", gpu_kind="h100", **LIMITS)
        )


def test_the_calibration_set_decides_the_options_and_so_the_key() -> None:
    def options(**asked: object) -> object:
        request = PlanRequest(variant="fp8", gpu_kind="h100", **LIMITS, **asked)  # type: ignore[arg-type]
        model = config("llama-3.1-8b-instruct")
        return backends.get("pytorch").plan(model, headers(model), request).options

    assert options() == options()
    assert options() != options(calibration_size=64)
    assert options() != options(calibration_dataset="abisee/cnn_dailymail")
