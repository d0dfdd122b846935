"""Backend `onnxruntime`: engines for CPUs, built by onnxruntime-genai's model builder."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.backends.base import BuildPlan, Generated, Memory, PlanRequest, Sampling, Tensor
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.serving.engine import Event, Generation, Settings
from kfp_trtllm.core.serving.service import Service
from kfp_trtllm.core.serving.tokenizer import Detokenizer, Stops
from kfp_trtllm.errors import BuildFailed, InvalidSpec, unknown

VARIANTS = {
    "fp32": "32-bit floats, as accurate as the checkpoint",
    "int4": "linear layers in blocks of 32 weights of 4 bits, the most sensitive ones of 8, with one 32-bit scale each",
    "int8": "linear layers in blocks of 32 weights of 8 bits, with one 32-bit scale each",
}
# Those that the builder knows and that gave the same logits as transformers, built small and at random.
ARCHITECTURES = (
    "Ernie4_5ForCausalLM",
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "HunYuanDenseV1ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "NemotronForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
_MORE_THAN_TEXT = "its graph takes more than text"
_STATE = "its layers keep a state besides keys and values, which can't be batched continuously"
_REMOTE = "it needs code from its checkpoint, which is never run"
_EXPERTS = "mixtures of experts are quantized in ways that this backend has not tried"
# The rest of what the builder knows, and why it is refused.
REFUSED = {
    "ChatGLMForConditionalGeneration": _REMOTE,
    "ChatGLMModel": _REMOTE,
    "Gemma3ForCausalLM": "the model builder can't read its two kinds of positions",
    "Gemma3ForConditionalGeneration": _MORE_THAN_TEXT,
    "Gemma4ForConditionalGeneration": _MORE_THAN_TEXT,
    "Gemma4UnifiedForConditionalGeneration": _MORE_THAN_TEXT,
    "GptOssForCausalLM": _EXPERTS,
    "GraniteMoeHybridForCausalLM": _STATE,
    "InternLM2ForCausalLM": _REMOTE,
    "Lfm2AudioForConditionalGeneration": _MORE_THAN_TEXT,
    "Lfm2ForCausalLM": _STATE,
    "Lfm2MoeForCausalLM": _STATE,
    "Lfm2VlForConditionalGeneration": _MORE_THAN_TEXT,
    "Mistral3ForConditionalGeneration": _MORE_THAN_TEXT,
    "OlmoForCausalLM": "the model builder's graph gives other results than transformers",
    "Phi3SmallForCausalLM": _REMOTE,
    "Phi3VForCausalLM": _MORE_THAN_TEXT,
    "Phi4MMForCausalLM": _MORE_THAN_TEXT,
    "PhiMoEForCausalLM": _EXPERTS,
    "Qwen2_5_VLForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3VLForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3_5ForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3_5MoeForConditionalGeneration": _MORE_THAN_TEXT,
    "SmolLM3ForCausalLM": "the model builder can't write its layers without positions for a CPU",
    "VideoChatFlashQwenForCausalLM": _MORE_THAN_TEXT,
    "WhisperForConditionalGeneration": _MORE_THAN_TEXT,
}
# Their sliding window does not reach the graph, so answers are right only as long as all tokens are within it.
_WINDOW_IGNORED = ("MistralForCausalLM", "Phi3ForCausalLM")
# What comes nearest to precisions that a CPU can't run.
_INSTEAD = {
    "bf16": "fp32",
    "fp16": "fp32",
    "fp8": "int8",
    "int4_awq": "int4",
    "int8_sq": "int8",
    "nvfp4": "int4",
    "w4a8_awq": "int4",
}
# Options of the model builder besides the precision. Plain rounding to 4 bits costs a small model several points of
# accuracy; the recipe that llama.cpp made common (more bits for the head, and for the values and the way down in every
# third layer and in the outer ones) costs few, for a third more bytes.
_OPTIONS: dict[str, dict[str, str]] = {"fp32": {}, "int4": {"algo_config": "k_quant_mixed"}, "int8": {}}
_BLOCK = 32  # weights that share a scale
_FLOAT = 4  # bytes; whatever the weights are, activations and the cache are 32-bit floats on a CPU
_CHUNK = 64  # tokens of a prompt that the engine runs at once
_WORKSPACE = 200_000_000  # Python, ONNX Runtime and the tokenizer, measured with an engine of a few KB
_UNLOADABLE = (ValueError, KeyError, OSError)  # what a damaged or foreign engine folder raises
_REQUIRED = ("model.onnx", "genai_config.json", "tokenizer.json")
# transformers rewrites these when the builder saves them; what is served is what the checkpoint has.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_BUILDER = (
    "import sys; from onnxruntime_genai.models import builder; a = sys.argv[1:]; "
    "options = builder.parse_extra_options('', a[0], a[1], a[2], 'cpu', a[3], a[4:]); "
    "builder.create_model('', a[0], a[1], a[2], 'cpu', a[3], **options)"
)
_SENSITIVE = re.compile(r"\blayers\.(\d+)\..*\b(q_proj|k_proj|v_proj|qkv_proj|down_proj)\.weight$")
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
        shape = _check(config, request)
        rows = request.max_batch_size + 1  # one more, where prompts are read
        per_token = 2 * shape.layers * shape.kv_heads * shape.head_size * _FLOAT
        tokens = max(_CHUNK, request.max_batch_size)  # that one run of the graph computes
        memory = Memory(
            weights=_weights(config, tensors, request.variant) + shape.positions * shape.rotary_size * _FLOAT,
            kv_cache=per_token * request.max_seq_len * rows,
            activations=_FLOAT
            * tokens
            * (2 * shape.vocabulary + shape.heads * request.max_seq_len + 3 * shape.inner + 8 * shape.hidden),
            workspace=_WORKSPACE + _transposed(config, tensors, request.variant),
        )
        if request.memory_limit_bytes and memory.total > request.memory_limit_bytes:
            raise InvalidSpec(_too_large(request, memory, per_token))
        return memory, {"precision": request.variant, "execution_provider": "cpu", **_OPTIONS[request.variant]}

    def convert(self, variant: str, checkpoint: Path, output: Path) -> bool:
        """See `base.Backend`: the builder quantizes while it builds."""
        return False

    def build(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> None:
        """See `base.Backend`."""
        cache = output.with_name(output.name + ".cache")
        extra = [f"{name}={value}" for name, value in _OPTIONS[plan.variant].items()]
        layers = int(json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])

        def follow(line: str) -> None:
            if found := _LAYER.search(line):
                on_progress(int(found[1]) + 1, 2 * layers)
            elif found := _SAVED.search(line):
                on_progress(layers * (1 + int(found[1]) / int(found[2])), 2 * layers)

        try:
            run_tool(
                [sys.executable, "-P", "-c", _BUILDER, str(checkpoint), str(output), plan.variant, str(cache), *extra],
                log=log,
                env={
                    # Whatever the checkpoint names is read from its folder or not at all.
                    "HF_HUB_OFFLINE": "1",
                    "HF_HOME": str(cache),
                    "TOKENIZERS_PARALLELISM": "false",
                },
                on_line=follow,
            )
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        if missing := [name for name in _REQUIRED if not (output / name).is_file()]:
            raise BuildFailed(f"the model builder ended well but left no {', '.join(missing)} in the engine.")
        for name in _TOKENIZER_FILES:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, output / name)
        for path in output.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._try(output, plan)

    def _try(self, engine: Path, plan: BuildPlan) -> None:
        """One token from the new engine: what can't be loaded or says nothing is no engine."""
        try:
            model = OnnxTextModel(engine, Settings(adapter=self.adapter(), max_batch_size=1, **_lengths(plan)))
        except _UNLOADABLE as error:
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
        except _UNLOADABLE as error:
            raise BuildFailed(f"the engine can't be loaded: {error}") from error

    def adapter(self) -> str:
        """See `base.Backend`."""
        return "onnxruntime"


def _lengths(plan: BuildPlan) -> dict[str, int]:
    return {"max_input_len": plan.max_input_len, "max_seq_len": plan.max_seq_len}


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What a model's size depends on, as its config.json says."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    rotary_size: int
    vocabulary: int
    positions: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Shape:
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            head_size = int(config.get("head_dim") or hidden // heads)
            rotary = config.get("partial_rotary_factor") or (config.get("rope_parameters") or {}).get(
                "partial_rotary_factor"
            )
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                inner=int(config.get("intermediate_size") or 4 * hidden),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_size=head_size,
                rotary_size=int(head_size * float(rotary or 1)),
                vocabulary=int(config["vocab_size"]),
                positions=int(config["max_position_embeddings"]),
            )
        except KeyError as error:
            raise InvalidSpec(f"config.json must have {error.args[0]}, but it has not.") from None


def _check(config: Mapping[str, Any], request: PlanRequest) -> _Shape:
    """InvalidSpec for what can't work, whatever the memory."""
    architecture = str((config.get("architectures") or [""])[0])
    if architecture in REFUSED:
        raise InvalidSpec(f"backend onnxruntime can't run {architecture}: {REFUSED[architecture]}.")
    if architecture not in ARCHITECTURES:
        raise InvalidSpec(unknown("the architecture, for backend onnxruntime,", architecture, ARCHITECTURES))
    if request.variant in _INSTEAD:
        raise InvalidSpec(
            f"variant must be one of {', '.join(VARIANTS)} on backend onnxruntime, but got {request.variant!r}: "
            f"a CPU has no kernels for it. {_INSTEAD[request.variant]} comes nearest."
        )
    if request.variant not in VARIANTS:
        raise InvalidSpec(unknown("variant of backend onnxruntime", request.variant, VARIANTS))
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized")
        raise InvalidSpec(
            f"the checkpoint's weights are {method} already, which the variant {request.variant} would not change: "
            "give the checkpoint that it was made from."
        )
    for name, value in (("tp_size", request.tp_size), ("pp_size", request.pp_size)):
        if value != 1:
            raise InvalidSpec(f"{name} must be 1 on backend onnxruntime, but got {value}.")
    if request.gpu_kind:
        raise InvalidSpec(
            f"gpu_kind must be empty on backend onnxruntime, which uses CPUs, but got {request.gpu_kind!r}."
        )
    shape = _Shape.of(config)
    rules.at_least("max_batch_size", request.max_batch_size, 1)
    rules.at_least("max_input_len", request.max_input_len, 1)
    rules.at_least("max_seq_len", request.max_seq_len, request.max_input_len + 1)
    if request.max_seq_len > shape.positions:
        raise InvalidSpec(
            f"max_seq_len must be at most the model's max_position_embeddings ({shape.positions}), "
            f"but got {request.max_seq_len}."
        )
    window = config.get("sliding_window")
    if architecture in _WINDOW_IGNORED and window and request.max_seq_len > int(window):
        raise InvalidSpec(
            f"max_seq_len must be at most the model's sliding_window ({window}), which the model builder ignores for "
            f"{architecture}, but got {request.max_seq_len}."
        )
    return shape


def _weights(config: Mapping[str, Any], tensors: Sequence[Tensor], variant: str) -> int:
    """Bytes of an engine's weights, as the builder stores them: matrices quantized, all else in 32 bits.

    A tied embedding is stored once, as the head. But in int8 it is stored a second time in 32 bits, since there is no
    kernel that looks up such rows.
    """
    tied = bool(config.get("tie_word_embeddings"))
    layers = int(config.get("num_hidden_layers") or 0)
    total = 0.0
    for tensor in tensors:
        if tied and _is_head(tensor):
            continue
        embedding = _is_embedding(tensor)
        if variant == "fp32" or len(tensor.shape) < 2 or (embedding and not tied):
            total += _FLOAT * tensor.elements
        elif variant == "int8":
            total += _blocks(tensor) * (_BLOCK + _FLOAT) + embedding * _FLOAT * tensor.elements
        else:
            bits = 8 if embedding or _is_head(tensor) or _is_sensitive(tensor, layers) else 4
            # A block has a zero point of its own, as wide as a weight.
            total += _blocks(tensor) * ((_BLOCK + 1) * bits / 8 + _FLOAT)
    return math.ceil(total)


def _is_sensitive(tensor: Tensor, layers: int) -> bool:
    """Whether the builder's mixed recipe gives a matrix 8 bits: the rule of llama.cpp's quantizer."""
    found = _SENSITIVE.search(tensor.name)
    if found is None:
        return False
    layer = int(found[1])
    return layer < layers / 8 or layer >= 7 * layers / 8 or (layer - round(layers / 8)) % 3 == 2


def _transposed(config: Mapping[str, Any], tensors: Sequence[Tensor], variant: str) -> int:
    """Bytes of the second form of a tied embedding, which ONNX Runtime makes when it loads an fp32 engine."""
    if variant != "fp32" or not config.get("tie_word_embeddings"):
        return 0
    return sum(_FLOAT * tensor.elements for tensor in tensors if _is_embedding(tensor))


def _blocks(tensor: Tensor) -> int:
    """Blocks of a matrix; each row begins with a new one."""
    columns = tensor.shape[-1]
    return tensor.elements // columns * math.ceil(columns / _BLOCK) if columns else 0


def _is_embedding(tensor: Tensor) -> bool:
    return "embed" in tensor.name and len(tensor.shape) == 2


def _is_head(tensor: Tensor) -> bool:
    return tensor.name.startswith("lm_head")


def _too_large(request: PlanRequest, memory: Memory, per_token: int) -> str:
    """Words that name what would fit."""
    limit = request.memory_limit_bytes
    left = max(limit - (memory.total - memory.kv_cache), 0)
    # One row more than requests, where prompts are read.
    batch = left // (per_token * request.max_seq_len) - 1
    text = f"the engine needs {memory.total / 1e9:.2f} GB, but the memory limit is {limit / 1e9:.2f} GB"
    if batch >= 1:
        return f"{text}: max_batch_size {batch} would fit."
    fits = left // (2 * per_token)
    if fits > request.max_input_len:
        return f"{text}: max_batch_size 1 with max_seq_len {fits} would fit."
    if request.variant != "int4":
        return f"{text}: try the variant int4, or a machine with more memory."
    return f"{text}: it takes a machine with more memory, or a smaller model."


class OnnxTextModel:
    """Implements `base.TextModel` on the very engine that Triton serves."""

    def __init__(self, engine: Path, settings: Settings) -> None:
        """Loads the engine folder; ValueError, KeyError or OSError says why it can't."""
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
        for name in ("bos_token", "eos_token"):
            if (token := self._tokenizer.id_of(name)) is not None:
                return token
        end: int = min(self._engine.end_tokens)
        return end

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
            tokens = self.encode(prompt) or [self.prefix_token]
            if len(tokens) >= self.max_seq_len:
                raise BuildFailed(
                    f"a prompt must have less than {self.max_seq_len} tokens (max_seq_len), but got {len(tokens)}."
                )
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
