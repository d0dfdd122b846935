"""The component fetch_model: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def fetch_model(
    source: str,
    store: str,
    checkpoint: dsl.Output[dsl.Model],
    revision: str = "",
    allow_pickle: bool = False,
) -> None:
    """Brings a model into the store as a checkpoint.

    Resumes what an earlier attempt left, verifies every file against the digests that the source publishes, and
    costs nothing when the store has this revision already.

    Args:
        source: Where the model comes from.
        store: URL of the store.
        revision: Commit or digest that resolve_model found; empty resolves the source here.
        allow_pickle: Whether to take weights that exist only as pickles, which can run code when they are read.

    Returns:
        checkpoint: Manifest of the checkpoint: safetensors, config.json and tokenizer.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.fetch_model.run import run
    from kfp_trtllm.fetch_model.spec import Fetch

    with step("fetch_model"):
        run(Fetch(source=source, store=store, revision=revision, allow_pickle=allow_pickle), checkpoint=checkpoint.path)
