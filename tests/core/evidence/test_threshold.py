from __future__ import annotations

import math
import random

import pytest
from kfp_trtllm.core.evidence.threshold import threshold


# Worked out from NVIDIA's formula with its own table: MMLU and GSM8K have sigma 50 % and alpha 0.05.
@pytest.mark.parametrize(
    ("reference", "n", "wanted", "theta"),
    [(0.6817, 4096, 0.6635, 0.02747), (0.7420, 1319, 0.7100, 0.04841)],
)
def test_it_is_nvidia_s_arithmetic(reference: float, n: int, wanted: float, theta: float) -> None:
    found = threshold(reference, n)
    assert found.threshold == pytest.approx(wanted, abs=1e-4)
    assert found.theta == pytest.approx(theta, abs=1e-4)


def test_a_candidate_that_lost_nothing_fails_as_often_as_alpha_says_at_most() -> None:
    chance, n, failed = random.Random(5), 500, 0
    for _ in range(2000):
        scores = [sum(chance.random() < 0.5 for _ in range(n)) / n for _ in range(2)]
        failed += scores[1] < threshold(scores[0], n).threshold
    assert failed / 2000 == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 2000))


def test_no_items_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, but got 0"):
        threshold(0.5, 0)
