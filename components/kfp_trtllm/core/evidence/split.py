"""Whether traffic really went where it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.core.evidence import binomial
from kfp_trtllm.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """How unaddressed requests were answered, against the wanted weights.

    Attributes:
        ok: True when they agree, False when chance can't explain it, None when there are too few requests to tell.
        p_value: Probability of a split at least this uneven if the weights hold; 1 where nothing is left to chance.
        text: One sentence for people.
    """

    ok: bool | None
    p_value: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """JSON values, by attribute name."""
        return {"ok": self.ok, "p_value": self.p_value, "text": self.text}


def observed_split(counts: Mapping[str, int], weights: Mapping[str, int], *, alpha: float = 0.001) -> SplitCheck:
    """Checks answers by revision against the wanted weights, by the exact two-sided binomial test.

    Args:
        counts: Unaddressed requests by the revision that answered.
        weights: Percent by revision name: one or two revisions, sum 100.
        alpha: Probability of a false alarm.

    Returns:
        Not ok as soon as p < alpha, or when a revision answered that has no weight. Unknown while even a split that
        sends nothing to the smaller arm would not stand out.

    Raises:
        InvalidSpec: Weights that are no split, or a negative count.
    """
    if not 1 <= len(weights) <= 2 or sum(weights.values()) != 100 or min(weights.values()) < 0:
        raise InvalidSpec(f"weights must be of one or two revisions and sum to 100, but got {dict(weights)}.")
    if any(count < 0 for count in counts.values()):
        raise InvalidSpec(f"counts must be at least 0, but got {dict(counts)}.")
    total = sum(counts.values())
    seen = ", ".join(f"{name} {counts.get(name, 0)} of {total} (wanted {weight} %)" for name, weight in weights.items())
    strangers = [name for name, count in counts.items() if count and not weights.get(name)]
    if strangers:
        text = f"Answers came from {', '.join(strangers)}, which should get no traffic: {seen}."
        return SplitCheck(ok=False, p_value=0.0, text=text)
    if not total:
        return SplitCheck(ok=None, p_value=1.0, text="No unaddressed request was answered, so the split is unknown.")

    smaller, weight = min(weights.items(), key=lambda item: item[1])
    if len(weights) == 1 or weight == 0:
        return SplitCheck(ok=True, p_value=1.0, text=f"All traffic went where it should: {seen}.")
    p_value = binomial.two_sided_p_value(counts.get(smaller, 0), total, weight / 100)
    if p_value < alpha:
        return SplitCheck(
            ok=False, p_value=p_value, text=f"The split is not the wanted one (p = {p_value:.1g}): {seen}."
        )
    if (1 - weight / 100) ** total >= alpha:
        return SplitCheck(ok=None, p_value=p_value, text=f"Too few requests to check the split: {seen}.")
    return SplitCheck(ok=True, p_value=p_value, text=f"The split is as wanted (p = {p_value:.2g}): {seen}.")
