"""From a source to a decided rollout: build_llm and deploy_llm in one run."""

from kfp import dsl
from kfp_trtllm.components import check_release

from pipelines.parts import build, close, deploy
from pipelines.platforms import on_cpu


@dsl.pipeline(
    name="release-llm",
    display_name="Release an LLM on Triton",
    description="From a model checkpoint to a canaried Triton endpoint, gated on accuracy, speed and live evidence.",
)
def release_llm(
    source: str = "sample://smollm2-135m",
    model_name: str = "smollm2-135m",
    store: str = "file://~/.kfp-trtllm/store",
    allow_pickle: bool = False,
    backend: str = "onnxruntime",
    variants: list[str] = ["int4"],
    max_batch_size: int = 8,
    max_input_len: int = 1024,
    max_seq_len: int = 2048,
    memory_limit_gb: float = 0.0,
    accuracy_gate: bool = True,
    accuracy_tasks: list[str] = ["kfp_core"],
    accuracy_limit: int = 0,
    accuracy_margin: float = 0.05,
    accuracy_alpha: float = 0.05,
    seed: int = 0,
    benchmark_concurrency: list[int] = [1, 8],
    benchmark_max_tokens: int = 32,
    model_version: int = 1,
    base_repository: str = "",
    decoupled: bool = True,
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
    """From a source to a decided rollout.

    Args:
        source: Where the model comes from, for example "hf://org/name@revision", "file:///models/x" or
            "sample://smollm2-135m".
        model_name: Name that clients ask for.
        store: URL of the store.
        allow_pickle: Whether to take weights that exist only as pickles, which can run code when they are read.
        backend: What executes the model: onnxruntime.
        variants: Precisions to build and choose from.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        memory_limit_gb: Memory that the engine may need, in GB; 0 takes what this machine has.
        accuracy_gate: False measures nothing and lets every engine pass.
        accuracy_tasks: lm-evaluation-harness tasks or groups; kfp_core is ours and needs no network.
        accuracy_limit: Items per task at most; 0 takes all.
        accuracy_margin: Drop in the mean score that is tolerated, for example 0.05 for five points.
        accuracy_alpha: Chance taken of passing an engine that is worse by more than the margin.
        seed: Of the tasks' sampling.
        benchmark_concurrency: Numbers of requests that run at once, each measured.
        benchmark_max_tokens: Length of an answer in tokens.
        model_version: Triton's numeric version of this engine.
        base_repository: Digest of an earlier repository of the same model whose other versions are to be served
            beside this one; empty for none.
        decoupled: True serves /generate, /generate_stream and gRPC streams; False serves /infer, with no streams.
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
                source=source,
                model_name=model_name,
                store=store,
                allow_pickle=allow_pickle,
                backend=backend,
                variants=variants,
                max_batch_size=max_batch_size,
                max_input_len=max_input_len,
                max_seq_len=max_seq_len,
                memory_limit_gb=memory_limit_gb,
                accuracy_gate=accuracy_gate,
                accuracy_tasks=accuracy_tasks,
                accuracy_limit=accuracy_limit,
                accuracy_margin=accuracy_margin,
                accuracy_alpha=accuracy_alpha,
                seed=seed,
                benchmark_concurrency=benchmark_concurrency,
                benchmark_max_tokens=benchmark_max_tokens,
                model_version=model_version,
                base_repository=base_repository,
                decoupled=decoupled,
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
        repository = build(
            checked,
            dict(
                source=source,
                model_name=model_name,
                store=store,
                allow_pickle=allow_pickle,
                backend=backend,
                variants=variants,
                max_batch_size=max_batch_size,
                max_input_len=max_input_len,
                max_seq_len=max_seq_len,
                memory_limit_gb=memory_limit_gb,
                accuracy_gate=accuracy_gate,
                accuracy_tasks=accuracy_tasks,
                accuracy_limit=accuracy_limit,
                accuracy_margin=accuracy_margin,
                accuracy_alpha=accuracy_alpha,
                seed=seed,
                benchmark_concurrency=benchmark_concurrency,
                benchmark_max_tokens=benchmark_max_tokens,
                model_version=model_version,
                base_repository=base_repository,
                decoupled=decoupled,
            ),
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
