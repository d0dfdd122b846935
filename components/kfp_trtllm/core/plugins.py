"""Plug-ins by name: a table of dotted names, imported on demand, with an answer that helps for an unknown name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from kfp_trtllm.errors import InvalidSpec, unknown


def check(what: str, name: str, table: Mapping[str, str]) -> None:
    """InvalidSpec unless the table has the name."""
    if name not in table:
        raise InvalidSpec(unknown(what, name, table))


def load(what: str, name: str, table: Mapping[str, str]) -> Any:
    """The class that a table's entry ("package.module:Class") names."""
    check(what, name, table)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
