"""Fails the run when a verdict is not good."""

from __future__ import annotations

from kfp_trtllm.core.step import fact, note
from kfp_trtllm.errors import GateFailed, Inconclusive, RolledBack
from kfp_trtllm.require_verdict.spec import GOOD, Requirement

_ERRORS = {"failed": GateFailed, "rolled_back": RolledBack, "inconclusive": Inconclusive}


def run(spec: Requirement) -> None:
    """Does nothing for a good verdict; otherwise ends with the reason and an exit code that tells which it was."""
    text = (
        f"{spec.gate} {spec.verdict.replace('_', ' ')}: {spec.reason}" if spec.reason else f"{spec.gate} {spec.verdict}"
    )
    if spec.verdict in GOOD:
        note(text)
        fact(result=spec.verdict.replace("_", " "))
        return
    raise _ERRORS[spec.verdict](text)
