"""Converts a GGUF file into a safetensors checkpoint; a program of its own, run by `core.checkpoint.convert_gguf`.

`transformers` can load a GGUF, but saving what it loaded holds the model in memory twice, and most of the time goes into
parsing the same file four times and into building one table of names per module. So this keeps its mapping of names, its
configuration and its tokenizer, parses once, and writes tensor by tensor.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

REPORT = "@"  # lines for the parent start with it


def report(**values: Any) -> None:
    """Tells the parent something: one JSON object a line."""
    print(REPORT + json.dumps(values), flush=True)


def convert(source: Path, output: Path) -> None:
    """Writes config.json, tokenizer and weights of a GGUF file into an existing folder.

    Quantized weights become F32, float ones keep their type.

    Raises:
        ValueError: transformers knows no such architecture, or the file is damaged.
    """
    import gguf
    import numpy as np
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """Reads through a plain array: slicing a memmap costs ten times as much, and there are 100,000 strings."""

        data: Any

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if isinstance(self.data, np.memmap):
                self.data = np.asarray(self.data)
            return super()._get(offset, dtype, count, override_order)

    # transformers takes both from the module at each call: parse once, and make one table of names.
    gguf.GGUFReader = functools.cache(Reader)
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)

    with tempfile.TemporaryDirectory() as folder:
        # Alone in a folder, so that transformers finds no other tokenizer or configuration beside it.
        (Path(folder) / "model.gguf").symlink_to(source.resolve())
        where = {"pretrained_model_name_or_path": folder, "gguf_file": "model.gguf", "local_files_only": True}
        try:
            reader = gguf.GGUFReader(f"{folder}/model.gguf")
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"it is no GGUF file, or damaged ({error})") from None
        config = AutoConfig.from_pretrained(**where)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        dtype = _dtype({tensor.tensor_type for tensor in reader.tensors})
        model = _empty(AutoModelForCausalLM, config, dtype)
        if _one_to_one(reader, model):
            config.architectures, config.dtype = [type(model).__name__], dtype
            config.save_pretrained(output)
            model.generation_config.save_pretrained(output)
            _stream(reader, model, dtype, output / "model.safetensors")
        else:
            _save_loaded(AutoModelForCausalLM.from_pretrained(**where, dtype=dtype), output)
    tokenizer.model_max_length = config.get_text_config().max_position_embeddings
    for leftover in ("is_local", "local_files_only"):  # how it was loaded here says nothing about the model
        tokenizer.init_kwargs.pop(leftover, None)
    tokenizer.save_pretrained(output)
    license_field = reader.get_field("general.license")
    report(license=str(license_field.contents()) if license_field else "")


def _dtype(types: set[Any]) -> Any:
    """The torch dtype of the checkpoint: a float file's own (its norms are F32 in any case), F32 for quantized ones."""
    import gguf
    import torch

    kinds = gguf.GGMLQuantizationType
    if not types <= {kinds.F32, kinds.F16, kinds.BF16}:
        return torch.float32
    return torch.bfloat16 if kinds.BF16 in types else torch.float16 if kinds.F16 in types else torch.float32


def _empty(auto: Any, config: Any, dtype: Any) -> Any:
    """The model without weights, for its tensors' names and shapes."""
    import torch

    with torch.device("meta"):
        return auto.from_config(config, dtype=dtype)


def _one_to_one(reader: Any, model: Any) -> bool:
    """Whether each tensor of the file becomes one tensor of the checkpoint; experts, for example, are merged and split."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.integrations.gguf import is_gguf_arch_supported

    architecture = reader.get_field("general.architecture").contents()
    return not is_gguf_arch_supported(architecture) and not get_model_conversion_mapping(model, add_legacy=False)


def _tensors(reader: Any, model: Any) -> tuple[dict[str, Any], Any]:
    """The file's tensors by their names in the checkpoint, and what undoes llama.cpp's changes to them."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    architecture = reader.get_field("general.architecture").contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    found = {names[tensor.name]: tensor for tensor in reader.tensors if tensor.name in names}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    if missing := sorted(set(dict(model.named_parameters())) - set(found) - tied):
        raise ValueError(f"the GGUF file lacks {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}.")
    return {name: tensor for name, tensor in found.items() if name not in tied}, processor


def _stream(reader: Any, model: Any, dtype: Any, target: Path) -> None:
    """Writes a safetensors file with one tensor in memory at a time."""
    import gguf
    import torch

    tensors, processor = _tensors(reader, model)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    width = dtype.itemsize
    word = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in tensors:
        begin, end = end, end + width * functools.reduce(int.__mul__, shapes[name], 1)
        header[name] = {"dtype": word, "shape": shapes[name], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if (free := shutil.disk_usage(target.parent).free) < end:
        raise ValueError(f"{target.parent} must have {end / 1e9:,.1f} GB free, but it has {free / 1e9:,.1f} GB")
    done, total = 0, sum(int(tensor.n_bytes) for tensor in tensors.values())
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            values = processor.process(
                weights=gguf.dequantize(tensor.data, tensor.tensor_type), name=tensor.name
            ).weights
            if tuple(values.shape) != shapes[name]:
                raise ValueError(f"{tensor.name} must have the shape {shapes[name]}, but has {tuple(values.shape)}.")
            file.write(_bytes(values, dtype))
            done += int(tensor.n_bytes)
            report(done=done, total=total)


def _bytes(values: Any, dtype: Any) -> Any:
    """A tensor's bytes in the checkpoint's dtype."""
    import numpy as np
    import torch

    # Float tensors are read-only views of the file, which torch does not like.
    tensor = torch.from_numpy(np.array(values, order="C", copy=not values.flags.writeable)).to(dtype)
    return tensor.contiguous().view(torch.uint8).numpy().data


def _save_loaded(model: Any, output: Path) -> None:
    """Writes a model that transformers loaded; it refuses to save while the quantizer that read the GGUF is on it."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(output)


def main(arguments: list[str]) -> int:
    """Runs `convert`; what can be told in a line ends without a traceback."""
    source, output = map(Path, arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    importlib.import_module("transformers").logging.set_verbosity_error()
    try:
        convert(source, output)
    except (ValueError, NotImplementedError) as error:
        print(f"{source.name} can't be converted: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
