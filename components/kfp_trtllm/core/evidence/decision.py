"""From counts to a decision about a canary: go on, advance, promote, roll back, or admit that the evidence won't do.

    evidence = Evidence.start(policy)
    evidence = evidence.update({"errors": Counts(n_canary=40, bad_canary=0, n_stable=40, bad_stable=1), ...})
    decision = decide(evidence, policy, elapsed_seconds=30, final_step=False)

What is promised, however often one looks, with alpha = 0.05: a canary that is no worse than margin x stable in any
metric, and fails less often than the hard limit, is rolled back by chance in at most 5 % of rollouts; one that is bad
in some metric (at or above the tolerance *and* margin x stable) is promoted in at most 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kfp_trtllm.core.evidence import binomial
from kfp_trtllm.core.evidence.sequential import Acceptable, Harm, check_counts
from kfp_trtllm.errors import InvalidSpec, unknown

Outcome = Literal["continue", "advance", "promote", "roll_back", "inconclusive"]
Verdict = Literal["worse", "good", "undecided"]

METRICS: Mapping[str, str] = {
    "errors": "failed, timed out or empty answers",
    "ttft": "first token later than the bound",
    "itl": "mean time between tokens above the bound",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What counts as good, as bad, and as enough.

    Attributes:
        metrics: What is judged, of METRICS; always with "errors". Leave out what the model's answers can't tell (a model
            that does not stream has no "ttft" and no "itl").
        alpha: Probability of a false promotion, and of a false rollback, that is accepted for a whole rollout.
        margin: Canary's rate of bad requests may be up to this many times stable's. Above 1.
        max_error_rate: Failed requests, as a share, that are tolerated whatever stable does.
        max_slow_rate: Requests slower than a latency bound, as a share, that are tolerated whatever stable does.
        hard_error_rate: Canary goes at once when its error rate is surely above this, whatever stable does.
        min_requests: Requests to canary before it may be promoted.
        min_step_requests: Requests to canary within a traffic step before the next one may begin.
        min_seconds: Time before canary may be promoted.
        deadline_seconds: Time after which an undecided rollout is inconclusive.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    alpha: float = 0.05
    margin: float = 1.5
    max_error_rate: float = 0.02
    max_slow_rate: float = 0.1
    hard_error_rate: float = 0.5
    min_requests: int = 50
    min_step_requests: int = 20
    min_seconds: float = 0.0
    deadline_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise InvalidSpec(unknown("metric", metric, METRICS))
        if "errors" not in self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise InvalidSpec(f"metrics must hold errors, and none twice, but got {', '.join(self.metrics) or 'none'}.")
        if not 0 < self.alpha <= 0.5:
            raise InvalidSpec(f"alpha must be above 0 and at most 0.5, but got {self.alpha}.")
        if not 1 < self.margin <= 100:
            raise InvalidSpec(
                f"margin must be above 1 and at most 100, but got {self.margin}: at 1, no data shows equal arms as equal."
            )
        for name in ("max_error_rate", "max_slow_rate", "hard_error_rate"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be between 0 and 1, but got {getattr(self, name)}.")
        if self.hard_error_rate <= self.max_error_rate:
            raise InvalidSpec(
                f"hard_error_rate must be above max_error_rate ({self.max_error_rate}), but got {self.hard_error_rate}."
            )
        for name in ("min_requests", "min_step_requests"):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} must be at least 1, but got {getattr(self, name)}.")
        if not 0 <= self.min_seconds < self.deadline_seconds:
            raise InvalidSpec(
                f"min_seconds must be at least 0 and below deadline_seconds ({self.deadline_seconds}), "
                f"but got {self.min_seconds}."
            )

    def tolerance(self, metric: str) -> float:
        """The share of bad requests that a metric tolerates."""
        return self.max_error_rate if metric == "errors" else self.max_slow_rate

    @property
    def alpha_per_alarm(self) -> float:
        """Alpha of one reason to roll back: each metric is one, the hard error limit another (Bonferroni)."""
        return self.alpha / (len(self.metrics) + 1)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests by arm in one interval, and the bad ones among them. InvalidSpec unless 0 <= bad <= n."""

    n_canary: int = 0
    bad_canary: int = 0
    n_stable: int = 0
    bad_stable: int = 0

    def __post_init__(self) -> None:
        check_counts(self.bad_canary, self.n_canary, self.bad_stable, self.n_stable)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            n_canary=self.n_canary + other.n_canary,
            bad_canary=self.bad_canary + other.bad_canary,
            n_stable=self.n_stable + other.n_stable,
            bad_stable=self.bad_stable + other.bad_stable,
        )


@dataclass(frozen=True, kw_only=True)
class MetricEvidence:
    """What is known about one metric: totals, and both tests."""

    totals: Counts
    harm: Harm
    acceptable: Acceptable

    def update(self, counts: Counts) -> MetricEvidence:
        """The evidence after one more interval."""
        c = counts
        return MetricEvidence(
            totals=self.totals + c,
            harm=self.harm.update(c.bad_canary, c.n_canary, c.bad_stable, c.n_stable),
            acceptable=self.acceptable.update(c.bad_canary, c.n_canary, c.bad_stable, c.n_stable),
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a rollout has learnt from requests so far. Saved after each interval, it survives a kill.

    Attributes:
        metrics: By metric name, those of the policy.
        step_requests: Requests to canary since the traffic step began.
        looks: Intervals in which canary got requests.
    """

    metrics: Mapping[str, MetricEvidence]
    step_requests: int = 0
    looks: int = 0

    @classmethod
    def start(cls, policy: Policy) -> Evidence:
        """No data yet."""
        return cls(
            metrics={
                metric: MetricEvidence(
                    totals=Counts(),
                    harm=Harm(margin=policy.margin),
                    acceptable=Acceptable.start(margin=policy.margin, tolerance=policy.tolerance(metric)),
                )
                for metric in policy.metrics
            }
        )

    def update(self, counts: Mapping[str, Counts]) -> Evidence:
        """The evidence after one more interval.

        Args:
            counts: That interval's counts by metric; a metric left out got none. Warm-up is to be left out.

        Raises:
            InvalidSpec: A metric that is not judged.
        """
        for metric in counts:
            if metric not in self.metrics:
                raise InvalidSpec(unknown("metric", metric, self.metrics))
        requests = counts.get("errors", Counts()).n_canary
        return replace(
            self,
            metrics={name: known.update(counts.get(name, Counts())) for name, known in self.metrics.items()},
            step_requests=self.step_requests + requests,
            looks=self.looks + (requests > 0),
        )

    def begin_step(self) -> Evidence:
        """The same evidence at the start of a traffic step."""
        return replace(self, step_requests=0)

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back to an equal state."""
        return {
            "metrics": {
                name: {
                    "totals": asdict(known.totals),
                    "harm": known.harm.to_json(),
                    "acceptable": known.acceptable.to_json(),
                }
                for name, known in self.metrics.items()
            },
            "step_requests": self.step_requests,
            "looks": self.looks,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Evidence:
        """Reads what `to_json` wrote."""
        return cls(
            metrics={
                name: MetricEvidence(
                    totals=Counts(**known["totals"]),
                    harm=Harm.from_json(known["harm"]),
                    acceptable=Acceptable.from_json(known["acceptable"]),
                )
                for name, known in document["metrics"].items()
            },
            step_requests=int(document["step_requests"]),
            looks=int(document["looks"]),
        )


@dataclass(frozen=True, kw_only=True)
class Health:
    """What no amount of good requests outweighs.

    Attributes:
        alive: Whether canary runs and is ready.
        restarts: Times that its process or pods died since it became ready.
        wrong_revision: Requests addressed to canary that another revision answered.
    """

    alive: bool = True
    restarts: int = 0
    wrong_revision: int = 0

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" when nothing is."""
        if not self.alive:
            return "canary is not running or not ready"
        if self.restarts > 0:
            return f"canary died and was restarted {_times(self.restarts)}"
        if self.wrong_revision > 0:
            return f"another revision answered {_number(self.wrong_revision, 'request')} addressed to canary"
        return ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of a decision, for a report's table.

    Attributes:
        metric: Of METRICS.
        n_canary: Requests to canary.
        bad_canary: Bad ones among them.
        n_stable: Requests to stable.
        bad_stable: Bad ones among them.
        rate_canary: bad_canary / n_canary; None without requests.
        rate_stable: bad_stable / n_stable; None without requests.
        tolerance: The share that the policy tolerates.
        alpha: Of the policy.
        log_e_harm: log E of "worse than margin x stable".
        log_e_promote: log E of "below the tolerance, or below margin x stable".
        verdict: "worse", "good" or "undecided".
    """

    metric: str
    n_canary: int
    bad_canary: int
    n_stable: int
    bad_stable: int
    rate_canary: float | None
    rate_stable: float | None
    tolerance: float
    alpha: float
    log_e_harm: float
    log_e_promote: float
    verdict: Verdict

    @property
    def upper_bound(self) -> float:
        """Of canary's rate: Clopper-Pearson, one-sided, at 1 - alpha. For display: it holds for one look only."""
        return binomial.upper_bound(self.bad_canary, self.n_canary, self.alpha)

    def to_json(self) -> dict[str, Any]:
        """JSON values, by attribute name, and `upper_bound`."""
        return {**asdict(self), "upper_bound": self.upper_bound}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now, and why.

    Attributes:
        outcome: "continue" (gather more), "advance" (next traffic step), "promote", "roll_back" or "inconclusive".
        reason: One sentence with the numbers.
        rows: The metrics, in the policy's order.
    """

    outcome: Outcome
    reason: str
    rows: tuple[Row, ...] = field(default=())

    @property
    def final(self) -> bool:
        """Whether the rollout is over."""
        return self.outcome not in ("continue", "advance")


def decide(
    evidence: Evidence,
    policy: Policy,
    *,
    elapsed_seconds: float,
    final_step: bool,
    health: Health | None = None,
) -> Decision:
    """Decides, by the first of these that applies.

    1. Health is broken, canary's error rate is surely above the hard limit, or some metric is surely worse: roll back.
    2. At the final step, with enough requests and time, every metric is surely good: promote.
    3. The deadline has passed: inconclusive.
    4. Before the final step, the step has had its requests: advance.
    5. Otherwise: continue.

    Args:
        evidence: The state after the latest interval.
        policy: The rules; those that `evidence` was started with.
        elapsed_seconds: Time since the first traffic step began.
        final_step: Whether canary has the last share of traffic that it is to have before promotion.
        health: What the target says about canary; None where it was not asked.

    Raises:
        InvalidSpec: The evidence was gathered under another margin, tolerance or set of metrics.
    """
    _check_same_rules(evidence, policy)
    rows = tuple(_row(name, evidence.metrics[name], policy) for name in policy.metrics)
    alarm = (health.problem if health else "") or _hard_limit(evidence, policy) or _worst(rows, policy)
    if alarm:
        return Decision(outcome="roll_back", reason=f"Rolled back: {alarm}.", rows=rows)

    requests = evidence.metrics["errors"].totals.n_canary
    lacking = _lacking(rows, policy, requests, elapsed_seconds)
    if final_step and not lacking:
        good = "; ".join(f"{row.metric} {_rates(row)}" for row in rows)
        reason = f"Promoted: every metric is shown to be good at alpha {policy.alpha:g} ({good})."
        return Decision(outcome="promote", reason=reason, rows=rows)
    if elapsed_seconds >= policy.deadline_seconds:
        why = lacking or "the traffic steps were not finished"
        reason = f"Inconclusive at the deadline of {policy.deadline_seconds:g} s: {why}."
        return Decision(outcome="inconclusive", reason=reason, rows=rows)
    if not final_step and evidence.step_requests >= policy.min_step_requests:
        reason = f"No harm seen in {_number(evidence.step_requests, 'request')} of this step: on to the next."
        return Decision(outcome="advance", reason=reason, rows=rows)
    if not final_step:
        lacking = f"{evidence.step_requests} of the {policy.min_step_requests} requests that this step needs"
    return Decision(outcome="continue", reason=f"Not decided yet: {lacking}.", rows=rows)


def _check_same_rules(evidence: Evidence, policy: Policy) -> None:
    """E-processes can't be re-judged by other rules, so a resumed rollout has to bring the same ones."""
    if set(evidence.metrics) != set(policy.metrics):
        raise InvalidSpec(
            f"metrics must be those that the evidence was gathered for ({', '.join(evidence.metrics)}), "
            f"but got {', '.join(policy.metrics)}."
        )
    for name, known in evidence.metrics.items():
        if known.harm.margin != policy.margin or known.acceptable.non_inferior.margin != policy.margin:
            raise InvalidSpec(
                f"margin must be the one that the evidence was gathered for ({known.harm.margin:g}), "
                f"but got {policy.margin:g}."
            )
        if known.acceptable.below.tolerance != policy.tolerance(name):
            raise InvalidSpec(
                f"the tolerance of {name} must be the one that the evidence was gathered for "
                f"({known.acceptable.below.tolerance:g}), but got {policy.tolerance(name):g}."
            )


def _row(name: str, known: MetricEvidence, policy: Policy) -> Row:
    totals, harm, promote = known.totals, known.harm.log_e, known.acceptable.log_e
    verdict: Verdict = "undecided"
    if _reaches(harm, policy.alpha_per_alarm):
        verdict = "worse"
    elif _reaches(promote, policy.alpha):
        verdict = "good"
    return Row(
        metric=name,
        **asdict(totals),
        rate_canary=totals.bad_canary / totals.n_canary if totals.n_canary else None,
        rate_stable=totals.bad_stable / totals.n_stable if totals.n_stable else None,
        tolerance=policy.tolerance(name),
        alpha=policy.alpha,
        log_e_harm=harm,
        log_e_promote=promote,
        verdict=verdict,
    )


def _reaches(log_e: float, alpha: float) -> bool:
    return log_e >= -math.log(alpha)


def _hard_limit(evidence: Evidence, policy: Policy) -> str:
    """Words when canary's error rate is surely above the hard limit, else "".

    Clopper-Pearson holds for one look; the k-th look gets alpha / (k (k + 1)) of it, which sums to alpha over all looks.
    """
    totals, looks = evidence.metrics["errors"].totals, max(1, evidence.looks)
    if totals.bad_canary <= policy.hard_error_rate * totals.n_canary:
        return ""  # the bound lies below the rate itself, and takes a while to compute
    bound = binomial.lower_bound(totals.bad_canary, totals.n_canary, policy.alpha_per_alarm / (looks * (looks + 1)))
    if bound <= policy.hard_error_rate:
        return ""
    return (
        f"{totals.bad_canary} of {_number(totals.n_canary, 'request')} to canary failed, at least {_share(bound)} "
        f"whatever the chance, above the hard limit of {_share(policy.hard_error_rate)}"
    )


def _worst(rows: tuple[Row, ...], policy: Policy) -> str:
    """Words about the metric that is most surely worse, "" when none is."""
    worse = [row for row in rows if row.verdict == "worse"]
    if not worse:
        return ""
    row = max(worse, key=lambda row: row.log_e_harm)
    return (
        f"{METRICS[row.metric]} ({row.metric}): {_rates(row)}, worse than {policy.margin:g} x stable "
        f"(E = {_e(row.log_e_harm)}, {1 / policy.alpha_per_alarm:.0f} suffices)"
    )


def _lacking(rows: tuple[Row, ...], policy: Policy, requests: int, elapsed_seconds: float) -> str:
    """What keeps canary from being promoted, "" when nothing does."""
    if not requests:
        return "canary got no requests"
    if requests < policy.min_requests:
        return f"canary got {requests} of the {policy.min_requests} requests that it needs"
    undecided = [row for row in rows if row.verdict != "good"]
    if undecided:
        each = "; ".join(f"{row.metric} {_rates(row)}, E = {_e(row.log_e_promote)}" for row in undecided)
        return f"not shown to be good, for which E = {1 / policy.alpha:.0f} suffices: {each}"
    if elapsed_seconds < policy.min_seconds:
        return f"{elapsed_seconds:.0f} of the {policy.min_seconds:g} seconds that it needs"
    return ""


def _rates(row: Row) -> str:
    stable = f" against stable's {row.bad_stable}/{row.n_stable}" if row.n_stable else ""
    return f"{row.bad_canary}/{row.n_canary}{stable}"


def _share(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _e(log_e: float) -> str:
    """E for people: plain near 1, as a power of ten far from it."""
    return f"{math.exp(log_e):.3g}" if abs(log_e) < 13.8 else f"1e{log_e / math.log(10):+.0f}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
