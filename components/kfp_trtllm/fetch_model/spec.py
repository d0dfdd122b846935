"""What fetch_model needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import sources, store


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """A model to bring into the store.

    Attributes:
        source: Where the model comes from.
        store: URL of the store.
        revision: Commit or digest that resolve_model found; empty resolves the source here.
        allow_pickle: Whether to take weights that exist only as pickles, which can run code when they are read.
    """

    source: str
    store: str
    revision: str = ""
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        sources.parse(self.source)
        store.check_url(self.store)
