"""Properties of the e-processes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.evidence.sequential import Acceptable, BelowTolerance, Harm, NonInferior
from kfp_trtllm.errors import InvalidSpec
from scipy import stats

TESTS = [
    Harm(margin=1.5),
    NonInferior(margin=1.5),
    BelowTolerance(tolerance=0.02),
    Acceptable.start(margin=1.5, tolerance=0.02),
]
each_test = pytest.mark.parametrize("test", TESTS, ids=lambda test: type(test).__name__)


@st.composite
def intervals(draw):
    n_canary, n_stable = draw(st.integers(0, 300)), draw(st.integers(0, 300))
    return draw(st.integers(0, n_canary)), n_canary, draw(st.integers(0, n_stable)), n_stable


def after(test, counts):
    for interval in counts:
        test = test.update(*interval)
    return test


@each_test
@given(counts=st.lists(intervals(), max_size=8))
def test_json_brings_an_equal_test_back(test, counts):
    gone = after(test, counts)
    back = type(gone).from_json(json.loads(json.dumps(gone.to_json())))
    assert back == gone
    assert math.isfinite(back.log_e)


@each_test
@given(counts=st.lists(intervals(), max_size=6), seed=st.randoms())
def test_the_order_of_intervals_does_not_matter(test, counts, seed):
    shuffled = list(counts)
    seed.shuffle(shuffled)
    assert after(test, shuffled).log_e == pytest.approx(after(test, counts).log_e, abs=1e-6)


@each_test
@given(
    parts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    ratio=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_an_interval_may_be_cut_where_the_arms_keep_their_ratio(test, parts, ratio):
    pieces = [(bad_c, 40 * ratio[0], bad_s, 40 * ratio[1]) for bad_c, bad_s in parts]
    whole = tuple(sum(column) for column in zip(*pieces, strict=True))
    assert after(test, pieces).log_e == pytest.approx(test.update(*whole).log_e, abs=1e-6)


@each_test
def test_no_data_is_no_evidence(test):
    assert test.log_e == pytest.approx(0)
    assert test.update(0, 0, 0, 0).log_e == pytest.approx(0)


@given(bad=st.integers(0, 50), more=st.integers(0, 50))
def test_a_ratio_needs_both_arms(bad, more):
    for test in (Harm(margin=1.5), NonInferior(margin=1.5)):
        assert test.update(bad, bad + more, 0, 0).log_e == pytest.approx(0, abs=1e-9)
        assert test.update(0, 0, bad, bad + more).log_e == pytest.approx(0, abs=1e-9)


@each_test
@pytest.mark.parametrize("p", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("arms", [(12, 12), (4, 20), (20, 3)])
@pytest.mark.parametrize("beyond", [1.0, 1.4])
def test_the_expectation_under_the_null_is_at_most_one(test, p, arms, beyond):
    """Exact sums over all outcomes of one interval, at the null's border and beyond it."""
    n_canary, n_stable = arms
    p_canary, p_stable = (p / beyond, p / 1.5) if isinstance(test, Harm) else (p * beyond, p / 1.5)
    p_canary = min(1.0, p_canary)
    total = math.fsum(
        math.exp(test.update(c, n_canary, s, n_stable).log_e)
        * stats.binom.pmf(c, n_canary, p_canary)
        * stats.binom.pmf(s, n_stable, p_stable)
        for c in range(n_canary + 1)
        for s in range(n_stable + 1)
    )
    assert total <= 1 + 1e-9


@pytest.mark.parametrize("p", [0.02, 0.3, 0.66])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_pairs_that_fail_together_do_no_harm_to_validity(p, share):
    """The expectation for one pair, whose arms are both bad with anything from no to the greatest probability."""
    border = {Harm: (1.5 * p, p), NonInferior: (1.5 * p, p)}
    for kind, (p_canary, p_stable) in border.items():
        least = max(0.0, p_canary + p_stable - 1)
        both = least + share * (min(p_canary, p_stable) - least)
        chances = {
            (1, 1): both,
            (1, 0): p_canary - both,
            (0, 1): p_stable - both,
            (0, 0): 1 - p_canary - p_stable + both,
        }
        total = sum(chance * math.exp(kind(margin=1.5).update(c, 1, s, 1).log_e) for (c, s), chance in chances.items())
        assert total <= 1 + 1e-9


def test_clean_requests_until_a_tolerance_of_two_percent_is_shown():
    clean = next(n for n in range(1000) if BelowTolerance(tolerance=0.02).update(0, n).log_e >= math.log(20))
    assert clean == 156


@pytest.mark.parametrize("counts", [(2, 1, 0, 0), (0, 0, 1, 0), (-1, 5, 0, 5)])
@each_test
def test_impossible_counts_are_refused(test, counts):
    with pytest.raises(InvalidSpec, match="must be between 0 and its"):
        test.update(*counts)


@pytest.mark.parametrize("make", [lambda: Harm(margin=0), lambda: BelowTolerance(tolerance=1.0)])
def test_impossible_rules_are_refused(make):
    with pytest.raises(InvalidSpec, match=r"must be .*, but got"):
        make()


def test_evidence_saved_with_another_grid_is_refused():
    with pytest.raises(InvalidSpec, match="saved evidence must have 8 entries, but got 2"):
        Harm.from_json({"margin": 1.5, "logs": [0.0, 0.0]})
