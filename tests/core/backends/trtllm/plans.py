"""Plans of well-known models, from their config.json: `make golden` writes them, test_plans.py compares them whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import PlanRequest
from published_models import config, headers

GOLDEN = Path(__file__).parent / "golden"
_LIMITS = {"max_batch_size": 8, "max_input_len": 2048, "max_seq_len": 4096}
# Name: backend, model and what is asked for.
PLANS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-3.1-8b-fp16": ("tensorrt", "llama-3.1-8b-instruct", {"variant": "fp16", "gpu_kind": "a100-40"}),
    "llama-3.1-8b-fp8": (
        "tensorrt",
        "llama-3.1-8b-instruct",
        {"variant": "fp8", "gpu_kind": "h100", "kv_cache_dtype": "fp8"},
    ),
    "llama-3.1-8b-fp8-pytorch": (
        "pytorch",
        "llama-3.1-8b-instruct",
        {"variant": "fp8", "gpu_kind": "l4", "build_options": {"enable_chunked_prefill": True}},
    ),
    # As an old guide has it.
    "llama-3.1-8b-old-guide": (
        "tensorrt",
        "llama-3.1-8b-instruct",
        {
            "variant": "fp8",
            "gpu_kind": "h100",
            "max_seq_len": 2048,
            "max_input_len": 1024,
            "gpu_count": 2,
            "build_options": {
                "tp_size": 2,
                "pp_size": 1,
                "max_batch_size": 64,
                "max_output_len": 1024,
                "use_fp8": True,
                "gemm_plugin": "float8",
                "paged_kv_cache": True,
            },
        },
    ),
    "llama-3.3-70b-fp8-tp4": (
        "tensorrt",
        "llama-3.3-70b-instruct",
        {"variant": "fp8", "gpu_kind": "h100", "tp_size": 4, "gpu_count": 4},
    ),
    "qwen2.5-7b-int4_awq": ("tensorrt", "qwen2.5-7b-instruct", {"variant": "int4_awq", "gpu_kind": "l4"}),
    "mixtral-8x7b-bf16-tp2": (
        "tensorrt",
        "mixtral-8x7b-instruct",
        {"variant": "bf16", "gpu_kind": "h100", "tp_size": 2, "gpu_count": 2, "max_batch_size": 4},
    ),
}


def plan(name: str) -> str:
    """A plan as JSON, without what depends on this machine (the installed quantizer)."""
    backend, model, asked = PLANS[name]
    planned = backends.get(backend).plan(config(model), headers(config(model)), PlanRequest(**{**_LIMITS, **asked}))
    document = dataclasses.asdict(planned)
    document["versions"].pop("nvidia-modelopt", None)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    for name in PLANS:
        (GOLDEN / f"plan-{name}.json").write_text(plan(name))


if __name__ == "__main__":
    main()
