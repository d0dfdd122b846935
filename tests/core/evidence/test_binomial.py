"""Bounds and tests against scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.evidence import binomial
from kfp_trtllm.core.evidence.split import observed_split
from kfp_trtllm.errors import InvalidSpec
from scipy import special, stats


@given(st.floats(0, 1), st.floats(0.5, 3000), st.floats(0.5, 3000))
def test_regularized_beta_agrees_with_scipy(x, a, b):
    assert binomial.regularized_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-11)


@pytest.mark.parametrize(("bad", "n"), [(0, 0), (0, 1), (0, 165), (3, 10), (5, 5), (999, 1000), (40, 100_000)])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_clopper_pearson_agrees_with_scipy(bad, n, alpha):
    lower = stats.beta.ppf(alpha, bad, n - bad + 1) if bad else 0.0
    upper = stats.beta.ppf(1 - alpha, bad + 1, n - bad) if bad < n else 1.0
    assert binomial.lower_bound(bad, n, alpha) == pytest.approx(lower, abs=1e-12)
    assert binomial.upper_bound(bad, n, alpha) == pytest.approx(upper, abs=1e-12)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.001, 0.999))
def test_probabilities_agree_with_scipy(k, more, p):
    n = k + more
    assert binomial.cumulative(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-10)
    assert math.exp(binomial.log_probability(k, n, p)) == pytest.approx(stats.binom.pmf(k, n, p), abs=1e-10)


@pytest.mark.parametrize(("k", "n", "p"), [(0, 40, 0.1), (3, 40, 0.1), (4, 40, 0.1), (12, 40, 0.1), (50, 100, 0.5)])
def test_two_sided_p_value_agrees_with_scipy(k, n, p):
    assert binomial.two_sided_p_value(k, n, p) == pytest.approx(stats.binomtest(k, n, p).pvalue)


@pytest.mark.parametrize(
    ("counts", "weights", "ok"),
    [
        ({"a": 900, "b": 100}, {"a": 90, "b": 10}, True),
        ({"a": 1000}, {"a": 90, "b": 10}, False),
        ({"a": 40}, {"a": 90, "b": 10}, None),
        ({}, {"a": 90, "b": 10}, None),
        ({"b": 6}, {"a": 90, "b": 10}, False),
        ({"a": 3}, {"a": 100}, True),
        ({"a": 3}, {"a": 100, "b": 0}, True),
        ({"a": 3000, "b": 1}, {"a": 100, "b": 0}, False),
        ({"a": 50, "b": 50, "old": 1}, {"a": 50, "b": 50}, False),
    ],
)
def test_observed_split(counts, weights, ok):
    check = observed_split(counts, weights)
    assert check.ok is ok
    assert check.text.endswith((".", "known."))


@pytest.mark.parametrize("weights", [{}, {"a": 90}, {"a": 120, "b": -20}, {"a": 40, "b": 30, "c": 30}])
def test_a_split_of_impossible_weights_is_refused(weights):
    with pytest.raises(InvalidSpec, match="sum to 100"):
        observed_split({}, weights)
