"""What the local target knows, in one JSON file: written whole or not at all, changed by one process at a time."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_trtllm.core.manifest import RepositoryFacts
from kfp_trtllm.core.targets.base import Revision
from kfp_trtllm.core.targets.local.processes import Process
from kfp_trtllm.errors import DeployFailed

SCHEMA = 2  # 2: weights of versions


@dataclass(frozen=True, kw_only=True)
class Server:
    """A revision's Triton.

    Attributes:
        revision: What it serves.
        repository: Folder of the model repository.
        http: Port of its HTTP service.
        grpc: Port of its gRPC service.
        metrics: Port of its metrics.
        token: Names this start of it; see `processes`.
        process: None between the decision to start it and its start.
        started: Seconds since the epoch.
        restarts: Times that it was found dead and started again.
        log_from: Bytes of its log that earlier starts wrote.
        was_ready: Whether this start of it has answered.
    """

    revision: Revision
    repository: str
    http: int
    grpc: int
    metrics: int
    token: str
    process: Process | None
    started: float
    restarts: int = 0
    log_from: int = 0
    was_ready: bool = False


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The one gateway of the target.

    Attributes:
        port: Where requests go.
        admin: Port of its admin API.
        token: Names this start of it.
        process: As in Server.
    """

    port: int
    admin: int
    token: str
    process: Process | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Who serves a model.

    Attributes:
        stable: Name of a server, "" for none.
        canary: Name of a server, "" for none.
        retiring: Names of servers that get no traffic any more and are to be stopped.
        weights: Shares as last wanted; what the gateway does is read from the gateway.
        rollout: Saved state of the rollout engine.
        versions: Percent of stable's requests by version, without zeros; empty for Triton's own choice.
    """

    stable: str = ""
    canary: str = ""
    retiring: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    rollout: dict[str, Any] | None = None
    versions: Mapping[int, int] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether anything is deployed; a model may be known by its rollout only."""
        return bool(self.stable or self.canary)


@dataclass
class State:
    """The whole state; the only mutable thing here.

    Attributes:
        models: By model name.
        servers: By revision name.
        gateway: None before the first deployment.
    """

    models: dict[str, Model] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    gateway: Gateway | None = None

    def model(self, name: str) -> Model:
        """The model, an empty one when nothing is known of it."""
        return self.models.get(name, Model())

    def change(self, name: str, **values: Any) -> None:
        """Sets fields of a model; one with nothing left in it is forgotten."""
        model = dataclasses.replace(self.model(name), **values)
        if model == Model():
            self.models.pop(name, None)
        else:
            self.models[name] = model

    @property
    def ports(self) -> set[int]:
        """Every port that is promised to somebody."""
        ports = {port for server in self.servers.values() for port in (server.http, server.grpc, server.metrics)}
        return ports | ({self.gateway.port, self.gateway.admin} if self.gateway else set())

    @property
    def tokens(self) -> set[str]:
        """Every start of a server that is known."""
        return {server.token for server in self.servers.values()} | ({self.gateway.token} if self.gateway else set())


class StateFile:
    """The state on disk.

    Args:
        root: The target's folder.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "state.json"
        self._lock = root / "lock"

    def read(self) -> State:
        """The state as last written; DeployFailed when a newer version wrote it or it is no state."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return State()
        try:
            document = json.loads(text)
            schema = int(document["schema"])
            if schema > SCHEMA:
                raise DeployFailed(
                    f"{self.path} was written by schema {schema}, but this version reads up to {SCHEMA}: "
                    "upgrade kfp-trtllm."
                )
            return _decode(document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeployFailed(
                f"{self.path} is not the local target's state ({type(error).__name__}: {error})."
            ) from None

    def write(self, state: State) -> None:
        """Replaces the state; whoever is killed meanwhile leaves the old one."""
        document = {"schema": SCHEMA, **dataclasses.asdict(state)}
        write_json(self.path, document)

    @contextmanager
    def locked(self) -> Iterator[State]:
        """The state, while no other process changes it; what has changed when the block ends is written."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock.open("w") as lock:  # never inherited by servers: Python opens files close-on-exec
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            try:
                yield state
            finally:
                self.write(state)


def write_json(path: Path, document: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            json.dump(document, sink, indent=1)
            sink.flush()
            os.fsync(sink.fileno())
        os.rename(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _decode(document: Mapping[str, Any]) -> State:
    gateway = document["gateway"]
    return State(
        models={name: _model(entry) for name, entry in document["models"].items()},
        servers={
            name: Server(**{**entry, "revision": _revision(entry["revision"]), "process": _process(entry["process"])})
            for name, entry in document["servers"].items()
        },
        gateway=gateway and Gateway(**{**gateway, "process": _process(gateway["process"])}),
    )


def _model(entry: Mapping[str, Any]) -> Model:
    versions = {int(version): weight for version, weight in entry.get("versions", {}).items()}  # JSON's keys are texts
    return Model(**{**entry, "retiring": tuple(entry["retiring"]), "versions": versions})


def _revision(entry: Mapping[str, Any]) -> Revision:
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry["facts"].items()
    }
    if isinstance(facts.get("launch"), str):  # schema 1
        facts["launch"] = {}
    return Revision(**{**entry, "facts": RepositoryFacts(**facts)})


def _process(entry: Mapping[str, Any] | None) -> Process | None:
    return None if entry is None else Process(**entry)
