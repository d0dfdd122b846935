"""A quantized checkpoint as a text model: the numbers that its engine computes with, without the engine.

Weights come from the stored bytes, inputs of quantized layers and the KV cache are rounded as the stored scales tell.
So the accuracy of a quantization is known on a CPU, before a GPU has built or loaded anything. What differs from an
engine is the order of sums and the precision in which it adds them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_trtllm.core.checkpoint import read_headers, weight_files
from kfp_trtllm.core.evaluation.reference import TransformersModel
from kfp_trtllm.core.quantization.checking import read_quantization
from kfp_trtllm.core.quantization.formats import (
    FORMATS,
    PRE_QUANT_SCALE,
    SCALES,
    dequantize,
    fake_fp8,
    fake_input,
)
from kfp_trtllm.errors import BuildFailed, unknown

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTION = "kfp_trtllm_fp8_cache"  # our attention function's name in transformers' table


class QuantizedModel(TransformersModel):
    """A checkpoint that `quantize_checkpoint` made (or ModelOpt's export elsewhere), fake-quantized, as a `TextModel`.

    Raises:
        BuildFailed: The folder is no such checkpoint, of a format that can't be read back, or damaged.
    """

    def _load(self, checkpoint: Path, dtype: Any) -> Any:
        import torch
        import transformers

        quantization = read_quantization(checkpoint)
        algo, cache = quantization.get("quant_algo"), quantization.get("kv_cache_quant_algo")
        if algo not in FORMATS:
            raise BuildFailed(unknown("a quantization that can be read back", str(algo), FORMATS))
        if cache not in (None, "FP8"):
            raise BuildFailed(unknown("kv_cache_quant_algo of a checkpoint that can be read back", str(cache), ["FP8"]))
        group_size = int(quantization.get("group_size") or 0)
        weights, scales = _read(checkpoint, algo, group_size)
        config = transformers.AutoConfig.from_pretrained(
            str(checkpoint), local_files_only=True, trust_remote_code=False
        )
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # transformers would look for ModelOpt to load it
        with torch.device("meta"):  # the automatic class loads from folders only
            kind = type(transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False))
        dtype = config.dtype if dtype == "auto" else dtype
        model = kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
        generation = checkpoint / "generation_config.json"
        if generation.is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(str(checkpoint))
        _round_inputs(model, scales, algo, group_size)
        if cache:
            _round_cache(model, scales)
        return model


def _read(checkpoint: Path, algo: str, group_size: int) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Dequantized weights by name, and what else belongs to each layer, by the layer's name."""
    from safetensors import safe_open

    read_headers(checkpoint)  # says in a line what is missing or cut off
    tensors: dict[str, Tensor] = {}
    scales: dict[str, dict[str, Tensor]] = {}
    for file in weight_files(checkpoint):
        with safe_open(checkpoint / file, framework="pt") as opened:
            for name in opened.keys():
                layer, _, part = name.rpartition(".")
                if part in (*SCALES, PRE_QUANT_SCALE):
                    scales.setdefault(layer, {})[part] = opened.get_tensor(name)
                else:
                    tensors[name] = opened.get_tensor(name)
    for name in list(tensors):
        layer = name.removesuffix(".weight")
        parts = scales.get(layer, {})
        if tensors[name].is_floating_point() and tensors[name].element_size() > 1:
            continue
        if missing := [part for part in FORMATS[algo].scales if part not in parts]:
            raise BuildFailed(f"{layer} is quantized, but has no {missing[0]}: make the checkpoint anew.")
        tensors[name] = dequantize(algo, {"weight": tensors[name], **parts}, group_size)
    return tensors, scales


def _round_inputs(model: Any, scales: Mapping[str, Mapping[str, Tensor]], algo: str, group_size: int) -> None:
    """Makes each quantized layer scale and round its input first."""
    import torch

    modules = dict(model.named_modules())
    for layer, parts in scales.items():
        before, scale = parts.get(PRE_QUANT_SCALE), parts.get("input_scale")
        if before is None and scale is None:
            continue
        module = modules.get(layer)
        if not isinstance(module, torch.nn.Linear):
            raise BuildFailed(
                f"{layer} has scales for its input, but {type(model).__name__} has no linear layer of that name, so this "
                "checkpoint can't be evaluated without its engine."
            )
        module.register_forward_pre_hook(partial(_on_input, before=before, scale=scale, algo=algo, group=group_size))


def _on_input(
    module: Any, inputs: tuple[Tensor, ...], *, before: Tensor | None, scale: Tensor | None, algo: str, group: int
) -> tuple[Tensor, ...]:
    """A layer's input, scaled and rounded."""
    values, *others = inputs
    if before is not None:
        values = values * before.to(values.device, values.dtype)
    if scale is not None:
        values = fake_input(algo, values, scale.to(values.device), group)
    return (values, *others)


def _round_cache(model: Any, scales: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Makes attention see keys and values as a cache of 8-bit floats returns them."""
    import transformers
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        key, value = fake_fp8(key, module.kfp_k_scale), fake_fp8(value, module.kfp_v_scale)
        return sdpa_attention_forward(module, query, key, value, *args, **kwargs)

    modules = dict(model.named_modules())
    for layer, parts in scales.items():
        for name in ("k_scale", "v_scale"):
            if name in parts:
                module = modules.get(layer.rpartition(".")[0])
                if module is None:
                    raise BuildFailed(f"{layer} has a {name}, but {type(model).__name__} has no such layer.")
                setattr(module, f"kfp_{name}", float(parts[name]))
    transformers.AttentionInterface.register(_ATTENTION, attention)
    transformers.AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    model.set_attn_implementation(_ATTENTION)
