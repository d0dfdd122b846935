"""Sends the same prompts to both arms of a rollout, and unaddressed ones as users do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kfp_trtllm.core.targets.base import Endpoint
from kfp_trtllm.core.traffic.client import Answer, generate, infer


def default_prompts() -> tuple[str, ...]:
    """Our own prompts: short, harmless, in English."""
    text = resources.files("kfp_trtllm.core.traffic").joinpath("prompts.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same prompt, answered by both arms."""

    prompt: str
    stable: Answer
    canary: Answer


class Prober:
    """Asks a model; every answer is read to its end.

    The arms are asked one after the other, so that neither slows the other down, and take turns in being first, so
    that neither profits from what the first request warmed up.
    """

    def __init__(
        self,
        model: str,
        *,
        gateway: Endpoint,
        stable: Endpoint,
        canary: Endpoint,
        prompts: Sequence[str],
        chat: bool,
        stream: bool,
        max_tokens: int,
        timeout_seconds: float,
        start: int = 0,
    ) -> None:
        """Sends nothing yet.

        Args:
            model: Model name.
            gateway: Where users send their requests.
            stable: The gateway, addressed to stable.
            canary: The gateway, addressed to the canary.
            prompts: Asked round and round.
            chat: Whether the model has a chat template to apply.
            stream: False for models that only answer in one piece, which are asked by /infer.
            max_tokens: Length of an answer.
            timeout_seconds: An answer that takes longer is an error.
            start: Probes that were sent before, to go on behind them.
        """
        self.model, self.gateway, self.stable, self.canary = model, gateway, stable, canary
        self._ask_one = generate if stream else infer
        self._options: dict[str, Any] = {
            "apply_chat_template": chat,
            "max_tokens": max_tokens,
            "timeout": timeout_seconds,
        }
        self._prompts = itertools.islice(itertools.cycle(prompts), start % len(prompts), None)
        self._turn = start

    def pair(self) -> Pair:
        """One prompt to both arms."""
        prompt = next(self._prompts)
        self._turn += 1
        if self._turn % 2:
            stable = self._ask(self.stable, prompt)
            canary = self._ask(self.canary, prompt)
        else:
            canary = self._ask(self.canary, prompt)
            stable = self._ask(self.stable, prompt)
        return Pair(prompt=prompt, stable=stable, canary=canary)

    def user(self) -> Answer:
        """One unaddressed request; the gateway chooses the arm."""
        return self._ask(self.gateway, next(self._prompts))

    def _ask(self, endpoint: Endpoint, prompt: str) -> Answer:
        return self._ask_one(endpoint, self.model, prompt, **self._options)


def failure(answer: Answer) -> str:
    """Why an answer counts as bad, "" for a good one: an error anywhere in the stream, or no text at all."""
    if answer.error:
        return answer.error
    return "" if answer.text.strip() else "the answer was empty"
