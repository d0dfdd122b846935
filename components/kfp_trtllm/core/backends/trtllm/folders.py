"""Checks what TensorRT-LLM's tools left: a checkpoint of rank files, an engine of rank files.

config.json is written by the first rank only, so its presence says nothing about the others. Formats: TensorRT-LLM 1.2,
docs/source/architecture/checkpoint.md and tensorrt_llm/builder.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import BuildPlan, Tensor
from kfp_trtllm.core.backends.trtllm.releases import numbers
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.checkpoint import read_header
from kfp_trtllm.errors import BuildFailed, InvalidSpec, SourceError

_PREFIX = "transformer."
_NUMBERS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
}
_LIMITS = ("max_batch_size", "max_num_tokens", "max_seq_len")


def check_checkpoint(folder: Path, plan: BuildPlan, source: Mapping[str, Any] | None = None) -> None:
    """Whether a folder is the checkpoint that a plan's engine is built from.

    Args:
        folder: config.json and a rank file for each rank.
        plan: The plan.
        source: config.json of the model that it was made from, where that is at hand.

    Raises:
        BuildFailed: It is not; says what is missing or differs.
    """
    config = _config(folder, "checkpoint")
    _check_ranks(folder, "checkpoint", config, plan, "safetensors")
    _check_quantization(config, plan)
    for name in ("architecture", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        if name not in config:
            raise BuildFailed(f"config.json of the checkpoint must have {name}, but it has not.")
    for name, theirs in _NUMBERS.items() if source is not None else ():
        assert source is not None
        if theirs in source and int(config[name]) != int(source[theirs]):
            raise BuildFailed(
                f"{name} of the checkpoint must be the model's ({source[theirs]}), but it is {config[name]}."
            )
    for rank in range(plan.world_size):
        _check_tensors(folder / f"rank{rank}.safetensors", config, plan, rank)


def check_engine(folder: Path, plan: BuildPlan) -> None:
    """Whether a folder is the engine that was planned.

    Raises:
        BuildFailed: It is not; says what is missing or differs.
    """
    document = _config(folder, "engine")
    config, build = document.get("pretrained_config"), document.get("build_config")
    if not isinstance(config, dict) or not isinstance(build, dict):
        raise BuildFailed("config.json of the engine must have pretrained_config and build_config, but it has not.")
    version = str(document.get("version", ""))
    if not _same_release(version, plan.trtllm_version):
        raise BuildFailed(
            f"the engine must be built by TensorRT-LLM {plan.trtllm_version}, which serves it, but config.json says "
            f"{version or 'nothing'}: set trtllm_version to that of the build image."
        )
    _check_ranks(folder, "engine", config, plan, "engine")
    _check_quantization(config, plan)
    for name in _LIMITS:
        wanted = getattr(plan, name)
        if name in build and build[name] is not None and int(build[name]) < wanted:
            raise BuildFailed(f"{name} of the engine must be at least {wanted} as planned, but it is {build[name]}.")


def _same_release(one: str, other: str) -> bool:
    """Whether two versions are one release; what stands behind its three numbers is a build's."""
    try:
        return numbers(one)[:3] == numbers(other)[:3]
    except InvalidSpec:
        return one == other


def _config(folder: Path, what: str) -> dict[str, Any]:
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise BuildFailed(f"the {what} has no config.json, though the tool ended well.") from None
    except ValueError as error:
        raise BuildFailed(f"config.json of the {what} is not JSON ({error}).") from None
    if not isinstance(document, dict):
        raise BuildFailed(f"config.json of the {what} must be a JSON object, but is a {type(document).__name__}.")
    return document


def _check_ranks(folder: Path, what: str, config: Mapping[str, Any], plan: BuildPlan, suffix: str) -> None:
    mapping = config.get("mapping") or {}
    found = {name: int(mapping.get(name, 1)) for name in ("tp_size", "pp_size")}
    found["world_size"] = int(mapping.get("world_size", found["tp_size"] * found["pp_size"]))
    for name, value in found.items():
        if value != getattr(plan, name):
            raise BuildFailed(
                f"{name} of the {what} must be {getattr(plan, name)} as planned, but its mapping says {value}."
            )
    names = {f"rank{rank}.{suffix}" for rank in range(plan.world_size)}
    there = {path.name for path in folder.glob(f"rank*.{suffix}") if path.stat().st_size}
    if missing := sorted(names - there):
        raise BuildFailed(f"the {what} lacks {', '.join(missing)} of {plan.world_size} rank files, or they are empty.")
    if extra := sorted(there - names):
        raise BuildFailed(
            f"the {what} must have {plan.world_size} rank files (tp_size × pp_size), but also has {', '.join(extra)}."
        )


def _check_quantization(config: Mapping[str, Any], plan: BuildPlan) -> None:
    quantization = config.get("quantization") or {}
    wanted, found = VARIANTS[plan.variant].quant_algo, str(quantization.get("quant_algo") or "")
    # SmoothQuant has several kernels, which the converter chooses among.
    if found != wanted and not (wanted.startswith("W8A8_SQ") and found.startswith("W8A8_SQ")):
        raise BuildFailed(
            f"quant_algo must be {wanted or 'none'} for the variant {plan.variant}, but config.json says "
            f"{found or 'none'}."
        )


def _check_tensors(path: Path, config: Mapping[str, Any], plan: BuildPlan, rank: int) -> None:
    """The shapes that are sure whatever the architecture: norms, and the embedding on the first stage."""
    try:
        tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in read_header(path)}
    except SourceError as error:
        raise BuildFailed(f"the checkpoint is damaged: {error}") from None
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    stage = rank // plan.tp_size
    mine = {
        int(name.removeprefix(f"{_PREFIX}layers.").partition(".")[0])
        for name in tensors
        if name.startswith(f"{_PREFIX}layers.")
    }
    # Layers are numbered within their stage (or, by some converters, within the model); the first stages have one more
    # where they can't be shared out evenly.
    share, extra = divmod(layers, plan.pp_size)
    first, count = stage * share + min(stage, extra), share + (stage < extra)
    if mine not in (set(range(count)), set(range(first, first + count))):
        raise BuildFailed(f"{path.name} must have layers 0 to {count - 1}, but has {_ranges(mine)}.")
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight") and tensor.shape != (hidden,):
            raise BuildFailed(f"{name} in {path.name} must have {hidden} elements, but has the shape {tensor.shape}.")
    embedding = tensors.get(f"{_PREFIX}vocab_embedding.weight")
    if stage == 0:
        if embedding is None:
            raise BuildFailed(f"{path.name} must have {_PREFIX}vocab_embedding.weight, but it has not.")
        rows = int(config["vocab_size"])
        if (
            len(embedding.shape) != 2
            or embedding.shape[1] not in (hidden, hidden // plan.tp_size)
            or embedding.shape[0] * plan.tp_size < rows
        ):
            raise BuildFailed(
                f"{_PREFIX}vocab_embedding.weight in {path.name} must have {rows} × {hidden} weights, or its share of "
                f"them, but has the shape {embedding.shape}."
            )


def _ranges(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:8])) + (" …" if len(numbers) > 8 else "") or "none"
