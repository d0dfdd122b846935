"""Brings a model into the store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kfp_trtllm.core import checkpoint as checkpoints
from kfp_trtllm.core import keys, sources
from kfp_trtllm.core.manifest import Manifest
from kfp_trtllm.core.step import fact, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.fetch_model.spec import Fetch

_LAYOUT = 1  # raised when the same source would make other files


def run(spec: Fetch, *, checkpoint: Path) -> Manifest:
    """Fetches a model as a checkpoint, unless the store has this revision already, and writes its manifest."""
    source = sources.parse(spec.source)
    store = open_store(spec.store)
    resolved = source.resolve() if not spec.revision else sources.Resolved(source=spec.source, revision=spec.revision)
    key = keys.key(source=resolved.source, revision=resolved.revision, allow_pickle=spec.allow_pickle, layout=_LAYOUT)
    with store.lock(f"checkpoint-{key}"):
        found = store.lookup("checkpoint", key)
        if found is not None:
            note(f"the store has {resolved.source} at {resolved.revision[:12]} already")
            fact(reused=True, result=f"{found.size / 1e6:,.0f} MB in the store")
            found.write(checkpoint)
            return found
        with store.workspace(f"fetch-{key}", keep=True) as work:
            folder = work / "checkpoint"
            folder.mkdir(exist_ok=True)
            with progress(f"Fetching {resolved.source}", 0, "B") as bar:
                fetched = source.fetch(
                    resolved.revision,
                    folder,
                    allow_pickle=spec.allow_pickle,
                    on_progress=lambda done, total: bar.update(done, total),
                )
            facts = checkpoints.inspect(
                folder,
                source=resolved.source,
                revision=resolved.revision,
                name=fetched.name,
                license=fetched.license,
            )
            manifest = store.put_folder(folder, kind="checkpoint", facts=dataclasses.asdict(facts))
        store.publish("checkpoint", key, manifest)
    note(f"{facts.architecture}, {facts.parameters / 1e6:,.1f} M parameters, {manifest.size / 1e6:,.0f} MB")
    fact(result=f"{manifest.size / 1e6:,.0f} MB")
    manifest.write(checkpoint)
    return manifest
