"""How fast an engine is on its own, before any server: throughput and latencies at given concurrencies."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kfp_trtllm.core.backends.base import Generated, Sampling, TextModel
from kfp_trtllm.core.evaluation.prompts import PROMPTS
from kfp_trtllm.errors import BuildFailed, InvalidSpec


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """The median and the 95th percentile of a sample."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Percentiles of a sample, interpolated between its values; 0 of nothing."""
        if len(values) < 2:
            value = values[0] if values else 0.0
            return cls(p50=value, p95=value)
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        return cls(p50=cuts[9], p95=cuts[18])


@dataclass(frozen=True, kw_only=True)
class Level:
    """Speed at one concurrency.

    Attributes:
        concurrency: Requests that run together.
        requests: Requests measured; a multiple of `concurrency`.
        tokens_per_second: Generated tokens of all requests, by wall time.
        ttft_ms: Time to first token, in milliseconds.
        itl_ms: Time between two tokens of a request, in milliseconds.
    """

    concurrency: int
    requests: int
    tokens_per_second: float
    ttft_ms: Percentiles
    itl_ms: Percentiles


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Speed of an engine at several concurrencies, ascending."""

    model: str
    variant: str
    backend: str
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values, by attribute name."""
        return {**asdict(self), "levels": [asdict(level) for level in self.levels]}


def benchmark(
    model: TextModel,
    *,
    name: str,
    variant: str,
    backend: str,
    concurrency: Sequence[int] = (1, 8),
    requests: int = 8,
    max_tokens: int = 32,
    on_progress: Callable[[float, float], None] | None = None,
) -> BenchmarkResult:
    """Measures an engine with a fixed set of prompts, answered greedily.

    A level first runs one batch that is not counted: memory is allocated and kernels are chosen in it. A concurrency is
    the size of a batch given to `generate` at once, so one above the model's `max_batch_size` is refused.

    Args:
        model: What to measure.
        name: Name of the model, for the result.
        variant: Precision, for the result.
        backend: Backend, for the result.
        concurrency: Numbers of requests that run together.
        requests: Requests per level at least, rounded up to whole batches.
        max_tokens: Length of an answer in tokens, at most; at least 2, as there is no time between tokens with 1.
        on_progress: Called with (requests done, requests in all), warm-up included.

    Raises:
        InvalidSpec: No concurrency, or numbers that can't work.
        BuildFailed: The engine generated nothing.
    """
    sizes = sorted(set(concurrency))
    if not sizes or sizes[0] < 1:
        raise InvalidSpec(f"concurrency must be a list of numbers of at least 1, but got {list(concurrency)}.")
    if sizes[-1] > model.max_batch_size:
        raise InvalidSpec(f"concurrency must be at most max_batch_size, {model.max_batch_size}, but got {sizes[-1]}.")
    if requests < 1:
        raise InvalidSpec(f"requests must be at least 1, but got {requests}.")
    if max_tokens < 2:
        raise InvalidSpec(f"max_tokens must be at least 2, but got {max_tokens}.")
    total = sum(size * (1 + math.ceil(requests / size)) for size in sizes)
    done = 0

    def batch(size: int, prompts: Sequence[str]) -> list[Generated]:
        nonlocal done
        answers = model.generate(prompts, Sampling(max_tokens=max_tokens))
        done += size
        if on_progress:
            on_progress(done, total)
        return answers

    levels = []
    for size in sizes:
        endless = itertools.cycle(PROMPTS)
        batch(size, list(itertools.islice(endless, size)))
        answers: list[Generated] = []
        seconds = 0.0
        for _ in range(math.ceil(requests / size)):
            prompts = list(itertools.islice(endless, size))
            began = time.perf_counter()
            answers += batch(size, prompts)
            seconds += time.perf_counter() - began
        levels.append(_level(size, answers, seconds))
    return BenchmarkResult(model=name, variant=variant, backend=backend, levels=tuple(levels))


def _level(size: int, answers: Sequence[Generated], seconds: float) -> Level:
    times = [answer.token_seconds for answer in answers if answer.token_seconds]
    if not times:
        raise BuildFailed(f"the engine generated no token for {len(answers)} prompts, so it has no speed.")
    gaps = [1000 * (later - earlier) for row in times for earlier, later in itertools.pairwise(row)]
    return Level(
        concurrency=size,
        requests=len(answers),
        tokens_per_second=sum(answer.output_tokens for answer in answers) / seconds,
        ttft_ms=Percentiles.of([1000 * row[0] for row in times]),
        itl_ms=Percentiles.of(gaps),
    )
