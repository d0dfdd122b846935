"""What plan_build needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import backends, rules, store
from kfp_trtllm.core.backends.base import PlanRequest


@dataclass(frozen=True, kw_only=True)
class Planning:
    """An engine to plan.

    Attributes:
        store: URL of the store.
        backend: What executes the model: onnxruntime.
        variant: Precision; which ones there are depends on the backend.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        memory_limit_gb: Memory that the engine may need, in GB; 0 takes what this machine has.
    """

    store: str
    backend: str = "onnxruntime"
    variant: str = "int4"
    max_batch_size: int = 8
    max_input_len: int = 1024
    max_seq_len: int = 2048
    memory_limit_gb: float = 0.0

    def __post_init__(self) -> None:
        store.check_url(self.store)
        rules.one_of(f"variant of backend {self.backend}", self.variant, backends.get(self.backend).variants())
        rules.at_least("max_batch_size", self.max_batch_size, 1)
        rules.at_least("max_input_len", self.max_input_len, 1)
        rules.at_least("max_seq_len", self.max_seq_len, self.max_input_len + 1)
        rules.at_least("memory_limit_gb", self.memory_limit_gb, 0)

    def request(self, memory_limit_bytes: int) -> PlanRequest:
        """The same in the backend's words."""
        return PlanRequest(
            variant=self.variant,
            max_batch_size=self.max_batch_size,
            max_input_len=self.max_input_len,
            max_seq_len=self.max_seq_len,
            memory_limit_bytes=memory_limit_bytes,
        )
