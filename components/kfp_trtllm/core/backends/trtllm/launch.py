"""How Triton is started for an engine, on one GPU and on many.

- Layout `python`, either backend: Triton is started once, plainly. The LLM API in model.py starts the other ranks
  itself (MPI_Comm_spawn). Under mpirun, each rank's model.py would open the engine and start all ranks again.
- Layout `cpp`: one Triton per rank under mpirun, as NVIDIA's launch_triton_server.py writes it; ranks behind the first
  load the engine's model only, and stay in its load. That script starts mpirun and returns, which would end a pod, so
  here the command is to be run in the foreground (exec).
- More than one node, layout `python`: a scheduler (srun --mpi=pmix, or a pod per rank that mpirun knows) starts the
  command once per rank; `trtllm-llmapi-launch` makes the first rank Triton and the others workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.errors import InvalidSpec

LAYOUTS = ("cpp", "python")
CPP_MODEL = "tensorrt_llm"  # the model that every rank loads

_FLAGS = "{flags}"
_SERVER = (
    "tritonserver",
    "--model-repository={repository}",
    "--http-port={http_port}",
    "--grpc-port={grpc_port}",
    "--metrics-port={metrics_port}",
)
# Where a pod runs as root, Open MPI wants to hear twice that this is meant.
_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A way to start Triton; JSON by dataclasses.asdict.

    Attributes:
        argv: The command with {repository}, {http_port}, {grpc_port}, {metrics_port}, and {flags} where a target puts
            flags of its own.
        environment: Variables that it needs.
        ranks: Processes that hold a part of the model: tensor times pipeline parallel.
        starts: Times that whoever runs it must start it: 1, or `ranks` where a scheduler starts each rank.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    starts: int = 1

    def command(
        self, *, repository: str, http_port: int, grpc_port: int, metrics_port: int, flags: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The command line.

        Args:
            repository: Path of the model repository as Triton sees it.
            http_port: Port for HTTP.
            grpc_port: Port for gRPC.
            metrics_port: Port for Prometheus metrics.
            flags: Further flags of tritonserver, for every rank.
        """
        values = {
            "{repository}": repository,
            "{http_port}": str(http_port),
            "{grpc_port}": str(grpc_port),
            "{metrics_port}": str(metrics_port),
        }
        words: list[str] = []
        for word in self.argv:
            if word == _FLAGS:
                words += flags
                continue
            for name, value in values.items():
                if name in word:
                    word = word.replace(name, value)
                    break  # a path may look like a placeholder
            words.append(word)
        return tuple(words)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Launch:
        """What dataclasses.asdict made, back from JSON."""
        return cls(**{**document, "argv": tuple(document["argv"])})


def launch(tp_size: int, pp_size: int, backend: str, layout: str, *, nodes: int = 1) -> Launch:
    """How to start Triton.

    Args:
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        backend: "pytorch" or "tensorrt".
        layout: "python" or "cpp".
        nodes: Machines that the ranks are spread over.

    Raises:
        InvalidSpec: The combination doesn't exist, or nobody knows how to start it.
    """
    rules.one_of("backend", backend, ("pytorch", "tensorrt"))
    rules.one_of("layout", layout, LAYOUTS)
    rules.at_least("tp_size", tp_size, 1)
    rules.at_least("pp_size", pp_size, 1)
    rules.at_least("nodes", nodes, 1)
    ranks = tp_size * pp_size
    if ranks % nodes:
        raise InvalidSpec(f"nodes must divide tp_size * pp_size = {ranks}, but got {nodes}.")
    if layout == "cpp":
        if backend != "tensorrt":
            raise InvalidSpec(
                f"layout must be python with backend {backend}, but got cpp: it serves built engines only."
            )
        if nodes > 1:
            raise InvalidSpec(f"nodes must be 1 with layout cpp, but got {nodes}: use layout python.")
        return _mpirun(ranks) if ranks > 1 else Launch(argv=(*_SERVER, _FLAGS))
    if nodes > 1:
        return Launch(argv=("trtllm-llmapi-launch", *_SERVER, _FLAGS), ranks=ranks, starts=ranks)
    return Launch(argv=(*_SERVER, _FLAGS), environment=_AS_ROOT if ranks > 1 else {}, ranks=ranks)


def _mpirun(ranks: int) -> Launch:
    argv: list[str] = ["mpirun", "--allow-run-as-root"]
    for rank in range(ranks):
        if rank:
            argv.append(":")
        argv += ["-n", "1", *_SERVER]
        if rank:
            argv += ["--model-control-mode=explicit", f"--load-model={CPP_MODEL}"]
        # Each rank has Python models of its own, or would have: their shared memory must not meet.
        argv += [
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
            _FLAGS,
        ]
    return Launch(argv=tuple(argv), ranks=ranks)
