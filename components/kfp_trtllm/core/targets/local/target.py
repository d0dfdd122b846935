"""The local target: what the protocol asks for, made of Tritons, a gateway and one state file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core.home import home
from kfp_trtllm.core.targets.base import (
    REVISION_HEADER,
    SERVED_BY_HEADER,
    Counters,
    Endpoint,
    ModelState,
    Revision,
    check_version_weights,
    kept_weights,
    version_shares,
)
from kfp_trtllm.core.targets.local import gateway, loopback, machine, processes, triton
from kfp_trtllm.core.targets.local.processes import Process
from kfp_trtllm.core.targets.local.state import Gateway, Server, State, StateFile, write_json
from kfp_trtllm.errors import DeployFailed, InvalidSpec, tail

_POLL_SECONDS = 0.1
_GATEWAY_SECONDS = 15.0  # for Caddy to answer after its start
_PORT_ATTEMPTS = 3  # starts of a server whose ports were taken between their choice and their use
_KEPT_LOGS = 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the target's status.

    Attributes:
        model: Model name.
        revision: Name of the revision.
        role: "stable", "canary" or "retiring".
        weight: Percent of unaddressed requests, as the gateway itself tells it.
        pid: Of its Triton, 0 when there is none.
        alive: Whether it runs and is ready.
        url: The gateway's endpoint of the model.
        uptime_seconds: Since its Triton was started; 0 when it is dead.
        repository: Digest of the repository's manifest.
        versions: Percent of `weight` by version, as the gateway itself tells it; empty where Triton chooses.
    """

    model: str
    revision: str
    role: str
    weight: int
    pid: int
    alive: bool
    url: str
    uptime_seconds: float
    repository: str
    versions: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """One version of a model that a revision serves.

    Attributes:
        revision: Name of the revision.
        role: "stable" or "canary".
        version: Triton's number.
        variant: Its precision, "" when the repository does not tell.
        weight: Percent of the revision's unaddressed requests; 0 for all versions of one that gets none.
    """

    revision: str
    role: str
    version: int
    variant: str
    weight: int


class LocalTarget:
    """Implements `base.Target` on this machine.

    Changes are serialized by a lock that the kernel frees when its holder dies; each writes what it is about to do
    before it does it, so that the next call finishes or undoes what a killed one left.

    Args:
        root: Folder of the state, the logs and the gateway's files.
        drain_seconds: Longest wait for requests in flight before their server is stopped.
    """

    name = "local"

    def __init__(self, root: Path | None = None, *, drain_seconds: float = 30.0) -> None:
        self.root = (root or home() / "local").resolve()
        self._drain_seconds = drain_seconds
        self._file = StateFile(self.root)

    # What runs

    def preflight(self, revision: Revision) -> list[str]:
        """See `base.Target`."""
        return list(machine.problems(revision, self.root, self.repository_folder(revision)))

    def state(self, model: str) -> ModelState:
        """See `base.Target`."""
        state = self._file.read()
        entry = state.model(model)
        stable, canary = (state.servers.get(name) for name in (entry.stable, entry.canary))
        config = self._config(state)
        weights = gateway.shares(config, model)
        if weights:
            weights = {**{server.revision.name: 0 for server in (stable, canary) if server}, **weights}
        return ModelState(
            stable=stable.revision if stable else None,
            canary=canary.revision if canary else None,
            weights=weights,
            versions=_version_weights(config, stable.revision) if stable else {},
        )

    def endpoint(self, model: str, revision: Revision | None = None) -> Endpoint:
        """See `base.Target`. gRPC does not pass through the gateway: without a revision it is stable's own port."""
        state = self._file.read()
        entry = state.model(model)
        name = entry.stable if revision is None else revision.name
        server = state.servers.get(name)
        if state.gateway is None or not entry.serves or (revision is not None and server is None):
            raise DeployFailed(f"{name or model} is not deployed to target local.")
        return Endpoint(
            url=f"http://{loopback.ADDRESS}:{state.gateway.port}",
            grpc=f"{loopback.ADDRESS}:{server.grpc}" if server else "",
            headers={} if revision is None else {REVISION_HEADER: name},
        )

    def observe(self, revision: Revision) -> Counters:
        """See `base.Target`. Triton starts counting anew when it is started again."""
        server = self._file.read().servers.get(revision.name)
        if server is None:
            return Counters(success=0, failure=0, restarts=0, alive=False)
        runs = self._runs(server)
        success, failure = 0, 0
        if runs:
            try:
                metrics = loopback.call(server.metrics, "GET", "/metrics")
                success, failure = triton.counters(metrics.body, revision.model)
            except OSError:
                pass
        return Counters(
            success=success,
            failure=failure,
            restarts=server.restarts + (server.was_ready and not runs),
            alive=runs and _ready(server),
        )

    def status(self) -> list[Row]:
        """Every revision that is deployed here, models in alphabetical order."""
        state = self._file.read()
        config = self._config(state)
        url = f"http://{loopback.ADDRESS}:{state.gateway.port}" if state.gateway else ""
        rows: list[Row] = []
        for model, entry in sorted(state.models.items()):
            roles = [
                ("stable", entry.stable),
                ("canary", entry.canary),
                *(("retiring", name) for name in entry.retiring),
            ]
            shares, versions = gateway.shares(config, model), gateway.versions(config, model)
            for role, name in roles:
                if (server := state.servers.get(name)) is None:
                    continue
                process = self._process(server)
                runs = self._runs(server)
                rows.append(
                    Row(
                        model=model,
                        revision=name,
                        role=role,
                        weight=shares.get(name, 0),
                        pid=process.pid if process and runs else 0,
                        alive=runs and _ready(server),
                        url=f"{url}/v2/models/{model}",
                        uptime_seconds=time.time() - server.started if runs else 0,
                        repository=server.revision.repository,
                        versions=versions.get(name, {}),
                    )
                )
        return rows

    def versions(self, model: str) -> list[VersionRow]:
        """Every version of a model that stable and canary serve, ascending; empty when nothing is deployed."""
        state = self._file.read()
        config = self._config(state)
        entry = state.model(model)
        rows: list[VersionRow] = []
        for role, name in (("stable", entry.stable), ("canary", entry.canary)):
            if (server := state.servers.get(name)) is None:
                continue
            facts = server.revision.facts
            weights = _version_weights(config, server.revision)
            for version in sorted(facts.versions):
                known = facts.variants or {str(facts.model_version): facts.variant}
                variant = known.get(str(version), "")
                weight = weights.get(version, 0)
                rows.append(VersionRow(revision=name, role=role, version=version, variant=variant, weight=weight))
        return rows

    def repositories_in_use(self) -> frozenset[str]:
        """Digests of the repositories that deployed revisions serve: what a store must not collect."""
        return frozenset(server.revision.repository for server in self._file.read().servers.values())

    def repository_folder(self, revision: Revision) -> Path:
        """Where a revision's repository may be put; removed with the revision. Other folders are left alone."""
        return self.root / "repositories" / revision.name

    def logs(self, revision: Revision, lines: int = 40) -> str:
        """See `base.Target`. The log outlives its revision."""
        return self.log_of(revision.name, lines)

    def log_of(self, name: str, lines: int = 40) -> str:
        """The end of a revision's log, by its name."""
        return tail(triton.read_log(self._log(name)), lines)

    # What changes

    def deploy(self, revision: Revision, repository: Path | str) -> None:
        """See `base.Target`. A stable or canary that died is started again in its role."""
        folder = _repository(repository, revision)
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(revision.model)
            if entry.canary not in ("", revision.name) and entry.stable != revision.name:
                raise DeployFailed(
                    f"{revision.model} has the canary {entry.canary} already: promote or restore it before "
                    f"{revision.name} is deployed."
                )
            server = state.servers.get(revision.name)
            if server is None or not self._runs(server):
                self._start(state, revision, str(folder), server)
            self._apply(state)

    def wait_ready(self, revision: Revision, timeout_seconds: float) -> None:
        """See `base.Target`. Ready means that it answers through the gateway."""
        deadline = time.monotonic() + timeout_seconds
        attempts = 1
        while True:
            server = self._file.read().servers.get(revision.name)
            if server is None:
                raise DeployFailed(f"{revision.name} is not deployed to target local.")
            if not self._runs(server):
                log = triton.read_log(self._log(revision.name), server.log_from)
                if attempts == _PORT_ATTEMPTS or server.was_ready or not triton.port_was_taken(log):
                    when = "died" if server.was_ready else "ended before it was ready"
                    raise DeployFailed(f"Triton of {revision.name} {when}:\n{triton.last_words(log)}")
                attempts += 1
                self._start_again(server)
            elif _ready(server):
                break
            elif time.monotonic() >= deadline:
                raise DeployFailed(
                    f"{revision.name} was not ready within {timeout_seconds:g} seconds; the end of its log:\n"
                    + self.logs(revision, 15)
                )
            time.sleep(_POLL_SECONDS)
        with self._file.locked() as state:
            if (found := state.servers.get(revision.name)) is not None and found.token == server.token:
                state.servers[revision.name] = dataclasses.replace(found, was_ready=True)
            self._apply(state)
        self._check_route(revision)

    def split(self, model: str, weights: Mapping[str, int]) -> None:
        """See `base.Target`."""
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(model)
            known = {entry.stable, entry.canary} - {""}
            if not weights.keys() <= known:
                strangers = ", ".join(sorted(weights.keys() - known))
                raise InvalidSpec(f"weights of {model} must name its stable or its canary, but got {strangers}.")
            if min(weights.values(), default=0) < 0 or sum(weights.values()) != 100:
                raise InvalidSpec(f"weights of {model} must be 0 or more and add up to 100, but got {dict(weights)}.")
            self._route(state, model, weights, entry.versions)

    def split_versions(self, model: str, weights: Mapping[int, int]) -> None:
        """See `base.Target`."""
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(model)
            if not entry.stable:
                raise DeployFailed(
                    f"{model} has no stable revision whose versions could get weights: release it first."
                )
            stable = state.servers[entry.stable].revision
            check_version_weights(stable, weights)
            self._apply(state)  # a gateway that died is needed for what comes next
            for version, weight in weights.items():
                if weight:
                    self._check_route(stable, version)
            self._route(state, model, entry.weights, kept_weights(stable.facts, weights))

    def promote(self, model: str) -> None:
        """See `base.Target`. DeployFailed when there is nothing to promote, or when the canary is dead."""
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(model)
            if not entry.canary:
                if not entry.stable:
                    raise DeployFailed(f"{model} has no canary to promote.")
                return  # an earlier call got this far
            if not self._runs(state.servers[entry.canary]):
                raise DeployFailed(
                    f"{entry.canary} is dead and can't be promoted; the end of its log:\n"
                    + tail(triton.read_log(self._log(entry.canary)))
                )
            self._route(state, model, {entry.canary: 100}, entry.versions)
            retiring = (*entry.retiring, *([entry.stable] if entry.stable else []))
            versions = kept_weights(state.servers[entry.canary].revision.facts, entry.versions)
            state.change(model, stable=entry.canary, canary="", retiring=retiring, versions=versions)
            self._file.write(state)
            self._apply(state)
            self._retire(state)

    def restore(self, model: str) -> None:
        """See `base.Target`. A stable that died is started again before it gets the traffic."""
        entry = self._file.read().model(model)
        if entry.canary and entry.stable:
            self._revive(model, entry.stable)
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(model)
            if not entry.canary:
                return
            self._route(state, model, {entry.stable: 100} if entry.stable else {}, entry.versions)
            state.change(model, canary="", retiring=(*entry.retiring, entry.canary))
            self._file.write(state)
            self._retire(state)

    def delete(self, revision: Revision) -> None:
        """See `base.Target`. DeployFailed for one that gets traffic or is stable."""
        with self._file.locked() as state:
            self._settle(state)
            entry = state.model(revision.model)
            if revision.name not in state.servers:
                return
            shares = gateway.shares(self._config(state), revision.model)
            share = max(entry.weights.get(revision.name, 0), shares.get(revision.name, 0))
            if share or revision.name == entry.stable:
                raise DeployFailed(
                    f"{revision.name} gets {share} % of the traffic or is stable, so it can't be deleted."
                )
            weights = {name: weight for name, weight in entry.weights.items() if name != revision.name}
            state.change(revision.model, canary="", weights=weights, retiring=(*entry.retiring, revision.name))
            self._file.write(state)
            self._retire(state)

    def stop(self, model: str | None = None) -> None:
        """Stops a model's revisions, or everything, and forgets them; the gateway ends with the last of them."""
        with self._file.locked() as state:
            self._settle(state)
            for name in [model] if model is not None else list(state.models):
                entry = state.model(name)
                everyone = dict.fromkeys([*entry.retiring, entry.stable, entry.canary])
                retiring = tuple(revision for revision in everyone if revision)
                state.change(name, stable="", canary="", retiring=retiring, weights={}, rollout=None, versions={})
            self._file.write(state)
            if state.servers:
                self._unroute(state)
                self._retire(state)
            if not state.servers and state.gateway is not None:
                processes.stop(self.root, [state.gateway.token], grace_seconds=5)
                state.gateway = None
                shutil.rmtree(self._gateway_folder, ignore_errors=True)

    # What the rollout engine keeps here

    def load_rollout(self, model: str) -> dict[str, Any] | None:
        """See `base.Target`."""
        return self._file.read().model(model).rollout

    def save_rollout(self, model: str, state: Mapping[str, Any] | None) -> None:
        """See `base.Target`."""
        with self._file.locked() as whole:
            whole.change(model, rollout=None if state is None else dict(state))

    # Tritons

    def _start(self, state: State, revision: Revision, repository: str, before: Server | None) -> None:
        """Starts a Triton; the state names it before it exists."""
        log = self._log(revision.name)
        if before is not None:  # children may have survived it
            self._end([before], grace_seconds=0)
        http, grpc, metrics = loopback.free_ports(3, state.ports)
        server = Server(
            revision=revision,
            repository=repository,
            http=http,
            grpc=grpc,
            metrics=metrics,
            token=processes.new_token(),
            process=None,
            started=time.time(),
            restarts=(before.restarts + before.was_ready) if before else 0,
            log_from=log.stat().st_size if log.exists() else 0,
        )
        argv, env = triton.command(server, self.root), triton.environment()
        state.servers[revision.name] = server
        entry = state.model(revision.model)
        if revision.name not in (entry.stable, entry.canary):
            state.change(revision.model, canary=revision.name)
        self._file.write(state)
        process = self._launch(argv, env, log, server.token)
        state.servers[revision.name] = dataclasses.replace(server, process=process)
        self._file.write(state)

    def _start_again(self, server: Server) -> None:
        name = server.revision.name
        with self._file.locked() as state:
            found = state.servers.get(name)
            if found is not None and found.token == server.token and not self._runs(found):
                self._start(state, found.revision, found.repository, found)
                self._apply(state)

    def _revive(self, model: str, name: str) -> None:
        server = self._file.read().servers[name]
        if not self._runs(server):
            self._start_again(server)
            self.wait_ready(server.revision, 300)

    def _launch(self, argv: Sequence[str], env: Mapping[str, str], log: Path, token: str) -> Process:
        try:
            return processes.start(argv, env=env, log=log, root=self.root, token=token)
        except OSError as error:
            raise DeployFailed(f"can't start {argv[0]}: {error.strerror}.") from None

    def _process(self, server: Server | Gateway) -> Process | None:
        """The server's process, also when its starter was killed before it could note which one it is."""
        process = server.process or processes.leader(self.root, server.token)
        return process if process is not None and process.alive else None

    def _runs(self, server: Server) -> bool:
        """Whether Triton and its model's process run; Triton reports itself ready when the latter has died.

        While it starts, Triton ends such processes itself, and ends with them when the model can't be loaded.
        """
        process = self._process(server)
        if process is None:
            return False
        return not (server.was_ready and processes.lost_child(process.pid, triton.STUB))

    def _end(self, servers: Sequence[Server], grace_seconds: float) -> None:
        """Stops Tritons side by side; one whose model's process died would only sit out its timeout."""
        hopeless = [server.token for server in servers if not self._runs(server)]
        processes.stop(self.root, hopeless, grace_seconds=0)
        processes.stop(self.root, [server.token for server in servers], grace_seconds=grace_seconds)
        for server in servers:
            triton.free_shared_memory(server.token)

    def _retire(self, state: State) -> None:
        """Drains, unroutes and stops what gets no traffic any more; done by the next call where this one is killed."""
        names = {name for entry in state.models.values() for name in entry.retiring}
        servers = [state.servers[name] for name in names if name in state.servers]
        if state.gateway is not None:
            deadline = time.monotonic() + self._drain_seconds
            while any(gateway.in_flight(state.gateway, server.http) for server in servers):
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_SECONDS)
        state.servers = {name: server for name, server in state.servers.items() if name not in names}
        if servers:
            self._unroute(state)
        self._end(servers, triton.EXIT_TIMEOUT_SECONDS + 3)
        for server in servers:
            _remove_folder(self.repository_folder(server.revision))
        for model in list(state.models):
            state.change(model, retiring=())
        self._file.write(state)
        self._prune_logs(state)

    def _settle(self, state: State) -> None:
        """Puts right what killed runs left: adopts servers, ends those that nobody knows, goes on with stops."""
        for name, server in state.servers.items():
            if server.process is None:
                state.servers[name] = dataclasses.replace(server, process=self._process(server))
        if state.gateway is not None and state.gateway.process is None:
            state.gateway = dataclasses.replace(state.gateway, process=self._process(state.gateway))
        strangers = [token for token in processes.marked(self.root) if token not in state.tokens]
        processes.stop(self.root, strangers, grace_seconds=0)
        for token in strangers:
            triton.free_shared_memory(token)
        if any(entry.retiring for entry in state.models.values()):
            self._unroute(state)
            self._retire(state)

    # The gateway

    @property
    def _gateway_folder(self) -> Path:
        return self.root / "gateway"

    def _apply(self, state: State) -> None:
        """Makes the gateway do what the state says, starting it where it does not run, and reads that back."""
        if state.gateway is not None and self._process(state.gateway) is not None:
            config = gateway.configuration(state, self._gateway_folder)
            if gateway.running(state.gateway) != config:
                gateway.load(state.gateway, config)
            return
        for _ in range(_PORT_ATTEMPTS):
            with loopback.choosing_ports():
                if self._start_gateway(state):
                    return
        raise DeployFailed(
            "the gateway did not start; the end of its log:\n"
            + tail(triton.read_log(self._gateway_folder / "caddy.log"))
        )

    def _unroute(self, state: State) -> None:
        """Takes away the routes of what is to be stopped; a gateway that does not run has none."""
        if state.gateway is not None and self._process(state.gateway) is not None:
            self._apply(state)

    def _start_gateway(self, state: State) -> bool:
        """Starts Caddy on the port it had, else on the wanted one, else on a free one; whether it came up."""
        wanted = [state.gateway.port] if state.gateway else []
        state.gateway = None
        free, admin = loopback.free_ports(2, state.ports)
        candidates = (port for port in (*wanted, gateway.wanted_port()) if loopback.is_free(port))
        mine = Gateway(
            port=next((port for port in candidates if port not in state.ports), free),
            admin=admin,
            token=processes.new_token(),
            process=None,
        )
        state.gateway = mine
        self._file.write(state)
        config = gateway.configuration(state, self._gateway_folder)
        path = self._gateway_folder / "start.json"
        write_json(path, config)
        argv = [gateway.binary(), "run", "--config", str(path)]
        log = self._gateway_folder / "caddy.log"
        process = self._launch(argv, gateway.environment(self._gateway_folder), log, mine.token)
        state.gateway = dataclasses.replace(mine, process=process)
        self._file.write(state)
        deadline = time.monotonic() + _GATEWAY_SECONDS
        while process.alive and time.monotonic() < deadline:
            if gateway.running(mine) == config:
                return True
            time.sleep(0.02)
        processes.stop(self.root, [mine.token], grace_seconds=0)
        return False

    def _route(self, state: State, model: str, weights: Mapping[str, int], versions: Mapping[int, int]) -> None:
        """Moves a model's traffic and believes it only when the gateway says so; a refusal leaves it where it was."""
        before = state.model(model)
        state.change(model, weights=dict(weights), versions=dict(versions))
        self._file.write(state)
        try:
            self._apply(state)
            config = self._config(state)
            wanted = {name: weight for name, weight in weights.items() if weight}
            if (found := gateway.shares(config, model)) != wanted:
                raise DeployFailed(f"the gateway splits the traffic of {model} as {found} instead of {wanted}.")
            for name in wanted:
                revision = state.servers[name].revision
                asked, told = version_shares(revision.facts, versions), _version_weights(config, revision)
                if told != asked:
                    raise DeployFailed(f"the gateway splits {name} among versions as {told} instead of {asked}.")
        except DeployFailed:
            state.change(model, weights=before.weights, versions=before.versions)
            raise

    def _config(self, state: State) -> Any:
        """What the gateway itself says it does, None when it does not tell."""
        return gateway.running(state.gateway) if state.gateway else None

    def _check_route(self, revision: Revision, version: int | None = None) -> None:
        """DeployFailed unless a request that names the revision is answered by it, through the gateway.

        Args:
            revision: Which one.
            version: Named as well, None for Triton's choice.
        """
        state = self._file.read()
        assert state.gateway is not None
        path = f"/v2/models/{revision.model}" + ("" if version is None else f"/versions/{version}")
        headers = {REVISION_HEADER: revision.name}
        try:
            answer = loopback.call(state.gateway.port, "GET", f"{path}/ready", headers=headers)
        except OSError as error:
            raise DeployFailed(f"the gateway on port {state.gateway.port} does not answer: {error}.") from None
        if answer.status != 200 or answer.headers.get(SERVED_BY_HEADER) != revision.name:
            what = revision.name if version is None else f"version {version} of {revision.name}"
            raise DeployFailed(
                f"{what} can't be reached through the gateway, which answers {answer.status}: {answer.body}"
            )

    # Files

    def _log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def _prune_logs(self, state: State) -> None:
        """Keeps the logs of what is deployed and of the last few that were."""
        gone = [path for path in (self.root / "logs").glob("*.log") if path.stem not in state.servers]
        for path in sorted(gone, key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            path.unlink(missing_ok=True)


def _ready(server: Server) -> bool:
    """Whether Triton says that it and its model can serve."""
    model = server.revision.model
    return all(
        loopback.answers(server.http, path, timeout=5) for path in ("/v2/health/ready", f"/v2/models/{model}/ready")
    )


def _version_weights(config: Any, revision: Revision) -> dict[int, int]:
    """How a revision's share falls to its versions, as the gateway tells it; empty when it gets no traffic."""
    if not gateway.shares(config, revision.model).get(revision.name):
        return {}
    told = gateway.versions(config, revision.model).get(revision.name)
    if told is None:
        return version_shares(revision.facts, {})
    return {**dict.fromkeys(sorted(revision.facts.versions), 0), **told}


def _repository(repository: Path | str, revision: Revision) -> Path:
    """The folder of a model repository, checked to hold the model."""
    if isinstance(repository, str) and "://" in repository and not repository.startswith("file:///"):
        raise DeployFailed(f"target local needs the repository as a folder on this machine, but got {repository}.")
    folder = Path(str(repository).removeprefix("file://")).absolute()
    if not (folder / revision.model / "config.pbtxt").is_file():
        raise DeployFailed(f"{folder} is not a Triton model repository of {revision.model}: it lacks its config.pbtxt.")
    return folder


def _remove_folder(folder: Path) -> None:
    """Removes a folder whose subfolders may be read-only; its files are left as they are, others may be linked to them."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
