"""Run a tool: its log kept and shown at its end, its progress followed, no orphan left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kfp_trtllm.errors import BuildFailed, KfpTrtllmError, tail

_PR_SET_PDEATHSIG = 1
_PATIENCE_SECONDS = 0.5  # for the children of a tool that has ended, which may still have its pipe


def die_with_parent(signum: int = signal.SIGTERM) -> None:
    """Asks Linux to signal this process when its parent dies, so that a killed run leaves no step running."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def run_tool(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    error: type[KfpTrtllmError] = BuildFailed,
) -> str:
    """Runs a tool to its end and returns its output (stdout and stderr as they came).

    Args:
        argv: The command; never through a shell.
        log: File that receives the output as it comes.
        env: Variables added to this process's environment.
        cwd: Working folder of the tool.
        on_line: Called with each line (also those ended by a carriage return, as progress bars write them).
        error: Raised when the status is not 0; names the command, its status, what the log says was wrong where that
            is known, and the log's end. Its `diagnosis` is the doctor's, or None.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        process = subprocess.Popen(
            list(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
            start_new_session=True,  # so that its own children can be ended with it
        )
    except OSError as reason:
        raise error(f"can't start {argv[0]}: {reason.strerror}.") from None
    assert process.stdout is not None
    kept: list[bytes] = []
    line = b""
    try:
        with log.open("wb") as sink:
            while chunk := _read(process):
                sink.write(chunk)
                sink.flush()
                kept.append(chunk)
                if on_line is not None:
                    *lines, line = (line + chunk).replace(b"\r", b"\n").split(b"\n")
                    for entry in lines:
                        on_line(entry.decode(errors="replace"))
        if on_line is not None and line:
            on_line(line.decode(errors="replace"))
        status = process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):  # whoever of its family is left, also when it ended well
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    output = b"".join(kept).decode(errors="replace")
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        from kfp_trtllm.core.doctor.examine import examine

        diagnosis = examine(output, status=status, tool=argv[0])
        advice = f"\n{diagnosis.cause} {diagnosis.remedy}" if diagnosis else ""
        problem = error(f"{shlex.join(argv)} {how}.{advice}\nThe end of its log:\n{tail(output)}")
        problem.diagnosis = diagnosis
        raise problem
    return output


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """The next output; b"" at its end, or when the tool is gone and what it left behind says nothing more."""
    assert process.stdout is not None
    while True:
        gone = process.poll() is not None
        if select.select([process.stdout], [], [], _PATIENCE_SECONDS)[0]:
            return os.read(process.stdout.fileno(), 65536)
        if gone:
            return b""


def born(pid: int) -> str:
    """When a running process started, in ticks since boot; "" when there is none."""
    fields = stat(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat after the command: state, parent, process group, session, …; [] without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
