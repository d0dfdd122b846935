"""What benchmark_engine needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kfp_trtllm.core import rules
from kfp_trtllm.core.store import check_url


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A speed measurement of an engine, without a server.

    Attributes:
        store: URL of the store.
        benchmark_concurrency: Numbers of requests that run at once, each measured.
        benchmark_max_tokens: Length of an answer in tokens.
    """

    store: str
    benchmark_concurrency: Sequence[int] = (1, 8)
    benchmark_max_tokens: int = 32

    def __post_init__(self) -> None:
        check_url(self.store)
        rules.not_empty("benchmark_concurrency", self.benchmark_concurrency)
        rules.settle(self, benchmark_concurrency=rules.integers("benchmark_concurrency", self.benchmark_concurrency))
        for level in self.benchmark_concurrency:
            rules.at_least("benchmark_concurrency", level, 1)
        rules.at_least("benchmark_max_tokens", self.benchmark_max_tokens, 2)
