"""Measures how fast an engine is, without a server."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from kfp_trtllm.benchmark_engine.spec import Benchmark
from kfp_trtllm.core import backends, keys
from kfp_trtllm.core.manifest import EngineFacts, Manifest
from kfp_trtllm.core.step import fact, leave, note, progress
from kfp_trtllm.core.store import open_store


@dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """Outputs of benchmark_engine."""

    metrics: dict[str, float]


def run(spec: Benchmark, *, engine: Path, benchmark: Path, report: Path | None = None) -> Benchmarked:
    """Measures tokens per second and latencies at each concurrency; figures of the same engine here are kept."""
    from kfp_trtllm.core.evaluation.benchmark import benchmark as measure
    from kfp_trtllm.core.report.benchmark import benchmark_html

    manifest = Manifest.read(engine)
    facts = manifest.facts_as(EngineFacts)
    store = open_store(spec.store)
    machine = keys.key(cpu=_cpu(), cores=os.cpu_count())[:16]
    key = keys.key(
        manifest=manifest.digest,
        machine=machine,
        concurrency=list(spec.benchmark_concurrency),
        max_tokens=spec.benchmark_max_tokens,
    )
    figures = store.get_document("benchmark", key)
    if figures is not None:
        note("measured on such a machine before")
        fact(reused=True)
    else:
        with store.folder(store.get(manifest.digest)) as folder, progress("Measuring speed", 0, "requests") as bar:
            model = backends.get(facts.backend).load(folder, manifest.facts)
            try:
                figures = measure(
                    model,
                    name=facts.name,
                    variant=facts.variant,
                    backend=facts.backend,
                    concurrency=spec.benchmark_concurrency,
                    max_tokens=spec.benchmark_max_tokens,
                    on_progress=lambda done, total: bar.update(done, total),
                ).to_json()
            finally:
                model.close()
        store.put_document("benchmark", key, figures)
    metrics: dict[str, float] = {}
    for level in figures["levels"]:
        suffix = f"at_{level['concurrency']}"
        metrics[f"tokens_per_second_{suffix}"] = round(level["tokens_per_second"], 1)
        metrics[f"ttft_ms_p95_{suffix}"] = round(level["ttft_ms"]["p95"], 1)
        metrics[f"itl_ms_p95_{suffix}"] = round(level["itl_ms"]["p95"], 1)
    speeds = ", ".join(f"{level['tokens_per_second']:.0f} at {level['concurrency']}" for level in figures["levels"])
    note(f"tokens/s: {speeds}")
    fact(result=f"{speeds} tokens/s")
    leave(benchmark, json.dumps(figures, indent=1) + "\n")
    leave(report, benchmark_html(figures))
    return Benchmarked(metrics=metrics)


def _cpu() -> str:
    """The processor's name, since figures of another say nothing about this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
