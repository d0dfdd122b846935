"""Rules for parameters, each with its message: name, rule, value. For `__post_init__` of specs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from kfp_trtllm.errors import InvalidSpec, unknown


def at_least(name: str, value: float, minimum: float) -> None:
    """The value must reach the minimum."""
    if not value >= minimum:
        raise InvalidSpec(f"{name} must be at least {minimum:g}, but got {value:g}.")


def between(name: str, value: float, low: float, high: float) -> None:
    """The value must lie between two others, which it may not equal."""
    if not low < value < high:
        raise InvalidSpec(f"{name} must be above {low:g} and below {high:g}, but got {value:g}.")


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """The value must be one of those known."""
    known = list(known)
    if value not in known:
        raise InvalidSpec(unknown(name, value, known))


def not_empty(name: str, value: str | Sequence[Any]) -> None:
    """A text or list must hold something."""
    if not value:
        raise InvalidSpec(f"{name} must not be empty.")


def integers(name: str, values: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers, also where they come as 10.0 (KFP's lists have no integers)."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise InvalidSpec(f"{name} must be a list of whole numbers, but got {list(values)!r}.")
    return tuple(int(value) for value in values)


def texts(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """Distinct, non-empty texts."""
    if isinstance(values, str) or any(not isinstance(value, str) or not value for value in values):
        raise InvalidSpec(f"{name} must be a list of texts, but got {values!r}.")
    if len(set(values)) != len(values):
        raise InvalidSpec(f"{name} must not name anything twice, but got {list(values)!r}.")
    return tuple(values)


def settle(spec: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass in its `__post_init__`, to hold what a rule made of them."""
    names = {field.name for field in dataclasses.fields(spec)}
    for name, value in values.items():
        assert name in names
        object.__setattr__(spec, name, value)


def digest(name: str, value: str, *, optional: bool = False) -> None:
    """The name of a manifest: "sha256:" and 64 hexadecimal digits."""
    if not (optional and not value) and not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise InvalidSpec(f"{name} must be sha256: and 64 hexadecimal digits, but got {value!r}.")


_SUFFIXES = {
    **{"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60},
}


def quantity(name: str, text: str) -> float:
    """What Kubernetes means by an amount, for example 500m (of a core) or 32Gi (of memory)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in _SUFFIXES:
        raise InvalidSpec(
            f"{name} must be an amount as Kubernetes writes it, such as 4, 500m or 32Gi, but got {text!r}."
        )
    return float(found[1]) * _SUFFIXES[found[2]]
