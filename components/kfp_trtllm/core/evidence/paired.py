"""Non-inferiority of paired scores: has a candidate lost more than a margin against a reference, item by item?

The null hypothesis is "candidate's mean score is at least `margin` below reference's", so a gate passes on evidence
that little was lost, never on a lack of evidence; a handful of identical answers does not pass a margin of 1 %.

Scores of 0 and 1 take the score test for a difference of paired proportions (Tango), whose p-value is computed exactly
from the trinomial distribution at the null's estimate of the nuisance parameter, as the normal approximation is too
bold just where quantized models live: few items that differ. Other scores take Student's t on the differences.

References:
    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998), 891-908. Lloyd and Moldovan, "A more powerful exact test of noninferiority from
    binary matched-pairs data", Statistics in Medicine 27 (2008), 3540-3549 (the estimated p-value). Hanley and
    Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249 (1983), 1743-1745 (identical answers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from kfp_trtllm.core.evidence.binomial import cumulative, log_probability, regularized_beta
from kfp_trtllm.errors import InvalidSpec

POWER = 0.8  # at which `smallest_detectable_drop` is given
FEW = 10  # items that differ: with fewer, the t test has too little to estimate a spread from


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate against a reference on the same items.

    Attributes:
        n: Items.
        reference_mean: Mean score of reference.
        candidate_mean: Mean score of candidate.
        difference: candidate_mean - reference_mean; negative where candidate lost.
        lower_bound: One-sided confidence bound of the difference, at 1 - alpha.
        margin: Loss of mean score that is accepted, above 0.
        alpha: Probability that a candidate which lost the margin passes.
        p_value: Of "candidate lost at least the margin".
        passed: Whether p_value <= alpha: the loss is shown to be below the margin.
        smallest_detectable_drop: The drop that items like these would have shown, with 80 % probability, to be one.
        discordant: Items whose scores differ.
    """

    n: int
    reference_mean: float
    candidate_mean: float
    difference: float
    lower_bound: float
    margin: float
    alpha: float
    p_value: float
    passed: bool
    smallest_detectable_drop: float
    discordant: int

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        says = "shown to be" if self.passed else "not shown to be"
        return (
            f"The mean score went from {self.reference_mean:.4g} to {self.candidate_mean:.4g} ({self.difference:+.4g}) "
            f"on {self.n} paired items, of which {self.discordant} differ; the loss is {says} below {self.margin:g} "
            f"(at worst {max(0.0, -self.lower_bound):.4g} at {100 * (1 - self.alpha):g} % confidence)."
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, by attribute name, and `text`."""
        return {**asdict(self), "text": self.text}


def compare(
    reference: Sequence[float], candidate: Sequence[float], *, margin: float, alpha: float = 0.05
) -> Comparison:
    """Tests whether candidate's mean score is less than a margin below reference's.

    Args:
        reference: Scores by item; the higher, the better. 0 and 1 (or booleans), or any finite numbers.
        candidate: Scores of the same items in the same order.
        margin: Accepted loss of mean score, in the scores' unit.
        alpha: One-sided level.

    Raises:
        InvalidSpec: No items, lists of different lengths, a score that is no finite number, a margin or alpha that
            can't work.
    """
    if len(reference) != len(candidate) or not reference:
        raise InvalidSpec(
            f"reference and candidate must be scores of the same items, at least 1, "
            f"but got {len(reference)} and {len(candidate)}."
        )
    if not all(math.isfinite(score) for score in (*reference, *candidate)):
        raise InvalidSpec("scores must be finite numbers, but got one that is not.")
    if not (margin > 0 and math.isfinite(margin)):
        raise InvalidSpec(f"margin must be a number above 0, but got {margin}.")
    if not 0 < alpha <= 0.5:
        raise InvalidSpec(f"alpha must be above 0 and at most 0.5, but got {alpha}.")

    n = len(reference)
    reference_mean, candidate_mean = math.fsum(reference) / n, math.fsum(candidate) / n
    differences = [c - r for r, c in zip(reference, candidate, strict=True)]
    discordant = sum(1 for d in differences if d)
    if {*reference, *candidate} <= {0, 1}:
        lost = sum(1 for d in differences if d < 0)
        p_value, lower_bound, drop = _proportions(lost, discordant - lost, n, margin, alpha)
    else:
        spread = max(*reference, *candidate) - min(*reference, *candidate)
        p_value, lower_bound, drop = _means(differences, max(1.0, spread), margin, alpha)
    return Comparison(
        n=n,
        reference_mean=reference_mean,
        candidate_mean=candidate_mean,
        difference=math.fsum(differences) / n,
        lower_bound=lower_bound,
        margin=margin,
        alpha=alpha,
        p_value=p_value,
        passed=p_value <= alpha,
        smallest_detectable_drop=drop,
        discordant=discordant,
    )


def _proportions(lost: int, won: int, n: int, margin: float, alpha: float) -> tuple[float, float, float]:
    """P-value, lower bound and smallest detectable drop for scores of 0 and 1."""
    p_value = paired_p_value(lost, won, n, margin)
    # The bound is the largest loss that the same test does not reject, so that it and the verdict agree.
    loss = _largest(lambda loss: paired_p_value(lost, won, n, loss) > alpha, -1.0, 1.0)
    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha), normal.inv_cdf(POWER)
    # Every lost item is one that differs: a drop can't be larger than the share of items that differ.
    noise = (lost + won) / n
    drop = max((z_alpha + z_power) * math.sqrt(noise / n), (z_alpha + z_power) ** 2 / n)
    return p_value, -loss, min(1.0, drop)


def tango_z(lost: int, won: int, n: int, loss: float) -> float:
    """Tango's score statistic of "the proportion fell by `loss`"; large where it fell less.

    Args:
        lost: Items that only reference has right.
        won: Items that only candidate has right.
        n: All items.
        loss: The null's loss, in [-1, 1]; negative for a gain.
    """
    q = _won_under_null(lost, won, n, loss)
    variance = n * (2 * q + loss - loss * loss)
    distance = won - lost + n * loss
    if variance <= 1e-12:
        return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0
    return distance / math.sqrt(variance)


def _won_under_null(lost: int, won: int, n: int, loss: float) -> float:
    """Maximum likelihood estimate of P(only candidate is right), given that P(only reference is right) is `loss` more."""
    b = lost + won + loss * (lost - won - 2 * n)
    q = (b + math.sqrt(max(0.0, b * b + 8 * n * won * loss * (1 - loss)))) / (4 * n)
    return min(max(q, 0.0, -loss), (1 - loss) / 2)


def paired_p_value(lost: int, won: int, n: int, loss: float) -> float:
    """P-value of "the proportion fell by at least `loss`": the chance of a statistic as good as the observed one.

    Sums the trinomial distribution of (lost, won) exactly, at the null's most likely P(only candidate is right).
    Arguments as in `tango_z`.
    """
    if loss >= 1:
        return 0.0 if lost < n else 1.0
    if loss <= -1:
        return 1.0
    observed = tango_z(lost, won, n, loss) - 1e-9
    p_won = _won_under_null(lost, won, n, loss)
    p_lost = p_won + loss
    given = min(1.0, p_lost / (1 - p_won)) if p_won < 1 else 0.0
    reach = 12 * math.sqrt(n * p_won) + 60  # probability beyond is below 1e-12
    first, last = max(0, math.floor(n * p_won - reach)), min(n, math.ceil(n * p_won + reach))
    total, most = 0.0, -1  # `most`: the most losses with which a statistic is as good as the observed one
    for w in range(first, last + 1):
        # The statistic rises with wins and falls with losses, so the border only moves up.
        most = min(most, n - w)
        step = 1 << max(0, (n - w - most).bit_length() - 1)
        while step:
            if most + step <= n - w and tango_z(most + step, w, n, loss) >= observed:
                most += step
            else:
                step >>= 1
        total += math.exp(log_probability(w, n, p_won)) * cumulative(most, n - w, given)
    return min(1.0, total)


def _means(differences: Sequence[float], spread: float, margin: float, alpha: float) -> tuple[float, float, float]:
    """P-value, lower bound and smallest detectable drop for real scores, whose range is `spread`."""
    n = len(differences)
    mean = math.fsum(differences) / n
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1)) if n > 1 else 0.0
    error = deviation / math.sqrt(n)
    p_value, lower_bound, drop = 0.0, mean, 0.0
    if error > 0:
        p_value = student_t_tail((mean + margin) / error, n - 1)
        t_alpha = _largest(lambda t: student_t_tail(t, n - 1) > alpha, 0.0, 1e9)
        t_power = _largest(lambda t: student_t_tail(t, n - 1) > 1 - POWER, 0.0, 1e9)
        lower_bound, drop = mean - t_alpha * error, (t_alpha + t_power) * error
    if sum(1 for d in differences if d) < FEW:
        # Items that differ too seldom to be seen here could each lose the whole range of scores (the rule of three).
        unseen = min(1.0, max(0.0, mean + margin) / spread)
        p_value = max(p_value, (1 - unseen) ** n)
        lower_bound = min(lower_bound, mean - spread * (1 - alpha ** (1 / n)))
        drop = max(drop, min(spread, spread * -math.log(alpha * (1 - POWER)) / n))
    return p_value, lower_bound, drop


def student_t_tail(t: float, freedom: int) -> float:
    """P(T > t) for Student's t."""
    square = t * t
    if square < freedom:  # of both forms, the one whose argument is not rounded to 1
        half = (1 - regularized_beta(square / (freedom + square), 0.5, freedom / 2)) / 2
    else:
        half = regularized_beta(freedom / (freedom + square), freedom / 2, 0.5) / 2
    return half if t >= 0 else 1 - half


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest x in [low, high] for which something holds that holds below it and fails above."""
    while high - low > 1e-9 * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
