"""What smoke_test needs to know."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kfp_trtllm.core import rules, targets
from kfp_trtllm.core.store import check_url
from kfp_trtllm.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class SmokeTest:
    """A first look at a revision, before it gets traffic.

    Attributes:
        store: URL of the store.
        repository: Digest of the Triton model repository's manifest.
        target: Where Triton runs: local.
        smoke_prompt: A prompt that the model must answer.
        smoke_expect: Regular expression that the answer must match somewhere; empty takes any text.
        smoke_max_tokens: Length of the answer in tokens.
        smoke_timeout_seconds: Time for one answer.
    """

    store: str
    repository: str
    target: str = "local"
    smoke_prompt: str = "What is the capital of France?"
    smoke_expect: str = ""
    smoke_max_tokens: int = 24
    smoke_timeout_seconds: int = 60

    def __post_init__(self) -> None:
        check_url(self.store)
        rules.digest("repository", self.repository)
        targets.check(self.target)
        rules.not_empty("smoke_prompt", self.smoke_prompt)
        try:
            re.compile(self.smoke_expect)
        except re.error as error:
            raise InvalidSpec(
                f"smoke_expect must be a regular expression, but got {self.smoke_expect!r}: {error}."
            ) from None
        rules.at_least("smoke_max_tokens", self.smoke_max_tokens, 1)
        rules.at_least("smoke_timeout_seconds", self.smoke_timeout_seconds, 1)
