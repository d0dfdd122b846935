"""The component convert_checkpoint: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def convert_checkpoint(
    checkpoint: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    store: str,
    converted: dsl.Output[dsl.Model],
) -> None:
    """Makes the checkpoint that the backend builds from.

    Passes the manifest on, and says so, where the backend takes the checkpoint as it is.

    Args:
        checkpoint: Manifest of the fetched checkpoint.
        plan: The build, from plan_build.
        store: URL of the store.

    Returns:
        converted: Manifest of the checkpoint to build from.
    """
    from kfp_trtllm.convert_checkpoint.run import run
    from kfp_trtllm.convert_checkpoint.spec import Conversion
    from kfp_trtllm.core.step import step

    with step("convert_checkpoint"):
        run(Conversion(store=store), checkpoint=checkpoint.path, plan=plan.path, converted=converted.path)
