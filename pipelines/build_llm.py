"""CI: from a source to a packaged Triton model repository."""

from kfp import dsl
from kfp_trtllm.components import check_release

from pipelines.parts import build
from pipelines.platforms import on_cpu


@dsl.pipeline(
    name="build-llm",
    display_name="Build an LLM for Triton",
    description="Fetches a model, builds its engine, gates it on accuracy, measures its speed, packages it for Triton.",
)
def build_llm(
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
) -> str:
    """From a source to a packaged Triton model repository.

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

    Returns:
        Digest of the repository's manifest: deploy_llm takes it.
    """
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
    return repository
