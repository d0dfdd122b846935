from __future__ import annotations

from pathlib import Path

import pytest
from kfp_trtllm.core.backends.trtllm import devices
from kfp_trtllm.errors import BuildFailed


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for nvidia-smi on the path; tests write what it says."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def says(smi: Path, text: str, status: int = 0) -> None:
    smi.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
    smi.chmod(0o755)


def test_enough_gpus_of_the_kind_pass(smi: Path) -> None:
    devices.check("l4", 1)  # no nvidia-smi at all: the tools will tell
    says(smi, "NVIDIA L4, 8.9\nNVIDIA L4, 8.9")
    devices.check("l4", 2)


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("NVIDIA A100-SXM4-80GB, 8.0", 0, "l4 was planned for, but here is NVIDIA A100-SXM4-80GB (a100-80)"),
        ("NVIDIA L40S, 8.9", 0, "l4 was planned for, but here is NVIDIA L40S (l40s)"),
        ("NVIDIA Next, 12.0", 0, "l4 has compute capability 8.9, but here is NVIDIA Next with 12.0"),
        ("NVIDIA L4, 8.9", 0, "gpu_count must be at least 2 on this node, but 1 GPUs are here"),
        ("No devices were found", 0, "but 0 GPUs are here"),
        ("NVIDIA-SMI has failed", 9, "nvidia-smi exited with status 9: NVIDIA-SMI has failed"),
    ],
)
def test_others_are_refused(smi: Path, text: str, status: int, message: str) -> None:
    says(smi, text, status)
    with pytest.raises(BuildFailed) as caught:
        devices.check("l4", 2)
    assert message in str(caught.value)
