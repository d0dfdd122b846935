"""Checkpoints of a few KB that are real in form."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
NEEDED = ["LICENSE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def weights(seed: int = 0) -> bytes:
    """A safetensors file of about 70 KB."""
    random = np.random.default_rng(seed)
    return save(
        {
            "model.embed_tokens.weight": random.normal(size=(64, 512)).astype(np.float16),
            "model.norm.weight": random.normal(size=(512,)).astype(np.float32),
        },
        metadata={"format": "pt"},
    )


def files(seed: int = 0) -> dict[str, bytes]:
    """A whole checkpoint, and what comes along in a repository but is not needed."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": weights(seed),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "LICENSE": b"Apache License",
        "README.md": b"---\nlicense: apache-2.0\n---\n# tiny\n",
        ".gitattributes": b"*.safetensors filter=lfs",
        "pytorch_model.bin": b"never fetched",
        "modeling_tiny.py": b"never fetched",
        "onnx/model.onnx": b"never fetched",
    }
