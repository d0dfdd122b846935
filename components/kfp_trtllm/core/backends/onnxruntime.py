"""Backend `onnxruntime`: engines for CPUs, built by onnxruntime-genai's model builder."""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.backends.base import BuildPlan, Memory, Planned, PlanRequest, Sampling, Tensor
from kfp_trtllm.core.backends.text_model import EngineTextModel
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.serving.engine import Settings
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
_TOOLS = ("onnxruntime", "onnxruntime-genai", "onnx-ir", "transformers")
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

    def check(self, request: PlanRequest) -> PlanRequest:
        """See `base.Backend`."""
        _check_request(request)
        return request

    def plan(self, config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest) -> Planned:
        """See `base.Backend`. onnx-ir writes the graph, transformers reads the checkpoint."""
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
        return Planned(
            request=request,
            memory=memory,
            options={"precision": request.variant, "execution_provider": "cpu", **_OPTIONS[request.variant]},
            versions={name: importlib.metadata.version(name) for name in _TOOLS},
        )

    def convert(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> bool:
        """See `base.Backend`: the builder quantizes while it builds."""
        return False

    def cache_key(self, plan: BuildPlan) -> str:
        """See `base.Backend`."""
        return ""

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
        """See `base.Backend`."""
        hub = output.with_name(output.name + ".cache")
        extra = [f"{name}={value}" for name, value in _OPTIONS[plan.variant].items()]
        layers = int(json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])

        def follow(line: str) -> None:
            if found := _LAYER.search(line):
                on_progress(int(found[1]) + 1, 2 * layers)
            elif found := _SAVED.search(line):
                on_progress(layers * (1 + int(found[1]) / int(found[2])), 2 * layers)

        try:
            run_tool(
                [sys.executable, "-P", "-c", _BUILDER, str(checkpoint), str(output), plan.variant, str(hub), *extra],
                log=log,
                env={
                    # Whatever the checkpoint names is read from its folder or not at all.
                    "HF_HUB_OFFLINE": "1",
                    "HF_HOME": str(hub),
                    "TOKENIZERS_PARALLELISM": "false",
                },
                on_line=follow,
            )
        finally:
            shutil.rmtree(hub, ignore_errors=True)
        if missing := [name for name in _REQUIRED if not (output / name).is_file()]:
            raise BuildFailed(f"the model builder ended well but left no {', '.join(missing)} in the engine.")
        for name in _TOKENIZER_FILES:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, output / name)
        for path in output.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self._try(output, plan)
        return plan

    def _try(self, engine: Path, plan: BuildPlan) -> None:
        """One token from the new engine: what can't be loaded or says nothing is no engine."""
        settings = Settings(
            adapter=self.adapter(), max_batch_size=1, max_input_len=plan.max_input_len, max_seq_len=plan.max_seq_len
        )
        try:
            model = EngineTextModel(engine, settings)
        except _UNLOADABLE as error:
            raise BuildFailed(f"the engine was built but can't be loaded: {error}") from error
        try:
            model.generate(["a"], Sampling(max_tokens=1))
        finally:
            model.close()

    def load(self, engine: Path, plan_facts: Mapping[str, Any]) -> EngineTextModel:
        """See `base.Backend`."""
        settings = Settings(
            adapter=self.adapter(),
            max_batch_size=int(plan_facts["max_batch_size"]),
            max_input_len=int(plan_facts["max_input_len"]),
            max_seq_len=int(plan_facts["max_seq_len"]),
        )
        try:
            return EngineTextModel(engine, settings)
        except _UNLOADABLE as error:
            raise BuildFailed(f"the engine can't be loaded: {error}") from error

    def adapter(self) -> str:
        """See `base.Backend`."""
        return "onnxruntime"

    def serving_options(self, facts: Mapping[str, Any], *, versions: int, memory_fraction: float) -> Mapping[str, Any]:
        """See `base.Backend`."""
        return {}


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


def _check_request(request: PlanRequest) -> None:
    """InvalidSpec for what can't work, whatever the model."""
    if request.variant in _INSTEAD:
        raise InvalidSpec(
            f"variant must be one of {', '.join(VARIANTS)} on backend onnxruntime, but got {request.variant!r}: "
            f"a CPU has no kernels for it. {_INSTEAD[request.variant]} comes nearest."
        )
    rules.one_of("variant of backend onnxruntime", request.variant, VARIANTS)
    for name, value in (("tp_size", request.tp_size), ("pp_size", request.pp_size)):
        if value != 1:
            raise InvalidSpec(f"{name} must be 1 on backend onnxruntime, but got {value}.")
    for name, text in (("gpu_kind", request.gpu_kind), ("trtllm_version", request.trtllm_version)):
        if text:
            raise InvalidSpec(f"{name} must be empty on backend onnxruntime, which uses CPUs, but got {text!r}.")
    if request.gpu_count:
        raise InvalidSpec(
            f"gpu_count must be empty on backend onnxruntime, which uses CPUs, but got {request.gpu_count}."
        )
    if request.build_options:
        raise InvalidSpec(
            f"build_options must be empty on backend onnxruntime, but got {', '.join(request.build_options)}."
        )
    if request.kv_cache_dtype != "auto":
        raise InvalidSpec(f"kv_cache_dtype must be auto on backend onnxruntime, but got {request.kv_cache_dtype!r}.")
    rules.at_least("max_batch_size", request.max_batch_size, 1)
    rules.at_least("max_input_len", request.max_input_len, 1)
    rules.at_least("max_seq_len", request.max_seq_len, request.max_input_len + 1)


def _check(config: Mapping[str, Any], request: PlanRequest) -> _Shape:
    """InvalidSpec for what can't work, whatever the memory."""
    architecture = str((config.get("architectures") or [""])[0])
    if architecture in REFUSED:
        raise InvalidSpec(f"backend onnxruntime can't run {architecture}: {REFUSED[architecture]}.")
    if architecture not in ARCHITECTURES:
        raise InvalidSpec(unknown("the architecture, for backend onnxruntime,", architecture, ARCHITECTURES))
    _check_request(request)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized")
        raise InvalidSpec(
            f"the checkpoint's weights are {method} already, which the variant {request.variant} would not change: "
            "give the checkpoint that it was made from."
        )
    shape = _Shape.of(config)
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
