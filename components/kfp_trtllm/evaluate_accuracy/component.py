"""The component evaluate_accuracy: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def evaluate_accuracy(
    checkpoint: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
    store: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    accuracy_gate: bool = True,
    accuracy_tasks: list[str] = ["kfp_core"],
    accuracy_limit: int = 0,
    accuracy_margin: float = 0.05,
    accuracy_alpha: float = 0.05,
    seed: int = 0,
    accuracy_subject: str = "engine",
    accuracy_rule: str = "paired",
) -> NamedTuple("Outputs", [("verdict", str), ("reason", str)]):
    """Compares an engine, or a quantized checkpoint, with the checkpoint that it was made from.

    Runs lm-evaluation-harness tasks on both, pairs their items, and tests whether the candidate is no worse by more
    than a margin. Succeeds whatever the verdict: put require_verdict behind it.

    Args:
        checkpoint: Manifest of the reference checkpoint.
        candidate: Manifest of the engine, or of the checkpoint that the engine is to be built from.
        store: URL of the store.
        accuracy_gate: False measures nothing and lets every engine pass.
        accuracy_tasks: lm-evaluation-harness tasks or groups; kfp_core is ours and needs no network.
        accuracy_limit: Items per task at most; 0 takes all.
        accuracy_margin: Drop in the mean score that is tolerated, for example 0.05 for five points.
        accuracy_alpha: Chance taken of passing an engine that is worse by more than the margin.
        seed: Of the tasks' sampling.
        accuracy_subject: What is asked: the engine; or the checkpoint that it is (to be) built from, with quantization
            simulated, so that the verdict is known before a GPU builds anything.
        accuracy_rule: How it is judged: paired (items side by side, against the margin) or threshold (NVIDIA's own
            arithmetic for acceptance tests: the candidate's score against the reference's, without pairing).

    Returns:
        evaluation: Verdict, statistics and per-item results, as JSON.
        metrics: Scores of both, difference, bound and smallest detectable drop.
        report: The comparison, task by task, with the items that differ.
        verdict: passed, failed or skipped.
        reason: The verdict in a sentence.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.evaluate_accuracy.run import run
    from kfp_trtllm.evaluate_accuracy.spec import AccuracyEvaluation

    with step("evaluate_accuracy"):
        done = run(
            AccuracyEvaluation(
                store=store,
                accuracy_gate=accuracy_gate,
                accuracy_tasks=accuracy_tasks,
                accuracy_limit=accuracy_limit,
                accuracy_margin=accuracy_margin,
                accuracy_alpha=accuracy_alpha,
                seed=seed,
                accuracy_subject=accuracy_subject,
                accuracy_rule=accuracy_rule,
            ),
            checkpoint=checkpoint.path,
            candidate=candidate.path,
            evaluation=evaluation.path,
            report=report.path,
        )
        metrics.metadata.update(done.metrics)
    return done.verdict, done.reason
