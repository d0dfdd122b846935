from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from kfp_trtllm.core.serving.engine import Settings
from kfp_trtllm.core.serving.layout import configuration, lay_out
from kfp_trtllm.errors import InvalidSpec
from tritonclient.grpc import model_config_pb2

LIMITS = {"max_batch_size": 4, "max_input_len": 10, "max_seq_len": 20}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    (folder / "parts").mkdir(parents=True)
    (folder / "model.onnx").write_text("graph")
    (folder / "parts" / "weights").write_text("weights")
    return folder


def add(engine: Path, repository: Path, version: int, decoupled: bool = True) -> None:
    lay_out(
        engine,
        repository,
        model_name="tiny",
        version=version,
        adapter="onnxruntime",
        decoupled=decoupled,
        link=os.link,
        **{**LIMITS, "max_seq_len": 20 + version},
    )


def test_versions_share_a_configuration_and_have_limits_of_their_own(engine: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    add(engine, repository, 1)
    add(engine, repository, 2)
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert {
        "tiny/config.pbtxt",
        "tiny/1/model.py",
        "tiny/1/serving.json",
        "tiny/1/serving/triton.py",
        "tiny/1/engine/model.onnx",
        "tiny/2/engine/parts/weights",
    } <= files
    assert not any("layout" in name or "__pycache__" in name for name in files)
    settings = Settings.read(repository / "tiny/2/serving.json")
    assert settings == Settings(adapter="onnxruntime", **{**LIMITS, "max_seq_len": 22})
    assert (repository / "tiny/1/engine/model.onnx").samefile(engine / "model.onnx")


def test_a_version_or_a_mode_that_does_not_fit_is_refused(engine: Path, tmp_path: Path) -> None:
    add(engine, tmp_path / "repository", 1)
    with pytest.raises(InvalidSpec, match="version must be new in the repository, but tiny has version 1"):
        add(engine, tmp_path / "repository", 1)
    with pytest.raises(InvalidSpec, match="decoupled must be the same for all versions of tiny, but got False"):
        add(engine, tmp_path / "repository", 2, decoupled=False)


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_configuration_says_what_triton_must_know(decoupled: bool) -> None:
    config = text_format.Parse(configuration("tiny", decoupled=decoupled), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 0)
    assert config.version_policy.HasField("all")
    assert config.model_transaction_policy.decoupled is decoupled
    assert [value.name for value in config.input if not value.optional] == ["text_input"]
    assert {value.name: list(value.dims) for value in config.input}["stop"] == [-1]
    assert [value.name for value in config.output] == ["text_output", "finish_reason", "input_tokens", "output_tokens"]


def test_what_is_copied_into_the_repository_imports_nothing_of_ours(engine: Path, tmp_path: Path) -> None:
    add(engine, tmp_path / "repository", 1)
    allowed = {*sys.stdlib_module_names, "numpy", "tokenizers", "jinja2", "onnxruntime", "triton_python_backend_utils"}
    for module in (tmp_path / "repository/tiny/1/serving").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, module.name
