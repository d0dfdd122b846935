"""The component benchmark_engine: its contract with KFP."""

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def benchmark_engine(
    engine: dsl.Input[dsl.Model],
    store: str,
    benchmark: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    benchmark_concurrency: list[int] = [1, 8],
    benchmark_max_tokens: int = 32,
) -> None:
    """Measures how fast an engine is, without a server.

    Tokens per second, time to first token and inter-token latency at each concurrency.

    Args:
        engine: Manifest of the engine.
        store: URL of the store.
        benchmark_concurrency: Numbers of requests that run at once, each measured.
        benchmark_max_tokens: Length of an answer in tokens.

    Returns:
        benchmark: The figures, as JSON.
        metrics: The same for the UI.
        report: Plots over concurrency.
    """
    from kfp_trtllm.benchmark_engine.run import run
    from kfp_trtllm.benchmark_engine.spec import Benchmark
    from kfp_trtllm.core.step import step

    with step("benchmark_engine"):
        done = run(
            Benchmark(
                store=store, benchmark_concurrency=benchmark_concurrency, benchmark_max_tokens=benchmark_max_tokens
            ),
            engine=engine.path,
            benchmark=benchmark.path,
            report=report.path,
        )
        metrics.metadata.update(done.metrics)
