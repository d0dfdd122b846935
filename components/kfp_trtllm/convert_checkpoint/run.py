"""Makes the checkpoint that a backend builds from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kfp_trtllm.convert_checkpoint.spec import Conversion
from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.manifest import CheckpointFacts, Manifest
from kfp_trtllm.core.step import fact, note
from kfp_trtllm.core.store import open_store


def run(spec: Conversion, *, checkpoint: Path, plan: Path, converted: Path) -> Manifest:
    """Converts or quantizes a checkpoint as a plan wants it; passes it on where the backend takes it as it is."""
    decided = BuildPlan.read(plan)
    backend = backends.get(decided.backend)
    source = Manifest.read(checkpoint)
    store = open_store(spec.store)
    with store.lock(f"converted-{decided.engine_key}"):
        manifest = store.lookup("converted", decided.engine_key)
        if manifest is not None:
            fact(reused=True)
        else:
            with (
                store.workspace(f"convert-{decided.engine_key}") as work,
                store.folder(store.get(source.digest)) as folder,
            ):
                if backend.convert(decided.variant, folder, work / "checkpoint"):
                    facts = dataclasses.replace(source.facts_as(CheckpointFacts), variant=decided.variant)
                    manifest = store.put_folder(
                        work / "checkpoint",
                        kind="checkpoint",
                        facts=dataclasses.asdict(facts),
                        parents=(source.digest,),
                    )
            if manifest is None:
                note(f"nothing to convert: {decided.backend} builds {decided.variant} from the checkpoint as it is")
                fact(result="nothing to do")
                manifest = source
            else:
                store.publish("converted", decided.engine_key, manifest)
    manifest.write(converted)
    return manifest
