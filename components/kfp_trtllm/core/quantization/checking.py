"""Checks a quantized checkpoint against the one that it was made from; the tool's exit status alone proves nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfp_trtllm.core.backends.base import Tensor
from kfp_trtllm.core.backends.trtllm.variants import Variant
from kfp_trtllm.core.checkpoint import read_config, read_headers, weight_files
from kfp_trtllm.core.quantization.casting import to_float32
from kfp_trtllm.core.quantization.formats import (
    FORMATS,
    PRE_QUANT_SCALE,
    SCALES,
    Shape,
    quantized_layers,
    scale_shapes,
)
from kfp_trtllm.errors import BuildFailed, SourceError

QUANT_CONFIG = "hf_quant_config.json"

_HEADS = ("lm_head.weight", "embed_out.weight")  # stored with the embeddings where they are tied
_CACHE = {"k_proj": "k_scale", "v_proj": "v_scale"}


def check_quantized(output: Path, source: Path, *, variant: Variant, kv_cache_fp8: bool) -> None:
    """Checks files, quantization, names, shapes and scales of a quantized checkpoint.

    Args:
        output: What was made.
        source: What it was made from.
        variant: The precision that was wanted.
        kv_cache_fp8: Whether the KV cache was to be in 8-bit floats.

    Raises:
        BuildFailed: Something is missing or not as it must be; says what.
    """
    wanted = [
        entry.name for entry in source.iterdir() if entry.name.startswith(("tokenizer", "chat_template", "gener"))
    ]
    if missing := sorted(name for name in (*wanted, "config.json", QUANT_CONFIG) if not (output / name).is_file()):
        raise BuildFailed(f"the quantized checkpoint must have {', '.join(missing)}, which ModelOpt did not leave.")
    quantization = read_quantization(output)
    _check_algorithms(quantization, variant, kv_cache_fp8)
    try:
        stored = {tensor.name: tensor for tensor in read_headers(output)}
    except SourceError as error:
        raise BuildFailed(f"the quantized checkpoint is damaged: {error}") from None
    original = read_headers(source)
    tied = bool(read_config(source).get("tie_word_embeddings"))
    layers = set(quantized_layers(original, quantization.get("exclude_modules") or ()))
    if not layers:
        raise BuildFailed("the quantized checkpoint must have quantized layers, but all are excluded.")
    for tensor in original:
        if tensor.name not in stored and not (tied and tensor.name.endswith(_HEADS)):
            raise BuildFailed(f"the quantized checkpoint must have {tensor.name}, which ModelOpt did not leave.")
        if tensor.name.removesuffix(".weight") in layers:
            _check_layer(tensor, stored, quantization, kv_cache_fp8)
        elif tensor.name in stored and stored[tensor.name].shape != tensor.shape:
            raise BuildFailed(_shape(tensor.name, tensor.shape, stored[tensor.name].shape))
    _check_scales(output)


def read_quantization(folder: Path) -> dict[str, Any]:
    """`quantization` in hf_quant_config.json.

    Raises:
        BuildFailed: The file is missing, or says nothing of the kind.
    """
    try:
        document = json.loads((folder / QUANT_CONFIG).read_text(encoding="utf-8"))
        quantization: dict[str, Any] = document["quantization"]
        if not (isinstance(quantization, dict) and document["producer"]["name"]):
            raise ValueError("an empty part")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildFailed(
            f"{folder.name} must have a {QUANT_CONFIG} with producer and quantization ({type(error).__name__}: {error})."
        ) from None
    return quantization


def _check_algorithms(quantization: Mapping[str, Any], variant: Variant, kv_cache_fp8: bool) -> None:
    wanted = {"quant_algo": variant.quant_algo, "kv_cache_quant_algo": "FP8" if kv_cache_fp8 else None}
    if variant.group_size:
        wanted["group_size"] = variant.group_size  # type: ignore[assignment]
    for name, value in wanted.items():
        if quantization.get(name) != value:
            raise BuildFailed(f"{QUANT_CONFIG} must have {name} {value}, but has {quantization.get(name)!r}.")


def _check_layer(
    tensor: Tensor, stored: Mapping[str, Tensor], quantization: Mapping[str, Any], kv_cache_fp8: bool
) -> None:
    """Checks a quantized layer's weights, and that each of its scales is there."""
    algo = quantization["quant_algo"]
    layout = FORMATS[algo]
    layer = tensor.name.removesuffix(".weight")
    weight = stored[tensor.name]
    if weight.dtype != layout.dtype:
        raise BuildFailed(f"{tensor.name} must be stored as {layout.dtype}, but ModelOpt left it as {weight.dtype}.")
    if weight.shape != layout.stored_shape(tensor.shape):
        raise BuildFailed(_shape(tensor.name, layout.stored_shape(tensor.shape), weight.shape))
    shapes: dict[str, Shape] = scale_shapes(algo, tensor.shape, quantization.get("group_size") or 0)
    if layout.pre_quant_scale:
        shapes[PRE_QUANT_SCALE] = tensor.shape[1:]
    if kv_cache_fp8 and (scale := _CACHE.get(layer.rpartition(".")[2])):
        shapes[scale] = ()
    for name, shape in shapes.items():
        scale_tensor = stored.get(f"{layer}.{name}")
        if scale_tensor is None:
            raise BuildFailed(f"{layer} must have a {name}, which ModelOpt did not leave.")
        if scale_tensor.shape != shape:
            raise BuildFailed(_shape(scale_tensor.name, shape, scale_tensor.shape))


def _check_scales(folder: Path) -> None:
    """Every scale must be a number above 0: others make an engine that says nothing or nonsense."""
    for file in weight_files(folder):
        for name, values in _scales(folder / file):
            if not (np.isfinite(values) & (values > 0)).all():
                wrong = values[~(np.isfinite(values) & (values > 0))][0]
                raise BuildFailed(f"{name} must be above 0 and finite, but has {wrong:g}.")


def _scales(path: Path) -> Any:
    """Names and values of the scales in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name.rpartition(".")[2] in (*SCALES, PRE_QUANT_SCALE):
                begin, stop = entry["data_offsets"]
                file.seek(8 + length + begin)
                yield name, to_float32(file.read(stop - begin), entry["dtype"])


def _shape(name: str, wanted: Shape, got: Shape) -> str:
    return f"{name} must have the shape {list(wanted)}, but has {list(got)}."
