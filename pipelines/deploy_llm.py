"""CD: from a packaged Triton model repository to a decided rollout."""

from kfp import dsl
from kfp_trtllm.components import check_release

from pipelines.parts import close, deploy
from pipelines.platforms import on_cpu


@dsl.pipeline(
    name="deploy-llm",
    display_name="Deploy an LLM on Triton",
    description="Starts a packaged model, smoke-tests it, and rolls it out by canary on evidence.",
)
def deploy_llm(
    repository: str,
    model_name: str = "smollm2-135m",
    store: str = "file://~/.kfp-trtllm/store",
    target: str = "local",
    ready_timeout_seconds: int = 300,
    smoke_prompt: str = "What is the capital of France?",
    smoke_expect: str = "",
    smoke_max_tokens: int = 24,
    smoke_timeout_seconds: int = 60,
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
) -> None:
    """From a packaged Triton model repository to a decided rollout.

    Args:
        repository: Digest of the Triton model repository's manifest, as build_llm made it.
        model_name: Name that clients ask for.
        store: URL of the store.
        target: Where Triton runs: local.
        ready_timeout_seconds: Time for the revision to load its model.
        smoke_prompt: A prompt that the model must answer.
        smoke_expect: Regular expression that the answer must match somewhere; empty takes any text.
        smoke_max_tokens: Length of the answer in tokens.
        smoke_timeout_seconds: Time for one answer.
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
    """
    with dsl.ExitHandler(close(model_name, target), name="Release"):
        checked = on_cpu(
            check_release(
                repository=repository,
                model_name=model_name,
                store=store,
                target=target,
                ready_timeout_seconds=ready_timeout_seconds,
                smoke_prompt=smoke_prompt,
                smoke_expect=smoke_expect,
                smoke_max_tokens=smoke_max_tokens,
                smoke_timeout_seconds=smoke_timeout_seconds,
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
            "Check parameters",
            cached=False,
        )
        deploy(
            checked,
            repository,
            dict(
                store=store,
                target=target,
                ready_timeout_seconds=ready_timeout_seconds,
                smoke_prompt=smoke_prompt,
                smoke_expect=smoke_expect,
                smoke_max_tokens=smoke_max_tokens,
                smoke_timeout_seconds=smoke_timeout_seconds,
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
        )
