"""The error rates that the documentation promises, simulated under optional stopping; seeded.

Every simulated rollout looks after each interval and stops at its first final decision, which is the hardest case for
a method that is not anytime-valid. Where a bound is checked, it is checked as "the simulated count could come from a
true rate of alpha" at odds of 1 in 1000.
"""

import random
import statistics

import pytest
from kfp_trtllm.core.evidence import binomial
from kfp_trtllm.core.evidence.decision import Counts, Evidence, Policy, decide


def bad_among(rng, n, rate):
    """A binomial draw."""
    return sum(rng.random() < rate for _ in range(n)) if rate else 0


def rollout(rng, canary, stable, *, arms=(10, 10), looks=60, policy=None):
    """Outcome, and canary's requests until then. Rates by metric; `arms` is requests per look by arm."""
    policy = policy or Policy()
    n_canary, n_stable = arms
    evidence = Evidence.start(policy)
    for look in range(1, looks + 1):
        evidence = evidence.update(
            {
                metric: Counts(
                    n_canary=n_canary,
                    bad_canary=bad_among(rng, n_canary, canary.get(metric, 0.0)),
                    n_stable=n_stable,
                    bad_stable=bad_among(rng, n_stable, stable.get(metric, 0.0)),
                )
                for metric in policy.metrics
            }
        )
        decision = decide(evidence, policy, elapsed_seconds=look, final_step=True)
        if decision.final:
            return decision.outcome, look * n_canary
    return "inconclusive", looks * n_canary


def simulate(runs, canary, stable, seed=1, **settings):
    rng = random.Random(seed)
    results = [rollout(rng, canary, stable, **settings) for _ in range(runs)]
    shares = {name: sum(o == name for o, _ in results) for name in ("promote", "roll_back", "inconclusive")}
    return shares, statistics.median(requests for _, requests in results)


def assert_at_most(count, runs, alpha):
    assert binomial.lower_bound(count, runs, 0.001) <= alpha, f"{count} of {runs}"


@pytest.mark.parametrize(
    ("rates", "arms"),
    [
        ({"errors": 0.005, "ttft": 0.03, "itl": 0.03}, (10, 90)),
        ({"errors": 0.05, "ttft": 0.3, "itl": 0.3}, (10, 10)),
        ({"errors": 0.2, "ttft": 0.9, "itl": 0.9}, (5, 5)),
    ],
)
def test_identical_arms_are_rarely_rolled_back(rates, arms):
    runs = 150
    outcomes, _ = simulate(runs, rates, rates, arms=arms, looks=40)
    assert_at_most(outcomes["roll_back"], runs, 0.05)
    assert outcomes["roll_back"] <= 0.03 * runs


def test_a_canary_at_the_border_of_harm_is_rarely_rolled_back():
    runs = 150
    outcomes, _ = simulate(runs, {"errors": 0.06}, {"errors": 0.04}, arms=(20, 20), looks=60)
    assert_at_most(outcomes["roll_back"], runs, 0.05)


@pytest.mark.parametrize("stable", [0.0, 0.02 / 1.5, 0.01])
def test_a_canary_at_the_tolerance_is_rarely_promoted(stable):
    """At 2 % errors and, in the worst case, at 1.5 x stable too: the border of both ways to be good."""
    runs = 150
    outcomes, _ = simulate(runs, {"errors": 0.02}, {"errors": stable}, arms=(20, 20), looks=50)
    assert_at_most(outcomes["promote"], runs, 0.05)


def test_a_canary_at_the_margin_of_slowness_is_rarely_promoted():
    runs = 150
    outcomes, _ = simulate(runs, {"ttft": 0.6}, {"ttft": 0.4}, arms=(20, 20), looks=40)
    assert_at_most(outcomes["promote"], runs, 0.05)


def test_a_healthy_canary_without_errors_is_promoted_by_170_requests():
    outcomes, requests = simulate(3, {}, {}, arms=(1, 1), looks=200)
    assert outcomes["promote"] == 3
    assert requests == 167


def test_slowness_of_every_request_rolls_back_within_20_pairs():
    outcomes, requests = simulate(3, {"ttft": 1.0, "itl": 1.0}, {}, arms=(1, 1))
    assert outcomes["roll_back"] == 3
    assert requests == 11


def test_slowness_of_most_requests_rolls_back_within_40_pairs():
    outcomes, requests = simulate(60, {"ttft": 0.8}, {"ttft": 0.02}, arms=(1, 1), looks=100)
    assert outcomes["roll_back"] == 60
    assert requests <= 40


def test_five_times_the_errors_roll_back():
    outcomes, requests = simulate(40, {"errors": 0.10}, {"errors": 0.02}, arms=(10, 10), looks=100)
    assert outcomes["roll_back"] >= 36
    assert outcomes["promote"] == 0
    assert requests <= 400


def test_errors_in_one_of_five_requests_roll_back():
    outcomes, requests = simulate(60, {"errors": 0.2}, {}, arms=(5, 5), looks=60)
    assert outcomes["roll_back"] == 60
    assert requests <= 80


def test_errors_of_every_request_roll_back_at_once():
    outcomes, requests = simulate(3, {"errors": 1.0}, {}, arms=(1, 1))
    assert outcomes["roll_back"] == 3
    assert requests <= 15


def test_a_small_share_of_traffic_finds_harm_faster_per_request():
    """With 10 to 90, each bad event on canary's side weighs more, since few should be there."""
    outcomes, requests = simulate(40, {"errors": 0.2}, {"errors": 0.002}, arms=(5, 45), looks=60)
    assert outcomes["roll_back"] == 40
    assert requests <= 40
