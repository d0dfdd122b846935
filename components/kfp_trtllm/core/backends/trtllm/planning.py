"""What both TensorRT-LLM backends do before anything is spent: settle what was asked for, and see whether it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.backends.base import Memory, PlanRequest, Tensor
from kfp_trtllm.core.backends.trtllm import families, gpus, legacy, memory, releases
from kfp_trtllm.core.backends.trtllm.shape import ModelShape
from kfp_trtllm.core.backends.trtllm.variants import KV_CACHE_DTYPES, VARIANTS
from kfp_trtllm.core.quantization.calibration import Calibration
from kfp_trtllm.errors import InvalidSpec, Unsupported, unknown

MAX_NUM_TOKENS = 8192  # both tools' default
# Fields that a user can also name among build_options, and what they are where nobody gave them: only what differs can
# contradict.
_DEFAULTS = {
    "kv_cache_dtype": "auto",
    "max_batch_size": 8,
    "max_input_len": 1024,
    "max_num_tokens": 0,
    "max_seq_len": 2048,
    "pp_size": 1,
    "tp_size": 1,
}


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A request in today's words.

    Attributes:
        request: With defaults filled in; its build_options are what is left for the build tool.
        notes: A sentence for each translation.
    """

    request: PlanRequest
    notes: tuple[str, ...]


def settle(request: PlanRequest, backend: str) -> Settled:
    """Translates the old guide's options and applies every rule that needs no checkpoint.

    Raises:
        InvalidSpec: See base.Backend.check.
    """
    given = {name: getattr(request, name) for name, usual in _DEFAULTS.items() if getattr(request, name) != usual}
    if "max_input_len" not in request.build_options:  # to which max_output_len is added
        given["max_input_len"] = request.max_input_len
    translated = legacy.translate(request.build_options, {**given, "variant": request.variant})
    version = request.trtllm_version or releases.DEFAULT
    request = dataclasses.replace(
        request, **{**translated.plan, "trtllm_version": version, "build_options": dict(translated.options)}
    )
    releases.check_backend(backend, version)
    _check_variant(request, backend)
    rules.at_least("max_batch_size", request.max_batch_size, 1)
    rules.at_least("max_input_len", request.max_input_len, 1)
    rules.at_least("max_seq_len", request.max_seq_len, request.max_input_len + 1)
    rules.at_least("tp_size", request.tp_size, 1)
    rules.at_least("pp_size", request.pp_size, 1)
    calibration(request)
    ranks = request.tp_size * request.pp_size
    if request.gpu_count and request.gpu_count != ranks:
        raise InvalidSpec(
            f"tp_size × pp_size must be gpu_count ({request.gpu_count}), but got {request.tp_size} × {request.pp_size}: "
            f"set gpu_count to {ranks}, or spread the model over {request.gpu_count}."
        )
    # A prompt is computed in one step, unless the user asked for chunks.
    tokens = request.max_num_tokens or max(MAX_NUM_TOKENS, request.max_input_len)
    if tokens < request.max_batch_size:
        raise InvalidSpec(
            f"max_num_tokens must be at least max_batch_size ({request.max_batch_size}), since each request has a token "
            f"in a step, but got {tokens}."
        )
    return Settled(request=dataclasses.replace(request, gpu_count=ranks, max_num_tokens=tokens), notes=translated.notes)


def _check_variant(request: PlanRequest, backend: str) -> None:
    known = [name for name, variant in VARIANTS.items() if backend in variant.backends]
    if request.variant not in known:
        raise InvalidSpec(unknown(f"variant of backend {backend}", request.variant, known))
    if not request.gpu_kind:
        raise InvalidSpec(f"gpu_kind must be given on backend {backend}: one of {', '.join(sorted(gpus.GPUS))}.")
    gpus.check_variant(request.variant, gpus.gpu(request.gpu_kind))
    dtypes = [name for name in KV_CACHE_DTYPES if name != "int8" or backend == "tensorrt"]
    rules.one_of(f"kv_cache_dtype on backend {backend}", request.kv_cache_dtype, dtypes)
    if request.kv_cache_dtype == "fp8":
        gpus.check_variant("fp8", gpus.gpu(request.gpu_kind))


def calibration(request: PlanRequest) -> Calibration:
    """What quantization is calibrated with."""
    size = {"size": request.calibration_size} if request.calibration_size else {}
    return Calibration(dataset=request.calibration_dataset, **size)


def fit(
    config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest, backend: str
) -> tuple[families.Architecture, Memory]:
    """Whether a model runs there, and what each GPU has to hold.

    Args:
        config: The checkpoint's config.json.
        tensors: The checkpoint's safetensors headers.
        request: Settled.
        backend: "tensorrt" or "pytorch".

    Raises:
        Unsupported: The backend does not know the architecture.
        InvalidSpec: The model can't be split so, or does not fit; says what would.
    """
    architecture = str((config.get("architectures") or [""])[0])
    try:
        known = families.check(architecture, backend, request.trtllm_version)
    except InvalidSpec as problem:
        raise Unsupported(str(problem)) from None
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized")
        raise InvalidSpec(f"the checkpoint's weights are {method} already: give the checkpoint that it was made from.")
    shape = ModelShape.of(config)
    if request.max_seq_len > shape.positions:
        raise InvalidSpec(
            f"max_seq_len must be at most the model's max_position_embeddings ({shape.positions}), "
            f"but got {request.max_seq_len}."
        )
    memory.check_parallel(shape, request.tp_size, request.pp_size, request.gpu_count)
    fitted = memory.check_fit(
        config,
        tensors,
        gpu=gpus.gpu(request.gpu_kind),
        variant=request.variant,
        tp_size=request.tp_size,
        pp_size=request.pp_size,
        max_batch_size=request.max_batch_size,
        max_seq_len=request.max_seq_len,
        kv_cache_dtype=request.kv_cache_dtype,
        max_num_tokens=request.max_num_tokens,
        backend=backend,
    )
    return known, fitted.memory


def tool_versions(request: PlanRequest) -> dict[str, str]:
    """What an engine depends on: TensorRT-LLM, the image, and where a release's row tells it, TensorRT and CUDA.

    An image given by tag is trusted to stay what it is; one given by digest needs no trust.
    """
    version = request.trtllm_version
    found = {"tensorrt_llm": version} | ({"image": request.build_image} if request.build_image else {})
    if any(row.trtllm == version for row in releases.RELEASES):
        row = releases.release(version)
        found |= {"tensorrt": row.tensorrt, "cuda": row.cuda}
    return found
