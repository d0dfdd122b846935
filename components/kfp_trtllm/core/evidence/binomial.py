"""Exact binomial bounds and tests, in stdlib math."""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY = 1e-300
_RELATIVE = 1e-14


def regularized_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b): the Beta(a, b) distribution function at x.

    Args:
        x: In [0, 1].
        a: Above 0.
        b: Above 0.

    References:
        Numerical Recipes, 3rd edition, section 6.4: Lentz's continued fraction. About 1e-12 of relative error.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast below the mean, so mirror
        return 1.0 - regularized_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    c, value = 1.0, d
    for i in range(1, 10_000 + 10 * math.isqrt(int(max(a, b)) + 1)):
        even = i * (b - i) * x / ((a + 2 * i - 1) * (a + 2 * i))
        odd = -(a + i) * (a + b + i) * x / ((a + 2 * i) * (a + 2 * i + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= d * c
        if abs(d * c - 1.0) < _RELATIVE:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def lower_bound(bad: int, n: int, alpha: float) -> float:
    """Clopper-Pearson's one-sided lower bound of a rate.

    Args:
        bad: Events among `n` requests.
        n: Requests; without any, nothing is known and the bound is 0.
        alpha: The bound lies above the true rate with at most this probability.

    References:
        Clopper and Pearson (1934), Biometrika 26, 404-413.
    """
    if bad == 0:
        return 0.0
    return _bisect(lambda p: regularized_beta(p, bad, n - bad + 1), alpha)


def upper_bound(bad: int, n: int, alpha: float) -> float:
    """Clopper-Pearson's one-sided upper bound of a rate; 1 without any request. See `lower_bound`."""
    return 1.0 - lower_bound(n - bad, n, alpha)


def _bisect(rising: Callable[[float], float], value: float) -> float:
    """Where a function that rises on [0, 1] takes a value."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def cumulative(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else regularized_beta(1.0 - p, n - k, k + 1)


def log_probability(k: int, n: int, p: float) -> float:
    """Logarithm of P(X = k) for X ~ Binomial(n, p); minus infinity where it can't be."""
    if not 0 <= k <= n or (p <= 0.0 and k > 0) or (p >= 1.0 and k < n):
        return -math.inf
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return log_ways + (k * math.log(p) if k else 0.0) + ((n - k) * math.log1p(-p) if k < n else 0.0)


def two_sided_p_value(k: int, n: int, p: float) -> float:
    """The exact two-sided test's p-value of "the rate is p": the probability of all outcomes no likelier than k."""
    observed = log_probability(k, n, p)
    logs = (log_probability(i, n, p) for i in range(n + 1))
    return min(1.0, math.fsum(math.exp(log) for log in logs if log <= observed + 1e-7))
