"""What every component's process does around its work: report, progress, errors as one line, signals.

A step tells what it does through events, one JSON object a line. Where a runner set KFP_TRTLLM_EVENTS to a file,
they go there and it draws bars and tables from them; elsewhere (a pod's log) they become readable lines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_trtllm.core.process import die_with_parent
from kfp_trtllm.errors import KfpTrtllmError

EVENTS_VARIABLE = "KFP_TRTLLM_EVENTS"
_QUIET_SECONDS = 5.0  # between two progress lines in a pod's log

_current = ""


def emit(event: str, **values: Any) -> None:
    """Sends one event of the current step; `values` are JSON."""
    record = {"time": time.time(), "step": _current, "pid": os.getpid(), "event": event, **values}
    path = os.environ.get(EVENTS_VARIABLE)
    if path:
        line = json.dumps(record) + "\n"
        # One write of a short line to a file opened for appending is atomic, so parallel steps don't mix.
        with open(path, "a", encoding="utf-8") as sink:
            sink.write(line)


def note(text: str) -> None:
    """Says something that a person who watches the run wants to know."""
    emit("note", text=text)
    print(text, flush=True)


def fact(**values: Any) -> None:
    """Hands facts to the runner's summary table, for example `reused="engine"` or `decision="promoted"`."""
    emit("fact", **values)


def leave(path: str | Path | None, text: str) -> None:
    """Writes a step's artifact, such as a report; does nothing where nobody asked for it.

    Args:
        path: Where to; KFP gives it as text.
        text: The whole content.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


class Progress:
    """Progress of one piece of long work."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        """Starts at zero; see `progress`."""
        self.what, self.total, self.unit, self.done = what, total, unit, 0.0
        self._printed = time.monotonic()
        self._sent = 0.0

    def update(self, done: float, total: float | None = None) -> None:
        """Sets how much is done, in the unit given at the start."""
        self.done = done
        if total is not None:
            self.total = total
        now = time.monotonic()
        if now - self._sent > 0.1 or done >= self.total:
            self._sent = now
            emit("progress", what=self.what, done=done, total=self.total, unit=self.unit)
        if now - self._printed > _QUIET_SECONDS:
            self._printed = now
            print(f"{self.what}: {done:,.0f} of {self.total:,.0f} {self.unit}", flush=True)

    def advance(self, amount: float) -> None:
        """Adds to what is done."""
        self.update(self.done + amount)


@contextmanager
def progress(what: str, total: float, unit: str = "") -> Iterator[Progress]:
    """A progress bar around long work.

    Args:
        what: What is going on, for example "Downloading".
        total: How much there is to do; 0 when it is not known yet.
        unit: "B" for bytes, else a plural noun.
    """
    bar = Progress(what, total, unit)
    emit("progress", what=what, done=0, total=total, unit=unit)
    yield bar
    emit("progress", what=what, done=bar.total, total=bar.total, unit=unit)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Wraps a component's body: a KfpTrtllmError ends the process with its message and exit code, no traceback.

    SIGTERM becomes an ordinary exit, so that `finally` blocks run when a pod is stopped or a local run is killed.

    Args:
        name: The component's name.
    """
    global _current
    _current = name
    if os.environ.get(EVENTS_VARIABLE):
        die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _terminated)
    emit("start")
    began = time.monotonic()
    try:
        yield
    except KfpTrtllmError as error:
        emit("error", text=str(error), exit_code=error.exit_code, seconds=time.monotonic() - began)
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except SystemExit:
        emit("stopped", seconds=time.monotonic() - began)
        raise
    except BaseException as error:
        emit("error", text=f"{type(error).__name__}: {error}", exit_code=1, seconds=time.monotonic() - began)
        raise
    emit("end", seconds=time.monotonic() - began)


def _terminated(signum: int, _frame: object) -> None:
    sys.exit(128 + signum)
