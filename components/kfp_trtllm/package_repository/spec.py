"""What package_repository needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import rules
from kfp_trtllm.core.store import check_url
from kfp_trtllm.core.targets.base import check_model_name
from kfp_trtllm.errors import InvalidSpec

LAYOUTS = ("python", "cpp")


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
        layout: python is our own model.py, which serves every backend and several versions side by side; cpp is NVIDIA's
            C++ backend with its ensemble, for backend tensorrt and one version.
        kv_cache_free_gpu_memory_fraction: Share of the GPUs' free memory that keys and values get, over all versions
            that are served side by side.
    """

    store: str
    model_name: str
    model_version: int = 1
    base_repository: str = ""
    decoupled: bool = True
    layout: str = "python"
    kv_cache_free_gpu_memory_fraction: float = 0.9

    def __post_init__(self) -> None:
        check_url(self.store)
        check_model_name(self.model_name)
        rules.at_least("model_version", self.model_version, 1)
        rules.digest("base_repository", self.base_repository, optional=True)
        rules.one_of("layout", self.layout, LAYOUTS)
        if self.layout == "cpp" and self.base_repository:
            raise InvalidSpec(
                "base_repository must be empty with layout cpp, whose engine folder all versions of a model share, "
                f"but got {self.base_repository}: use layout python."
            )
        rules.between("kv_cache_free_gpu_memory_fraction", self.kv_cache_free_gpu_memory_fraction, 0, 1)
