"""Reads what a checkpoint folder says about itself, without its weights; converts what is no checkpoint yet."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import Tensor
from kfp_trtllm.core.manifest import CheckpointFacts
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.sources.base import OnProgress, silent
from kfp_trtllm.errors import SourceError

INDEX = "model.safetensors.index.json"

_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16},
    **{
        "U16": 16,
        "F8_E4M3": 8,
        "F8_E5M2": 8,
        "F8_E8M0": 8,
        "I8": 8,
        "U8": 8,
        "BOOL": 8,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "F4": 4,
    },
}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_PICKLES = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt)")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint.

    Raises:
        SourceError: It is missing or no JSON object.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(f"{folder.name} has no config.json, so it is no Hugging Face checkpoint.")
    return _read_json(folder / "config.json")


def read_headers(folder: Path) -> list[Tensor]:
    """The tensors of a checkpoint's safetensors files, sorted by name; only headers are read.

    Raises:
        SourceError: There are no weights, a shard is missing, or a file is cut off or damaged.
    """
    files = weight_files(folder)
    if not files:
        if found := pickles(folder):
            raise SourceError(
                f"{folder.name} has its weights as pickles only ({', '.join(found)}): convert it to safetensors."
            )
        raise SourceError(f"{folder.name} has no weights in safetensors (model.safetensors, or shards and {INDEX}).")
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in read_header(folder / file):
            if tensor.name in tensors:
                raise SourceError(f"{folder.name} has the tensor {tensor.name} in two files, {file} among them.")
            tensors[tensor.name] = tensor
    if missing := sorted(set(_index(folder)) - set(tensors)):
        raise SourceError(f"{INDEX} names {len(missing)} tensors that no file has, such as {missing[0]}.")
    return [tensors[name] for name in sorted(tensors)]


def weight_files(folder: Path) -> list[str]:
    """Names of a checkpoint's safetensors files: one, those of its index, or all that there are.

    Raises:
        SourceError: A file that the index names is missing or lies outside the folder.
    """
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    named = sorted(set(_index(folder).values()))
    for name in named:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise SourceError(f"{INDEX} must name safetensors files of its own folder, but names {name!r}.")
    if missing := [name for name in named if not (folder / name).is_file()]:
        raise SourceError(f"{folder.name} lacks {len(missing)} of {len(named)} shards: {', '.join(missing[:8])}.")
    return named or sorted(entry.name for entry in folder.glob("*.safetensors"))


def pickles(folder: Path) -> list[str]:
    """Names of the files that may hold pickles; loading one can run code."""
    return sorted(entry.name for entry in folder.iterdir() if _PICKLES.fullmatch(entry.name))


def count_parameters(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> int:
    """Number of weights; an output head that is tied to the embeddings and stored all the same counts once."""
    total = sum(tensor.elements for tensor in tensors)
    if not _text(config, "tie_word_embeddings"):
        return total
    shapes = {tensor.shape for tensor in tensors if tensor.name.endswith(_EMBEDDINGS)}
    heads = [
        tensor for tensor in tensors if tensor.name.split(".")[-2:] in (["lm_head", "weight"], ["embed_out", "weight"])
    ]
    return total - sum(head.elements for head in heads if head.shape in shapes)


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer has a chat template, in a file of its own or in tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return True
    files = [name for name in ("chat_template.json", "tokenizer_config.json") if (folder / name).is_file()]
    return any(_read_json(folder / name).get("chat_template") for name in files)


def inspect(folder: Path, *, source: str, revision: str, name: str, license: str) -> CheckpointFacts:
    """What a checkpoint folder says about itself.

    Args:
        folder: Weights in safetensors, config.json and tokenizer.json.
        source: As resolved.
        revision: As resolved.
        name: Short name, for people.
        license: As the source tells it, or "".

    Raises:
        SourceError: A needed file is missing, cut off or damaged; says which, and what to do.
    """
    config = read_config(folder)
    tensors = read_headers(folder)
    if not (folder / "tokenizer.json").is_file():
        raise SourceError(
            f"{name} has no tokenizer.json, which every later step reads. Make one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder) and give the folder as file://…."
        )
    _read_json(folder / "tokenizer.json")
    architectures = config.get("architectures") or [""]
    if not architectures[0]:
        raise SourceError(f'config.json of {name} must have `architectures`, for example ["LlamaForCausalLM"].')
    limit = next((limit for key in _CONTEXT if (limit := _text(config, key))), 0)
    if not isinstance(limit, int) or limit < 1:
        raise SourceError(f"config.json of {name} must have max_position_embeddings (in tokens), but got {limit!r}.")
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.dtype] += tensor.elements
    return CheckpointFacts(
        source=source,
        revision=revision,
        name=name,
        architecture=str(architectures[0]),
        model_type=str(config.get("model_type", "")),
        parameters=count_parameters(tensors, config),
        dtype=weights.most_common(1)[0][0],
        max_position_embeddings=limit,
        chat_template=has_chat_template(folder),
        license=license,
    )


def convert_gguf(gguf: Path, output: Path, *, log: Path, on_progress: OnProgress = silent) -> str:
    """Converts a GGUF file into a checkpoint, in a process of its own.

    Quantized weights become F32 exactly; float ones keep their type.

    Args:
        gguf: Read only.
        output: Folder that appears when it is whole; an older one is replaced.
        log: File for the converter's log.
        on_progress: Called with (done, total) in bytes of the GGUF file.

    Returns:
        The license that the file names, else "".

    Raises:
        SourceError: The file is damaged, or its architecture is not known; or torch and transformers are missing.
    """
    return _convert("from_gguf", [gguf], output, what="converting a GGUF file", log=log, on_progress=on_progress)


def convert_pickles(files: Sequence[Path], output: Path, *, log: Path, on_progress: OnProgress = silent) -> None:
    """Converts PyTorch's pickles (pytorch_model*.bin) into safetensors, in a process of its own, without running code.

    Args:
        files: All pickles of one model.
        output: Folder that appears when it is whole, with safetensors files and their index; an older one is replaced.
        log: File for the converter's log.
        on_progress: Called with (done, total) in bytes of the pickles.

    Raises:
        SourceError: A pickle holds more than tensors, or is damaged; or torch is missing.
    """
    _convert("from_pickle", files, output, what="converting pickles", log=log, on_progress=on_progress)


def _convert(
    program: str, files: Sequence[Path], output: Path, *, what: str, log: Path, on_progress: OnProgress
) -> str:
    """Runs a converter of core.sources; returns the license that it reports."""
    for module in ("torch", "transformers", "gguf") if program == "from_gguf" else ("torch", "safetensors"):
        if importlib.util.find_spec(module) is None:
            raise SourceError(f"{what} needs {module}, which is not installed: pip install 'kfp-trtllm[local]'.")
    partial = output.with_name(output.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    report: dict[str, Any] = {}

    def read(line: str) -> None:
        if line.startswith("@{"):
            report.update(json.loads(line[1:]))
            if "done" in report:
                on_progress(report["done"], report["total"])

    argv = [sys.executable, "-P", "-m", f"kfp_trtllm.core.sources.{program}", *map(str, files), str(partial)]
    run_tool(argv, log=log, on_line=read, error=SourceError)
    for entry in partial.iterdir():
        entry.chmod(0o644)  # safetensors writes 0600, and the store's readers may be others
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    return str(report.get("license", ""))


_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")


def _text(config: Mapping[str, Any], key: str) -> Any:
    """A value of the language model's configuration, which multimodal models nest."""
    nested = [
        config[name] for name in ("text_config", "llm_config", "language_config") if isinstance(config.get(name), dict)
    ]
    for part in (*nested, config):
        if part.get(key) is not None:
            return part[key]
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"can't read {path.name}: {error.strerror}.") from None
    except ValueError as error:
        raise SourceError(f"{path.name} is not JSON ({error}).") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path.name} must be a JSON object, but is a {type(document).__name__}.")
    return document


def _index(folder: Path) -> dict[str, str]:
    """The index's file by tensor name; empty where a single file needs none."""
    if (folder / "model.safetensors").is_file() or not (folder / INDEX).is_file():
        return {}
    weights = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        raise SourceError(f"{INDEX} must have a weight_map from tensor names to file names.")
    return weights


def _entry(name: str, values: Mapping[str, Any]) -> tuple[Tensor, int, int]:
    """A tensor of a header, with the begin and the end of its bytes."""
    begin, end = map(int, values["data_offsets"])
    return Tensor(name=name, dtype=str(values["dtype"]), shape=tuple(map(int, values["shape"]))), begin, end


def read_header(path: Path) -> list[Tensor]:
    """The tensors of one safetensors file: 8 bytes of length, that much JSON, and nothing but data behind it.

    Raises:
        SourceError: It is something else, cut off or damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise SourceError(f"{path.name} is no safetensors file: it has {size} bytes.")
        (length,) = struct.unpack("<Q", start)
        if length > _LONGEST_HEADER:
            raise SourceError(f"{path.name} is no safetensors file: its header can't have {length:,} bytes.")
        if 8 + length > size:
            raise SourceError(f"{path.name} is cut off: its header ends at {8 + length:,} bytes, but it has {size:,}.")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = [_entry(name, values) for name, values in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path.name} has a damaged header ({type(error).__name__}: {error}).") from None
    end = 0
    for tensor, begin, stop in sorted(entries, key=lambda entry: entry[1:]):
        bits = _BITS.get(tensor.dtype)
        if begin != end or (bits is not None and (stop - begin) * 8 != tensor.elements * bits):
            raise SourceError(
                f"{path.name} has a damaged header: {tensor.name} can't lie at bytes {begin:,} to {stop:,}."
            )
        end = stop
    if 8 + length + end != size:
        how = "is cut off" if size < 8 + length + end else "has bytes too many"
        raise SourceError(f"{path.name} {how}: it must have {8 + length + end:,} bytes, but has {size:,}.")
    return [tensor for tensor, _, _ in entries]
