"""Builds an engine, once for everyone who shares the store."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfp_trtllm.build_engine.spec import EngineBuild
from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.conversion import converted
from kfp_trtllm.core.manifest import CheckpointFacts, EngineFacts, Manifest
from kfp_trtllm.core.step import fact, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.store.base import Store
from kfp_trtllm.errors import Unsupported


def run(spec: EngineBuild, *, plan: Path, checkpoint: Path, engine: Path) -> Manifest:
    """Builds the planned engine from a checkpoint, or takes it from the store where anyone built it before.

    A checkpoint that was converted for the plan's fallback is built by that; and so is one whose build turns out to be
    unsupported, after a conversion of the weights that it was made from.
    """
    decided = BuildPlan.read(plan)
    source = Manifest.read(checkpoint)
    store = open_store(spec.store)
    fallback = decided.fallback
    # Backend tensorrt always converts: a checkpoint as it was fetched is the fallback's, which took it as it is.
    converted_for = source.facts_as(CheckpointFacts).backend
    if fallback is not None and (converted_for == fallback.backend or source.digest == fallback.checkpoint):
        decided, fallback = fallback, None
    try:
        manifest = _built(decided, source, store)
    except Unsupported as problem:
        if fallback is None:
            raise
        note(f"backend {fallback.backend} instead of {decided.backend}: {str(problem).splitlines()[0]}")
        manifest = _built(fallback, converted(fallback, store.get(fallback.checkpoint), store), store)
    facts = manifest.facts_as(EngineFacts)
    fact(result=f"{facts.variant}, {manifest.size / 1e6:,.0f} MB")
    manifest.write(engine)
    return manifest


def _built(plan: BuildPlan, source: Manifest, store: Store) -> Manifest:
    with store.lock(f"engine-{plan.engine_key}"):
        manifest = store.lookup("engine", plan.engine_key)
        if manifest is not None:
            note(f"the store has this engine already (key {plan.engine_key[:12]})")
            fact(reused=True)
            return manifest
        manifest = _build(plan, source, store)
        store.publish("engine", plan.engine_key, manifest)
    return manifest


def _build(plan: BuildPlan, source: Manifest, store: Store) -> Manifest:
    backend = backends.get(plan.backend)
    with store.workspace(f"build-{plan.engine_key}") as work, store.folder(store.get(source.digest)) as folder:
        output = work / "engine"
        with (
            _cache(backend.cache_key(plan), work, store) as cache,
            progress(f"Building {plan.variant}", 0, "steps") as bar,
        ):
            done = backend.build(plan, folder, output, cache=cache, log=work / "build.log", on_progress=bar.update)
        if done != plan:
            note(
                f"built for max_batch_size {done.max_batch_size} and max_num_tokens {done.max_num_tokens}: "
                f"what was planned ({plan.max_batch_size} and {plan.max_num_tokens}) did not fit"
            )
        checkpoint = source.facts_as(CheckpointFacts)
        facts = EngineFacts(
            backend=plan.backend,
            variant=plan.variant,
            engine_key=plan.engine_key,
            name=checkpoint.name,
            source=checkpoint.source,
            revision=checkpoint.revision,
            max_batch_size=done.max_batch_size,
            max_input_len=done.max_input_len,
            max_seq_len=done.max_seq_len,
            chat_template=checkpoint.chat_template,
            versions=plan.versions,
            max_num_tokens=done.max_num_tokens,
            tp_size=plan.tp_size,
            pp_size=plan.pp_size,
            gpu_kind=plan.gpu_kind,
            trtllm_version=plan.trtllm_version,
            options=done.options,
        )
        # What the backend only linked from the checkpoint is in the store already.
        inodes = {(folder / file.path).stat().st_ino: file for file in source.files}
        known = {
            path.relative_to(output).as_posix(): file
            for path in output.rglob("*")
            if path.is_file() and (file := inodes.get(path.stat().st_ino)) is not None
        }
        return store.put_folder(
            output, kind="engine", facts=dataclasses.asdict(facts), parents=(source.digest,), known=known
        )


@contextmanager
def _cache(key: str, work: Path, store: Store) -> Iterator[Path]:
    """A folder with what the last build of such a kind left; what is there after a good build is kept for the next."""
    folder = work / "cache"
    folder.mkdir()
    if key and (known := store.lookup("cache", key)) is not None:
        with store.folder(known) as kept:
            # By content alone: the store's files are read-only, and the tool writes over its own.
            shutil.copytree(kept, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    yield folder
    if key and any(folder.iterdir()):
        store.publish("cache", key, store.put_folder(folder, kind="cache", facts={}))
