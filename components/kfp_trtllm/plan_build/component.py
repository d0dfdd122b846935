"""The component plan_build: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def plan_build(
    checkpoint: dsl.Input[dsl.Model],
    store: str,
    plan: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    backend: str = "onnxruntime",
    variant: str = "int4",
    max_batch_size: int = 8,
    max_input_len: int = 1024,
    max_seq_len: int = 2048,
    memory_limit_gb: float = 0.0,
) -> None:
    """Plans an engine on a CPU, before anything is spent on building it.

    Computes the memory that it will need, refuses what cannot work and names what would, and decides the key that
    the engine is kept under.

    Args:
        checkpoint: Manifest of the checkpoint.
        store: URL of the store.
        backend: What executes the model: onnxruntime.
        variant: Precision; which ones there are depends on the backend.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        memory_limit_gb: Memory that the engine may need, in GB; 0 takes what this machine has.

    Returns:
        plan: The decided build, as JSON.
        report: Memory by part.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.plan_build.run import run
    from kfp_trtllm.plan_build.spec import Planning

    with step("plan_build"):
        run(
            Planning(
                store=store,
                backend=backend,
                variant=variant,
                max_batch_size=max_batch_size,
                max_input_len=max_input_len,
                max_seq_len=max_seq_len,
                memory_limit_gb=memory_limit_gb,
            ),
            checkpoint=checkpoint.path,
            plan=plan.path,
            report=report.path,
        )
