from __future__ import annotations

import numpy as np
import pytest
from kfp_trtllm.core.serving.sampling import Sampler

LOGITS = np.log(np.array([0.4, 0.3, 0.2, 0.05, 0.05], np.float32))


def drawn(count: int = 4000, **settings: float) -> np.ndarray:
    sampler = Sampler(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 7, **settings})  # type: ignore[arg-type]
    return np.bincount([sampler.choose(LOGITS) for _ in range(count)], minlength=len(LOGITS)) / count


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.05, 0.05]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.39}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.8}, [4 / 9, 3 / 9, 2 / 9, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"temperature": 0.5}, np.array([16, 9, 4, 0.25, 0.25]) / 29.5),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(settings: dict[str, float], expected: list[float]) -> None:
    assert np.abs(drawn(**settings) - expected).max() < 0.03


def test_top_p_looks_past_the_shortlist_where_the_distribution_is_flat() -> None:
    flat = np.zeros(5000, np.float32)
    sampler = Sampler(temperature=1.0, top_k=0, top_p=0.9, seed=0)
    assert max(sampler.choose(flat) for _ in range(500)) > 4000


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    runs = [
        [sampler.choose(logits) for _ in range(20)]
        for sampler in (Sampler(temperature=0.9, top_k=50, top_p=0.95, seed=seed) for seed in (1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        Sampler(temperature=0.0, top_k=0, top_p=1.0, seed=0).choose(np.array([1, np.nan], np.float32))
