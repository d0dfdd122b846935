"""What a backend must do. A backend is one module with one class; add its line to the table in `__init__.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kfp_trtllm.core import keys
from kfp_trtllm.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a checkpoint, as its safetensors header tells it: no weights are read."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to plan for.

    Attributes:
        variant: Precision.
        max_batch_size: Requests at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        max_num_tokens: Tokens of all requests that one step computes; 0 takes the backend's default.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        gpu_kind: Name in core.backends.trtllm.gpus; "" on a CPU.
        gpu_count: GPUs that the build and the server get; 0 on a CPU.
        memory_limit_bytes: Memory that the engine may take on a CPU; 0 for no limit.
        kv_cache_dtype: "auto", "fp8" or "int8".
        trtllm_version: Version of TensorRT-LLM to plan for; "" on a CPU.
        build_options: What the user wants of the tool besides, in its own names (or the old guide's).
        calibration_dataset: What quantization is calibrated with: "" for our own texts, a file, or a hub's data set.
        calibration_size: Texts of it; 0 takes the backend's default.
        build_image: The image that builds, whole reference; a build depends on what is in it.
    """

    variant: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int = 0
    tp_size: int = 1
    pp_size: int = 1
    gpu_kind: str = ""
    gpu_count: int = 0
    memory_limit_bytes: int = 0
    kv_cache_dtype: str = "auto"
    trtllm_version: str = ""
    build_options: Mapping[str, Any] = field(default_factory=dict)
    calibration_dataset: str = ""
    calibration_size: int = 0
    build_image: str = ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes per process (per GPU, or of the machine for a CPU backend)."""

    weights: int
    kv_cache: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.kv_cache + self.activations + self.workspace


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a backend decides.

    Attributes:
        request: What was asked for, with the old guide's words translated and defaults filled in.
        memory: What the engine will need.
        options: The build options, normalized, in the tools' own names: part of the engine's key.
        versions: Tools that the engine depends on, by name: part of its key, too.
        notes: What a person wants to know: translations, doubts.
    """

    request: PlanRequest
    memory: Memory
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A build, decided: what plan_build leaves and build_engine does.

    Attributes:
        backend: Name in core.backends.
        variant: Precision.
        checkpoint: Digest of the checkpoint's manifest.
        engine_key: Key in the store's index: same key, same engine.
        max_batch_size: Requests at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        memory: What it will need.
        options: The build options, normalized, in the tools' own names.
        versions: Tools that the key depends on, by name.
        max_num_tokens: Tokens of all requests that one step computes; 0 where the backend has no such limit.
        gpu_kind: As in PlanRequest, as are the next two.
        trtllm_version: See there.
        kv_cache_dtype: See there.
        fallback: What is built instead where this one turns out to be unsupported; None for nothing.
    """

    backend: str
    variant: str
    checkpoint: str
    engine_key: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    tp_size: int
    pp_size: int
    memory: Memory
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    max_num_tokens: int = 0
    gpu_kind: str = ""
    trtllm_version: str = ""
    kv_cache_dtype: str = "auto"
    fallback: BuildPlan | None = None

    @property
    def world_size(self) -> int:
        """Ranks, each on a GPU of its own."""
        return self.tp_size * self.pp_size

    @property
    def conversion_key(self) -> str:
        """Key in the store's index of the checkpoint to build from: what of the plan its weights depend on."""
        return keys.key(
            checkpoint=self.checkpoint,
            backend=self.backend,
            variant=self.variant,
            kv_cache_dtype=self.kv_cache_dtype,
            ranks=[self.tp_size, self.pp_size],
            options={name: value for name, value in self.options.items() if name not in ("build", "llm_args")},
            versions=dict(self.versions),
        )

    def write(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> BuildPlan:
        """Reads what `write` wrote; StoreError when it is something else."""
        try:
            return cls._of(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path} is not a build plan ({type(error).__name__}: {error}).") from None

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> BuildPlan:
        fallback = document.get("fallback")
        return cls(
            **{
                **document,
                "memory": Memory(**document["memory"]),
                "fallback": None if fallback is None else cls._of(fallback),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose tokens. Greedy with `temperature` 0 (or `top_k` 1)."""

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Generated:
    """An answer. `token_seconds` are the times at which tokens came, from the request's start."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    token_seconds: tuple[float, ...] = ()


class TextModel(Protocol):
    """A loaded engine (or a reference model), for evaluation and benchmarks."""

    max_seq_len: int
    max_batch_size: int

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens added."""

    @property
    def prefix_token(self) -> int:
        """The token that stands for an empty context (beginning or end of text)."""

    def render_chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt for chat turns ({"role", "content"}), by the model's own chat template."""

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each (context, continuation) in tokens: the sum of log-probabilities, and whether greedy would say it."""

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
        """Answers, in order; up to `max_batch_size` prompts run together."""

    def close(self) -> None:
        """Frees memory and threads."""


class Backend(Protocol):
    """A way to execute models."""

    name: str

    def variants(self) -> Mapping[str, str]:
        """Precisions that this backend builds, each with a sentence for people."""

    def check(self, request: PlanRequest) -> PlanRequest:
        """Applies the rules that need no checkpoint; gives the request back with defaults filled in.

        Raises:
            InvalidSpec: The variant, the GPUs, the versions or the sizes can't work together; says what would.
        """

    def plan(self, config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest) -> Planned:
        """Memory, normalized build options, and the versions of the tools.

        Raises:
            InvalidSpec: The architecture, the variant or the sizes can't work; says what would.
        """

    def convert(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> bool:
        """Writes the checkpoint that `build` wants, checked; False when it wants the fetched one as it is."""

    def cache_key(self, plan: BuildPlan) -> str:
        """Key of what builds on such machines may hand to each other (a timing cache), "" for nothing."""

    def build(
        self,
        plan: BuildPlan,
        checkpoint: Path,
        output: Path,
        *,
        cache: Path,
        log: Path,
        on_progress: Callable[[float, float], None],
    ) -> BuildPlan:
        """Builds the engine into `output` and checks what the tool left.

        Args:
            plan: The plan.
            checkpoint: Folder to read only.
            output: New folder to write.
            cache: Folder with what the last build of the same `cache_key` left; what this one leaves there is kept.
            log: File for the tool's log.
            on_progress: Called with (done, total) as it goes.

        Returns:
            The plan as it was built: limits may have become smaller where the planned ones did not fit.

        Raises:
            Unsupported: The tool does not know such a model; the plan's fallback may.
            BuildFailed: Anything else.
        """

    def load(self, engine: Path, plan_facts: Mapping[str, Any]) -> TextModel:
        """Loads an engine folder for evaluation, with the limits that its facts name."""

    def adapter(self) -> str:
        """Name of the module in core.serving that executes this backend's engines inside Triton."""

    def serving_options(self, facts: Mapping[str, Any], *, versions: int, memory_fraction: float) -> Mapping[str, Any]:
        """The adapter's options for an engine with such facts.

        Args:
            facts: The engine's, as in EngineFacts.
            versions: Versions that share the GPUs, this one counted.
            memory_fraction: Share of the GPUs' free memory that all keys and values get.
        """
