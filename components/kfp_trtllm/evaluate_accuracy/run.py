"""Compares an engine with the checkpoint that it was built from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_trtllm.core import backends, keys
from kfp_trtllm.core.backends.base import TextModel
from kfp_trtllm.core.manifest import CheckpointFacts, EngineFacts, Manifest
from kfp_trtllm.core.step import fact, leave, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.store.base import Store
from kfp_trtllm.errors import InvalidSpec, StoreError
from kfp_trtllm.evaluate_accuracy.spec import AccuracyEvaluation


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Outputs of evaluate_accuracy."""

    verdict: str
    reason: str
    metrics: dict[str, float] = field(default_factory=dict)


def run(
    spec: AccuracyEvaluation, *, checkpoint: Path, candidate: Path, evaluation: Path, report: Path | None = None
) -> Evaluated:
    """Asks the checkpoint and the candidate the same items and tests whether the candidate is no worse by the margin."""
    reference, subject = Manifest.read(checkpoint), Manifest.read(candidate)
    model = reference.facts_as(CheckpointFacts).name

    def skip(reason: str) -> Evaluated:
        return _finish({"model": model, "verdict": "skipped", "reason": reason}, evaluation, report)

    if not spec.accuracy_gate:
        return skip("accuracy_gate is off")
    if subject.kind == "checkpoint" and spec.accuracy_subject == "engine":
        return skip("accuracy_subject is engine, which is asked when it is built")
    from kfp_trtllm.core.evaluation.compare import compare
    from kfp_trtllm.core.evaluation.reference import TransformersModel

    store = open_store(spec.store)
    if subject.kind == "engine" and spec.accuracy_subject == "checkpoint":
        # What was asked before the build; the answers are in the store.
        subject = store.get(subject.parents[0])
    if subject.digest == reference.digest:
        return skip("the engine is built from the checkpoint as it is")

    def load_reference(folder: Path) -> TextModel:
        return TransformersModel(folder, max_batch_size=16)

    load, variant = _loader(subject)
    before = _evaluate(spec, store, reference, "checkpoint", load_reference)
    after = _evaluate(spec, store, subject, variant, load)
    judged = compare(before, after, margin=spec.accuracy_margin, alpha=spec.accuracy_alpha, rule=spec.accuracy_rule)
    return _finish(judged.report(model=model, reference="checkpoint", candidate=variant), evaluation, report)


def _loader(manifest: Manifest) -> tuple[Callable[[Path], TextModel], str]:
    """How to load what is asked, and its precision."""
    if manifest.kind == "engine":
        facts = manifest.facts_as(EngineFacts)
        return (lambda folder: backends.get(facts.backend).load(folder, manifest.facts)), facts.variant
    from kfp_trtllm.core.evaluation.quantized import QuantizedModel
    from kfp_trtllm.core.evaluation.reference import TransformersModel

    converted = manifest.facts_as(CheckpointFacts)
    if converted.backend == "tensorrt":
        raise InvalidSpec(
            "accuracy_subject must be engine on backend tensorrt, whose converted checkpoints only its builder reads, "
            "but got 'checkpoint'."
        )
    quantized = "hf_quant_config.json" in {file.path for file in manifest.files}
    kind = QuantizedModel if quantized else TransformersModel
    return (lambda folder: kind(folder, max_batch_size=16)), converted.variant


def _evaluate(spec: AccuracyEvaluation, store: Store, manifest: Manifest, name: str, load: Any) -> Any:
    """A model's answers, from the store where they were given before."""
    from kfp_trtllm.core.evaluation.harness import evaluate
    from kfp_trtllm.core.evaluation.results import Evaluation
    from kfp_trtllm.core.evaluation.tasks import fingerprint

    key = keys.key(
        manifest=manifest.digest,
        tasks=list(spec.accuracy_tasks),
        content=fingerprint(),
        limit=spec.accuracy_limit,
        seed=spec.seed,
    )
    with store.lock(f"evaluation-{key}"):
        known = store.get_document("evaluation", key)
        if known is not None:
            try:
                found = Evaluation.from_json(known)
            except StoreError:
                pass  # an older form: ask again
            else:
                note(f"{name} was evaluated before: {found.score:.3f} over {len(found.items)} items")
                return found
        with store.folder(store.get(manifest.digest)) as folder, progress(f"Evaluating {name}", 0, "items") as bar:
            model = load(folder)
            try:
                done = evaluate(
                    model,
                    tasks=spec.accuracy_tasks,
                    limit=spec.accuracy_limit or None,
                    seed=spec.seed,
                    on_progress=lambda count, total: bar.update(count, total),
                )
            finally:
                model.close()
        note(f"{name} scores {done.score:.3f} over {len(done.items)} items, in {done.seconds:.0f} s")
        store.put_document("evaluation", key, done.to_json())
    return done


def _finish(comparison: dict[str, Any], evaluation: Path, report: Path | None) -> Evaluated:
    leave(evaluation, json.dumps(comparison, indent=1) + "\n")
    metrics: dict[str, float] = {}
    overall = comparison.get("overall")
    if overall:
        names = ("reference", "candidate", "difference", "lower_bound", "smallest_detectable_drop", "n")
        metrics = {name: round(float(overall[name]), 6) for name in names}
    if report is not None:
        from kfp_trtllm.core.report.accuracy import accuracy_html

        leave(report, accuracy_html(comparison))
    note(f"accuracy {comparison['verdict']}: {comparison['reason']}")
    if overall:
        fact(result=f"{overall['candidate']:.3f} (checkpoint {overall['reference']:.3f})")
    else:
        fact(result="skipped")
    return Evaluated(verdict=comparison["verdict"], reason=comparison["reason"], metrics=metrics)
