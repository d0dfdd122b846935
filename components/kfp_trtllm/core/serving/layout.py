"""Writes a Triton model repository around an engine. Stays behind: Triton never sees this module."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp_trtllm.core.serving.engine import SETTINGS, Settings
from kfp_trtllm.core.serving.schema import INPUTS, OUTPUTS, Field
from kfp_trtllm.errors import InvalidSpec

_MODEL = '''"""The entry point of Triton's Python backend."""

from serving.triton import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_BEHIND = {"layout.py", "cpp_layout.py"}  # they write repositories, and are no part of one


def lay_out(
    engine_dir: Path,
    repository: Path,
    *,
    model_name: str,
    version: int,
    adapter: str,
    decoupled: bool,
    max_batch_size: int,
    max_input_len: int,
    max_seq_len: int,
    link: Callable[[Path, Path], None],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Adds one version of a model to a repository.

    It writes `<model>/config.pbtxt`, which all versions share, and `<model>/<version>/` with model.py, the folder
    `serving` (this package), serving.json (adapter, limits and options) and the folder `engine`. One instance per
    version, on no GPU of Triton's choice: the engine itself takes what GPUs it needs.

    Args:
        engine_dir: The engine; only linked, never changed.
        repository: The model repository; may hold other versions of the model.
        model_name: The model that clients ask for.
        version: Its number, from 1.
        adapter: Name in core.serving.engine.ENGINES.
        decoupled: True for /generate and streams, False for /infer.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        link: Called with (file of the engine, path in the repository); the parent folder exists.
        options: The engine's own arguments for this version; see the adapter's module.

    Raises:
        InvalidSpec: The repository has this version, or other versions with another `decoupled`.
    """
    model = repository / model_name
    folder = model / str(version)
    if folder.exists():
        raise InvalidSpec(f"version must be new in the repository, but {model_name} has version {version}.")
    config = configuration(model_name, decoupled=decoupled)
    shared = model / "config.pbtxt"
    if shared.exists() and shared.read_text(encoding="utf-8") != config:
        raise InvalidSpec(f"decoupled must be the same for all versions of {model_name}, but got {decoupled}.")
    (folder / "serving").mkdir(parents=True)
    shared.write_text(config, encoding="utf-8")
    (folder / "model.py").write_text(_MODEL, encoding="utf-8")
    for module in sorted(Path(__file__).parent.glob("*.py")):
        if module.name not in _BEHIND:
            shutil.copyfile(module, folder / "serving" / module.name)
    settings = Settings(
        adapter=adapter,
        max_batch_size=max_batch_size,
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
        options=dict(options or {}),
    )
    settings.write(folder / SETTINGS)
    for file in sorted(path for path in engine_dir.rglob("*") if path.is_file()):
        target = folder / "engine" / file.relative_to(engine_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        link(file, target)


def set_options(version: Path, options: Mapping[str, Any]) -> None:
    """Gives a version folder other options, for example a smaller share of a GPU because another version joins it.

    The file is replaced, never changed: it may be a link to a file that belongs to an earlier repository.
    """
    path = version / SETTINGS
    draft = path.with_name(f".{SETTINGS}")
    dataclasses.replace(Settings.read(path), options=dict(options)).write(draft)
    os.replace(draft, path)


def configuration(model_name: str, *, decoupled: bool) -> str:
    """The text of config.pbtxt, made by Triton's own protobuf."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    config = triton.ModelConfig(
        name=model_name,
        backend="python",
        # The engine batches by itself, between tokens; Triton's batcher would only make requests wait.
        max_batch_size=0,
        version_policy=triton.ModelVersionPolicy(all=triton.ModelVersionPolicy.All()),
        input=[
            triton.ModelInput(
                name=field.name, data_type=_datatype(triton, field), dims=_dims(field), optional=field.optional
            )
            for field in INPUTS
        ],
        output=[
            triton.ModelOutput(name=field.name, data_type=_datatype(triton, field), dims=_dims(field))
            for field in OUTPUTS
        ],
        instance_group=[triton.ModelInstanceGroup(count=1, kind=triton.ModelInstanceGroup.KIND_CPU)],
        model_transaction_policy=triton.ModelTransactionPolicy(decoupled=decoupled),
    )
    return str(text_format.MessageToString(config))


def _datatype(triton: Any, field: Field) -> Any:
    return triton.DataType.Value(f"TYPE_{field.datatype}")


def _dims(field: Field) -> list[int]:
    return [-1 if field.many else 1]
