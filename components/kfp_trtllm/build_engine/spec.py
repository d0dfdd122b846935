"""What build_engine needs to know; the plan tells the rest."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core.store import check_url


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """An engine to build as a plan says.

    Attributes:
        store: URL of the store.
    """

    store: str

    def __post_init__(self) -> None:
        check_url(self.store)
