"""What evaluate_accuracy needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kfp_trtllm.core import rules
from kfp_trtllm.core.store import check_url

SUBJECTS = ("engine", "checkpoint")
RULES = ("paired", "threshold")


@dataclass(frozen=True, kw_only=True)
class AccuracyEvaluation:
    """An accuracy gate: is the engine as accurate as the checkpoint that it was built from?

    Attributes:
        store: URL of the store.
        accuracy_gate: False measures nothing and lets every engine pass.
        accuracy_tasks: lm-evaluation-harness tasks or groups; kfp_core is ours and needs no network.
        accuracy_limit: Items per task at most; 0 takes all.
        accuracy_margin: Drop in the mean score that is tolerated, for example 0.05 for five points.
        accuracy_alpha: Chance taken of passing an engine that is worse by more than the margin.
        seed: Of the tasks' sampling.
        accuracy_subject: What is asked: the engine; or the checkpoint that it is (to be) built from, with quantization
            simulated, so that the verdict is known before a GPU builds anything.
        accuracy_rule: How it is judged: paired (items side by side, against the margin) or threshold (NVIDIA's own
            arithmetic for acceptance tests: the candidate's score against the reference's, without pairing).
    """

    store: str
    accuracy_gate: bool = True
    accuracy_tasks: Sequence[str] = ("kfp_core",)
    accuracy_limit: int = 0
    accuracy_margin: float = 0.05
    accuracy_alpha: float = 0.05
    seed: int = 0
    accuracy_subject: str = "engine"
    accuracy_rule: str = "paired"

    def __post_init__(self) -> None:
        check_url(self.store)
        rules.settle(self, accuracy_tasks=rules.texts("accuracy_tasks", self.accuracy_tasks))
        if self.accuracy_gate:
            rules.not_empty("accuracy_tasks", self.accuracy_tasks)
        rules.at_least("accuracy_limit", self.accuracy_limit, 0)
        rules.between("accuracy_margin", self.accuracy_margin, 0, 1)
        rules.between("accuracy_alpha", self.accuracy_alpha, 0, 0.5)
        rules.at_least("seed", self.seed, 0)
        rules.one_of("accuracy_subject", self.accuracy_subject, SUBJECTS)
        rules.one_of("accuracy_rule", self.accuracy_rule, RULES)
