"""Our own lm-evaluation-harness tasks: small, offline, made to tell a damaged model from a sound one."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from kfp_trtllm.errors import InvalidSpec, unknown

FOLDER = Path(__file__).resolve().parent
_PREFIX = "kfp_"


def own_tasks() -> tuple[str, ...]:
    """Names of our tasks and groups, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"{_PREFIX}*.yaml")))


def fingerprint() -> str:
    """Digest of our tasks' files and the harness's version: what an evaluation that is kept depends on besides its names."""
    digest = hashlib.sha256(importlib.metadata.version("lm-eval").encode())
    for path in sorted(FOLDER.glob("*.*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def check_own(name: str) -> bool:
    """Whether a task is ours; cheap, so that a typing error is found before anything heavy is imported.

    Raises:
        InvalidSpec: The name looks like one of ours, but there is no such task.
    """
    names = own_tasks()
    if name.startswith(_PREFIX) and name not in names:
        raise InvalidSpec(unknown("a task of kfp-trtllm", name, names))
    return name in names
