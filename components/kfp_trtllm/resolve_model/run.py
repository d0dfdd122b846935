"""Pins a source down to an exact revision."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import sources
from kfp_trtllm.core.step import fact, note
from kfp_trtllm.resolve_model.spec import Resolution


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Outputs of resolve_model."""

    source: str
    revision: str


def run(spec: Resolution) -> Resolved:
    """Resolves a source to a commit, generation or digest; reads nothing but what that needs."""
    resolved = sources.parse(spec.source).resolve()
    note(f"{spec.source} is {resolved.source} at {resolved.revision}")
    fact(result=f"revision {resolved.revision[:12]}")
    return Resolved(source=resolved.source, revision=resolved.revision)
