"""NVIDIA's own arithmetic for accuracy tests of TensorRT-LLM: a two-sample test with a known spread.

Source: tests/integration/defs/accuracy of NVIDIA/TensorRT-LLM. There, scores are percentages and the reference is a
published one; here they are shares, and the reference was asked the same items a moment ago. Pairing the items, as
core.evidence.paired does, sees much smaller losses with as many of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

SIGMA = 0.5  # of a score that is 0 or 1: no item can spread more
BETA = 0.2  # chance taken of failing to see a loss of `theta`


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a candidate has to reach.

    Attributes:
        threshold: The lowest score that passes, between 0 and 1.
        theta: The smallest loss that so many items show with probability 1 - BETA.
    """

    threshold: float
    theta: float


def threshold(reference: float, n: int, *, alpha: float = 0.05, sigma: float = SIGMA, beta: float = BETA) -> Threshold:
    """The lowest score that is not evidence of a loss.

    Args:
        reference: The reference's mean score, between 0 and 1.
        n: Items of each.
        alpha: Chance taken of failing a candidate that is as good as the reference.
        sigma: Standard deviation of an item's score.
        beta: See BETA.

    Raises:
        ValueError: No items.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, but got {n}.")
    scale = math.sqrt(2 * sigma**2 / n)
    below = NormalDist().inv_cdf(alpha)
    return Threshold(
        threshold=reference + below * scale,
        theta=-(below + NormalDist().inv_cdf(beta)) * scale,
    )
