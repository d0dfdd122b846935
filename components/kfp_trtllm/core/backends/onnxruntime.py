"""Backend `onnxruntime`: engines for CPUs, built by onnxruntime-genai's model builder."""

from __future__ import annotations

import importlib.metadata
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import BuildPlan, Generated, Memory, PlanRequest, Sampling, Tensor
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.serving.engine import Event, Generation, Settings
from kfp_trtllm.core.serving.service import Service
from kfp_trtllm.core.serving.tokenizer import Detokenizer, Stops
from kfp_trtllm.errors import BuildFailed, InvalidSpec, unknown

VARIANTS = {
    "fp32": "32-bit floats, as accurate as the checkpoint",
    "int4": "linear layers in blocks of 32 weights of 4 bits, with one 32-bit scale each",
    "int8": "linear layers in blocks of 32 weights of 8 bits, with one 32-bit scale each",
}
# Text decoders whose graphs take nothing but tokens, a mask and a key-value cache, of those that the builder knows.
ARCHITECTURES = (
    "Ernie4_5ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "NemotronForCausalLM",
    "OlmoForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)
_BLOCK = 32  # weights that share a scale
_WORKSPACE = 200_000_000  # Python, ONNX Runtime and the tokenizer, measured with an engine of a few KB
_REQUIRED = ("model.onnx", "genai_config.json", "tokenizer.json")
_BUILDER = (
    "import sys; from onnxruntime_genai.models import builder; a = sys.argv[1:]; "
    "options = builder.parse_extra_options('', a[0], a[1], a[2], 'cpu', a[3], []); "
    "builder.create_model('', a[0], a[1], a[2], 'cpu', a[3], **options)"
)
_LAYER = re.compile(r"Reading layer (\d+)")
_SAVED = re.compile(r"Saving .*?\|\s*(\d+)/(\d+) ")


class OnnxRuntime:
    """Implements `base.Backend`."""

    name = "onnxruntime"

    def variants(self) -> Mapping[str, str]:
        """See `base.Backend`."""
        return VARIANTS

    def versions(self) -> dict[str, str]:
        """See `base.Backend`. onnx-ir writes the graph, transformers reads the checkpoint."""
        names = ("onnxruntime", "onnxruntime-genai", "onnx-ir", "transformers")
        return {name: importlib.metadata.version(name) for name in names}

    def plan(
        self, config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest
    ) -> tuple[Memory, dict[str, Any]]:
        """See `base.Backend`."""
        architecture = str((config.get("architectures") or [""])[0])
        if architecture not in ARCHITECTURES:
            raise InvalidSpec(unknown("the architecture, for backend onnxruntime,", architecture, ARCHITECTURES))
        if request.variant not in VARIANTS:
            raise InvalidSpec(unknown("variant of backend onnxruntime", request.variant, VARIANTS))
        longest = int(config["max_position_embeddings"])
        if request.max_seq_len > longest:
            raise InvalidSpec(
                f"max_seq_len must be at most the model's max_position_embeddings ({longest}), "
                f"but got {request.max_seq_len}."
            )
        heads = int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        layers, vocabulary = int(config["num_hidden_layers"]), int(config["vocab_size"])
        per_token = 2 * layers * kv_heads * head_size * 4
        memory = Memory(
            weights=_weights(config, tensors, request.variant) + 2 * longest * (head_size // 2) * 4,
            kv_cache=per_token * request.max_seq_len * request.max_batch_size,
            activations=4 * request.max_batch_size * vocabulary * 2
            + 4 * 64 * (vocabulary + 4 * int(config.get("intermediate_size") or 4 * int(config["hidden_size"]))),
            workspace=_WORKSPACE,
        )
        if request.memory_limit_bytes and memory.total > request.memory_limit_bytes:
            raise InvalidSpec(_too_large(request, memory, per_token))
        return memory, {"precision": request.variant, "execution_provider": "cpu"}

    def convert(self, variant: str, checkpoint: Path, output: Path) -> bool:
        """See `base.Backend`: the builder quantizes while it builds."""
        return False

    def build(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> None:
        """See `base.Backend`."""
        cache = output.with_name("builder-cache")
        layers = 0

        def follow(line: str) -> None:
            nonlocal layers
            if found := _LAYER.search(line):
                layers = int(found[1]) + 1
                on_progress(layers, 0)
            elif found := _SAVED.search(line):
                share = int(found[1]) / int(found[2])
                on_progress(layers * (1 + share), 2 * layers)

        try:
            run_tool(
                [sys.executable, "-c", _BUILDER, str(checkpoint), str(output), plan.variant, str(cache)],
                log=log,
                env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "TOKENIZERS_PARALLELISM": "false"},
                on_line=follow,
            )
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        if missing := [name for name in _REQUIRED if not (output / name).is_file()]:
            raise BuildFailed(f"the model builder ended well but left no {', '.join(missing)} in the engine.")
        for path in output.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._try(output, plan)

    def _try(self, engine: Path, plan: BuildPlan) -> None:
        """One token from the new engine: what can't be loaded or says nothing is no engine."""
        try:
            model = OnnxTextModel(engine, Settings(adapter=self.adapter(), max_batch_size=1, **_lengths(plan)))
        except (ValueError, RuntimeError) as error:
            raise BuildFailed(f"the engine was built but can't be loaded: {error}") from error
        try:
            model.generate(["a"], Sampling(max_tokens=1))
        finally:
            model.close()

    def load(self, engine: Path, plan_facts: Mapping[str, Any]) -> OnnxTextModel:
        """See `base.Backend`."""
        settings = Settings(
            adapter=self.adapter(),
            max_batch_size=int(plan_facts["max_batch_size"]),
            max_input_len=int(plan_facts["max_input_len"]),
            max_seq_len=int(plan_facts["max_seq_len"]),
        )
        try:
            return OnnxTextModel(engine, settings)
        except (ValueError, RuntimeError) as error:
            raise BuildFailed(f"the engine can't be loaded: {error}") from error

    def adapter(self) -> str:
        """See `base.Backend`."""
        return "onnxruntime"


def _lengths(plan: BuildPlan) -> dict[str, int]:
    return {"max_input_len": plan.max_input_len, "max_seq_len": plan.max_seq_len}


def _weights(config: Mapping[str, Any], tensors: Sequence[Tensor], variant: str) -> int:
    """Bytes of an engine's weights, as the builder stores them: matrices quantized, all else in 32 bits.

    A tied embedding is stored once, quantized like the head that it serves as; an untied one stays in 32 bits.
    """
    bits = {"fp32": 32, "int4": 4, "int8": 8}[variant]
    tied = bool(config.get("tie_word_embeddings"))
    total = 0.0
    for tensor in tensors:
        embedding = "embed" in tensor.name
        if tied and tensor.name.startswith("lm_head"):
            continue
        if bits == 32 or len(tensor.shape) < 2 or (embedding and not tied):
            total += 4 * tensor.elements
        else:
            rows, columns = tensor.elements // tensor.shape[-1], tensor.shape[-1]
            blocks = rows * math.ceil(columns / _BLOCK)
            total += blocks * (_BLOCK * bits / 8 + 4)
    return int(total)


def _too_large(request: PlanRequest, memory: Memory, per_token: int) -> str:
    """Words that name what would fit."""
    limit = request.memory_limit_bytes
    left = limit - (memory.total - memory.kv_cache)
    batch = left // (per_token * request.max_seq_len) if left > 0 else 0
    text = f"the engine needs {memory.total / 1e9:.2f} GB, but the memory limit is {limit / 1e9:.2f} GB"
    if batch >= 1:
        return f"{text}: max_batch_size {batch} would fit."
    fits = left // per_token if left > 0 else 0
    if fits > request.max_input_len:
        return f"{text}: max_batch_size 1 with max_seq_len {fits} would fit."
    if request.variant != "int4":
        return f"{text}: try the variant int4, or a machine with more memory."
    return f"{text}: it takes a machine with more memory, or a smaller model."


class OnnxTextModel:
    """Implements `base.TextModel` on the very engine that Triton serves."""

    def __init__(self, engine: Path, settings: Settings) -> None:
        """Loads the engine folder; ValueError or RuntimeError says why it can't."""
        self._service = Service(engine, settings)
        self.max_seq_len = settings.max_seq_len
        self.max_batch_size = settings.max_batch_size
        self._tokenizer = self._service.tokenizer
        self._engine: Any = self._service.engine

    def encode(self, text: str) -> list[int]:
        """See `base.TextModel`."""
        return self._tokenizer.encode(text, special=False)

    @property
    def prefix_token(self) -> int:
        """See `base.TextModel`."""
        special = self._tokenizer.encode("", special=True)
        return special[0] if special else int(next(iter(sorted(self._engine._ort.end_tokens))))

    def render_chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """See `base.TextModel`."""
        return self._tokenizer.render(turns)

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """See `base.TextModel`."""
        found: list[tuple[float, bool]] = self._engine.loglikelihoods(pairs)
        return found

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
        """See `base.TextModel`; prompts are taken as they are, without special tokens."""
        import queue

        done: queue.SimpleQueue[tuple[int, Event, float]] = queue.SimpleQueue()
        answers = []
        began = time.perf_counter()
        for index, prompt in enumerate(prompts):
            tokens = self.encode(prompt)
            answer = _Collected(self._tokenizer, len(tokens), sampling)
            answers.append(answer)
            generation = Generation(
                tokens=tuple(tokens),
                max_tokens=min(sampling.max_tokens, self.max_seq_len - len(tokens)),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed,
            )

            def on_event(event: Event, index: int = index) -> None:
                done.put((index, event, time.perf_counter() - began))

            answer.handle = self._engine.submit(generation, on_event)
        left = len(answers)
        while left:
            index, event, seconds = done.get()
            if answers[index].take(event, seconds):
                left -= 1
        return [answer.result() for answer in answers]

    def close(self) -> None:
        """See `base.TextModel`."""
        self._service.close()


class _Collected:
    """One answer as it comes."""

    def __init__(self, tokenizer: Any, input_tokens: int, sampling: Sampling) -> None:
        self._text, self._stops = Detokenizer(tokenizer), Stops(sampling.stop)
        self._input_tokens = input_tokens
        self._said: list[str] = []
        self._seconds: list[float] = []
        self._stopped = False
        self._reason = ""
        self.handle: Any = None

    def take(self, event: Event, seconds: float) -> bool:
        """Whether the engine is done with the request."""
        if event.error:
            raise BuildFailed(f"the engine failed while it answered: {event.error}")
        if event.token is None:
            if not self._stopped:
                text, self._stopped = self._stops.feed(self._text.flush())
                self._said.append(text)
                if not self._stopped:
                    self._said.append(self._stops.flush())
            self._reason = "stop" if self._stopped else event.finish_reason
            return True
        if not self._stopped:
            self._seconds.append(seconds)
            text, self._stopped = self._stops.feed(self._text.feed(event.token))
            self._said.append(text)
            if self._stopped:
                self.handle.cancel()
        return False

    def result(self) -> Generated:
        return Generated(
            text="".join(self._said),
            finish_reason=self._reason,
            input_tokens=self._input_tokens,
            output_tokens=len(self._seconds),
            token_seconds=tuple(self._seconds),
        )
