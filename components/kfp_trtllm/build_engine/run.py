"""Builds an engine, once for everyone who shares the store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kfp_trtllm.build_engine.spec import EngineBuild
from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.manifest import CheckpointFacts, EngineFacts, Manifest
from kfp_trtllm.core.step import fact, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.store.base import Store


def run(spec: EngineBuild, *, plan: Path, checkpoint: Path, engine: Path) -> Manifest:
    """Builds the planned engine from a checkpoint, or takes it from the store where anyone built it before."""
    decided = BuildPlan.read(plan)
    source = Manifest.read(checkpoint)
    store = open_store(spec.store)
    with store.lock(f"engine-{decided.engine_key}"):
        manifest = store.lookup("engine", decided.engine_key)
        if manifest is not None:
            note(f"the store has this engine already (key {decided.engine_key[:12]})")
            fact(reused=True, result=f"{decided.variant}, {manifest.size / 1e6:,.0f} MB")
            manifest.write(engine)
            return manifest
        manifest = _build(decided, source, store)
        store.publish("engine", decided.engine_key, manifest)
    fact(result=f"{decided.variant}, {manifest.size / 1e6:,.0f} MB")
    manifest.write(engine)
    return manifest


def _build(plan: BuildPlan, source: Manifest, store: Store) -> Manifest:
    backend = backends.get(plan.backend)
    with store.workspace(f"build-{plan.engine_key}") as work, store.folder(store.get(source.digest)) as folder:
        output = work / "engine"
        with progress(f"Building {plan.variant}", 0, "steps") as bar:
            backend.build(
                plan, folder, output, log=work / "build.log", on_progress=lambda done, total: bar.update(done, total)
            )
        checkpoint = source.facts_as(CheckpointFacts)
        facts = EngineFacts(
            backend=plan.backend,
            variant=plan.variant,
            engine_key=plan.engine_key,
            name=checkpoint.name,
            source=checkpoint.source,
            revision=checkpoint.revision,
            max_batch_size=plan.max_batch_size,
            max_input_len=plan.max_input_len,
            max_seq_len=plan.max_seq_len,
            chat_template=checkpoint.chat_template,
            versions=plan.versions,
        )
        return store.put_folder(output, kind="engine", facts=dataclasses.asdict(facts), parents=(source.digest,))
