"""Decides a build on a CPU, before anything is spent on it."""

from __future__ import annotations

import os
from pathlib import Path

from kfp_trtllm.core import backends, keys
from kfp_trtllm.core import checkpoint as checkpoints
from kfp_trtllm.core.backends.base import BuildPlan, Memory
from kfp_trtllm.core.manifest import CheckpointFacts, Manifest
from kfp_trtllm.core.step import fact, leave, note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.plan_build.spec import Planning


def run(spec: Planning, *, checkpoint: Path, plan: Path, report: Path | None = None) -> BuildPlan:
    """Plans an engine: what memory it needs, whether it fits, and the key that it is kept under."""
    backend = backends.get(spec.backend)
    manifest = Manifest.read(checkpoint)
    store = open_store(spec.store)
    with store.folder(store.get(manifest.digest)) as folder:
        config = checkpoints.read_config(folder)
        tensors = checkpoints.read_headers(folder)
    limit = int(spec.memory_limit_gb * 1e9) or machine_memory()
    memory, options = backend.plan(config, tensors, spec.request(limit))
    versions = backend.versions()
    decided = BuildPlan(
        backend=spec.backend,
        variant=spec.variant,
        checkpoint=manifest.digest,
        engine_key=keys.key(
            # Of the checkpoint only its bytes: the same weights from another hub give the same engine.
            files=[[file.path, file.sha256] for file in sorted(manifest.files, key=lambda f: f.path)],
            backend=spec.backend,
            variant=spec.variant,
            options=options,
            tp_size=1,
            pp_size=1,
            versions=versions,
            limits=[spec.max_batch_size, spec.max_input_len, spec.max_seq_len],
        ),
        max_batch_size=spec.max_batch_size,
        max_input_len=spec.max_input_len,
        max_seq_len=spec.max_seq_len,
        tp_size=1,
        pp_size=1,
        memory=memory,
        options=options,
        versions=versions,
    )
    decided.write(plan)
    facts = manifest.facts_as(CheckpointFacts)
    note(f"{facts.name} as {spec.variant} needs {memory.total / 1e9:.2f} GB of {limit / 1e9:.1f} GB")
    fact(result=f"needs {memory.total / 1e9:.2f} GB of memory")
    leave(report, _markdown(facts.name, decided, memory, limit))
    return decided


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def _markdown(name: str, plan: BuildPlan, memory: Memory, limit: int) -> str:
    rows = [
        ("weights", memory.weights),
        ("KV cache", memory.kv_cache),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
        ("**sum**", memory.total),
        ("limit", limit),
    ]
    table = "\n".join(f"| {label} | {size / 1e6:,.0f} |" for label, size in rows)
    return (
        f"### {name} as {plan.variant} on {plan.backend}\n\n"
        f"max_batch_size {plan.max_batch_size}, max_input_len {plan.max_input_len}, max_seq_len {plan.max_seq_len}\n\n"
        f"| memory | MB |\n|---|---:|\n{table}\n\n"
        f"Engine key `{plan.engine_key[:16]}`\n"
    )
