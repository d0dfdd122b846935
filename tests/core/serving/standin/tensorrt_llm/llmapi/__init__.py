"""The package's public half."""

from __future__ import annotations

from .._base import KvCacheConfig

__all__ = ["KvCacheConfig"]
