"""The class for built engines."""

from __future__ import annotations

from ._base import TrtLLM


class LLM(TrtLLM):
    """For engine folders."""
