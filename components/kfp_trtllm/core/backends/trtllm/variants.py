"""Precisions of the TensorRT-LLM backends: what each is called by each tool, what it weighs and what runs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One precision.

    Attributes:
        title: A sentence for people.
        dtype: Of what is not quantized, as TensorRT-LLM spells it; "" takes the checkpoint's own (16 bits).
        weight_bits: Bits of a weight in a quantized linear layer.
        group_size: Weights that share a scale along the input dimension; 0 for one scale per tensor or channel.
        scale_bits: Bits of such a group's scale.
        quant_algo: TensorRT-LLM's QuantAlgo in a checkpoint's config.json and hf_quant_config.json; "" for none.
        qformat: quantize.py's --qformat; "" where convert_checkpoint.py does it.
        modelopt: Name of the configuration in modelopt.torch.quantization; "" where ModelOpt has nothing to do.
        compute_capability: The lowest that runs it, as (major, minor).
        backends: Those that build or serve it.
    """

    title: str
    dtype: str = ""
    weight_bits: int
    group_size: int = 0
    scale_bits: int = 0
    quant_algo: str = ""
    qformat: str = ""
    modelopt: str = ""
    compute_capability: tuple[int, int]
    backends: tuple[str, ...] = ("tensorrt", "pytorch")


VARIANTS = {
    "bf16": Variant(
        title="16-bit brain floats",
        dtype="bfloat16",
        weight_bits=16,
        compute_capability=(8, 0),
    ),
    "fp16": Variant(
        title="16-bit floats",
        dtype="float16",
        weight_bits=16,
        compute_capability=(7, 0),
    ),
    "fp8": Variant(
        title="weights and activations in 8-bit floats (E4M3), one static scale per tensor, calibrated",
        weight_bits=8,
        quant_algo="FP8",
        qformat="fp8",
        modelopt="FP8_DEFAULT_CFG",
        compute_capability=(8, 9),
    ),
    "int8_sq": Variant(
        title="weights and activations in 8-bit integers, smoothed (SmoothQuant), calibrated",
        weight_bits=8,
        quant_algo="W8A8_SQ_PER_CHANNEL",
        qformat="int8_sq",
        modelopt="INT8_SMOOTHQUANT_CFG",
        compute_capability=(7, 5),
    ),
    "int8_wo": Variant(
        title="weights alone in 8-bit integers, one scale per channel",
        weight_bits=8,
        quant_algo="W8A16",
        compute_capability=(7, 0),
        backends=("tensorrt",),
    ),
    "int4_wo": Variant(
        title="weights alone in 4-bit integers, one scale per channel",
        weight_bits=4,
        quant_algo="W4A16",
        compute_capability=(7, 0),
        backends=("tensorrt",),
    ),
    "int4_awq": Variant(
        title="weights alone in 4-bit integers, 128 to a scale, chosen by activations (AWQ), calibrated",
        weight_bits=4,
        group_size=128,
        scale_bits=16,
        quant_algo="W4A16_AWQ",
        qformat="int4_awq",
        modelopt="INT4_AWQ_CFG",
        compute_capability=(8, 0),
    ),
    "w4a8_awq": Variant(
        title="weights in 4-bit integers by AWQ, activations in 8-bit floats, calibrated",
        weight_bits=4,
        group_size=128,
        scale_bits=16,
        quant_algo="W4A8_AWQ",
        qformat="w4a8_awq",
        modelopt="W4A8_AWQ_BETA_CFG",
        compute_capability=(8, 9),
    ),
    "nvfp4": Variant(
        title="weights and activations in 4-bit floats (E2M1), 16 to an 8-bit scale, calibrated",
        weight_bits=4,
        group_size=16,
        scale_bits=8,
        quant_algo="NVFP4",
        qformat="nvfp4",
        modelopt="NVFP4_DEFAULT_CFG",
        compute_capability=(10, 0),
    ),
}

KV_CACHE_DTYPES = ("auto", "fp8", "int8")  # auto: as activations; int8 with backend tensorrt only
