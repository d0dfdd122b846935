"""Triton Inference Server from the nvidia-pytriton wheel: its parts, its command, its metrics, its last words."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kfp_trtllm.core.targets.local import loopback
from kfp_trtllm.core.targets.local.state import Server
from kfp_trtllm.errors import DeployFailed, tail

EXIT_TIMEOUT_SECONDS = 15  # for requests that did not come through the gateway and so were not waited for before
_SHARED_MEMORY = Path("/dev/shm")
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Installation:
    """Where the wheel put things.

    Attributes:
        server: The tritonserver binary.
        backend: Folder of the Python backend.
        stub: What runs model.py, for this version of Python.
        libraries: Folder of the shared libraries that the wheel carries.
        version: Of the wheel.
    """

    server: Path
    backend: Path
    stub: Path
    libraries: Path
    version: str


def installation() -> Installation:
    """The installed Triton; DeployFailed with the remedy when there is none or none for this Python."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise DeployFailed("Triton is not installed: pip install 'kfp-trtllm[local]'.")
    package = Path(spec.origin).parent
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = package / "tritonserver"
    found = Installation(
        server=parts / "bin" / "tritonserver",
        backend=parts / "backends" / "python",
        stub=parts / "python_backend_stubs" / python / STUB,
        libraries=package.parent / "nvidia_pytriton.libs",
        version=importlib.metadata.version("nvidia-pytriton"),
    )
    if not found.server.exists():
        raise DeployFailed(f"nvidia-pytriton {found.version} has no tritonserver for this platform.")
    if not found.stub.exists():
        raise DeployFailed(f"nvidia-pytriton {found.version} can't run model.py on Python {python}.")
    return found


def backends(root: Path) -> Path:
    """The folder to give to --backend-directory: made once per version, appearing whole or not at all."""
    triton = installation()
    folder = root / "backends" / f"pytriton-{triton.version}-python-{sys.version_info.major}.{sys.version_info.minor}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        draft = Path(temporary) / "draft"
        shutil.copytree(triton.backend, draft / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(triton.stub, draft / "python" / STUB)
        (draft / "python" / STUB).chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    return folder


def environment() -> dict[str, str]:
    """The environment that tritonserver needs, on top of this process's.

    The stub starts an isolated interpreter, which ignores every PYTHON* variable: it takes the `python3` that is
    first on PATH, and with it that interpreter's site-packages.
    """
    libraries = [str(installation().libraries), sysconfig.get_config_var("LIBDIR") or ""]
    python = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([python, os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH", "")])),
    }


def command(server: Server, root: Path) -> list[str]:
    """The command line of a revision's Triton."""
    address = loopback.ADDRESS
    flags = {
        "model-repository": server.repository,
        "backend-directory": str(backends(root)),
        "model-control-mode": "none",
        "exit-on-error": "true",
        "strict-readiness": "true",
        "exit-timeout-secs": str(EXIT_TIMEOUT_SECONDS),
        "http-address": address,
        "http-port": str(server.http),
        "grpc-address": address,
        "grpc-port": str(server.grpc),
        "metrics-address": address,
        "metrics-port": str(server.metrics),
        "allow-gpu-metrics": "false",
        "allow-cpu-metrics": "false",
        "backend-config": f"python,shm-region-prefix-name={_shared_prefix(server.token)}",
    }
    return [
        str(installation().server),
        # Complete configurations only: what the repository says is what is served, and it saves a second a start.
        "--disable-auto-complete-config",
        *(f"--{flag}={value}" for flag, value in flags.items()),
    ]


def free_shared_memory(token: str) -> None:
    """Removes what a killed Triton left in shared memory; its processes must be gone."""
    for region in _SHARED_MEMORY.glob(f"{_shared_prefix(token)}*"):
        region.unlink(missing_ok=True)


def counters(metrics: str, model: str) -> tuple[int, int]:
    """Successes and failures of a model, over all of its versions, from Triton's metrics."""
    totals = {"success": 0, "failure": 0}
    for kind, labels, value in re.findall(r"^nv_inference_request_(success|failure)\{(.*)\} (\S+)$", metrics, re.M):
        if f'model="{model}"' in labels:
            totals[kind] += int(float(value))
    return totals["success"], totals["failure"]


def last_words(log: str) -> str:
    """Why Triton ended: its own errors, without banners, tables and what every start complains about."""
    errors: list[str] = []
    for line in log.splitlines():
        if line.startswith(("E", "F", "error:")) and "CudaDriverHelper" not in line:
            text = re.sub(r"^[EF]\d{4} [\d:.]+ +\d+ +", "", line)
            errors.append(text.replace("\\n", "\n").strip().strip('"').strip())
    if errors:
        return tail("\n".join(dict.fromkeys(errors)))
    plain = (line for line in log.splitlines() if not line.startswith(("+", "|", "I")))
    return tail("\n".join(plain)) or tail(log)


def port_was_taken(log: str) -> bool:
    """Whether Triton ended because another server had taken one of its ports meanwhile."""
    return "already in use" in log or "Address already in use" in log


def read_log(path: Path, start: int = 0) -> str:
    """A log from some byte on; "" when there is none."""
    try:
        with path.open("rb") as source:
            source.seek(start)
            return source.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _shared_prefix(token: str) -> str:
    return f"kfp-trtllm-{token}-"
