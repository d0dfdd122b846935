"""What require_verdict needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import rules

GOOD = ("passed", "promoted", "skipped")
BAD = ("failed", "rolled_back", "inconclusive")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A verdict that must be good for the run to go on.

    Attributes:
        gate: What was judged, for people: "accuracy", "smoke test", "rollout".
        verdict: passed, promoted or skipped are good; failed, rolled_back or inconclusive fail the run.
        reason: The sentence that goes with the verdict.
    """

    gate: str
    verdict: str
    reason: str = ""

    def __post_init__(self) -> None:
        rules.not_empty("gate", self.gate)
        rules.one_of("verdict", self.verdict, GOOD + BAD)
