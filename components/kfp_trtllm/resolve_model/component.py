"""The component resolve_model: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def resolve_model(
    source: str,
) -> NamedTuple("Outputs", [("source", str), ("revision", str)]):
    """Pins a model source down to an exact revision.

    The revision goes on as a parameter, so that an unchanged model keeps the cache keys of every later step. Never
    cached.

    Args:
        source: Where the model comes from, for example "hf://org/name@revision", "file:///models/x" or
            "sample://smollm2-135m".

    Returns:
        source: The source in its canonical form, without its revision.
        revision: Commit, generation or digest.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.resolve_model.run import run
    from kfp_trtllm.resolve_model.spec import Resolution

    with step("resolve_model"):
        done = run(Resolution(source=source))
    return done.source, done.revision
