"""Makes the checkpoint that a backend builds from."""

from __future__ import annotations

from pathlib import Path

from kfp_trtllm.convert_checkpoint.spec import Conversion
from kfp_trtllm.core.backends.base import BuildPlan
from kfp_trtllm.core.conversion import converted as convert
from kfp_trtllm.core.manifest import Manifest
from kfp_trtllm.core.step import note
from kfp_trtllm.core.store import open_store
from kfp_trtllm.errors import Unsupported


def run(spec: Conversion, *, checkpoint: Path, plan: Path, converted: Path) -> Manifest:
    """Converts or quantizes a checkpoint as a plan wants it; passes it on where the backend takes it as it is.

    Where the tool does not know such a model, the plan's fallback is converted for instead.
    """
    decided = BuildPlan.read(plan)
    source = Manifest.read(checkpoint)
    store = open_store(spec.store)
    try:
        manifest = convert(decided, source, store)
    except Unsupported as problem:
        if decided.fallback is None:
            raise
        note(f"backend {decided.fallback.backend} instead of {decided.backend}: {str(problem).splitlines()[0]}")
        manifest = convert(decided.fallback, source, store)
    manifest.write(converted)
    return manifest
