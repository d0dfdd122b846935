"""What roll_out_canary needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kfp_trtllm.core import rules, targets
from kfp_trtllm.core.evidence.decision import Policy
from kfp_trtllm.core.store import check_url
from kfp_trtllm.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A rollout: from stable to canary in steps, on evidence.

    Attributes:
        store: URL of the store.
        repository: Digest of the canary's Triton model repository.
        target: Where Triton runs: local.
        run_id: Names the run that owns this rollout.
        rollout_steps: Percent of traffic that the canary gets, step by step; the last must be 100.
        rollout_alpha: Chance taken of a wrong decision, in either direction.
        rollout_margin: A rate of bad answers up to this many times stable's counts as no worse.
        max_error_rate: Share of failed or empty answers that is tolerated whatever stable does.
        max_slow_rate: Share of answers slower than an SLO that is tolerated whatever stable does.
        slo_ttft_ms: Time to the first token, in ms, beyond which an answer is slow; 0 takes 3 times stable's median
            in a short calibration.
        slo_itl_ms: Mean time between tokens, in ms, beyond which an answer is slow; 0 as above.
        min_step_requests: Paired probes per step before the next one.
        rollout_deadline_seconds: Time after which missing evidence means inconclusive, and back to stable.
        probe_prompts: Prompts to probe with; empty takes ours.
        probe_max_tokens: Length of a probe's answer in tokens.
        probe_timeout_seconds: An answer that takes longer is an error.
    """

    store: str
    repository: str
    target: str = "local"
    run_id: str = ""
    rollout_steps: Sequence[int] = (10, 50, 100)
    rollout_alpha: float = 0.05
    rollout_margin: float = 1.5
    max_error_rate: float = 0.02
    max_slow_rate: float = 0.1
    slo_ttft_ms: float = 0.0
    slo_itl_ms: float = 0.0
    min_step_requests: int = 20
    rollout_deadline_seconds: int = 900
    probe_prompts: Sequence[str] = ()
    probe_max_tokens: int = 12
    probe_timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_url(self.store)
        rules.digest("repository", self.repository)
        targets.check(self.target)
        rules.not_empty("rollout_steps", self.rollout_steps)
        steps = rules.integers("rollout_steps", self.rollout_steps)
        if list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] != 100:
            raise InvalidSpec(f"rollout_steps must rise from at least 1 to exactly 100, but got {list(steps)}.")
        rules.settle(self, rollout_steps=steps, probe_prompts=rules.texts("probe_prompts", self.probe_prompts))
        rules.at_least("slo_ttft_ms", self.slo_ttft_ms, 0)
        rules.at_least("slo_itl_ms", self.slo_itl_ms, 0)
        rules.at_least("probe_max_tokens", self.probe_max_tokens, 2)
        rules.at_least("probe_timeout_seconds", self.probe_timeout_seconds, 0.1)
        self.policy()

    def policy(self) -> Policy:
        """The rules of decision, in core.evidence's words."""
        return Policy(
            alpha=self.rollout_alpha,
            margin=self.rollout_margin,
            max_error_rate=self.max_error_rate,
            max_slow_rate=self.max_slow_rate,
            min_step_requests=self.min_step_requests,
            deadline_seconds=self.rollout_deadline_seconds,
        )
