"""Casts the float tensors of a checkpoint to another dtype, one tensor in memory at a time, without torch.

numpy has no brain floats: a BF16 is the upper half of the F32 with the same value, so they are made by shifting bits.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kfp_trtllm.core import rules
from kfp_trtllm.core.checkpoint import INDEX, read_config, read_headers, weight_files
from kfp_trtllm.errors import BuildFailed

OnProgress = Callable[[float, float], None]

DTYPES = {"bfloat16": "BF16", "float16": "F16"}  # as config.json spells them, and safetensors

_FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes
_PARTS = ("text_config", "llm_config", "language_config")  # where multimodal models keep the language model's part


def cast_checkpoint(checkpoint: Path, output: Path, *, dtype: str, on_progress: OnProgress | None = None) -> bool:
    """Writes a checkpoint with all float tensors in one dtype, in the same shards; every other file is copied.

    Args:
        checkpoint: Read only.
        output: New folder.
        dtype: "bfloat16" or "float16".
        on_progress: Called with (done, total) in weights.

    Returns:
        False when there is nothing to do, so that nothing was written.

    Raises:
        InvalidSpec: The dtype is another one.
        SourceError: The checkpoint is damaged.
        BuildFailed: A weight is too large for the dtype.
    """
    rules.one_of("dtype", dtype, DTYPES)
    wanted = DTYPES[dtype]
    tensors = read_headers(checkpoint)
    if all(tensor.dtype == wanted for tensor in tensors if tensor.dtype in _FLOATS):
        return False
    output.mkdir(parents=True)
    total, done = sum(tensor.elements for tensor in tensors), 0

    def advance(weights: int) -> None:
        nonlocal done
        done += weights
        if on_progress is not None:
            on_progress(done, total)

    copy_companions(checkpoint, output)
    cast_weights(checkpoint, output, wanted, on_tensor=advance)
    write_json(output / "config.json", with_dtype(read_config(checkpoint), dtype))
    return True


def cast_weights(
    source: Path, output: Path, wanted: str, *, keep: Sequence[str] = (), on_tensor: Callable[[int], None] | None = None
) -> None:
    """Writes a folder's safetensors files, and their index, with float tensors cast.

    Args:
        source: Folder to read.
        output: Folder to write into.
        wanted: A dtype as safetensors spells it.
        keep: Last parts of the names of tensors that keep their dtype.
        on_tensor: Called with the number of elements after each tensor.
    """
    files = weight_files(source)
    size = 0
    for file in files:
        size += _cast_file(source / file, output / file, wanted, tuple(keep), on_tensor)
    if files != ["model.safetensors"] and (source / INDEX).is_file():
        index = json.loads((source / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": size}
        write_json(output / INDEX, index)


def _cast_file(
    source: Path, target: Path, wanted: str, keep: tuple[str, ...], on_tensor: Callable[[int], None] | None
) -> int:
    """Casts one file; returns the bytes of its tensors."""
    with source.open("rb") as reader, target.open("wb") as writer:
        header, start = _read_header(reader)
        casts = {
            name: entry["dtype"] in _FLOATS and entry["dtype"] != wanted and name.rpartition(".")[2] not in keep
            for name, entry in header.items()
            if name != "__metadata__"
        }
        order = sorted(casts, key=lambda name: header[name]["data_offsets"])
        changed = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
        end = 0
        for name in order:
            begin, stop = header[name]["data_offsets"]
            size = (stop - begin) // _FLOATS[header[name]["dtype"]] * _FLOATS[wanted] if casts[name] else stop - begin
            dtype = wanted if casts[name] else header[name]["dtype"]
            changed[name] = {"dtype": dtype, "shape": header[name]["shape"], "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(changed, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        writer.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            begin, stop = header[name]["data_offsets"]
            reader.seek(start + begin)
            data = reader.read(stop - begin)
            writer.write(_cast(name, data, header[name]["dtype"], wanted) if casts[name] else data)
            if on_tensor is not None:
                on_tensor(int(np.prod(header[name]["shape"], dtype=np.int64)))
    return end


def _read_header(reader: Any) -> tuple[dict[str, Any], int]:
    """The header of an open safetensors file, and where its tensors begin; `read_headers` has checked it."""
    (length,) = struct.unpack("<Q", reader.read(8))
    header: dict[str, Any] = json.loads(reader.read(length))
    return header, 8 + length


def _cast(name: str, data: bytes, dtype: str, wanted: str) -> bytes:
    values = to_float32(data, dtype)
    cast: NDArray[np.uint16] | NDArray[np.float16]
    if wanted == "BF16":
        cast = _to_bf16(values)
        finite = np.isfinite((cast.astype(np.uint32) << 16).view(np.float32))
    else:
        with np.errstate(over="ignore"):
            cast = values.astype(np.float16)
        finite = np.isfinite(cast)
    if not finite.all() and np.isfinite(values[~finite]).any():
        largest = float(np.abs(values[np.isfinite(values)]).max())
        hint = ": take variant bf16." if wanted == "F16" else "."
        raise BuildFailed(f"{name} has a weight of {largest:g}, which {wanted} can't hold{hint}")
    return cast.tobytes()


def to_float32(data: bytes, dtype: str) -> NDArray[np.float32]:
    """Values of F32, F16, BF16 or F8_E4M3 bytes."""
    if dtype == "F32":
        return np.frombuffer(data, np.float32)
    if dtype == "F16":
        return np.frombuffer(data, np.float16).astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return _E4M3[np.frombuffer(data, np.uint8)]


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to the nearest, halves to even; a NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _e4m3() -> NDArray[np.float32]:
    """Value of each byte as a float of 4 exponent and 3 mantissa bits; there is no infinity, and one NaN."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    magnitude[(byte & 127) == 127] = np.nan
    return np.where(byte < 128, magnitude, -magnitude).astype(np.float32)


_E4M3 = _e4m3()


def copy_companions(checkpoint: Path, output: Path) -> list[str]:
    """Copies a checkpoint's other files (tokenizer, chat template, generation settings) as they are; returns their names."""
    names = sorted(
        entry.name
        for entry in checkpoint.iterdir()
        if entry.is_file()
        and entry.name not in ("config.json", "hf_quant_config.json")
        and not entry.name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".py"))
    )
    for name in names:
        shutil.copyfile(checkpoint / name, output / name)
    return names


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """config.json with another dtype, under the name that it has there (transformers renamed it once)."""
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    changed = {**config, name: dtype}
    for part in _PARTS:
        if isinstance(config.get(part), dict) and {"torch_dtype", "dtype"} & config[part].keys():
            changed[part] = with_dtype(config[part], dtype)
    return changed


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a document as transformers formats it."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
