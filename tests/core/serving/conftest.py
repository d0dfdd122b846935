"""Tiny engines and a real Triton, once per session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kfp_trtllm.core.serving.engine import Settings
from kfp_trtllm.core.serving.layout import lay_out
from kfp_trtllm.core.serving.service import Service
from real_triton import Server, serve
from tiny_model import LIMITS, build, write_checkpoint, write_tokenizer

# An engine whose decoder fails at its second step, always: put into a repository in place of the real one.
BROKEN = """
import numpy as np

from .batching import ContinuousBatching


class Decoder:
    rows, chunk = 2, 64

    def prefill(self, tokens, start):
        return np.eye(100, dtype=np.float32)[50]

    def admit(self, row, length):
        pass

    def decode(self, tokens, lengths):
        raise MemoryError("no memory")


def open_engine(folder, settings):
    return ContinuousBatching(Decoder(), end_tokens=[1])
"""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An engine folder by variant."""
    root = tmp_path_factory.mktemp("engines")
    checkpoint = write_checkpoint(root / "checkpoint")
    return {variant: build(checkpoint, root / variant, variant) for variant in ("fp32", "int4", "int8")}


@pytest.fixture
def open_service(engines: dict[str, Path]) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def opened(variant: str = "fp32", **limits: int) -> Service:
        service = Service(engines[variant], Settings(adapter="onnxruntime", **{**LIMITS, **limits}))
        services.append(service)
        return service

    yield opened
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def triton(engines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Model `tiny` (decoupled, versions 1 and 2) and model `whole` (not decoupled, versions 1, 2 and 3)."""
    work = tmp_path_factory.mktemp("triton")
    for model, decoupled, variants in (("tiny", True, ("fp32", "int4")), ("whole", False, ("fp32", "int4", "int8"))):
        for version, variant in enumerate(variants, 1):
            lay_out(
                engines[variant],
                work / "repository",
                model_name=model,
                version=version,
                adapter="onnxruntime",
                decoupled=decoupled,
                link=os.link,
                **{**LIMITS, "max_input_len": 64 + version},
            )
    lay_out(
        engines["fp32"],
        work / "repository",
        model_name="broken",
        version=1,
        adapter="onnxruntime",
        decoupled=True,
        link=os.link,
        **LIMITS,
    )
    (work / "repository/broken/1/serving/onnxruntime_engine.py").write_text(BROKEN)
    with serve(work / "repository", work) as server:
        yield server
