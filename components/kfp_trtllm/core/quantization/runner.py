"""Post-training quantization: runs ModelOpt in a process of its own, completes what it exports and checks it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.backends.base import Tensor
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS, Variant
from kfp_trtllm.core.checkpoint import read_config, read_headers
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.quantization.calibration import Calibration
from kfp_trtllm.core.quantization.casting import DTYPES, cast_weights, copy_companions, with_dtype, write_json
from kfp_trtllm.core.quantization.checking import QUANT_CONFIG, check_quantized
from kfp_trtllm.core.quantization.formats import SCALES
from kfp_trtllm.errors import BuildFailed, InvalidSpec

OnProgress = Callable[[float, float], None]

KV_CACHE_DTYPES = ("auto", "fp8")

_PACKED = ("F8_E4M3", "F8_E5M2", "I8", "U8", "I32")  # dtypes of weights that somebody quantized before
_PLAIN = (
    "embed",
    "lm_head",
    "wte",
    "wpe",
    "router",
    ".gate.",
    "norm",
)  # parts of names that ModelOpt leaves as they are


def quantize_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    variant: str,
    kv_cache_dtype: str,
    calibration: Calibration,
    log: Path,
    on_progress: OnProgress,
) -> None:
    """Quantizes a checkpoint into a unified Hugging Face checkpoint, as TensorRT-LLM's LLM API, vLLM and SGLang take it.

    What is not quantized gets 16 bits. The configuration, the tokenizer and what else came with the checkpoint stay as
    they are: ModelOpt's own copies are in the words of the installed transformers, which older ones misread.

    Args:
        checkpoint: Weights in safetensors; read only.
        output: Folder that appears when it is whole and checked; an older one is replaced.
        variant: fp8, int8_sq, int4_awq, w4a8_awq or nvfp4.
        kv_cache_dtype: "fp8" calibrates scales for the KV cache too; "auto" leaves it as it is.
        calibration: Texts that set the scales.
        log: File for the tool's log.
        on_progress: Called with (done, total) in batches of the calibration set.

    Raises:
        InvalidSpec: The checkpoint or the parameters can't work, or a package is missing; nothing was spent.
        SourceError: The checkpoint is damaged.
        BuildFailed: ModelOpt failed, or left something else than was wanted.
    """
    precision = check_quantizable(checkpoint, variant=variant, kv_cache_dtype=kv_cache_dtype)
    if calibration.file is not None:
        calibration.texts()
    dtype = plain_dtype(read_headers(checkpoint))
    exported, partial = (output.with_name(f"{output.name}.{suffix}") for suffix in ("export", "part"))
    for folder in (exported, partial):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    settings = {
        "modelopt": precision.modelopt,
        "kv_cache_fp8": kv_cache_dtype == "fp8",
        "load_dtype": dtype,
        "calibration": dataclasses.asdict(calibration),
    }

    def read(line: str) -> None:
        if line.startswith("@{"):
            report = json.loads(line[1:])
            on_progress(report["done"], report["total"])

    program = [sys.executable, "-P", "-m", "kfp_trtllm.core.quantization.quantize"]
    # A data set of the hub is the only thing that may come from elsewhere.
    offline = {} if calibration.file is None else {"HF_HUB_OFFLINE": "1"}
    try:
        run_tool(
            [*program, str(checkpoint), str(exported), json.dumps(settings)],
            log=log,
            env={"TOKENIZERS_PARALLELISM": "false", **offline},
            on_line=read,
        )
        complete(checkpoint, exported, partial, dtype=dtype)
        check_quantized(partial, checkpoint, variant=precision, kv_cache_fp8=kv_cache_dtype == "fp8")
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        for folder in (exported, partial):
            shutil.rmtree(folder, ignore_errors=True)


def check_quantizable(checkpoint: Path, *, variant: str, kv_cache_dtype: str = "auto") -> Variant:
    """Refuses what can't be quantized before torch is even imported.

    Returns:
        The variant of that name.

    Raises:
        InvalidSpec: The variant is no quantization by ModelOpt, the checkpoint is quantized already, a layer can't be
            cut into groups, or a package is missing.
        SourceError: The checkpoint is damaged, or has pickles only.
    """
    rules.one_of("variant", variant, (name for name, known in VARIANTS.items() if known.modelopt))
    rules.one_of("kv_cache_dtype", kv_cache_dtype, KV_CACHE_DTYPES)
    precision = VARIANTS[variant]
    config = read_config(checkpoint)
    tensors = read_headers(checkpoint)
    packed = [tensor for tensor in tensors if tensor.dtype in _PACKED]
    if packed or config.get("quantization_config") or (checkpoint / QUANT_CONFIG).is_file():
        how = (config.get("quantization_config") or {}).get("quant_method") or (
            packed[0].dtype if packed else "modelopt"
        )
        raise InvalidSpec(
            f"the checkpoint to quantize must have weights of 16 or 32 bits, but {checkpoint.name} is quantized already "
            f"({how}): take the original, or serve it as it is."
        )
    if group := precision.group_size:
        for tensor in tensors:
            plain = len(tensor.shape) != 2 or any(part in tensor.name for part in _PLAIN)
            if not plain and tensor.shape[1] % group:
                raise InvalidSpec(
                    f"variant {variant} needs layers whose number of inputs {group} divides, but {tensor.name} has "
                    f"{tensor.shape[1]}: take fp8."
                )
    for module in ("modelopt", "torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            name = "nvidia-modelopt" if module == "modelopt" else module
            raise InvalidSpec(
                f"variant {variant} needs {name}, which is not installed: pip install 'kfp-trtllm[quantize]'."
            )
    return precision


def plain_dtype(tensors: list[Tensor]) -> str:
    """The 16-bit dtype of what is not quantized: the checkpoint's own; brain floats, which hold any value, for others."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.elements
    most = counts.most_common(1)[0][0]
    return next((name for name, stored in DTYPES.items() if stored == most), "bfloat16")


def complete(checkpoint: Path, exported: Path, output: Path, *, dtype: str) -> None:
    """Makes a checkpoint of what ModelOpt exported and of the source's other files.

    Raises:
        BuildFailed: ModelOpt left no configuration.
    """
    try:
        configuration: dict[str, Any] = json.loads((exported / "config.json").read_text(encoding="utf-8"))
        quantization = configuration["quantization_config"]
        shutil.copyfile(exported / QUANT_CONFIG, output / QUANT_CONFIG)
    except (OSError, ValueError, KeyError) as error:
        raise BuildFailed(f"ModelOpt left no quantized checkpoint ({type(error).__name__}: {error}).") from None
    copy_companions(checkpoint, output)
    cast_weights(exported, output, DTYPES[dtype], keep=SCALES)
    config = with_dtype(read_config(checkpoint), dtype)
    write_json(output / "config.json", {**config, "quantization_config": quantization})
