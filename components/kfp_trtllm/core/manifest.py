"""Manifests: small JSON documents that describe a folder in the store. The only thing inside a KFP artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from kfp_trtllm.errors import StoreError

SCHEMA = 1
KINDS = ("checkpoint", "engine", "repository", "cache")

F = TypeVar("F")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a folder.

    Attributes:
        path: Relative POSIX path inside the folder; never absolute, never with "..".
        size: In bytes.
        sha256: Lower-case hexadecimal digest of the content.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or "\\" in self.path or "\0" in self.path:
            raise StoreError(f"a manifest's file path must stay inside its folder, but got {self.path!r}.")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise StoreError(f"the digest of {self.path} must be 64 hexadecimal digits, but got {self.sha256!r}.")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one step leaves for the next.

    Attributes:
        kind: "checkpoint", "engine", "repository", or "cache" (what one build hands to the next).
        files: Sorted by path.
        facts: JSON values about the folder; read them through `facts_as`.
        parents: Digests of the manifests that this one was made from.
    """

    kind: str
    files: tuple[File, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StoreError(f"a manifest's kind must be one of {', '.join(KINDS)}, but got {self.kind!r}.")

    @property
    def size(self) -> int:
        """Sum of the files' sizes in bytes."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """The digest of the canonical JSON, with "sha256:" before it: the manifest's name in the store."""
        return "sha256:" + hashlib.sha256(self.to_json().encode()).hexdigest()

    def file(self, path: str) -> File:
        """The entry at a path; StoreError when there is none."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise StoreError(f"the {self.kind} has no file {path}.")

    def facts_as(self, facts_class: type[F]) -> F:
        """The facts as a dataclass; facts that it doesn't know are left out, missing ones take its defaults."""
        kinds = {f.name: f.type for f in dataclasses.fields(facts_class)}  # type: ignore[arg-type]
        try:
            return facts_class(**{name: _as(str(kinds[name]), v) for name, v in self.facts.items() if name in kinds})
        except TypeError as error:
            raise StoreError(
                f"the {self.kind} manifest lacks facts that {facts_class.__name__} needs: {error}."
            ) from None

    def to_json(self) -> str:
        """Canonical JSON: the same manifest gives the same bytes."""
        document = {
            "schema": SCHEMA,
            "kind": self.kind,
            "files": [dataclasses.asdict(file) for file in sorted(self.files, key=lambda f: f.path)],
            "facts": dict(self.facts),
            "parents": list(self.parents),
        }
        return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the manifest") -> Manifest:
        """Reads `to_json`'s text back.

        Args:
            text: The JSON document.
            where: Named in errors.

        Raises:
            StoreError: It is no manifest, or one written by a newer schema.
        """
        try:
            document = json.loads(text)
            schema = int(document["schema"])
            if schema > SCHEMA:
                raise StoreError(
                    f"{where} was written by schema {schema}, but this version reads up to {SCHEMA}: upgrade kfp-trtllm."
                )
            files = tuple(File(**entry) for entry in document["files"])
            return cls(kind=document["kind"], files=files, facts=document["facts"], parents=tuple(document["parents"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{where} is not a manifest ({type(error).__name__}: {error}).") from None

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Reads a manifest from a file, such as a KFP artifact's path."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"can't read the manifest {path}: {error.strerror}.") from None
        return cls.from_json(text, where=str(path))

    def write(self, path: str | Path) -> None:
        """Writes the manifest to a file, such as a KFP artifact's path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.to_json(), encoding="utf-8")


def _as(kind: str, value: Any) -> Any:
    """A fact as its field wants it: JSON has no tuples, and what is a mapping now was a text once."""
    if kind.startswith("Mapping"):
        return value if isinstance(value, Mapping) else {}
    return tuple(value) if kind.startswith("tuple") else value


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """Facts of a checkpoint (weights in safetensors, config.json, tokenizer.json).

    Attributes:
        source: The source as resolved, for example "hf://org/name".
        revision: Commit, generation or digest that the source was resolved to.
        name: Short name of the model, for people.
        architecture: First entry of config.json's `architectures`.
        model_type: config.json's `model_type`.
        parameters: Number of weights, tied ones counted once.
        dtype: Most frequent dtype of the weights, in safetensors' words, for example "F32" or "BF16".
        max_position_embeddings: Context length in tokens.
        chat_template: Whether the tokenizer has one.
        license: SPDX name or hub tag where the source tells it, else "".
        variant: "" for weights as fetched, else the precision that they were quantized to.
        backend: "" for weights as fetched, else the backend that they were converted for.
    """

    source: str
    revision: str
    name: str
    architecture: str
    model_type: str
    parameters: int
    dtype: str
    max_position_embeddings: int
    chat_template: bool
    license: str = ""
    variant: str = ""
    backend: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """Facts of an engine folder.

    Attributes:
        backend: Name in core.backends.
        variant: Precision, for example "int4".
        engine_key: The key in the store's index that it was built under.
        name: Short name of the model, for people.
        source: As in CheckpointFacts.
        revision: As in CheckpointFacts.
        max_batch_size: Requests that the engine runs at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        chat_template: Whether prompts can be given as chat turns.
        versions: Versions of the tools that made it, by name.
        max_num_tokens: Tokens of all requests that one step computes; 0 where the backend has no such limit.
        tp_size: Tensor parallel ranks, each on a GPU of its own.
        pp_size: Pipeline parallel ranks.
        gpu_kind: What it was built for; "" for a CPU.
        trtllm_version: TensorRT-LLM that it was built by or for; "" for none.
        options: The plan's build options.
    """

    backend: str
    variant: str
    engine_key: str
    name: str
    source: str
    revision: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    chat_template: bool
    versions: Mapping[str, str] = field(default_factory=dict)
    max_num_tokens: int = 0
    tp_size: int = 1
    pp_size: int = 1
    gpu_kind: str = ""
    trtllm_version: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RepositoryFacts:
    """Facts of a Triton model repository, so that later steps need not guess.

    Attributes:
        model_name: The model that clients ask for (Triton's name and the folder's).
        model_version: The version that this repository was made for; the newest that it serves.
        versions: Every numeric version in the repository, ascending.
        backend: As in EngineFacts.
        variant: As in EngineFacts.
        engine: Digest of the engine's manifest.
        decoupled: Whether /generate and streams work (True) or /infer does (False).
        chat_template: As in EngineFacts.
        max_batch_size: As in EngineFacts.
        max_input_len: As in EngineFacts.
        max_seq_len: As in EngineFacts.
        variants: Precision of each version, by its number as text.
        layout: "python" (our own model.py) or "cpp" (NVIDIA's C++ backend and its ensemble).
        entry: The Triton model that takes requests; "" for `model_name`.
        gpus: GPUs that each replica needs; 0 for a CPU.
        gpu_kind: As in EngineFacts.
        trtllm_version: As in EngineFacts.
        launch: How Triton is started for it: {"argv", "env", "ranks"}, {} for plain tritonserver.
    """

    model_name: str
    model_version: int
    versions: tuple[int, ...]
    backend: str
    variant: str
    engine: str
    decoupled: bool
    chat_template: bool
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    variants: Mapping[str, str] = field(default_factory=dict)
    layout: str = "python"
    entry: str = ""
    gpus: int = 0
    gpu_kind: str = ""
    trtllm_version: str = ""
    launch: Mapping[str, Any] = field(default_factory=dict)
