"""Every error that kfp-trtllm raises on purpose.

    KfpTrtllmError
    ├── InvalidSpec          (ValueError)    a parameter is wrong: the user mends it; nothing was spent
    ├── SourceError          (RuntimeError)  the model can't be had, or is not what it should be
    ├── StoreError           (RuntimeError)  bytes are missing, damaged or can't be written
    ├── BuildFailed          (RuntimeError)  a tool that converts, builds or measures an engine failed
    │   └── Unsupported                      the tool does not know such a model; another backend may
    ├── DeployFailed         (RuntimeError)  a revision did not come up, or traffic can't be moved
    └── VerdictError         (RuntimeError)  a measurement says no; raised by require_verdict only
        ├── GateFailed                       accuracy, selection or smoke test
        ├── RolledBack                       the canary was worse than stable
        └── Inconclusive                     the evidence did not suffice by the deadline

Each class has an `exit_code` that a process ends with, so that a CI job can tell them apart. Messages name the
thing, the rule and the value: "max_batch_size must be at least 1, but got 0."
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class KfpTrtllmError(Exception):
    """Base of all errors below; `str(error)` is one line meant for a user, then, for tools, their log's end."""

    exit_code: ClassVar[int] = 1
    diagnosis: Any = None  # what the doctor says (core.doctor.diagnosis.Diagnosis), where a tool's log tells it


class InvalidSpec(KfpTrtllmError, ValueError):
    """A parameter breaks a rule; raised before anything is spent."""

    exit_code = 2


class SourceError(KfpTrtllmError, RuntimeError):
    """A model source is missing, unreachable, damaged or not what it should be."""


class StoreError(KfpTrtllmError, RuntimeError):
    """The store lacks bytes, holds damaged ones, or can't be written."""


class BuildFailed(KfpTrtllmError, RuntimeError):
    """A conversion, a build, an evaluation or a benchmark failed."""


class Unsupported(BuildFailed):
    """The tool does not know the model's architecture or one of its operators."""


class DeployFailed(KfpTrtllmError, RuntimeError):
    """A revision did not become ready, or traffic could not be moved as asked."""


class VerdictError(KfpTrtllmError, RuntimeError):
    """A measurement's verdict forbids going on."""


class GateFailed(VerdictError):
    """Accuracy, selection or smoke test said no."""

    exit_code = 4


class RolledBack(VerdictError):
    """The canary was worse than stable; traffic is back on stable."""

    exit_code = 3


class Inconclusive(VerdictError):
    """The evidence sufficed neither to promote nor to roll back; traffic is back on stable."""

    exit_code = 5


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """Words for "there is no such thing": names what exists and the nearest match.

    Args:
        what: The noun, as the user knows it, for example "backend".
        value: What was given.
        known: Every value that would do.
    """
    names = sorted(known)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{what} must be one of {', '.join(names)}, but got {value!r}.{hint}"


def tail(log: str, lines: int = 15) -> str:
    """The last non-empty lines of a log, for the end of an error message."""
    kept = [line.rstrip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join(kept[-lines:])
