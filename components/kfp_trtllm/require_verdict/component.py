"""The component require_verdict: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def require_verdict(
    gate: str,
    verdict: str,
    reason: str = "",
) -> None:
    """Fails the run when a verdict is not good.

    The exit code tells which: 3 rolled back, 4 gate failed, 5 inconclusive.

    Args:
        gate: What was judged, for people: "accuracy", "smoke test", "rollout".
        verdict: passed, promoted or skipped are good; failed, rolled_back or inconclusive fail the run.
        reason: The sentence that goes with the verdict.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.require_verdict.run import run
    from kfp_trtllm.require_verdict.spec import Requirement

    with step("require_verdict"):
        run(Requirement(gate=gate, verdict=verdict, reason=reason))
