"""A target of its own for each test; whatever it starts is gone when the test ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_trtllm.core.targets.local import LocalTarget, gateway, loopback, processes


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalTarget]:
    monkeypatch.setenv("KFP_TRTLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(gateway.PORT_VARIABLE, str(loopback.free_ports(1)[0]))
    local = LocalTarget(drain_seconds=5)
    yield local
    root = (tmp_path / "home" / "local").resolve()
    processes.stop(root, list(processes.marked(root)), grace_seconds=0)
