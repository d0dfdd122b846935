"""What select_engine needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core.store import check_url


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice among engines of one model.

    Attributes:
        store: URL of the store.
    """

    store: str

    def __post_init__(self) -> None:
        check_url(self.store)
