"""The choice of the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SHORTLIST = 256  # likeliest tokens that are sorted at first; nearly always they hold top_p already


class Sampler:
    """Chooses one request's tokens; its random numbers are its own, so neighbors in a batch change nothing."""

    def __init__(self, *, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        # Triton passes 32-bit floats; as such, the same request gives the same answer wherever it comes from.
        self._temperature = np.float32(temperature)
        self._top_k = top_k
        self._top_p = float(np.float32(top_p))
        self._random = np.random.Generator(np.random.PCG64(seed))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return bool(self._temperature == 0) or self._top_k == 1

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token.

        Args:
            logits: [vocabulary].

        Raises:
            ArithmeticError: The model returned values that are not finite.
        """
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise ArithmeticError("the model returned values that are not finite")
        if self.greedy:
            return best
        scores = (logits - logits[best]) / self._temperature
        candidates, weights = self._candidates(scores)
        drawn = np.searchsorted(weights.cumsum(), self._random.random() * weights.sum(), side="right")
        return int(candidates[min(int(drawn), len(candidates) - 1)])

    def _candidates(self, scores: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Tokens that may be drawn, likeliest first (or all, in order), and their weights."""
        if not self._top_k and self._top_p >= 1:
            return np.arange(len(scores)), np.exp(scores, dtype=np.float64)
        if self._top_k:
            tokens = _largest(scores, self._top_k)
            weights = np.exp(scores[tokens], dtype=np.float64)
            total = weights.sum()
        else:
            total = np.exp(scores).sum(dtype=np.float64)
            tokens = _largest(scores, _SHORTLIST)
            weights = np.exp(scores[tokens], dtype=np.float64)
            if weights.sum() < self._top_p * total:
                tokens = _largest(scores, len(scores))
                weights = np.exp(scores[tokens], dtype=np.float64)
        # The token that crosses top_p still belongs to the set, so it is never empty.
        kept = int(np.searchsorted(weights.cumsum(), self._top_p * total)) + 1
        return tokens[:kept], weights[:kept]


def _largest(scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[Any]:
    """Indices of the `count` largest scores, in falling order; equal ones by index, so that the result is one."""
    if count < len(scores):
        indices = np.sort(np.argpartition(scores, len(scores) - count)[len(scores) - count :])
    else:
        indices = np.arange(len(scores))
    return indices[np.argsort(-scores[indices], kind="stable")]
