"""The helper that NVIDIA's own Triton model uses."""

from __future__ import annotations

from typing import Any

from .._base import KvCacheConfig


def update_llm_args_with_extra_dict(llm_args: dict[str, Any], llm_args_dict: dict[str, Any]) -> dict[str, Any]:
    """Later values win; nested dictionaries become configuration classes."""
    values = llm_args | llm_args_dict
    if isinstance(values.get("kv_cache_config"), dict):
        values["kv_cache_config"] = KvCacheConfig(**values["kv_cache_config"])
    return values
