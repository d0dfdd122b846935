"""Keys of finished work: the same key means the same result, so it need not be done again by anyone."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def key(**parts: Any) -> str:
    """SHA-256 (hexadecimal) over named JSON values, whatever their order."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_refuse)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(value: Any) -> Any:
    raise TypeError(f"a key's part must be a JSON value, but got {type(value).__name__}")
