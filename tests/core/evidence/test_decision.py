"""The rules of a rollout, and properties that hold for any data."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.evidence.decision import Counts, Evidence, Health, Policy, decide
from kfp_trtllm.errors import InvalidSpec

POLICY = Policy()


def gathered(policy=POLICY, *, pairs=200, **bad):
    """One interval of paired requests; `bad` gives (canary, stable) by metric."""
    counts = {}
    for metric in policy.metrics:
        bad_canary, bad_stable = bad.get(metric, (0, 0))
        counts[metric] = Counts(n_canary=pairs, bad_canary=bad_canary, n_stable=pairs, bad_stable=bad_stable)
    return Evidence.start(policy).update(counts)


def outcome(evidence, policy=POLICY, *, elapsed_seconds=60.0, final_step=True, health=None):
    return decide(evidence, policy, elapsed_seconds=elapsed_seconds, final_step=final_step, health=health)


def test_clean_requests_promote_at_the_final_step_only():
    assert outcome(gathered()).outcome == "promote"
    assert outcome(gathered(), final_step=False).outcome == "advance"
    assert outcome(gathered().begin_step(), final_step=False).outcome == "continue"


def test_a_metric_in_which_both_arms_are_beyond_the_tolerance_can_still_promote():
    decision = outcome(gathered(ttft=(200, 200), itl=(150, 150)))
    assert decision.outcome == "promote"
    assert [row.verdict for row in decision.rows] == ["good", "good", "good"]


def test_harm_in_one_metric_rolls_back_whatever_the_others_say():
    decision = outcome(gathered(pairs=300, itl=(40, 2)))
    assert decision.outcome == "roll_back"
    assert decision.reason.startswith("Rolled back: mean time between tokens above the bound (itl): 40/300 against")


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(alive=False), "not running"),
        (Health(restarts=1), "restarted once"),
        (Health(restarts=2), "restarted 2 times"),
        (Health(wrong_revision=1), "answered 1 request addressed to canary"),
    ],
)
def test_broken_health_rolls_back(health, words):
    decision = outcome(gathered(), health=health)
    assert decision.outcome == "roll_back"
    assert words in decision.reason


def test_healthy_health_changes_nothing():
    assert outcome(gathered(), health=Health()).outcome == "promote"


def test_the_hard_limit_needs_no_stable_arm():
    evidence = Evidence.start(POLICY).update({"errors": Counts(n_canary=12, bad_canary=12)})
    decision = outcome(evidence)
    assert decision.outcome == "roll_back"
    assert "hard limit of 50 %" in decision.reason


def test_a_first_release_without_stable_is_promoted_by_the_tolerance():
    evidence = Evidence.start(POLICY).update({metric: Counts(n_canary=167) for metric in POLICY.metrics})
    assert outcome(evidence).outcome == "promote"


def test_the_deadline_is_inconclusive_with_a_reason():
    decision = outcome(gathered(pairs=60), elapsed_seconds=1800)
    assert decision.outcome == "inconclusive"
    assert "errors 0/60" in decision.reason
    assert "steps were not finished" in outcome(gathered(), elapsed_seconds=1800, final_step=False).reason


def test_minimum_requests_and_time_hold_promotion_back():
    assert outcome(gathered(), Policy(min_requests=201)).outcome == "continue"
    decision = outcome(gathered(), Policy(min_seconds=61))
    assert decision.outcome == "continue"
    assert "60 of the 61 seconds" in decision.reason


@given(
    elapsed=st.floats(0, 1e6),
    final_step=st.booleans(),
    stable=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=5),
)
def test_no_data_never_promotes(elapsed, final_step, stable):
    evidence = Evidence.start(POLICY)
    for bad, good in stable:
        evidence = evidence.update({metric: Counts(n_stable=bad + good, bad_stable=bad) for metric in POLICY.metrics})
    decision = outcome(evidence, elapsed_seconds=elapsed, final_step=final_step)
    assert decision.outcome == ("inconclusive" if elapsed >= 1800 else "continue")
    assert all(abs(row.log_e_harm) < 1e-9 and row.log_e_promote < 1e-9 for row in decision.rows)


@given(st.integers(0, 2000), st.sampled_from(["ttft", "itl"]))
def test_a_metric_without_data_never_promotes(pairs, missing):
    evidence = Evidence.start(POLICY).update(
        {name: Counts(n_canary=pairs, n_stable=pairs) for name in POLICY.metrics if name != missing}
    )
    assert outcome(evidence).outcome == "continue"


@st.composite
def counts(draw):
    n_canary, n_stable = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    return Counts(
        n_canary=n_canary,
        bad_canary=draw(st.integers(0, n_canary)),
        n_stable=n_stable,
        bad_stable=draw(st.integers(0, n_stable)),
    )


@given(st.lists(st.dictionaries(st.sampled_from(POLICY.metrics), counts()), max_size=6))
def test_a_kill_between_any_two_intervals_changes_nothing(updates):
    straight = resumed = Evidence.start(POLICY)
    for update in updates:
        straight = straight.update(update)
        resumed = Evidence.from_json(json.loads(json.dumps(resumed.to_json()))).update(update)
    assert resumed == straight
    assert outcome(resumed) == outcome(straight)


@given(counts(), counts(), st.booleans())
def test_reasons_are_one_sentence_and_rows_are_json(errors, ttft, final_step):
    decision = outcome(Evidence.start(POLICY).update({"errors": errors, "ttft": ttft}), final_step=final_step)
    assert decision.reason.endswith(".")
    assert "\n" not in decision.reason
    assert json.loads(json.dumps([row.to_json() for row in decision.rows]))[0]["n_canary"] == errors.n_canary
    assert all(math.isfinite(row.log_e_harm) for row in decision.rows)
    assert decision.final == (decision.outcome in ("promote", "roll_back", "inconclusive"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": ("errors", "ttfb")}, "Did you mean 'ttft'"),
        ({"metrics": ("ttft",)}, "metrics must hold errors"),
        ({"metrics": ("errors", "errors")}, "none twice"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"margin": 1.0}, "margin must be above 1"),
        ({"max_error_rate": 0.0}, "max_error_rate must be between"),
        ({"max_error_rate": 0.6}, "hard_error_rate must be above max_error_rate"),
        ({"min_requests": 0}, "min_requests must be at least 1, but got 0"),
        ({"min_step_requests": 0}, "min_step_requests must be at least 1"),
        ({"min_seconds": 1800.0}, "below deadline_seconds"),
    ],
)
def test_policies_that_cannot_work_are_refused(settings, words):
    with pytest.raises(InvalidSpec, match=words):
        Policy(**settings)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Policy(margin=2.0), "margin must be the one"),
        (Policy(max_slow_rate=0.2), "tolerance of ttft"),
        (Policy(metrics=("errors",)), "metrics must be those"),
    ],
)
def test_a_resumed_rollout_must_keep_its_rules(other, words):
    with pytest.raises(InvalidSpec, match=words):
        outcome(gathered(), other)


def test_unknown_metrics_are_refused():
    with pytest.raises(InvalidSpec, match="metric must be one of errors, itl, ttft"):
        Evidence.start(POLICY).update({"latency": Counts()})
