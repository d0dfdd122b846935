"""What this machine lacks to run a revision."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from kfp_trtllm.core.targets.base import Revision
from kfp_trtllm.core.targets.local import gateway, triton
from kfp_trtllm.errors import DeployFailed, tail

_GLIBC = (2, 35)  # what the wheel (manylinux_2_35) was built against
_OWN_MEMORY = 300 * 2**20  # of a Triton with its Python process, without the model
_OWN_DISK = 100 * 2**20  # logs, and the folder of the Python backend
_SHARED_MEMORY = 16 * 2**20  # tensors pass between Triton and model.py through it


def problems(revision: Revision, root: Path, repository: Path) -> Iterator[str]:
    """One line for each thing that would keep a revision from running here.

    Args:
        revision: What is to be deployed.
        root: The target's folder; it need not exist yet.
        repository: Where its model repository is, or will be.
    """
    command = (revision.facts.launch.get("argv") or ["tritonserver"])[0]
    if command != "tritonserver":
        yield f"{revision.name} must be started by {command}, but target local starts tritonserver only."
    yield from _platform()
    yield from _parts()
    needed = _OWN_MEMORY + _size(repository)
    if (available := _available_memory()) is not None and available < needed:
        yield f"{needed >> 20} MiB of memory are needed, but {available >> 20} MiB are available."
    for folder, minimum in ((_existing(root), _OWN_DISK), (Path("/dev/shm"), _SHARED_MEMORY)):
        if not folder.exists():
            yield f"{folder} does not exist, but Triton's Python backend needs it."
        elif (free := shutil.disk_usage(folder).free) < minimum:
            yield f"{minimum >> 20} MiB are needed in {folder}, but {free >> 20} MiB are free."


def _platform() -> Iterator[str]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        yield f"target local needs Linux on x86_64, but this is {platform.system()} on {platform.machine()}."
        return
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
        yield (
            f"target local needs glibc 2.35 or later, but this is {library or 'another C library'} {version}".rstrip()
            + "."
        )
    try:
        numpy = metadata.version("numpy")
    except metadata.PackageNotFoundError:
        yield "numpy is not installed, but Triton's Python backend needs it: pip install 'kfp-trtllm[local]'."
    else:
        if int(numpy.split(".")[0]) >= 2:
            yield f"numpy must be below 2 (Triton's Python backend misreads texts of numpy 2), but is {numpy}."


def _parts() -> Iterator[str]:
    python = Path(sys.executable).parent / "python3"
    if not python.exists():
        yield f"{python} does not exist, but Triton's Python backend finds its packages through it."
    try:
        parts = triton.installation()
    except DeployFailed as error:
        yield str(error)
    else:
        # Neither knows a --version: what counts is that the dynamic linker can load them.
        yield from _not_running("tritonserver", [str(parts.server), "--help"], expected="Usage")
        yield from _not_running("Triton's Python backend", [str(parts.stub)], expected="arguments")
    try:
        yield from _not_running("Caddy", [gateway.binary(), "version"], expected="v2")
    except DeployFailed as error:
        yield str(error)


def _not_running(what: str, argv: Sequence[str], *, expected: str) -> Iterator[str]:
    try:
        done = subprocess.run(
            list(argv), env=triton.environment(), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"{what} can't be run: {error}."
        return
    output = done.stdout + done.stderr
    if expected not in output:
        yield f"{what} can't be run: {tail(output, 1) or f'it ended with status {done.returncode}'}."


def _available_memory() -> int | None:
    """Bytes that a new process may use: the machine's, or this container's when that is less; None when unknown."""
    found: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")
        stat = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text("ascii").splitlines())
        if limit != "max":
            found.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))  # file cache can be dropped
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
