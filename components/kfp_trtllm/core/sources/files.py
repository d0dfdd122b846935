"""Files of checkpoints: which are needed, how they are hashed and copied, and what a fetch leaves behind."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kfp_trtllm.core.sources.base import OnProgress
from kfp_trtllm.errors import SourceError

SCRATCH = ".fetch"  # inside the work folder, for what is not finished; gone when a fetch ends well
CHUNK = 1 << 20

_WHOLE = re.compile(r"(?P<stem>model|pytorch_model)\.(safetensors|bin)")
_SHARD = re.compile(r"(?P<stem>model|pytorch_model)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(safetensors|bin)")
_BESIDES = re.compile(
    r"config\.json|generation_config\.json|hf_quant_config\.json|quantize_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|tokenizer\.model|spiece\.model|tiktoken\.model|[\w.-]+\.tiktoken"
    r"|vocab\.json|vocab\.txt|merges\.txt|added_tokens\.json|special_tokens_map\.json"
    r"|chat_template\.(jinja|json)|(?i:licen[cs]e|notice)([-._][\w.-]+)?"
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The files of a model that are needed, by name.

    Attributes:
        form: "safetensors", "gguf" or "pickle".
        weights: Sorted names of the weights' files.
        besides: Sorted names of the other files, an index of shards among them.
    """

    form: str
    weights: tuple[str, ...]
    besides: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted({*self.weights, *self.besides}))


def select(names: Iterable[str], *, where: str, gguf: str = "", allow_pickle: bool = False) -> Selection:
    """Chooses what a checkpoint needs; copies for other frameworks, other formats and code stay behind.

    Args:
        names: The files of the model; those in subfolders are none of ours.
        where: The model, for errors.
        gguf: The GGUF file that was asked for, else "".
        allow_pickle: Whether PyTorch's pickles may be chosen where there is nothing better.

    Raises:
        SourceError: There are no usable weights, shards are missing, or a choice is needed.
    """
    top = sorted(name for name in names if "/" not in name and "\\" not in name)
    ggufs = tuple(name for name in top if name.endswith(".gguf"))
    besides = tuple(name for name in top if _BESIDES.fullmatch(name))
    if gguf:
        if gguf not in ggufs:
            raise SourceError(f"{where} has no file {gguf}; it has {_listed(ggufs) or 'no GGUF file'}.")
        return Selection(form="gguf", weights=(gguf,), besides=())
    if weights := _weights(top, "model", ".safetensors", where):
        index = tuple(name for name in top if name == "model.safetensors.index.json" and len(weights) > 1)
        return Selection(form="safetensors", weights=weights, besides=tuple(sorted({*besides, *index})))
    if len(ggufs) == 1:
        return Selection(form="gguf", weights=ggufs, besides=())
    if ggufs:
        raise SourceError(f"{where} has {len(ggufs)} GGUF files, so name one: {_listed(ggufs)}.")
    if weights := _weights(top, "pytorch_model", ".bin", where):
        if not allow_pickle:
            raise SourceError(
                f"{where} has its weights as pickles only ({_listed(weights)}), which can run code when loaded. Convert it to "
                "safetensors (on the hub: https://huggingface.co/spaces/safetensors/convert), or set allow_pickle "
                "to have it loaded without code (torch's weights_only) and converted."
            )
        return Selection(form="pickle", weights=weights, besides=besides)
    if "adapter_model.safetensors" in top or "adapter_config.json" in top:
        raise SourceError(f"{where} is an adapter (LoRA), not a whole model: merge it into its base model first.")
    others = [
        name for name in top if name.endswith((".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx"))
    ]
    found = f"it has {_listed(others)}" if others else f"it has {_listed(top) or 'no files'}"
    raise SourceError(
        f"{where} has no weights that can be used (model.safetensors, model-00001-of-….safetensors or a .gguf); {found}."
    )


def _weights(top: list[str], stem: str, suffix: str, where: str) -> tuple[str, ...]:
    """One file, or all shards of one set; empty when there is neither."""
    if f"{stem}{suffix}" in top:
        return (f"{stem}{suffix}",)
    shards = {name: match for name in top if name.endswith(suffix) and (match := _SHARD.fullmatch(name))}
    shards = {name: match for name, match in shards.items() if match["stem"] == stem}
    counts = {int(match["count"]) for match in shards.values()}
    if len(counts) > 1:
        raise SourceError(f"{where} has shards of {len(counts)} sets: {_listed(shards)}.")
    for count in counts:
        wanted = [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]
        if missing := [name for name in wanted if name not in shards]:
            raise SourceError(f"{where} lacks {len(missing)} of {count} shards: {_listed(missing)}.")
    return tuple(sorted(shards))


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Names for an error; long lists are cut."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


class Tally:
    """Bytes done of a total, added to by several threads; tells one watcher at a time."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        """Starts at zero of `total` bytes."""
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self.done, self.total = 0, total
        on_progress(0, total)

    def add(self, count: int) -> None:
        """Counts bytes; a negative number takes back what has to be done again."""
        with self._lock:
            self.done = min(self.done + count, self.total)
            self._on_progress(self.done, self.total)

    def set(self, done: int) -> None:
        """Says how many bytes are done in all."""
        with self._lock:
            self.done = min(done, self.total)
            self._on_progress(self.done, self.total)


def sha256(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Lower-case hexadecimal digest of a file.

    Args:
        path: The file.
        on_bytes: Called with the number of bytes just read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def copy(source: Path, target: Path, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Copies a file's bytes, sharing blocks where the file system can; never links.

    Args:
        source: Read only.
        target: Appears under its name when it is whole.
        on_bytes: Called with the number of bytes just copied.
    """
    partial = target.with_name(target.name + ".part")
    with source.open("rb", buffering=0) as reader, partial.open("wb", buffering=0) as writer:
        try:
            # The kernel copies: a reflink on Btrfs or XFS, a server-side copy on NFS.
            while count := os.copy_file_range(reader.fileno(), writer.fileno(), 64 * CHUNK):
                on_bytes(count)
        except OSError:
            pass  # across file systems on old kernels, or not offered at all: the loop below goes on from here
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            on_bytes(len(chunk))
    partial.rename(target)


def copy_stream(reader: IO[bytes], target: Path) -> None:
    """Writes what a stream has into a file, which appears under its name when it is whole."""
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
    partial.rename(target)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """The folder for unfinished things inside a work folder: kept when the block fails, removed when it ends well."""
    inside = folder / SCRATCH
    inside.mkdir(exist_ok=True)
    yield inside
    shutil.rmtree(inside, ignore_errors=True)


def adopt(finished: Path, folder: Path) -> None:
    """Moves the files of a finished folder into a work folder, which then holds nothing else."""
    names = [entry.name for entry in finished.iterdir()]
    prune(folder, names)
    for name in names:
        (finished / name).replace(folder / name)


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Removes what a work folder holds besides the names given and the scratch folder."""
    kept = {*keep, SCRATCH}
    for entry in list(folder.iterdir()):
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def need_space(folder: Path, size: int) -> None:
    """SourceError unless the folder's file system has room for `size` more bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise SourceError(f"{folder} must have {size / 1e9:,.1f} GB free, but it has {free / 1e9:,.1f} GB.")
