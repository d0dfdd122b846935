"""Chooses the engine to ship among the variants that were built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core.manifest import EngineFacts, Manifest
from kfp_trtllm.core.step import fact, leave, note
from kfp_trtllm.errors import InvalidSpec
from kfp_trtllm.select_engine.spec import Selection


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Outputs of select_engine."""

    verdict: str
    reason: str
    metrics: dict[str, float]


def run(
    spec: Selection,
    *,
    engines: Sequence[Path],
    evaluations: Sequence[Path],
    benchmarks: Sequence[Path],
    engine: Path,
    report: Path | None = None,
) -> Selected:
    """Takes the fastest of the engines that pass their accuracy gate; of equally fast ones the most accurate."""
    if not engines or not len(engines) == len(evaluations) == len(benchmarks):
        raise InvalidSpec(
            "engines, evaluations and benchmarks must be lists of one length, at least 1, "
            f"but got {len(engines)}, {len(evaluations)} and {len(benchmarks)}."
        )
    rows = [_row(*paths) for paths in zip(engines, evaluations, benchmarks, strict=True)]
    passing = [row for row in rows if row["passed"]]
    best = max(passing or rows, key=lambda row: _rank(row, by_speed=bool(passing)))
    best["chosen"] = bool(passing)
    if passing:
        verdict = "passed"
        reason = f"{best['variant']} is chosen: {best['tokens_per_second']:.0f} tokens/s, accuracy {best['verdict']}"
        reason += f", {len(passing)} of {len(rows)} variants passed" if len(rows) > 1 else ""
    else:
        verdict = "failed"
        reason = "; ".join(f"{row['variant']}: {row['reason']}" for row in rows)
    manifest: Manifest = best["manifest"]
    manifest.write(engine)
    if report is not None:
        from kfp_trtllm.core.report.pareto import pareto_html

        shown = [{key: value for key, value in row.items() if key != "manifest"} for row in rows]
        leave(report, pareto_html({"model": best["name"], "variants": shown}))
    note(reason)
    fact(result=best["variant"] if passing else "none passes")
    metrics = {"tokens_per_second": round(best["tokens_per_second"], 1), "size_bytes": float(best["size_bytes"])}
    if best["accuracy"] is not None:
        metrics["accuracy"] = round(best["accuracy"], 6)
    return Selected(verdict=verdict, reason=reason, metrics=metrics)


def _row(engine: Path, evaluation: Path, benchmark: Path) -> dict[str, Any]:
    manifest = Manifest.read(engine)
    facts = manifest.facts_as(EngineFacts)
    judged = json.loads(Path(evaluation).read_text(encoding="utf-8"))
    figures = json.loads(Path(benchmark).read_text(encoding="utf-8"))
    overall = judged.get("overall")
    return {
        "manifest": manifest,
        "name": facts.name,
        "variant": facts.variant,
        "accuracy": overall["candidate"] if overall else None,
        "accuracy_lower_bound": overall["candidate"] - overall["difference"] + overall["lower_bound"]
        if overall
        else None,
        "tokens_per_second": max(level["tokens_per_second"] for level in figures["levels"]),
        "size_bytes": manifest.size,
        "verdict": judged["verdict"],
        "passed": judged["verdict"] in ("passed", "skipped"),
        "chosen": False,
        "reason": judged["reason"],
    }


def _rank(row: dict[str, Any], *, by_speed: bool) -> tuple[float, float]:
    accuracy = row["accuracy"] if row["accuracy"] is not None else 0.0
    return (row["tokens_per_second"], accuracy) if by_speed else (accuracy, row["tokens_per_second"])
