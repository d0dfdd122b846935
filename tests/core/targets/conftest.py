"""A target of its own for each test; whatever it starts is gone when the test ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_trtllm.core.targets.local import LocalTarget, gateway, loopback, processes, triton
from kfp_trtllm.core.targets.local.state import Server, StateFile
from kfp_trtllm.errors import DeployFailed


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalTarget]:
    monkeypatch.setenv("KFP_TRTLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(gateway.PORT_VARIABLE, str(loopback.free_ports(1)[0]))
    local = LocalTarget(drain_seconds=5)
    yield local
    root = (tmp_path / "home" / "local").resolve()
    tokens = [*processes.marked(root), *(server.token for server in _servers(root))]
    processes.stop(root, tokens, grace_seconds=0)
    for token in tokens:
        triton.free_shared_memory(token)


def _servers(root: Path) -> list[Server]:
    try:
        return list(StateFile(root).read().servers.values())
    except DeployFailed:  # what the test was about
        return []
