"""What resolve_model needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import sources


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """A source to pin down.

    Attributes:
        source: Where the model comes from, for example "hf://org/name@revision", "file:///models/x" or
            "sample://smollm2-135m".
    """

    source: str

    def __post_init__(self) -> None:
        sources.parse(self.source)
