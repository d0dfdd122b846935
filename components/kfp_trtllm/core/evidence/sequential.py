"""Anytime-valid tests over counts: look after every interval, stop whenever you like, and alpha still holds.

Each test is an e-process: a non-negative number E that starts at 1 and whose expectation never exceeds 1 while its
null hypothesis is true, so that by Ville's inequality P(E >= 1/alpha at any look) <= alpha. E is kept as its logarithm.
It is an average over a fixed grid of alternatives, each a likelihood ratio, and grows fastest for the one that is true.

A test is an immutable value: `update` takes the counts of one interval (not running totals) and gives the next value.
Counts are of requests by arm, and of bad ones among them: failed, or slower than a bound. Weights may change between
intervals as they like, since each interval is judged by its own counts. Within an interval the numbers of requests must
not depend on how they went, so count a request in the interval in which it was *sent*.

Requests may be paired (each prompt sent to both arms at about the same time) or not, by the same counts: where arms are
paired, bad events that strike both at once (a busy machine) only make the tests more careful.

References:
    Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022 (the conditional ratio test).
    Lindon, Sanden and Shirikian, "Rapid regression detection in software deployments through sequential testing",
    KDD 2022, arXiv:2205.14762 (canaries). Ville, "Étude critique de la notion de collectif" (1939).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from kfp_trtllm.errors import InvalidSpec


def log_sum_exp(logs: Iterable[float]) -> float:
    """log(sum(exp(x))) without overflow; minus infinity for nothing."""
    values = list(logs)
    top = max(values, default=-math.inf)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(x - top) for x in values))


def check_counts(bad_canary: int, n_canary: int, bad_stable: int, n_stable: int) -> None:
    """Raises InvalidSpec unless 0 <= bad <= n holds for both arms."""
    for arm, bad, n in (("canary", bad_canary, n_canary), ("stable", bad_stable, n_stable)):
        if not 0 <= bad <= n:
            raise InvalidSpec(f"bad requests of {arm} must be between 0 and its {n} requests, but got {bad}.")


@dataclass(frozen=True, kw_only=True)
class _RatioTest:
    """What `Harm` and `NonInferior` share: a test of rate_canary / rate_stable against a margin m.

    Of the bad events of an interval, each is canary's with probability t(r) = r n_c / (r n_c + n_s) when the ratio is r.
    The likelihood ratio of r against m is (t(r)/t(m))^k_c ((1-t(r))/(1-t(m)))^k_s, and simplifies to

        k_c log(r/m) + (k_c + k_s) log((m n_c + n_s) / (r n_c + n_s)).

    Its expectation under the null is at most 1 for Poisson counts, and also for Bernoulli requests of any rate (as
    1 + x <= exp(x)), paired or not. An interval in which one arm got no request leaves it as it is.
    """

    FACTORS: ClassVar[tuple[float, ...]]  # alternatives r / m

    margin: float
    logs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise InvalidSpec(f"margin must be a number above 0, but got {self.margin}.")
        if not self.logs:
            object.__setattr__(self, "logs", (0.0,) * len(self.FACTORS))
        elif len(self.logs) != len(self.FACTORS):
            raise InvalidSpec(f"saved evidence must have {len(self.FACTORS)} entries, but got {len(self.logs)}.")

    @property
    def log_e(self) -> float:
        """Natural logarithm of E."""
        return log_sum_exp(self.logs) - math.log(len(self.logs))

    def update(self, bad_canary: int, n_canary: int, bad_stable: int, n_stable: int) -> Self:
        """The test after one more interval, given that interval's counts.

        Raises:
            InvalidSpec: More bad requests than requests, or fewer than none.
        """
        check_counts(bad_canary, n_canary, bad_stable, n_stable)
        if not bad_canary and not bad_stable:
            return self
        at_margin = self.margin * n_canary + n_stable
        steps = (
            bad_canary * math.log(factor)
            + (bad_canary + bad_stable) * math.log(at_margin / (factor * self.margin * n_canary + n_stable))
            for factor in self.FACTORS
        )
        return replace(self, logs=tuple(log + step for log, step in zip(self.logs, steps, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back to an equal test."""
        return {"margin": self.margin, "logs": list(self.logs)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote."""
        return cls(margin=float(document["margin"]), logs=_floats(document["logs"]))


@dataclass(frozen=True, kw_only=True)
class Harm(_RatioTest):
    """Tests H0: "canary's rate of bad events is at most margin x stable's". To reject it is a reason to roll back.

    Attributes:
        margin: Largest ratio of rates that is no harm, for example 1.5.
        logs: log E by alternative; left out at the start.
    """

    FACTORS: ClassVar[tuple[float, ...]] = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class NonInferior(_RatioTest):
    """Tests H0: "canary's rate of bad events is at least margin x stable's". To reject it is a reason to promote.

    It needs bad events: arms that have none give it no evidence. See `BelowTolerance` and `Acceptable`.

    Attributes:
        margin: The ratio of rates that canary must be shown to lie below; above 1, or equal arms can't be told from it.
        logs: log E by alternative; left out at the start.
    """

    FACTORS: ClassVar[tuple[float, ...]] = (0.05, 0.3, 0.5, 0.65, 0.8, 0.92)


@dataclass(frozen=True, kw_only=True)
class BelowTolerance:
    """Tests H0: "canary's own rate of bad events is at least the tolerance". To reject it is a reason to promote.

    A Bernoulli likelihood ratio, averaged over rates below the tolerance. Most of the weight lies on a rate near zero,
    because that is what a healthy canary has: at 2 % and alpha 0.05, 156 requests without a bad one suffice.

    Attributes:
        tolerance: A rate in (0, 1) that canary must be shown to lie below.
        logs: log E by alternative; left out at the start.
    """

    FACTORS: ClassVar[tuple[float, ...]] = (0.01, 0.1, 0.25, 0.5)  # alternatives, as shares of the tolerance
    WEIGHTS: ClassVar[tuple[float, ...]] = (0.75, 0.15, 0.05, 0.05)

    tolerance: float
    logs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InvalidSpec(f"tolerance must be between 0 and 1, but got {self.tolerance}.")
        if not self.logs:
            object.__setattr__(self, "logs", (0.0,) * len(self.FACTORS))
        elif len(self.logs) != len(self.FACTORS):
            raise InvalidSpec(f"saved evidence must have {len(self.FACTORS)} entries, but got {len(self.logs)}.")

    @property
    def log_e(self) -> float:
        """Natural logarithm of E."""
        return log_sum_exp(math.log(weight) + log for weight, log in zip(self.WEIGHTS, self.logs, strict=True))

    def update(self, bad_canary: int, n_canary: int, bad_stable: int = 0, n_stable: int = 0) -> BelowTolerance:
        """The test after one more interval; stable's counts are checked and otherwise not looked at.

        Raises:
            InvalidSpec: More bad requests than requests, or fewer than none.
        """
        check_counts(bad_canary, n_canary, bad_stable, n_stable)
        steps = (
            bad_canary * math.log(factor)
            + (n_canary - bad_canary) * math.log((1 - factor * self.tolerance) / (1 - self.tolerance))
            for factor in self.FACTORS
        )
        return replace(self, logs=tuple(log + step for log, step in zip(self.logs, steps, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back to an equal test."""
        return {"tolerance": self.tolerance, "logs": list(self.logs)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BelowTolerance:
        """Reads what `to_json` wrote."""
        return cls(tolerance=float(document["tolerance"]), logs=_floats(document["logs"]))


@dataclass(frozen=True, kw_only=True)
class Acceptable:
    """Tests H0: "canary's rate is at least margin x stable's, and at least the tolerance". To reject it: promote.

    The weighted average of `BelowTolerance` and `NonInferior`. One of them alone suffices, and since an average of
    e-processes is one, the error stays below alpha; taking whichever fires first would allow twice that. The price is
    small: at a tolerance of 2 % and alpha 0.05, 167 requests without a bad one suffice, instead of 156.

    Attributes:
        below: The test of canary's own rate, which decides for arms with few bad events.
        non_inferior: The test of the ratio, which decides where stable itself is beyond the tolerance.
    """

    BELOW_WEIGHT: ClassVar[float] = 0.8

    below: BelowTolerance
    non_inferior: NonInferior

    @classmethod
    def start(cls, *, margin: float, tolerance: float) -> Acceptable:
        """The test before any data."""
        return cls(below=BelowTolerance(tolerance=tolerance), non_inferior=NonInferior(margin=margin))

    @property
    def log_e(self) -> float:
        """Natural logarithm of E."""
        return log_sum_exp(
            (
                math.log(self.BELOW_WEIGHT) + self.below.log_e,
                math.log1p(-self.BELOW_WEIGHT) + self.non_inferior.log_e,
            )
        )

    def update(self, bad_canary: int, n_canary: int, bad_stable: int, n_stable: int) -> Acceptable:
        """The test after one more interval; InvalidSpec for impossible counts."""
        return Acceptable(
            below=self.below.update(bad_canary, n_canary, bad_stable, n_stable),
            non_inferior=self.non_inferior.update(bad_canary, n_canary, bad_stable, n_stable),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back to an equal test."""
        return {"below": self.below.to_json(), "non_inferior": self.non_inferior.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Acceptable:
        """Reads what `to_json` wrote."""
        return cls(
            below=BelowTolerance.from_json(document["below"]),
            non_inferior=NonInferior.from_json(document["non_inferior"]),
        )


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
