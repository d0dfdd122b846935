"""Writes checkpoints of a few KB that are real in form."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """A safetensors file of tensors given as (dtype, shape); their values are a counter's bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin = end
        size = WIDTHS[dtype]
        for extent in shape:
            size *= extent
        end = begin + size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(index % 251 for index in range(end))


TENSORS = {
    "model.embed_tokens.weight": ("BF16", (64, 16)),
    "model.layers.0.mlp.down_proj.weight": ("BF16", (16, 512)),
    "model.norm.weight": ("F32", (16,)),
}
PARAMETERS = 64 * 16 + 16 * 512 + 16

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def files() -> dict[str, bytes]:
    """A whole checkpoint, and what comes along in a repository but is not needed."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": safetensors(TENSORS),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "LICENSE": b"Apache License",
        "README.md": b"---\nlicense: apache-2.0\n---\n# tiny\n",
        ".gitattributes": b"*.safetensors filter=lfs",
        "pytorch_model.bin": b"never fetched",
        "modeling_tiny.py": b"never fetched",
        "onnx/model.onnx": b"never fetched",
    }


NEEDED = ["LICENSE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
