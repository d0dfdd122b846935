"""The component close_release: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def close_release(
    status: dsl.PipelineTaskFinalStatus,
    model_name: str,
    summary: dsl.Output[dsl.Markdown],
    target: str = "local",
    run_id: str = "",
) -> None:
    """The exit task: traffic where it should be, nothing half-deployed.

    Runs however the release went. Removes the canary that a failed run left, with traffic back on stable first.

    Args:
        status: Filled in by KFP.
        model_name: The model that was released.
        target: Where Triton runs: local.
        run_id: The run whose leftovers are to be cleaned up; empty for anyone's.

    Returns:
        summary: How the release ended and what serves now.
    """
    from kfp_trtllm.close_release.run import run
    from kfp_trtllm.close_release.spec import Closing
    from kfp_trtllm.core.step import step

    with step("close_release"):
        run(
            Closing(
                model_name=model_name,
                target=target,
                run_id=run_id,
                state=status.state,
                error=status.error_message or "",
            ),
            summary=summary.path,
        )
