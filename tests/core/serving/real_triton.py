"""The real Triton of the nvidia-pytriton wheel, on free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytriton
from kfp_trtllm.core.process import die_with_parent
from kfp_trtllm.core.targets.base import Endpoint


@dataclass(frozen=True)
class Server:
    """A running Triton."""

    endpoint: Endpoint
    metrics: str
    log: Path
    process: subprocess.Popen[bytes]

    def ready(self, model: str, version: int) -> bool:
        return httpx.get(f"{self.endpoint.url}/v2/models/{model}/versions/{version}/ready").status_code == 200

    def counters(self, name: str) -> dict[tuple[str, str], float]:
        """A metric's values by (model, version)."""
        values = {}
        for line in httpx.get(self.metrics).text.splitlines():
            if line.startswith(name + "{"):
                labels = dict(entry.split("=") for entry in line.split("{")[1].split("}")[0].split(","))
                values[labels["model"].strip('"'), labels["version"].strip('"')] = float(line.rsplit(" ", 1)[1])
        return values


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [entry.getsockname()[1] for entry in sockets]


@contextlib.contextmanager
def serve(repository: Path, work: Path) -> Iterator[Server]:
    """Triton over a model repository; ready when it says so, gone at the end."""
    package = Path(pytriton.__file__).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = work / "backends"
    shutil.copytree(package / "tritonserver/backends/python", backends / "python")
    stub = package / f"tritonserver/python_backend_stubs/{version}/triton_python_backend_stub"
    shutil.copy2(stub, backends / "python")
    http, grpc, metrics = free_ports(3)
    log = work / "triton.log"
    libraries = f"{package.parent / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    # The stub's interpreter is isolated: it is the first python3 on PATH, with that one's packages.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                str(package / "tritonserver/bin/tritonserver"),
                f"--model-repository={repository}",
                f"--backend-directory={backends}",
                "--http-address=127.0.0.1",
                f"--http-port={http}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={grpc}",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={metrics}",
                "--http-thread-count=16",
                "--exit-timeout-secs=3",  # clients of this process keep connections open
            ],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
    endpoint = Endpoint(url=f"http://127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}")
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(endpoint.url + "/v2/health/ready").status_code == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        yield Server(endpoint, f"http://127.0.0.1:{metrics}/metrics", log, process)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
