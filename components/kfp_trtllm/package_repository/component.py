"""The component package_repository: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def package_repository(
    engine: dsl.Input[dsl.Model],
    store: str,
    model_name: str,
    repository: dsl.Output[dsl.Model],
    model_version: int = 1,
    base_repository: str = "",
    decoupled: bool = True,
    layout: str = "python",
    kv_cache_free_gpu_memory_fraction: float = 0.9,
) -> NamedTuple("Outputs", [("digest", str)]):
    """Makes a versioned Triton model repository from an engine.

    The weights are linked, not copied; config.pbtxt is made through Triton's own protobuf.

    Args:
        engine: Manifest of the engine.
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

    Returns:
        repository: Manifest of the repository.
        digest: Digest of the repository's manifest: deploy_triton takes it.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.package_repository.run import run
    from kfp_trtllm.package_repository.spec import Packaging

    with step("package_repository"):
        done = run(
            Packaging(
                store=store,
                model_name=model_name,
                model_version=model_version,
                base_repository=base_repository,
                decoupled=decoupled,
                layout=layout,
                kv_cache_free_gpu_memory_fraction=kv_cache_free_gpu_memory_fraction,
            ),
            engine=engine.path,
            repository=repository.path,
        )
    return (done.digest,)
