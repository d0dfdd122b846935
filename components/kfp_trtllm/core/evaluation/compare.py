"""Two evaluations, item by item: has the candidate lost more accuracy than is tolerated?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.core.evaluation.results import Evaluation, Item
from kfp_trtllm.core.evidence import paired
from kfp_trtllm.core.evidence.threshold import threshold
from kfp_trtllm.errors import InvalidSpec

OVERALL = "overall"
_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """One task, or all of them, of both evaluations.

    Attributes:
        task: Name of the task, or "overall".
        metric: What an item's score is.
        comparison: The statistics.
    """

    task: str
    metric: str
    comparison: paired.Comparison


@dataclass(frozen=True, kw_only=True)
class AccuracyVerdict:
    """Whether a candidate is as accurate as a reference.

    Attributes:
        verdict: "passed" or "failed".
        reason: The verdict in a sentence or two.
        overall: All items pooled: what the verdict is about.
        tasks: Sorted by name; to show where accuracy was lost, with no verdict of their own.
        pairs: (reference's, candidate's) answer to each item.
    """

    verdict: str
    reason: str
    overall: TaskComparison
    tasks: tuple[TaskComparison, ...]
    pairs: tuple[tuple[Item, Item], ...]

    def report(self, *, model: str = "", reference: str = "checkpoint", candidate: str = "engine") -> dict[str, Any]:
        """What the accuracy report is drawn from, as JSON values.

        Args:
            model: Name of the model.
            reference: Name of what was compared against.
            candidate: Name of what was compared.
        """
        return {
            "model": model,
            "reference": reference,
            "candidate": candidate,
            "verdict": self.verdict,
            "reason": self.reason,
            "margin": self.overall.comparison.margin,
            "alpha": self.overall.comparison.alpha,
            "tasks": [_row(task) for task in self.tasks],
            "overall": _row(self.overall),
            "examples": [_example(*pair) for pair in _most_telling(self.pairs)],
        }


def compare(
    reference: Evaluation, candidate: Evaluation, *, margin: float = 0.05, alpha: float = 0.05, rule: str = "paired"
) -> AccuracyVerdict:
    """Tests that the candidate's mean score is less than a margin below the reference's.

    The verdict is on all items pooled, each with the same weight: one question, so one error rate `alpha`. Tasks that
    each had to pass would fail sound engines ever more often the more tasks there are, and a mean of the tasks' means
    would let a task of 30 items weigh as much as one of 300, at the cost of power. Give a task that matters an
    evaluation of its own.

    Args:
        reference: Evaluation of what the candidate was made from.
        candidate: Evaluation of the same tasks, with the same limit and seed.
        margin: Loss of mean score that is tolerated, above 0.
        alpha: Probability that a candidate which lost the margin passes; with the rule "threshold", that one which
            lost nothing fails.
        rule: "paired", or "threshold" for NVIDIA's arithmetic, which has no margin.

    Raises:
        InvalidSpec: The evaluations do not cover the same items, or margin or alpha can't work.
    """
    pairs = _pair(reference, candidate)
    metrics = {result.task: result.metric for result in reference.tasks}
    tasks = tuple(
        TaskComparison(
            task=task,
            metric=metrics[task],
            comparison=_test([pair for pair in pairs if pair[0].task == task], margin, alpha),
        )
        for task in sorted(metrics)
    )
    used = set(metrics.values())
    overall = TaskComparison(
        task=OVERALL, metric=used.pop() if len(used) == 1 else "score", comparison=_test(pairs, margin, alpha)
    )
    passed, reason = overall.comparison.passed, _reason(overall.comparison, pairs)
    if rule == "threshold":
        passed, reason = _against_threshold(overall.comparison)
    return AccuracyVerdict(
        verdict="passed" if passed else "failed",
        reason=reason,
        overall=overall,
        tasks=tasks,
        pairs=tuple(pairs),
    )


def _pair(reference: Evaluation, candidate: Evaluation) -> list[tuple[Item, Item]]:
    """Both answers to each item, in the reference's order."""
    theirs = {(item.task, item.key): item for item in candidate.items}
    ours = {(item.task, item.key) for item in reference.items}
    missing, extra = ours - theirs.keys(), theirs.keys() - ours
    if missing or extra:
        task, key = min(missing or extra)
        raise InvalidSpec(
            f"both evaluations must cover the same items, but of {len(ours)} and {len(theirs)} items "
            f"{len(missing)} are only in the reference's and {len(extra)} only in the candidate's, such as item "
            f"{key} of {task}: use the same tasks, limit and seed."
        )
    if not ours:
        raise InvalidSpec("both evaluations must cover the same items, at least 1, but got none.")
    metrics = {result.task: result.metric for result in candidate.tasks}
    for result in reference.tasks:
        if metrics.get(result.task, result.metric) != result.metric:
            raise InvalidSpec(
                f"both evaluations must use the same metric for {result.task}, but got {result.metric} and "
                f"{metrics[result.task]}."
            )
    return [(item, theirs[item.task, item.key]) for item in reference.items]


def _test(pairs: Sequence[tuple[Item, Item]], margin: float, alpha: float) -> paired.Comparison:
    return paired.compare([r.score for r, _ in pairs], [c.score for _, c in pairs], margin=margin, alpha=alpha)


def _against_threshold(overall: paired.Comparison) -> tuple[bool, str]:
    wanted = threshold(overall.reference_mean, overall.n, alpha=overall.alpha)
    passed = overall.candidate_mean >= wanted.threshold
    return passed, (
        f"The score went from {overall.reference_mean:.1%} to {overall.candidate_mean:.1%} on {overall.n} items: "
        f"{'not below' if passed else 'below'} the threshold of {wanted.threshold:.1%}, which would show a drop of "
        f"{wanted.theta:.1%}."
    )


def _reason(overall: paired.Comparison, pairs: Sequence[tuple[Item, Item]]) -> str:
    """Says which of two failures it is: too much was lost, or too little was asked to tell."""
    means = f"from {overall.reference_mean:.1%} to {overall.candidate_mean:.1%} on {overall.n} items"
    sure = f"{1 - overall.alpha:.0%} confidence"
    tolerated = f"the tolerated {overall.margin:.1%}"
    if overall.passed:
        worst = max(0.0, -overall.lower_bound)
        return f"The score went {means}: at {sure} the loss is at most {worst:.1%}, within {tolerated}."
    # The same bound with the roles changed: how much more the reference has at least.
    worse = _test([(candidate, reference) for reference, candidate in pairs], overall.margin, overall.alpha)
    least = worse.lower_bound
    if least > overall.margin:
        return f"The score fell {means}: at {sure} the loss is at least {least:.1%}, above {tolerated}."
    if least > 0:
        return (
            f"The score fell {means}: shown to be worse (at {sure} by {least:.1%} or more), and not shown to be within "
            f"{tolerated}."
        )
    return (
        f"The score went {means}: not shown to be worse, but not shown to be within {tolerated} either; "
        f"{overall.n} such items could have shown a drop of {overall.smallest_detectable_drop:.1%}. "
        "Use more items or a larger margin."
    )


def _row(task: TaskComparison) -> dict[str, Any]:
    numbers = task.comparison
    return {
        "task": task.task,
        "metric": task.metric,
        "n": numbers.n,
        "reference": numbers.reference_mean,
        "candidate": numbers.candidate_mean,
        "difference": numbers.difference,
        "lower_bound": numbers.lower_bound,
        "smallest_detectable_drop": numbers.smallest_detectable_drop,
    }


def _most_telling(pairs: Sequence[tuple[Item, Item]]) -> list[tuple[Item, Item]]:
    """Items that the candidate lost, then those that it won; tasks take turns, so that each is seen."""
    turns: dict[str, int] = {}
    ranked: list[tuple[float, int, int]] = []
    for place, (reference, candidate) in sorted(
        enumerate(pairs), key=lambda entry: entry[1][1].score - entry[1][0].score
    ):
        change = candidate.score - reference.score
        if change:
            turn = turns[reference.task] = turns.get(reference.task, -1) + 1
            ranked.append((float(change > 0), turn, place))
    return [pairs[place] for _, _, place in sorted(ranked)[:_EXAMPLES]]


def _example(reference: Item, candidate: Item) -> dict[str, Any]:
    return {
        "task": reference.task,
        "prompt": reference.prompt,
        "reference_answer": reference.answer,
        "candidate_answer": candidate.answer,
        "target": reference.target,
        "reference_ok": reference.score >= 0.5,
        "candidate_ok": candidate.score >= 0.5,
    }
