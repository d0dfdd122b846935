"""What package_repository needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import rules
from kfp_trtllm.core.store import check_url
from kfp_trtllm.core.targets.base import check_model_name


@dataclass(frozen=True, kw_only=True)
class Packaging:
    """A Triton model repository to make.

    Attributes:
        store: URL of the store.
        model_name: Name that clients ask for.
        model_version: Triton's numeric version of this engine.
        base_repository: Digest of an earlier repository of the same model whose other versions are to be served
            beside this one; empty for none.
        decoupled: True serves /generate, /generate_stream and gRPC streams; False serves /infer, with no streams.
    """

    store: str
    model_name: str
    model_version: int = 1
    base_repository: str = ""
    decoupled: bool = True

    def __post_init__(self) -> None:
        check_url(self.store)
        check_model_name(self.model_name)
        rules.at_least("model_version", self.model_version, 1)
        rules.digest("base_repository", self.base_repository, optional=True)
