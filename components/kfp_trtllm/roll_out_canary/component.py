"""The component roll_out_canary: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def roll_out_canary(
    store: str,
    repository: str,
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    target: str = "local",
    run_id: str = "",
    rollout_steps: list[int] = [10, 50, 100],
    rollout_alpha: float = 0.05,
    rollout_margin: float = 1.5,
    max_error_rate: float = 0.02,
    max_slow_rate: float = 0.1,
    slo_ttft_ms: float = 0.0,
    slo_itl_ms: float = 0.0,
    min_step_requests: int = 20,
    rollout_deadline_seconds: int = 900,
    probe_prompts: list[str] = [],
    probe_max_tokens: int = 12,
    probe_timeout_seconds: float = 30.0,
) -> NamedTuple("Outputs", [("verdict", str), ("reason", str)]):
    """Moves traffic from stable to canary in steps and decides by evidence.

    Probes both arms with the same prompts; promotes on evidence that the canary is no worse, rolls back on evidence
    that it is, and returns to stable when the deadline passes without either. A killed rollout is taken up where it
    stopped. Succeeds whatever the outcome: put require_verdict behind it.

    Args:
        store: URL of the store.
        repository: Digest of the canary's Triton model repository.
        target: Where Triton runs: local.
        run_id: Names the run that owns this rollout.
        rollout_steps: Percent of traffic that the canary gets, step by step; the last must be 100.
        rollout_alpha: Chance taken of a wrong decision, in either direction.
        rollout_margin: A rate of bad answers up to this many times stable's counts as no worse.
        max_error_rate: Share of failed or empty answers that is tolerated whatever stable does.
        max_slow_rate: Share of answers slower than an SLO that is tolerated whatever stable does.
        slo_ttft_ms: Time to the first token, in ms, beyond which an answer is slow; 0 takes 3 times stable's
            median in a short calibration.
        slo_itl_ms: Mean time between tokens, in ms, beyond which an answer is slow; 0 as above.
        min_step_requests: Paired probes per step before the next one.
        rollout_deadline_seconds: Time after which missing evidence means inconclusive, and back to stable.
        probe_prompts: Prompts to probe with; empty takes ours.
        probe_max_tokens: Length of a probe's answer in tokens.
        probe_timeout_seconds: An answer that takes longer is an error.

    Returns:
        report: Traffic, evidence and latencies over time.
        summary: The decision in short.
        metrics: Counts and rates of both arms.
        verdict: promoted, rolled_back or inconclusive.
        reason: The decision in a sentence.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.roll_out_canary.run import run
    from kfp_trtllm.roll_out_canary.spec import Rollout

    with step("roll_out_canary"):
        done = run(
            Rollout(
                store=store,
                repository=repository,
                target=target,
                run_id=run_id,
                rollout_steps=rollout_steps,
                rollout_alpha=rollout_alpha,
                rollout_margin=rollout_margin,
                max_error_rate=max_error_rate,
                max_slow_rate=max_slow_rate,
                slo_ttft_ms=slo_ttft_ms,
                slo_itl_ms=slo_itl_ms,
                min_step_requests=min_step_requests,
                rollout_deadline_seconds=rollout_deadline_seconds,
                probe_prompts=probe_prompts,
                probe_max_tokens=probe_max_tokens,
                probe_timeout_seconds=probe_timeout_seconds,
            ),
            report=report.path,
            summary=summary.path,
        )
        metrics.metadata.update(done.metrics)
    return done.verdict, done.reason
