"""Where this machine keeps what outlives a run: KFP_TRTLLM_HOME, else ~/.kfp-trtllm."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder; it need not exist yet."""
    return Path(os.environ.get("KFP_TRTLLM_HOME") or Path.home() / ".kfp-trtllm").absolute()
