"""The component select_engine: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def select_engine(
    engines: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
    benchmarks: dsl.Input[list[dsl.Artifact]],
    store: str,
    engine: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("verdict", str), ("reason", str)]):
    """Chooses the engine to ship among the variants that were built.

    Those that pass the accuracy gate come first, then throughput.

    Args:
        engines: Manifests of the engines, one per variant.
        evaluations: From evaluate_accuracy, in the same order.
        benchmarks: From benchmark_engine, in the same order.
        store: URL of the store.

    Returns:
        engine: Manifest of the chosen engine; of the most accurate one when none passes.
        metrics: Figures of the chosen engine.
        report: Accuracy against throughput, with the Pareto front.
        verdict: passed when some engine passes its gate, else failed.
        reason: The choice in a sentence.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.select_engine.run import run
    from kfp_trtllm.select_engine.spec import Selection

    with step("select_engine"):
        done = run(
            Selection(store=store),
            engines=[item.path for item in engines],
            evaluations=[item.path for item in evaluations],
            benchmarks=[item.path for item in benchmarks],
            engine=engine.path,
            report=report.path,
        )
        metrics.metadata.update(done.metrics)
    return done.verdict, done.reason
