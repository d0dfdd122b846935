"""How ModelOpt 0.47 stores a quantized linear layer in a unified Hugging Face checkpoint, and how to read it back.

A layer `L` of [out, in] weights has `L.weight` and, depending on the format, these beside it:

    FP8                   weight F8_E4M3 [out, in]    weight_scale []                 input_scale []
    W8A8_SQ_PER_CHANNEL   weight I8 [out, in]         weight_scale [out]              input_scale []   pre_quant_scale [in]
    W4A16_AWQ             weight U8 [out/2, in]       weight_scale [out, in/group]                     (pre_quant_scale [in])
    W4A8_AWQ              weight U8 [out/2, in]       weight_scale [out, in/group]    input_scale []   (pre_quant_scale [in])
                                                      weight_scale_2 []
    NVFP4                 weight U8 [out, in/2]       weight_scale F8 [out, in/group] input_scale []
                                                      weight_scale_2 []

AWQ packs two rows into a byte, the even one in the low half, and multiplies pre_quant_scale into the norm before the layer
where there is one. NVFP4 packs two neighbors of a row. Layers that share an input share its scales. A cache in FP8 adds
`k_proj.k_scale` and `v_proj.v_scale`. All of it was read from files that ModelOpt wrote, and in its export.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfp_trtllm.core.backends.base import Tensor

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

SCALES = (
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "k_scale",
    "v_scale",
)  # kept in 32 bits (NVFP4's blocks in 8)
PRE_QUANT_SCALE = "pre_quant_scale"

_E4M3_MAX = 448.0
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # magnitudes, by their three bits; the fourth is the sign
_E2M1_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_SMALLEST_BLOCK_SCALE = 2.0**-9  # E4M3's smallest number above 0


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to store a quantized linear layer.

    Attributes:
        dtype: Of the stored weight, as safetensors spells it.
        rows: Rows of weights per stored row.
        columns: Weights of a row per stored element.
        scales: The scales that each layer has; their shapes come from `scale_shapes`.
        pre_quant_scale: Whether each layer has one, with none in the norm before it.
    """

    dtype: str
    rows: int = 1
    columns: int = 1
    scales: tuple[str, ...]
    pre_quant_scale: bool = False

    def stored_shape(self, shape: Shape) -> Shape:
        """Shape of the stored weight of a layer of [out, in]."""
        return (shape[0] // self.rows, shape[1] // self.columns)

    def shape(self, stored: Shape) -> Shape:
        """Shape [out, in] of a layer whose stored weight has that shape."""
        return (stored[0] * self.rows, stored[1] * self.columns)


FORMATS = {
    "FP8": Format(dtype="F8_E4M3", scales=("weight_scale", "input_scale")),
    "W8A8_SQ_PER_CHANNEL": Format(dtype="I8", scales=("weight_scale", "input_scale"), pre_quant_scale=True),
    "W4A16_AWQ": Format(dtype="U8", rows=2, scales=("weight_scale",)),
    "W4A8_AWQ": Format(dtype="U8", rows=2, scales=("weight_scale", "weight_scale_2", "input_scale")),
    "NVFP4": Format(dtype="U8", columns=2, scales=("weight_scale", "weight_scale_2", "input_scale")),
}


def scale_shapes(algo: str, shape: Shape, group_size: int) -> dict[str, Shape]:
    """Shapes of the scales of a layer of [out, in], by name."""
    rows, columns = shape
    shapes: dict[str, Shape] = dict.fromkeys(FORMATS[algo].scales, ())
    if algo == "W8A8_SQ_PER_CHANNEL":
        shapes["weight_scale"] = (rows,)
    elif algo != "FP8":
        shapes["weight_scale"] = (rows, columns // group_size)
    return shapes


def quantized_layers(tensors: Sequence[Tensor], exclude: Sequence[str]) -> list[str]:
    """Names of the layers that must be quantized: those with a matrix of weights that no pattern excludes."""
    layers = [tensor.name.removesuffix(".weight") for tensor in tensors if _is_matrix(tensor)]
    return [layer for layer in layers if not any(fnmatch.fnmatchcase(layer, pattern) for pattern in exclude)]


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2


def dequantize(algo: str, parts: Mapping[str, torch.Tensor], group_size: int) -> torch.Tensor:
    """The weights of a layer as its engine sees them, in float32.

    Args:
        algo: A key of `FORMATS`.
        parts: `weight` and its scales, by name.
        group_size: Weights that share a scale, where the format has groups.
    """
    import torch

    weight = parts["weight"]
    scale = parts["weight_scale"].to(torch.float32)
    if algo == "FP8":
        return weight.to(torch.float32) * scale
    if algo == "W8A8_SQ_PER_CHANNEL":
        return weight.to(torch.float32) * scale[:, None]
    if algo == "NVFP4":
        scale = scale * parts["weight_scale_2"].to(torch.float32)
        return _by_group(_unpack_e2m1(weight), scale, group_size)
    weights = _by_group(_unpack_int4(weight), scale, group_size)
    if algo == "W4A8_AWQ":  # computed in 8-bit floats, so the engine rounds once more
        return fake_fp8(weights, parts["weight_scale_2"].to(torch.float32))
    return weights


def _by_group(values: torch.Tensor, scales: torch.Tensor, group_size: int) -> torch.Tensor:
    """Values of [out, in] times scales of [out, in / group]."""
    rows, columns = values.shape
    return (values.reshape(rows, columns // group_size, group_size) * scales[..., None]).reshape(rows, columns)


def _unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """[out / 2, in] of bytes with two rows each → [out, in] of −8 to 7."""
    import torch

    both = torch.stack((packed & 15, packed >> 4), dim=1).to(torch.float32)
    return (both - 16 * (both > 7)).flatten(0, 1)


def _unpack_e2m1(packed: torch.Tensor) -> torch.Tensor:
    """[out, in / 2] of bytes with two columns each → [out, in] of 4-bit floats."""
    import torch

    codes = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
    values = torch.tensor((*_E2M1, *(-value for value in _E2M1)), device=packed.device)
    return values[codes.long()]


def fake_fp8(values: torch.Tensor, scale: Any) -> torch.Tensor:
    """Values as 8-bit floats (E4M3) under one scale see them; too large ones become the largest."""
    import torch

    scaled = (values.to(torch.float32) / scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)
    rounded: torch.Tensor = (scaled.to(torch.float32) * scale).to(values.dtype)
    return rounded


def fake_int8(values: torch.Tensor, scale: Any) -> torch.Tensor:
    """Values as 8-bit integers under one scale see them."""
    import torch

    rounded: torch.Tensor = ((values.to(torch.float32) / scale).round().clamp(-128, 127) * scale).to(values.dtype)
    return rounded


def fake_nvfp4(values: torch.Tensor, scale: Any, group_size: int) -> torch.Tensor:
    """Values as 4-bit floats (E2M1) see them, each group under an 8-bit scale of its own times the given one.

    Args:
        values: [..., columns]; columns must be whole groups.
        scale: The stored input_scale.
        group_size: Columns that share a scale.
    """
    import torch

    groups = values.to(torch.float32).reshape(*values.shape[:-1], values.shape[-1] // group_size, group_size)
    blocks = groups.abs().amax(dim=-1, keepdim=True) / (_E2M1[-1] * scale)
    blocks = blocks.clamp(_SMALLEST_BLOCK_SCALE, _E4M3_MAX).to(torch.float8_e4m3fn).to(torch.float32) * scale
    scaled = groups / blocks
    bounds = torch.tensor(_E2M1_BOUNDS, device=values.device)
    magnitude = scaled.abs().contiguous()
    code = torch.bucketize(magnitude, bounds)
    code += sum((magnitude == bounds[odd]).to(code.dtype) for odd in (1, 3, 5))  # halves go to the even neighbor
    rounded: torch.Tensor = torch.tensor(_E2M1, device=values.device)[code] * scaled.sign()
    rounded = (rounded * blocks).reshape(values.shape).to(values.dtype)
    return rounded


def fake_input(algo: str, values: torch.Tensor, scale: torch.Tensor, group_size: int) -> torch.Tensor:
    """A layer's input as its engine sees it, under the stored input_scale."""
    if algo == "W8A8_SQ_PER_CHANNEL":
        return fake_int8(values, scale)
    if algo == "NVFP4":
        return fake_nvfp4(values, scale, group_size)
    return fake_fp8(values, scale)
