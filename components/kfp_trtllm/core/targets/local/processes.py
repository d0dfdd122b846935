"""Servers that outlive the run that started them: how they are found again, and never mistaken for another process.

Every server carries a marker in its environment: the target's folder and a token that is written to the state
before the process starts. So a server is found even when its starter was killed before it could note the process
id, and a recycled process id is never signalled: who does not carry the token is not ours.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kfp_trtllm.core.process import born, stat

_MARKER = "KFP_TRTLLM_LOCAL"
_STARTED: list[subprocess.Popen[bytes]] = []  # kept so that children which end early are reaped, not left as zombies


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same id.

    Attributes:
        pid: Process id.
        born: When it started, in the kernel's ticks since boot.
    """

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Whether it runs; one that ended and was not yet reaped does not."""
        return self.born != "" and born(self.pid) == self.born


def new_token() -> str:
    """A name for one start of one server."""
    return secrets.token_hex(6)


def start(argv: Sequence[str], *, env: Mapping[str, str], log: Path, root: Path, token: str) -> Process:
    """Starts a server in its own session, with its output appended to a log.

    Args:
        argv: The command.
        env: Its whole environment.
        log: Receives stdout and stderr.
        root: The target's folder; also the server's working folder.
        token: Written to the state already.

    Raises:
        OSError: The command can't be started.
    """
    reap()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(argv),
            env={**env, _MARKER: f"{root}:{token}"},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=root,
            start_new_session=True,  # a Ctrl-C or the end of the run's terminal must not reach it
        )
    _STARTED.append(process)
    return Process(process.pid, born(process.pid))


def reap() -> None:
    """Collects the exit status of children that ended."""
    _STARTED[:] = [process for process in _STARTED if process.poll() is None]


def marked(root: Path) -> dict[str, list[Process]]:
    """The running processes of a target's servers, by token; a server's own process comes before its children."""
    wanted = f"{_MARKER}={root}:".encode()
    found: dict[str, list[Process]] = {}
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if wanted not in environment:
            continue
        for entry in environment.split(b"\0"):
            when = born(pid)
            if entry.startswith(wanted) and when:
                found.setdefault(entry.removeprefix(wanted).decode(errors="replace"), []).append(Process(pid, when))
    for processes in found.values():
        processes.sort(key=lambda process: int(process.born))
    return found


def leader(root: Path, token: str) -> Process | None:
    """The server's own process: the one that leads its session; None when it does not run."""
    for process in marked(root).get(token, []):
        fields = stat(process.pid)
        if fields and fields[3] == str(process.pid):
            return process
    return None


def lost_child(pid: int, name: str) -> bool:
    """Whether a process has a child of that name (as the kernel shortens it) that died and was not collected."""
    for child in _pids():
        fields = stat(child)
        if fields and fields[0] == "Z" and fields[1] == str(pid) and _name(child) == name[:15]:
            return True
    return False


def stop(root: Path, tokens: Sequence[str], *, grace_seconds: float) -> None:
    """Ends servers with all their children: SIGTERM, a bounded wait, then SIGKILL. Returns when none is left.

    Args:
        root: The target's folder.
        tokens: Of the servers; they are ended side by side.
        grace_seconds: Time to end by themselves; 0 kills at once.
    """
    deadline = time.monotonic() + grace_seconds
    asked = grace_seconds <= 0
    while True:
        reap()
        everyone = marked(root)
        left = [process for token in tokens for process in everyone.get(token, [])]
        if not left:
            return
        if not asked:  # the servers only: a Triton whose children get the signal too can't unload its model
            for token in tokens:
                for process in everyone.get(token, [])[:1]:
                    _signal(process, signal.SIGTERM)
            asked = True
        elif time.monotonic() >= deadline:
            for process in left:
                _signal(process, signal.SIGKILL)
        time.sleep(0.05)


def _signal(process: Process, signum: signal.Signals) -> None:
    """Signals exactly this process: the handle is opened first, then the process behind it is looked at."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if process.alive:
            signal.pidfd_send_signal(handle, signum)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _pids() -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""
