"""Tiny random models, once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import write_model, write_texts


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint by architecture."""
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind, kind) for kind in ("llama", "qwen2")}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A calibration file of twelve texts."""
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")
