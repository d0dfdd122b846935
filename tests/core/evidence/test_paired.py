"""Paired non-inferiority: exactness, honesty in small samples, agreement of bound and verdict."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp_trtllm.core.evidence.paired import compare, paired_p_value, student_t_tail, tango_z
from kfp_trtllm.errors import InvalidSpec
from scipy import optimize, stats


def scores(lost, won, n):
    """Reference's and candidate's scores with so many lost and won items."""
    both = n - lost - won
    return [1] * lost + [0] * won + [1] * both, [0] * lost + [1] * won + [1] * both


def most_likely_won(lost, won, n, loss):
    def unlikely(q):
        return -(
            stats.multinomial.logpmf([lost, won, n - lost - won], n, [q + loss, q, 1 - 2 * q - loss])
            if 0 <= q <= (1 - loss) / 2 and q + loss >= 0
            else -math.inf
        )

    bounds = (max(0.0, -loss) + 1e-12, (1 - loss) / 2 - 1e-12)
    return optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x


@pytest.mark.parametrize(
    ("lost", "won", "n", "loss"), [(1, 2, 12, 0.1), (3, 1, 20, 0.2), (2, 9, 25, 0.03), (4, 2, 15, -0.1)]
)
def test_the_p_value_is_the_sum_over_all_outcomes(lost, won, n, loss):
    q = most_likely_won(lost, won, n, loss)
    z = (won - lost + n * loss) / math.sqrt(n * (2 * q + loss - loss**2))
    assert tango_z(lost, won, n, loss) == pytest.approx(z, abs=1e-4)
    total = math.fsum(
        stats.multinomial.pmf([a, b, n - a - b], n, [q + loss, q, 1 - 2 * q - loss])
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if tango_z(a, b, n, loss) >= tango_z(lost, won, n, loss) - 1e-9
    )
    assert paired_p_value(lost, won, n, loss) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(("n", "loss"), [(50, 0.05), (100, 0.03)])
def test_a_candidate_that_lost_the_margin_passes_in_at_most_alpha(n, loss):
    """The exact size, for shares of items that differ from nearly none to many."""
    most = 40
    passing = [
        (a, b) for a in range(most + 1) for b in range(min(n - a, most) + 1) if paired_p_value(a, b, n, loss) <= 0.05
    ]
    for q in (0.0, 0.001, 0.01, 0.05, 0.1):
        size = math.fsum(
            stats.multinomial.pmf([a, b, n - a - b], n, [q + loss, q, 1 - 2 * q - loss]) for a, b in passing
        )
        assert size <= 0.05


@pytest.mark.parametrize(("n", "passed"), [(5, False), (298, False), (299, True)])
def test_identical_answers_pass_only_when_there_are_enough(n, passed):
    """(1 - 1 %)^n is the chance that items which lose 1 % all look the same."""
    comparison = compare([1] * n, [1] * n, margin=0.01)
    assert comparison.p_value == pytest.approx(0.99**n)
    assert comparison.passed is passed
    assert compare([0.5] * n, [0.5] * n, margin=0.01).passed is passed


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 200), st.sampled_from([0.01, 0.03, 0.1]))
def test_bound_and_verdict_agree(lost, won, more, margin):
    comparison = compare(*scores(lost, won, lost + won + more), margin=margin)
    assert comparison.lower_bound <= comparison.difference + 1e-9
    if abs(comparison.lower_bound + margin) > 1e-6:
        assert comparison.passed == (comparison.lower_bound > -margin)
    assert comparison.discordant == lost + won
    assert 0 < comparison.smallest_detectable_drop <= 1
    assert json.loads(json.dumps(comparison.to_json()))["text"] == comparison.text


def test_real_scores_take_students_t():
    rng = random.Random(1)
    reference = [rng.random() for _ in range(100)]
    candidate = [score + rng.gauss(0, 0.1) for score in reference]
    comparison = compare(reference, candidate, margin=0.02)
    differences = [c - r for r, c in zip(reference, candidate, strict=True)]
    oracle = stats.ttest_1samp(differences, -0.02, alternative="greater")
    assert comparison.p_value == pytest.approx(oracle.pvalue)
    assert comparison.lower_bound == pytest.approx(oracle.confidence_interval(0.95).low)


@given(st.floats(-50, 50), st.integers(1, 2000))
def test_student_t_agrees_with_scipy(t, freedom):
    assert student_t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-8, abs=1e-12)


def test_a_handful_of_tiny_differences_is_not_trusted():
    comparison = compare([0.5] * 5, [0.5, 0.5, 0.5, 0.5, 0.499], margin=0.01)
    assert not comparison.passed
    assert comparison.lower_bound < -0.3


def test_a_single_item_and_a_clear_loss_do_not_pass():
    assert not compare([1.0], [1.0], margin=0.5).passed
    assert not compare([0.25], [0.5], margin=0.5).passed
    comparison = compare(*scores(40, 0, 200), margin=0.05)
    assert not comparison.passed
    assert "went from 1 to 0.8 (-0.2) on 200 paired items, of which 40 differ; the loss is not shown" in comparison.text


def test_the_smallest_detectable_drop_is_seen_in_four_of_five_samples():
    """Against a plain two-sided view: how often a drop of that size rejects "no drop" at alpha."""
    lost_and_won = 30
    drop = compare(*scores(15, 15, 1000), margin=0.02).smallest_detectable_drop
    rng, seen, runs = random.Random(3), 0, 4000
    p_lost, p_won = lost_and_won / 2000 + drop / 2, lost_and_won / 2000 - drop / 2
    for _ in range(runs):
        draws = [rng.random() for _ in range(1000)]
        lost, won = sum(x < p_lost for x in draws), sum(p_lost <= x < p_lost + p_won for x in draws)
        seen += lost + won > 0 and (lost - won) / math.sqrt(lost + won) > 1.645
    assert seen / runs == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("reference", "candidate", "rules", "words"),
    [
        ([], [], {"margin": 0.01}, "at least 1, but got 0 and 0"),
        ([1], [1, 1], {"margin": 0.01}, "same items"),
        ([1], [math.nan], {"margin": 0.01}, "finite"),
        ([1], [1], {"margin": 0.0}, "margin must be"),
        ([1], [1], {"margin": 0.01, "alpha": 0.9}, "alpha must be"),
    ],
)
def test_comparisons_that_cannot_work_are_refused(reference, candidate, rules, words):
    with pytest.raises(InvalidSpec, match=words):
        compare(reference, candidate, **rules)
