"""Decides a build on a CPU, before anything is spent on it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from kfp_trtllm.core import backends, keys, rules
from kfp_trtllm.core import checkpoint as checkpoints
from kfp_trtllm.core.backends.base import BuildPlan, Planned, PlanRequest
from kfp_trtllm.core.backends.trtllm import gpus
from kfp_trtllm.core.manifest import CheckpointFacts, Manifest
from kfp_trtllm.core.step import fact, leave, note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.errors import InvalidSpec, Unsupported
from kfp_trtllm.plan_build.spec import Planning


def run(spec: Planning, *, checkpoint: Path, plan: Path, report: Path | None = None) -> BuildPlan:
    """Plans an engine: what memory it needs, whether it fits, and the key that it is kept under."""
    manifest = Manifest.read(checkpoint)
    store = open_store(spec.store)
    with store.folder(store.get(manifest.digest)) as folder:
        config = checkpoints.read_config(folder)
        tensors = checkpoints.read_headers(folder)
    _check_host_memory(spec, manifest)
    request = spec.request(int(spec.memory_limit_gb * 1e9) or machine_memory())

    def decide(backend: str, asked: PlanRequest) -> tuple[BuildPlan, tuple[str, ...]]:
        planned = backends.get(backend).plan(config, tensors, asked)
        return _decided(backend, planned, manifest), planned.notes

    # What old options meant holds for the fallback, too; those of trtllm-build are none of LLM()'s.
    other = dataclasses.replace(backends.get(spec.backend).check(request), build_options={})
    try:
        decided, notes = decide(spec.backend, request)
    except Unsupported as problem:
        if not spec.allow_fallback:
            raise InvalidSpec(f"{problem} Or set allow_fallback, which takes backend pytorch then.") from None
        decided, meant = decide("pytorch", other)
        notes = (f"backend {decided.backend} instead of {spec.backend}: {problem}", *meant)
    else:
        if spec.allow_fallback:
            try:
                fallback, _ = decide("pytorch", other)
                decided = dataclasses.replace(decided, fallback=fallback)
            except (InvalidSpec, Unsupported) as problem:
                notes = (*notes, f"there is nothing to fall back to: {problem}")
    decided.write(plan)
    facts = manifest.facts_as(CheckpointFacts)
    for text in notes:
        note(text)
    where = f" on each of {decided.world_size} × {decided.gpu_kind}" if decided.gpu_kind else ""
    note(f"{facts.name} as {decided.variant} needs {decided.memory.total / 1e9:.2f} GB of memory{where}")
    fact(result=f"needs {decided.memory.total / 1e9:.2f} GB of memory")
    leave(report, _markdown(facts.name, decided, notes))
    return decided


def _check_host_memory(spec: Planning, checkpoint: Manifest) -> None:
    """A conversion that is killed for its memory would be told by no log."""
    if spec.gpu_task_memory and rules.quantity("gpu_task_memory", spec.gpu_task_memory) < checkpoint.size:
        raise InvalidSpec(
            f"gpu_task_memory must hold the checkpoint ({checkpoint.size / 1e9:.1f} GB), but got {spec.gpu_task_memory}: "
            f"ask for {1.25 * checkpoint.size / 1e9:.0f}G."
        )


def _decided(backend: str, planned: Planned, manifest: Manifest) -> BuildPlan:
    """The plan, with the key that says: same key, same engine."""
    request = planned.request
    gpu = gpus.gpu(request.gpu_kind) if request.gpu_kind else None
    return BuildPlan(
        backend=backend,
        variant=request.variant,
        checkpoint=manifest.digest,
        engine_key=keys.key(
            # Of the checkpoint only its bytes: the same weights from another hub give the same engine.
            files=[[file.path, file.sha256] for file in sorted(manifest.files, key=lambda f: f.path)],
            backend=backend,
            variant=request.variant,
            options=planned.options,
            tp_size=request.tp_size,
            pp_size=request.pp_size,
            versions=planned.versions,
            limits=[request.max_batch_size, request.max_input_len, request.max_seq_len, request.max_num_tokens],
            kv_cache_dtype=request.kv_cache_dtype,
            gpu=[gpu.name, gpu.compute_capability] if gpu else None,
            image=request.build_image,
        ),
        max_batch_size=request.max_batch_size,
        max_input_len=request.max_input_len,
        max_seq_len=request.max_seq_len,
        max_num_tokens=request.max_num_tokens,
        tp_size=request.tp_size,
        pp_size=request.pp_size,
        memory=planned.memory,
        options=planned.options,
        versions=planned.versions,
        gpu_kind=request.gpu_kind,
        trtllm_version=request.trtllm_version,
        kv_cache_dtype=request.kv_cache_dtype,
    )


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def _markdown(name: str, plan: BuildPlan, notes: tuple[str, ...]) -> str:
    memory = plan.memory
    rows = [
        ("weights", memory.weights),
        ("KV cache", memory.kv_cache),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
        ("**sum**", memory.total),
    ]
    table = "\n".join(f"| {label} | {size / 1e6:,.0f} |" for label, size in rows)
    where = f" of each of {plan.world_size} × {plan.gpu_kind}" if plan.gpu_kind else ""
    hints = "".join(f"- {text}\n" for text in notes)
    return (
        f"### {name} as {plan.variant} on {plan.backend}\n\n"
        f"max_batch_size {plan.max_batch_size}, max_input_len {plan.max_input_len}, max_seq_len {plan.max_seq_len}, "
        f"tp_size {plan.tp_size}, pp_size {plan.pp_size}\n\n"
        f"| memory{where} | MB |\n|---|---:|\n{table}\n\n{hints}\n"
        f"Engine key `{plan.engine_key[:16]}`\n"
    )
