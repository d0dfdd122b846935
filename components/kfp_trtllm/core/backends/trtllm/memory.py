"""Bytes per GPU: weights after quantization and sharding, KV cache, activations, workspace; and what fits where.

Nothing but config.json and the safetensors headers is needed. Where TensorRT-LLM's two flows differ or a fact could not
be found, the larger figure is taken, and the place says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.core.backends.base import Memory, Tensor
from kfp_trtllm.core.backends.trtllm.gpus import Gpu, cheapest_first
from kfp_trtllm.core.backends.trtllm.shape import ModelShape
from kfp_trtllm.core.backends.trtllm.variants import KV_CACHE_DTYPES, VARIANTS
from kfp_trtllm.errors import InvalidSpec

GPUS_PER_NODE = 8
MAX_NUM_TOKENS = 8192  # the default of trtllm-build and of the LLM API
# Of the memory that weights, activations and workspace leave free, what TensorRT-LLM gives to the KV cache by default
# (kv_cache_free_gpu_memory_fraction).
KV_CACHE_FRACTION = 0.9

_HALF = 2  # bytes; activations, and all weights that are not quantized
_FLOAT = 4
# CUDA context, libraries, runtime buffers. `tensorrt`: 28,791 MiB in use, less an engine of 24,825, activations of 208
# and a cache of 3,200 (Llama-2-13B on an A100, NVIDIA/TensorRT-LLM issue 548). `pytorch`: 4,064 MB in use with
# TinyLlama's 2,200 MB of weights loaded (H100, issue 6335).
_WORKSPACE = {"tensorrt": 558 << 20, "pytorch": 1_864_000_000}
_PEERS = 500_000_000  # NCCL's and the custom all-reduce's buffers, where ranks talk; an assumption

_HEAD = frozenset({"lm_head", "embed_out"})
_LOOKED_UP = _HEAD | {"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings"}
_NORMS = frozenset({"norm", "final_layernorm", "ln_f"})
# Linear layers that are split by their outputs, and those that are split by their inputs.
_KEYS_AND_VALUES = ("k_proj", "v_proj")
_FUSED_ATTENTION = ("qkv_proj", "query_key_value", "W_pack", "c_attn")
_BY_OUTPUT = (
    *("q_proj", *_KEYS_AND_VALUES, *_FUSED_ATTENTION),
    *("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "fc1", "c_fc", "dense_h_to_4h"),
)
_BY_INPUT = ("o_proj", "down_proj", "w2", "dense", "c_proj", "dense_4h_to_h", "fc2")
_LISTS_OF_LAYERS = ("layers", "h", "blocks")
_OTHER_TOWERS = ("vision", "visual", "audio", "multi_modal_projector")  # every rank has them whole, in 16 bits
# Types of tensors that are quantized already, in bits; they stay as they are.
_NARROW = {
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
    **{"I16": 16, "I32": 32, "U32": 32, "I64": 64},
}


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """What a quantized linear layer keeps besides weights and the scales of groups, in bytes.

    As ModelOpt 0.47 exports it: activation and weight scales of a whole tensor, of each output channel, and the
    smoothing of each input, which only layers split by inputs keep where it can be folded into a norm before the others.
    """

    tensor: int = 0
    channel: int = 0
    smoothing: int = 0
    smoothing_folded: bool = True


_SCALES = {
    "fp8": _Scales(tensor=2 * _FLOAT),
    "int8_sq": _Scales(tensor=_FLOAT, channel=_FLOAT, smoothing=_HALF, smoothing_folded=False),
    "int8_wo": _Scales(channel=_HALF),
    "int4_wo": _Scales(channel=_HALF),
    "int4_awq": _Scales(smoothing=_HALF),
    "w4a8_awq": _Scales(tensor=2 * _FLOAT, smoothing=_HALF),
    "nvfp4": _Scales(tensor=2 * _FLOAT),
}


def plan_memory(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    variant: str,
    kv_cache_dtype: str = "auto",
    tp_size: int = 1,
    pp_size: int = 1,
    moe_ep_size: int = 1,
    max_batch_size: int,
    max_seq_len: int,
    max_num_tokens: int = 0,
    backend: str = "tensorrt",
) -> Memory:
    """What the most loaded rank holds.

    The KV cache is counted whole, also where a sliding window would make it smaller. Whether it all fits is for
    `check_fit` to say, which looks at every stage.

    Args:
        config: The checkpoint's config.json.
        tensors: The checkpoint's safetensors headers.
        variant: Precision of the engine.
        kv_cache_dtype: One of KV_CACHE_DTYPES; "auto" is 16 bits.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        moe_ep_size: Of the tensor parallel ranks, groups that share out whole experts; it divides tp_size.
        max_batch_size: Requests at once.
        max_seq_len: Tokens of each, prompt and answer.
        max_num_tokens: Tokens that one step computes; 0 takes the tools' default.
        backend: "tensorrt" or "pytorch".

    Returns:
        Bytes.

    Raises:
        InvalidSpec: config.json lacks a number, or ranks don't divide the model.
    """
    rules.at_least("max_batch_size", max_batch_size, 1)
    rules.at_least("max_seq_len", max_seq_len, 1)
    split = _Split.of(
        ModelShape.of(config),
        tensors,
        variant=variant,
        kv_cache_dtype=kv_cache_dtype,
        tp_size=tp_size,
        moe_ep_size=moe_ep_size,
        max_num_tokens=max_num_tokens,
        backend=backend,
    )
    return split.load(pp_size).memory(max_batch_size, max_seq_len)


def kv_bytes_per_token(shape: ModelShape, kv_cache_dtype: str = "auto", tp_size: int = 1, pp_size: int = 1) -> int:
    """Bytes of one token's keys and values on the rank with the most layers.

    Heads that tp_size does not divide are held by several ranks (tensorrt_llm._torch.modules.attention: kv_heads / tp
    rounded up).
    """
    rules.one_of("kv_cache_dtype", kv_cache_dtype, KV_CACHE_DTYPES)
    size = _HALF if kv_cache_dtype == "auto" else 1
    return 2 * math.ceil(shape.layers / pp_size) * math.ceil(shape.kv_heads / tp_size) * shape.head_dim * size


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a plan fits a GPU, as TensorRT-LLM shares it out: the cache gets a fraction of what the rest leaves free.

    Attributes:
        memory: Bytes of one rank.
        gpu: The kind.
        fraction: Of the free memory, the cache's part (kv_cache_free_gpu_memory_fraction).
    """

    memory: Memory
    gpu: Gpu
    fraction: float = KV_CACHE_FRACTION

    @property
    def kv_cache_limit(self) -> int:
        """Bytes that the cache can have; negative where not even the rest fits."""
        return int((self.gpu.memory_bytes - (self.memory.total - self.memory.kv_cache)) * self.fraction)

    def __bool__(self) -> bool:
        return self.memory.kv_cache <= self.kv_cache_limit


def fits(memory: Memory, gpu: Gpu, fraction: float = KV_CACHE_FRACTION) -> Fit:
    """A report that is true where the plan fits."""
    rules.between("kv_cache_free_gpu_memory_fraction", fraction, 0, 1)
    return Fit(memory=memory, gpu=gpu, fraction=fraction)


def largest_batch(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    gpu: Gpu,
    max_seq_len: int,
    pp_size: int = 1,
    fraction: float = KV_CACHE_FRACTION,
    **options: Any,
) -> int:
    """The largest max_batch_size whose requests can all be max_seq_len tokens long; 0 if not even one can.

    Args:
        config: The checkpoint's config.json.
        tensors: The checkpoint's safetensors headers.
        gpu: The kind.
        max_seq_len: Tokens of each request.
        pp_size: Pipeline parallel ranks.
        fraction: See `Fit`.
        options: The rest of `plan_memory`'s, without max_batch_size.
    """
    rules.at_least("max_seq_len", max_seq_len, 1)
    split = _Split.of(ModelShape.of(config), tensors, **options)
    return split.load(pp_size).largest_batch(gpu, max_seq_len, fraction)


def parallel_sizes(shape: ModelShape) -> list[int]:
    """Values of tp_size up to one node's GPUs that the model can be split by."""
    return [size for size in range(1, GPUS_PER_NODE + 1) if not _indivisible(shape, size)]


def check_parallel(shape: ModelShape, tp_size: int, pp_size: int, gpu_count: int) -> None:
    """Whether a model can be split over the GPUs.

    Raises:
        InvalidSpec: tp_size does not divide it, there are fewer layers than stages, or the GPUs are more or fewer than
            ranks; says what would do.
    """
    rules.at_least("tp_size", tp_size, 1)
    rules.at_least("pp_size", pp_size, 1)
    rules.at_least("gpu_count", gpu_count, 1)
    if reason := _indivisible(shape, tp_size):
        sizes = ", ".join(str(size) for size in parallel_sizes(shape))
        raise InvalidSpec(f"tp_size must {reason}, but got {tp_size}: {sizes} would do.")
    if pp_size > shape.layers:
        raise InvalidSpec(f"pp_size must be at most the model's layers ({shape.layers}), but got {pp_size}.")
    if tp_size * pp_size != gpu_count:
        able = [size for size in parallel_sizes(shape) if not gpu_count % size and gpu_count // size <= shape.layers]
        best = max(able, key=lambda size: (_power_of_two(size), size), default=0)
        remedy = f"tp_size {best} and pp_size {gpu_count // best}" if best else f"gpu_count {tp_size * pp_size}"
        raise InvalidSpec(
            f"tp_size × pp_size must be gpu_count ({gpu_count}), but got {tp_size} × {pp_size}: {remedy} would do."
        )


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A model on a number of GPUs of one kind, where it fits.

    Attributes:
        gpu: The kind.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        memory: Bytes of the rank with the least to spare.
    """

    gpu: Gpu
    tp_size: int
    pp_size: int
    memory: Memory

    @property
    def gpu_count(self) -> int:
        """GPUs in all."""
        return self.tp_size * self.pp_size

    @property
    def hourly_dollars(self) -> float:
        """Of all GPUs; see `Gpu`."""
        return self.gpu_count * self.gpu.hourly_dollars

    def __str__(self) -> str:
        return f"{self.gpu_count} × {self.gpu.title}"


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Where a model fits.

    Attributes:
        gpu: The kind that was asked for.
        placement: The fewest GPUs of that kind, or None where no number up to 4 nodes will do.
        alternatives: The fewest GPUs of each other kind that runs the precision, cheapest first.
    """

    gpu: Gpu
    placement: Placement | None
    alternatives: tuple[Placement, ...]

    @property
    def sentence(self) -> str:
        """For example "needs 2 × L4 or 1 × A100-40"; the alternative is the cheapest, on one GPU if there is one."""
        singles = [one for one in self.alternatives if one.gpu_count == 1]
        best = (singles or list(self.alternatives))[:1]
        named = ([self.placement] if self.placement else []) + best
        if not named:
            return "fits no number of GPUs that this library knows"
        return "needs " + " or ".join(map(str, named))


def suggest(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    gpu: Gpu,
    variant: str,
    max_batch_size: int,
    max_seq_len: int,
    fraction: float = KV_CACHE_FRACTION,
    **options: Any,
) -> Suggestion:
    """Where a model with these limits fits: tp_size and pp_size on a kind of GPU, and the cheapest of the others.

    Both are powers of two. Tensor parallelism goes first, within one node; stages are added where it does not suffice.

    Args:
        config: The checkpoint's config.json.
        tensors: The checkpoint's safetensors headers.
        gpu: The kind that the user has in mind.
        variant: Precision of the engine.
        max_batch_size: Requests at once.
        max_seq_len: Tokens of each.
        fraction: See `Fit`.
        options: The rest of `plan_memory`'s, without tp_size and pp_size.
    """
    shape = ModelShape.of(config)
    rules.at_least("max_batch_size", max_batch_size, 1)
    rules.at_least("max_seq_len", max_seq_len, 1)
    splits: dict[int, _Split] = {}

    def place(kind: Gpu) -> Placement | None:
        for tp, pp in _sizes(shape):
            if tp not in splits:
                splits[tp] = _Split.of(shape, tensors, variant=variant, tp_size=tp, **options)
            if fit := splits[tp].load(pp).fit(kind, max_batch_size, max_seq_len, fraction):
                return Placement(gpu=kind, tp_size=tp, pp_size=pp, memory=fit.memory)
        return None

    others = [place(kind) for kind in cheapest_first() if kind != gpu and variant in kind.variants]
    return Suggestion(
        gpu=gpu,
        placement=place(gpu) if variant in gpu.variants else None,
        alternatives=tuple(sorted(filter(None, others), key=lambda one: (one.hourly_dollars, one.gpu_count))),
    )


def check_fit(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    gpu: Gpu,
    variant: str,
    tp_size: int,
    pp_size: int,
    max_batch_size: int,
    max_seq_len: int,
    fraction: float = KV_CACHE_FRACTION,
    **options: Any,
) -> Fit:
    """The report of a plan that fits, for the rank with the least to spare.

    Raises:
        InvalidSpec: It does not; says what would, by a smaller batch, by more GPUs and by another kind.
    """
    rules.at_least("max_batch_size", max_batch_size, 1)
    rules.at_least("max_seq_len", max_seq_len, 1)
    split = _Split.of(ModelShape.of(config), tensors, variant=variant, tp_size=tp_size, **options)
    load = split.load(pp_size)
    fit = load.fit(gpu, max_batch_size, max_seq_len, fraction)
    if fit:
        return fit
    suggestion = suggest(
        config,
        tensors,
        gpu=gpu,
        variant=variant,
        max_batch_size=max_batch_size,
        max_seq_len=max_seq_len,
        fraction=fraction,
        **options,
    )
    placed, batch = suggestion.placement, load.largest_batch(gpu, max_seq_len, fraction)
    by = f" ({gpu.title} by tp_size {placed.tp_size} and pp_size {placed.pp_size})" if placed else ""
    smaller = f"max_batch_size {batch} would fit" if batch else "not even one such request would fit"
    raise InvalidSpec(
        f"each of {tp_size * pp_size} × {gpu.title} must hold {_gb(fit.memory.total)} (weights "
        f"{_gb(fit.memory.weights)}, KV cache {_gb(fit.memory.kv_cache)}, activations {_gb(fit.memory.activations)}, "
        f"workspace {_gb(fit.memory.workspace)}), but has {_gb(gpu.memory_bytes)}, with {_gb(max(fit.kv_cache_limit, 0))} "
        f"for the cache: max_batch_size {max_batch_size} with max_seq_len {max_seq_len} {suggestion.sentence}{by}; "
        f"as it is, {smaller}."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _indivisible(shape: ModelShape, tp_size: int) -> str:
    """The rule that a tp_size breaks, or ""; TensorRT-LLM's linear and attention layers assert the same."""
    if shape.heads % tp_size:
        return f"divide the model's {shape.heads} attention heads"
    if shape.kv_heads % tp_size and tp_size % shape.kv_heads:
        return f"divide the model's {shape.kv_heads} key and value heads, or be a multiple of them"
    if shape.inner % tp_size:
        return f"divide the model's intermediate_size ({shape.inner})"
    return ""


def _power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


def _sizes(shape: ModelShape) -> list[tuple[int, int]]:
    """(tp_size, pp_size) to try, both powers of two: fewest GPUs first, then fewest stages; up to four nodes."""
    pairs = [
        (tp, pp)
        for tp in parallel_sizes(shape)
        for pp in (1, 2, 4, 8, 16, 32)
        if _power_of_two(tp) and pp <= shape.layers and tp * pp <= 4 * GPUS_PER_NODE
    ]
    return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1]))


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """One stage's share, per tensor parallel rank, in bytes."""

    weights: int
    kv_per_token: int
    per_token: int
    per_row: int


@dataclass(frozen=True, kw_only=True)
class _Load:
    """All stages' shares: everything of a plan that the batch and the lengths don't change."""

    ranks: tuple[_Rank, ...]
    max_num_tokens: int
    workspace: int

    def memory(self, batch: int, length: int) -> Memory:
        """Of the most loaded rank."""
        return max(self._each(batch, length), key=lambda one: one.total)

    def fit(self, gpu: Gpu, batch: int, length: int, fraction: float) -> Fit:
        """Of the rank with the least to spare."""
        each = [fits(memory, gpu, fraction) for memory in self._each(batch, length)]
        return min(each, key=lambda one: one.kv_cache_limit - one.memory.kv_cache)

    def largest_batch(self, gpu: Gpu, length: int, fraction: float) -> int:
        def able(batch: int) -> bool:
            return bool(self.fit(gpu, batch, length, fraction))

        if not able(1):
            return 0
        low, high = 1, 2
        while able(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if able(middle) else (low, middle)
        return low

    def _each(self, batch: int, length: int) -> Iterator[Memory]:
        for rank in self.ranks:
            yield Memory(
                weights=rank.weights,
                kv_cache=rank.kv_per_token * batch * length,
                activations=rank.per_token * max(self.max_num_tokens, batch) + rank.per_row * batch,
                workspace=self.workspace,
            )


def _owned(layers: int, pp_size: int) -> list[range]:
    """Layers of each stage: the first ones have one more where it is not even (tensorrt_llm.mapping.pp_layers)."""
    even, more = divmod(layers, pp_size)
    starts = [stage * even + min(stage, more) for stage in range(pp_size + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(starts)]


@dataclass(frozen=True, kw_only=True)
class _Split:
    """A model split by tensor parallelism, in bytes per rank, before its layers are dealt out to stages.

    Embedding and head stay in 16 bits. The head is split by the vocabulary, and so is the embedding in `pytorch`
    (tensorrt_llm._torch.modules.embedding); in `tensorrt` every rank has all of it, unless convert_checkpoint.py is told
    --use_parallel_embedding. A head that is tied to the embedding is the same memory in `pytorch` on one stage
    (DecoderModelForCausalLM); else it is counted again: for `tensorrt` no source was found.
    """

    shards: _Shards
    layers: tuple[int, ...]
    first: int
    last: int
    tied_in_memory: int
    kv_per_token: int
    max_num_tokens: int
    backend: str

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        tensors: Sequence[Tensor],
        *,
        variant: str,
        kv_cache_dtype: str = "auto",
        tp_size: int = 1,
        moe_ep_size: int = 1,
        max_num_tokens: int = 0,
        backend: str = "tensorrt",
    ) -> _Split:
        rules.one_of("variant", variant, VARIANTS)
        rules.one_of("backend", backend, _WORKSPACE)
        rules.at_least("max_num_tokens", max_num_tokens, 0)
        check_parallel(shape, tp_size, 1, tp_size)
        if moe_ep_size < 1 or tp_size % moe_ep_size:
            raise InvalidSpec(f"moe_ep_size must divide tp_size ({tp_size}), but got {moe_ep_size}.")
        shards = _Shards(
            shape=shape,
            variant=variant,
            tp=tp_size,
            ep=moe_ep_size,
            quantized=any(tensor.dtype in _NARROW for tensor in tensors),
        )
        layers = [0] * shape.layers
        whole = shape.vocab * shape.hidden * _HALF
        head = math.ceil(shape.vocab / tp_size) * shape.hidden * _HALF
        first, last = head if backend == "pytorch" else whole, head
        has_head = False
        seen: dict[tuple[object, ...], int] = {}  # layers and experts are alike, and there may be thousands
        for tensor in tensors:
            parts = tensor.name.split(".")
            if not _LOOKED_UP.isdisjoint(parts):
                has_head = has_head or not _HEAD.isdisjoint(parts)
                continue
            key = (*(part for part in parts if not part.isdecimal()), tensor.dtype, tensor.shape)
            if key not in seen:
                seen[key] = shards.stored(tensor)
            layer = _layer(parts)
            if layer is not None and layer < shape.layers and not _other_tower(parts):
                layers[layer] += seen[key]
            elif not _NORMS.isdisjoint(parts):
                last += seen[key]
            else:
                first += seen[key]
        # Some configurations leave it to their class whether they are tied.
        tied = shape.tied or not has_head
        return cls(
            shards=shards,
            layers=tuple(layers),
            first=first,
            last=last,
            tied_in_memory=head if tied and backend == "pytorch" else 0,
            kv_per_token=kv_bytes_per_token(shape, kv_cache_dtype, tp_size, shape.layers),
            max_num_tokens=max_num_tokens or MAX_NUM_TOKENS,
            backend=backend,
        )

    def load(self, pp_size: int) -> _Load:
        """Its layers dealt out to stages: the embedding is the first's, the head the last's."""
        shape = self.shards.shape
        check_parallel(shape, self.shards.tp, pp_size, self.shards.tp * pp_size)
        owned = _owned(shape.layers, pp_size)
        sizes = [sum(self.layers[index] for index in stage) for stage in owned]
        sizes[0] += self.first
        sizes[-1] += self.last - (self.tied_in_memory if pp_size == 1 else 0)
        ranks = tuple(
            _Rank(
                weights=size,
                kv_per_token=self.kv_per_token * len(stage),
                per_token=self.shards.activations(),
                # Logits, once as computed and once as sampled from.
                per_row=2 * _FLOAT * shape.vocab if stage is owned[-1] else 0,
            )
            for size, stage in zip(sizes, owned, strict=True)
        )
        workspace = _WORKSPACE[self.backend] + (_PEERS if self.shards.tp * pp_size > 1 else 0)
        return _Load(ranks=ranks, max_num_tokens=self.max_num_tokens, workspace=workspace)


def _layer(parts: Sequence[str]) -> int | None:
    """The layer's number in a tensor's name."""
    for name, number in itertools.pairwise(parts):
        if name in _LISTS_OF_LAYERS and number.isdecimal():
            return int(number)
    return None


def _other_tower(parts: Sequence[str]) -> bool:
    """Whether a tensor is of a multimodal model's other part."""
    return any(part.startswith(_OTHER_TOWERS) for part in parts)


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """How a model's tensors are quantized and split among tensor parallel ranks."""

    shape: ModelShape
    variant: str
    tp: int
    ep: int
    quantized: bool  # by whoever made the checkpoint

    def stored(self, tensor: Tensor) -> int:
        """Bytes of a tensor on one rank. Norms and routers are everywhere whole and in 16 bits."""
        parts = tensor.name.split(".")
        module = parts[-1] if parts[-1] in (*_BY_OUTPUT, *_BY_INPUT) else parts[-2] if len(parts) > 1 else ""
        matrix = len(tensor.shape) > 1
        linear = module in _BY_OUTPUT or (module in _BY_INPUT and (matrix or parts[-1] not in ("weight", "bias")))
        linear = linear and not _other_tower(parts)
        share = self._share(module, "experts" in parts) if linear and tensor.shape else Fraction(1)
        if tensor.dtype in _NARROW:
            return math.ceil(share * tensor.elements * _NARROW[tensor.dtype] / 8)
        if "scale" in parts[-1]:
            return math.ceil(share * tensor.elements * (_FLOAT if tensor.dtype == "F32" else _HALF))
        if not linear or not matrix or self.quantized or VARIANTS[self.variant].weight_bits == 16:
            return math.ceil(share * tensor.elements * _HALF)
        return self._quantized(tensor, module, share)

    def activations(self) -> int:
        """Bytes per token at a layer's widest place, in 16 bits.

        The residual stream, its normed copy, a layer's result and one spare; and the inner values of attention (queries,
        keys, values, result) or of the MLP (gate, up, product), whichever is wider. Kernels fuse some of them.
        """
        shape = self.shape
        attention = 2 * (shape.heads // self.tp + math.ceil(shape.kv_heads / self.tp)) * shape.head_dim
        mlp = 3 * math.ceil(shape.inner / self.tp)
        experts = shape.experts_per_token * (2 * shape.hidden + 3 * math.ceil(shape.moe_inner * self.ep / self.tp))
        return _HALF * (4 * shape.hidden + max(attention, mlp, experts))

    def _share(self, module: str, expert: bool) -> Fraction:
        """The part of a linear layer that one rank has."""
        shape = self.shape
        if expert and shape.experts:
            return Fraction(math.ceil(shape.experts / self.ep), shape.experts) * Fraction(self.ep, self.tp)
        kv_heads = math.ceil(shape.kv_heads / self.tp)
        if module in _KEYS_AND_VALUES:
            return Fraction(kv_heads, shape.kv_heads)
        if module in _FUSED_ATTENTION:
            return Fraction(shape.heads // self.tp + 2 * kv_heads, shape.heads + 2 * shape.kv_heads)
        return Fraction(1, self.tp)

    def _quantized(self, tensor: Tensor, module: str, share: Fraction) -> int:
        variant, scales = VARIANTS[self.variant], _SCALES[self.variant]
        outputs, inputs = tensor.elements // tensor.shape[-1], tensor.shape[-1]
        split = Fraction(tensor.elements * variant.weight_bits, 8) + outputs * scales.channel
        if variant.group_size:
            split += Fraction(outputs * math.ceil(inputs / variant.group_size) * variant.scale_bits, 8)
        if scales.smoothing and (module in _BY_INPUT or not scales.smoothing_folded):
            split += inputs * scales.smoothing
        return math.ceil(share * split) + scales.tensor
