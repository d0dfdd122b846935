"""Refuses a release's wrong parameters before anything is spent."""

from __future__ import annotations

from kfp_trtllm.check_release.spec import Release
from kfp_trtllm.core.step import fact, note


def run(spec: Release) -> None:
    """Builds the spec of every later step; the first rule that a parameter breaks ends the run with its message."""
    steps = spec.check()
    note(f"the parameters of {steps} steps are in order")
    fact(result="in order")
