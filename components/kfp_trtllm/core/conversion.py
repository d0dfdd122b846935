"""Makes the checkpoint that a backend builds from, once for everyone who shares the store."""

from __future__ import annotations

import dataclasses

from kfp_trtllm.core import backends
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.manifest import CheckpointFacts, Manifest
from kfp_trtllm.core.step import fact, note, progress
from kfp_trtllm.core.store.base import Store


def converted(plan: BuildPlan, source: Manifest, store: Store) -> Manifest:
    """The checkpoint that a plan is built from; the source itself where the backend takes it as it is.

    Args:
        plan: The plan.
        source: The checkpoint as fetched.
        store: Has the source, and gets the result.

    Raises:
        Unsupported: The tool does not know such a model.
        BuildFailed: Anything else that the tool says.
    """
    backend = backends.get(plan.backend)
    with store.lock(f"converted-{plan.conversion_key}"):
        manifest = store.lookup("converted", plan.conversion_key)
        if manifest is not None:
            fact(reused=True, result=f"{plan.variant}, {manifest.size / 1e6:,.0f} MB")
            return manifest
        with (
            store.workspace(f"convert-{plan.conversion_key}") as work,
            store.folder(store.get(source.digest)) as folder,
            progress(f"Converting to {plan.variant}", 0, "steps") as bar,
        ):
            output = work / "checkpoint"
            if not backend.convert(plan, folder, output, log=work / "convert.log", on_progress=bar.update):
                note(f"nothing to convert: {plan.backend} builds {plan.variant} from the checkpoint as it is")
                fact(result="nothing to do")
                return source
            facts = dataclasses.replace(source.facts_as(CheckpointFacts), variant=plan.variant, backend=plan.backend)
            manifest = store.put_folder(
                output, kind="checkpoint", facts=dataclasses.asdict(facts), parents=(source.digest,)
            )
        store.publish("converted", plan.conversion_key, manifest)
    fact(result=f"{plan.variant}, {manifest.size / 1e6:,.0f} MB")
    return manifest
