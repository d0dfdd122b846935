"""The component build_engine: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def build_engine(
    checkpoint: dsl.Input[dsl.Model],
    plan: dsl.Input[dsl.Artifact],
    store: str,
    engine: dsl.Output[dsl.Model],
) -> None:
    """Builds the planned engine.

    The same engine is never built twice by anyone who shares the store.

    Args:
        checkpoint: Manifest of the checkpoint to build from.
        plan: The build, from plan_build.
        store: URL of the store.

    Returns:
        engine: Manifest of the engine.
    """
    from kfp_trtllm.build_engine.run import run
    from kfp_trtllm.build_engine.spec import EngineBuild
    from kfp_trtllm.core.step import step

    with step("build_engine"):
        run(EngineBuild(store=store), checkpoint=checkpoint.path, plan=plan.path, engine=engine.path)
