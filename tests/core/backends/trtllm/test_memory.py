from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import published_models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp_trtllm.core.backends.base import Memory, Tensor
from kfp_trtllm.core.backends.trtllm.gpus import GPUS, gpu
from kfp_trtllm.core.backends.trtllm.memory import (
    check_fit,
    check_parallel,
    fits,
    kv_bytes_per_token,
    largest_batch,
    parallel_sizes,
    plan_memory,
    suggest,
)
from kfp_trtllm.core.backends.trtllm.shape import ModelShape
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.errors import InvalidSpec

MODELOPT = json.loads((Path(__file__).parent / "modelopt_headers.json").read_text())
BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1}
ROWS = {(row.model, row.variant): row for row in published_models.table()}


def named(name: str, **changes: Any) -> tuple[dict[str, Any], list[Tensor]]:
    config = {**published_models.config(name), **changes}
    return config, published_models.headers(config)


def planned(name: str, **options: Any) -> Memory:
    options = {"variant": "bf16", "max_batch_size": 1, "max_seq_len": 1, **options}
    return plan_memory(*named(name), **options)


def exported(variant: str) -> list[Tensor]:
    return [Tensor(name=name, dtype=dtype, shape=tuple(shape)) for name, dtype, shape in MODELOPT["headers"][variant]]


def size(tensors: list[Tensor]) -> int:
    return sum(tensor.elements * BYTES[tensor.dtype] for tensor in tensors)


@pytest.mark.parametrize("name", published_models.names())
def test_headers_made_from_a_config_weigh_what_the_published_index_says(name: str) -> None:
    cells = {cell["variant"]: cell["bytes"] for cell in published_models.document(name)["published"]}
    if "bf16" in cells:
        assert size(named(name)[1]) == cells["bf16"]
    else:
        assert name in ("llama-2-13b", "smollm2-135m-instruct")


def test_at_least_eight_cells_of_the_table_have_a_source() -> None:
    sourced = [row for row in ROWS.values() if row.published]
    assert len(sourced) >= 8
    assert {row.variant for row in sourced} >= {"bf16", "fp16", "fp8", "int4_awq"}
    for row in ROWS.values():
        assert (row.published is None) == (row.source is None) == (row.ratio is None)


@pytest.mark.parametrize("cell", [cell for cell, row in ROWS.items() if row.published])
def test_planned_weights_are_the_published_ones(cell: tuple[str, str]) -> None:
    row = ROWS[cell]
    assert row.ratio is not None
    if cell == ("llama-3.3-70b-instruct", "int4_awq"):
        # AutoAWQ has a zero point of 4 bits beside each scale, and does not smooth what can't be folded away.
        linear = 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 8192 * 28672)
        smoothing = 80 * 2 * (8192 + 28672)
        assert row.published == row.planned + linear // 128 // 2 - smoothing
    elif row.digits:
        # What was published is rounded to that many digits, or cut off.
        assert row.ratio == pytest.approx(1, abs=10.0 ** (1 - row.digits))
    else:
        assert row.planned == row.published


@pytest.mark.parametrize("variant", ["fp8", "int8_sq", "nvfp4"])
def test_quantized_weights_are_what_modelopt_exports(variant: str) -> None:
    memory = plan_memory(
        MODELOPT["config"], exported("base"), variant=variant, max_batch_size=1, max_seq_len=1, backend="pytorch"
    )
    assert memory.weights == size(exported(variant))


@pytest.mark.parametrize("variant", ["int4_awq", "w4a8_awq"])
def test_awq_weights_are_what_modelopt_exports_with_scales_in_16_bits(variant: str) -> None:
    memory = plan_memory(
        MODELOPT["config"], exported("base"), variant=variant, max_batch_size=1, max_seq_len=1, backend="pytorch"
    )
    scales = sum(tensor.elements for tensor in exported(variant) if tensor.name.endswith("weight_scale"))
    assert memory.weights == size(exported(variant)) - 2 * scales  # 32 bits in the file


@pytest.mark.parametrize("variant", ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"])
def test_a_checkpoint_that_is_quantized_already_stays_as_it_is(variant: str) -> None:
    tensors = exported(variant)
    memory = plan_memory(
        MODELOPT["config"], tensors, variant=variant, max_batch_size=1, max_seq_len=1, backend="pytorch"
    )
    assert memory.weights == size(tensors)


def test_what_a_quantized_checkpoint_left_in_16_bits_stays_so() -> None:
    base = {tensor.name: tensor for tensor in exported("base")}
    mixed = [base.get(tensor.name, tensor) if "o_proj" in tensor.name else tensor for tensor in exported("fp8")]
    memory = plan_memory(MODELOPT["config"], mixed, variant="fp8", max_batch_size=1, max_seq_len=1, backend="pytorch")
    assert memory.weights == size(mixed)


def test_a_checkpoint_in_32_bits_is_served_in_16() -> None:
    config, tensors = named("tinyllama-1.1b-chat")
    floats = [Tensor(name=tensor.name, dtype="F32", shape=tensor.shape) for tensor in tensors]
    memory = plan_memory(config, floats, variant="fp16", max_batch_size=1, max_seq_len=1)
    assert memory.weights == size(tensors)


# 2 x layers x kv_heads x head_dim x 2 bytes, as was measured on an H100.
@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("llama-3.1-8b-instruct", 131_072),
        ("llama-3.3-70b-instruct", 327_680),
        ("mixtral-8x7b-instruct", 131_072),
        ("qwen2.5-7b-instruct", 57_344),
        ("gemma-2-9b-it", 344_064),
        ("llama-2-13b", 819_200),
        ("tinyllama-1.1b-chat", 22_528),
    ],
)
def test_the_cache_of_a_token_is_keys_and_values_of_every_layer(name: str, per_token: int) -> None:
    shape = ModelShape.of(published_models.config(name))
    assert kv_bytes_per_token(shape) == per_token
    assert kv_bytes_per_token(shape, "fp8") == kv_bytes_per_token(shape, "int8") == per_token // 2
    assert kv_bytes_per_token(shape, tp_size=2, pp_size=2) == per_token // 4
    assert planned(name, max_batch_size=8, max_seq_len=2048).kv_cache == per_token * 8 * 2048


def test_heads_that_are_fewer_than_ranks_are_held_by_several() -> None:
    shape = ModelShape.of(published_models.config("qwen3-30b-a3b"))
    assert kv_bytes_per_token(shape, tp_size=4) == kv_bytes_per_token(shape, tp_size=8) == 2 * 48 * 128 * 2


def test_a_cache_in_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="kv_cache_dtype must be one of auto, fp8, int8, but got 'fp4'"):
        planned("qwen3-8b", kv_cache_dtype="fp4")


@pytest.mark.parametrize(
    ("backend", "embedding"), [("tensorrt", 32000 * 4096 * 2), ("pytorch", 16000 * 4096 * 2)]
)  # fmt: skip
def test_tensor_parallel_ranks_share_out_all_but_norms_routers_and_perhaps_the_embedding(
    backend: str, embedding: int
) -> None:
    memory = planned("mixtral-8x7b-instruct", tp_size=2, backend=backend)
    attention, experts = 2 * 4096 * 4096 + 2 * 1024 * 4096, 8 * 3 * 4096 * 14336
    layer = (attention + experts) // 2 + 8 * 4096 + 2 * 4096
    assert memory.weights == embedding + 16000 * 4096 * 2 + 4096 * 2 + 32 * 2 * layer


def test_keys_and_values_that_ranks_share_are_counted_on_each() -> None:
    two, four = (planned("qwen2.5-7b-instruct", tp_size=size, backend="pytorch").weights for size in (2, 4))
    keys = 28 * 2 * 2 * (512 * 3584 + 512)
    whole = ROWS["qwen2.5-7b-instruct", "bf16"].planned
    norms = 57 * 3584 * 2
    assert two == norms + (whole - norms) // 2
    assert four == norms + (whole - norms) // 4
    # With two heads, four ranks hold each one twice.
    config, tensors = named("qwen2.5-7b-instruct", num_key_value_heads=2)
    shared = [
        plan_memory(
            config, tensors, variant="bf16", max_batch_size=1, max_seq_len=1, tp_size=size, backend="pytorch"
        ).weights
        for size in (1, 4)
    ]
    half = keys // 2
    assert shared[1] == norms + (shared[0] - norms - half) // 4 + half // 2


def test_experts_may_be_shared_out_whole() -> None:
    by_tensor = planned("mixtral-8x7b-instruct", tp_size=4)
    assert planned("mixtral-8x7b-instruct", tp_size=4, moe_ep_size=4).weights == by_tensor.weights
    # 6 experts on 4 groups are 2 for the fullest; on 2 groups of 2 ranks they are 3 halves.
    config, tensors = named("mixtral-8x7b-instruct", num_local_experts=6)
    even, uneven = (
        plan_memory(config, tensors, variant="bf16", max_batch_size=1, max_seq_len=1, tp_size=4, moe_ep_size=size)
        for size in (2, 4)
    )
    assert uneven.weights - even.weights == pytest.approx(32 * 2 * 3 * 4096 * 14336 // 2, abs=1000)
    with pytest.raises(InvalidSpec, match=r"moe_ep_size must divide tp_size \(4\), but got 3"):
        planned("mixtral-8x7b-instruct", tp_size=4, moe_ep_size=3)


def test_stages_hold_their_layers_and_the_ends_hold_embedding_and_head() -> None:
    config, tensors = named("llama-3.1-8b-instruct", num_hidden_layers=3)
    matrix = 128256 * 4096 * 2
    layer = 2 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336 + 2 * 4096)
    memory = plan_memory(config, tensors, variant="bf16", max_batch_size=1, max_seq_len=8, pp_size=2)
    assert memory.weights == matrix + 2 * layer
    assert memory.kv_cache == 8 * kv_bytes_per_token(ModelShape.of(config), pp_size=2) == 8 * 2 * 4096
    # With many rows the last stage is the fullest: it has the logits.
    memory = plan_memory(config, tensors, variant="bf16", max_batch_size=1024, max_seq_len=8, pp_size=2)
    assert memory.weights == matrix + layer + 4096 * 2
    assert memory.kv_cache == 1024 * 8 * 4096


def test_a_plan_fits_only_where_its_fullest_stage_does() -> None:
    config, tensors = named("llama-3.1-8b-instruct", num_hidden_layers=3)
    options: dict[str, Any] = {"variant": "bf16", "max_batch_size": 1, "max_seq_len": 64, "pp_size": 2}
    fit = check_fit(config, tensors, gpu=gpu("l4"), tp_size=1, **options)
    assert fit.memory == plan_memory(config, tensors, **options)


def test_a_tied_head_is_the_embedding_where_one_stage_of_pytorch_has_both() -> None:
    once, matrix = ROWS["gemma-2-9b-it", "bf16"].planned, 256000 * 3584 * 2
    assert planned("gemma-2-9b-it", backend="pytorch").weights == once
    assert planned("gemma-2-9b-it", backend="tensorrt").weights == once + matrix
    # With stages each end has it; the first also has no less layers.
    layers = (once - matrix - 3584 * 2) // 2
    assert planned("gemma-2-9b-it", backend="pytorch", pp_size=2).weights == matrix + layers + 3584 * 2
    # A checkpoint may store it all the same, and a config may forget to say so.
    config, tensors = named("gemma-2-9b-it")
    stored = [*tensors, Tensor(name="lm_head.weight", dtype="BF16", shape=(256000, 3584))]
    options: dict[str, Any] = {"variant": "bf16", "max_batch_size": 1, "max_seq_len": 1, "backend": "pytorch"}
    assert plan_memory(config, stored, **options).weights == once
    assert plan_memory({**config, "tie_word_embeddings": False}, tensors, **options).weights == once


def test_other_towers_and_strange_tensors_are_counted_whole() -> None:
    config, tensors = named("tinyllama-1.1b-chat")
    more = [
        Tensor(name="vision_tower.encoder.layers.0.self_attn.q_proj.weight", dtype="BF16", shape=(64, 64)),
        Tensor(name="multi_modal_projector.linear_1.weight", dtype="BF16", shape=(64, 64)),
        Tensor(name="model.layers.0.strange.weight", dtype="BF16", shape=(64, 64)),
    ]
    options: dict[str, Any] = {"variant": "int8_wo", "max_batch_size": 1, "max_seq_len": 1, "tp_size": 2}
    assert plan_memory(config, [*tensors, *more], **options).weights == (
        plan_memory(config, tensors, **options).weights + 3 * 64 * 64 * 2
    )


def test_fused_layers_weigh_what_their_parts_do() -> None:
    config, tensors = named("llama-3.1-8b-instruct")
    fused = [tensor for tensor in tensors if not re.search(r"[qkv]_proj|gate_proj|up_proj", tensor.name)]
    for layer in range(32):
        prefix = f"model.layers.{layer}"
        fused.append(Tensor(name=f"{prefix}.self_attn.qkv_proj.weight", dtype="BF16", shape=(6144, 4096)))
        fused.append(Tensor(name=f"{prefix}.mlp.gate_up_proj.weight", dtype="BF16", shape=(28672, 4096)))
    for tp in (1, 8):
        options: dict[str, Any] = {"variant": "int4_awq", "max_batch_size": 1, "max_seq_len": 1, "tp_size": tp}
        assert plan_memory(config, fused, **options) == plan_memory(config, tensors, **options)


def test_one_pass_over_the_plan_of_a_model_with_18_000_tensors_serves_all_gpus() -> None:
    config, tensors = named("qwen3-30b-a3b")
    assert len(tensors) > 18_000
    found = suggest(config, tensors, gpu=gpu("l4"), variant="bf16", max_batch_size=8, max_seq_len=4096)
    assert found.sentence == "needs 4 × L4 or 1 × A100-80"


@pytest.mark.parametrize(
    ("name", "tp", "pp", "count", "message"),
    [
        (
            "qwen2.5-7b-instruct",
            8,
            1,
            8,
            "tp_size must divide the model's 28 attention heads, but got 8: 1, 2, 4 would",
        ),
        ("llama-3.1-8b-instruct", 3, 1, 3, "divide the model's 32 attention heads, but got 3: 1, 2, 4, 8 would do"),
        (
            "qwen2.5-7b-instruct",
            7,
            1,
            7,
            "divide the model's 4 key and value heads, or be a multiple of them, but got 7",
        ),
        ("smollm2-135m-instruct", 9, 1, 9, "divide the model's intermediate_size (1536), but got 9: 1, 3 would do"),
        ("llama-3.1-8b-instruct", 1, 33, 33, "pp_size must be at most the model's layers (32), but got 33."),
        ("llama-3.1-8b-instruct", 2, 1, 4, "must be gpu_count (4), but got 2 × 1: tp_size 4 and pp_size 1 would do"),
        ("llama-3.1-8b-instruct", 4, 1, 1, "must be gpu_count (1), but got 4 × 1: tp_size 1 and pp_size 1 would do"),
        ("llama-3.1-8b-instruct", 2, 2, 16, "tp_size 8 and pp_size 2 would do"),
        ("qwen2.5-7b-instruct", 2, 1, 8, "tp_size 4 and pp_size 2 would do"),
        ("llama-3.1-8b-instruct", 2, 1, 37, "gpu_count 2 would do"),
        ("llama-3.1-8b-instruct", 0, 1, 1, "tp_size must be at least 1, but got 0"),
        ("llama-3.1-8b-instruct", 1, 0, 1, "pp_size must be at least 1, but got 0"),
        ("llama-3.1-8b-instruct", 1, 1, 0, "gpu_count must be at least 1, but got 0"),
    ],
)
def test_ranks_that_do_not_divide_the_model_or_the_gpus_are_refused(
    name: str, tp: int, pp: int, count: int, message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_parallel(ModelShape.of(published_models.config(name)), tp, pp, count)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (8, 1), (2, 4), (8, 4), (1, 32)])
def test_ranks_that_divide_the_model_and_the_gpus_are_accepted(tp: int, pp: int) -> None:
    check_parallel(ModelShape.of(published_models.config("llama-3.1-8b-instruct")), tp, pp, tp * pp)


def test_the_cache_may_have_a_fraction_of_what_the_rest_leaves() -> None:
    l4 = gpu("l4")
    rest = {"weights": 10**10, "activations": 10**9, "workspace": 10**9}
    room = int((l4.memory_bytes - 12 * 10**9) * 0.9)
    assert fits(Memory(kv_cache=room, **rest), l4)
    assert fits(Memory(kv_cache=room, **rest), l4).kv_cache_limit == room
    assert not fits(Memory(kv_cache=room + 1, **rest), l4)
    assert fits(Memory(kv_cache=room + 1, **rest), l4, 0.95)
    assert not fits(Memory(kv_cache=0, weights=3 * 10**10, activations=0, workspace=0), l4)
    with pytest.raises(InvalidSpec, match="kv_cache_free_gpu_memory_fraction must be above 0 and below 1, but got 1"):
        fits(Memory(kv_cache=0, **rest), l4, 1.0)


# NVIDIA's own performance tables run these on that many GPUs.
@pytest.mark.parametrize(
    ("name", "variant", "kind", "tp"),
    [
        ("llama-3.1-8b-instruct", "fp8", "h100", 1),
        ("llama-3.3-70b-instruct", "fp8", "h100", 2),
        ("llama-3.3-70b-instruct", "fp8", "h200", 1),
        ("llama-3.3-70b-instruct", "nvfp4", "b200", 1),
    ],
)
def test_what_nvidia_measures_fits(name: str, variant: str, kind: str, tp: int) -> None:
    config, tensors = named(name)
    options: dict[str, Any] = {"variant": variant, "tp_size": tp, "max_seq_len": 2048, "backend": "pytorch"}
    assert check_fit(config, tensors, gpu=gpu(kind), pp_size=1, max_batch_size=64, **options)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    config, tensors = named("llama-3.1-8b-instruct")
    options: dict[str, Any] = {"gpu": gpu("l4"), "variant": "bf16", "tp_size": 1, "pp_size": 1, "max_seq_len": 4096}
    with pytest.raises(InvalidSpec) as caught:
        check_fit(config, tensors, max_batch_size=16, **options)
    assert str(caught.value) == (
        "each of 1 × L4 must hold 26.23 GB (weights 16.06 GB, KV cache 8.59 GB, activations 0.99 GB, workspace "
        "0.59 GB), but has 23.65 GB, with 5.42 GB for the cache: max_batch_size 16 with max_seq_len 4096 needs 2 × L4 "
        "or 1 × L40S (L4 by tp_size 2 and pp_size 1); as it is, max_batch_size 10 would fit."
    )
    assert check_fit(config, tensors, max_batch_size=10, **options)
    assert check_fit(config, tensors, max_batch_size=16, **{**options, "tp_size": 2})
    assert check_fit(config, tensors, max_batch_size=16, **{**options, "gpu": gpu("l40s")})
    with pytest.raises(InvalidSpec, match="max_batch_size 10 would fit"):
        check_fit(config, tensors, max_batch_size=11, **options)


def test_not_even_one_request_may_fit() -> None:
    config, tensors = named("llama-3.3-70b-instruct")
    options: dict[str, Any] = {"gpu": gpu("l4"), "variant": "bf16", "max_batch_size": 4, "max_seq_len": 4096}
    with pytest.raises(InvalidSpec, match=r"needs 8 × L4 or 1 × H200 .*not even one such request would fit"):
        check_fit(config, tensors, tp_size=1, pp_size=1, **options)
    options.update(max_batch_size=4096, max_seq_len=131072)
    with pytest.raises(InvalidSpec, match="fits no number of GPUs that this library knows"):
        check_fit(config, tensors, tp_size=1, pp_size=1, **options)


def test_tensor_parallelism_goes_first_and_stages_where_heads_are_odd() -> None:
    config, tensors = named("llama-3.3-70b-instruct")
    found = suggest(config, tensors, gpu=gpu("h100"), variant="fp8", max_batch_size=16, max_seq_len=4096)
    assert found.placement is not None
    assert (found.placement.tp_size, found.placement.pp_size) == (2, 1)
    odd, tensors = named("llama-3.3-70b-instruct", num_attention_heads=63, num_key_value_heads=9)
    found = suggest(odd, tensors, gpu=gpu("h100"), variant="fp8", max_batch_size=16, max_seq_len=4096)
    assert found.placement is not None
    assert (found.placement.tp_size, found.placement.pp_size) == (1, 2)


def test_alternatives_run_the_precision_and_are_the_cheapest_first() -> None:
    config, tensors = named("llama-3.1-8b-instruct")
    found = suggest(config, tensors, gpu=gpu("a100-80"), variant="fp8", max_batch_size=8, max_seq_len=2048)
    assert found.placement is None  # an A100 has no units for it
    assert [one.gpu.name for one in found.alternatives] == ["l4", "l40s", "h100", "h200", "b200"]
    assert found.sentence == "needs 1 × L4"
    costs = [one.hourly_dollars for one in found.alternatives]
    assert costs == sorted(costs)


# Small models of any proportion; each head count can be split by two.
@st.composite
def models(draw: st.DrawFn) -> tuple[dict[str, Any], list[Tensor]]:
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads * 2 * draw(st.integers(1, 4))
    moe = draw(st.booleans())
    config: dict[str, Any] = {
        "model_type": "mixtral" if moe else draw(st.sampled_from(["llama", "qwen2", "qwen3", "gemma2"])),
        "num_hidden_layers": draw(st.integers(2, 5)),
        "hidden_size": 32 * draw(st.integers(1, 32)),
        "intermediate_size": 16 * draw(st.integers(1, 64)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 16 * draw(st.integers(1, 8)),
        "vocab_size": draw(st.integers(100, 5000)),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": draw(st.booleans()),
    }
    if moe:
        config |= {"num_local_experts": draw(st.integers(2, 6)), "num_experts_per_tok": 2}
    return config, published_models.headers(config)


options = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(sorted(VARIANTS)),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8"]),
        "backend": st.sampled_from(["tensorrt", "pytorch"]),
        "max_num_tokens": st.sampled_from([0, 64, 16384]),
    }
)


@settings(deadline=None, max_examples=60)
@given(models(), options, st.sampled_from([1, 2]), st.integers(1, 3000), st.integers(1, 4000))
def test_memory_never_falls_when_requests_or_lengths_grow(
    model: tuple[dict[str, Any], list[Tensor]], options: dict[str, Any], pp: int, batch: int, length: int
) -> None:
    here = plan_memory(*model, pp_size=pp, max_batch_size=batch, max_seq_len=length, **options)
    assert plan_memory(*model, pp_size=pp, max_batch_size=batch + 1, max_seq_len=length, **options).total > here.total
    assert plan_memory(*model, pp_size=pp, max_batch_size=batch, max_seq_len=length + 1, **options).total >= here.total
    assert min(here.weights, here.kv_cache, here.activations, here.workspace) > 0


@settings(deadline=None, max_examples=60)
@given(models(), options)
def test_ranks_never_hold_less_than_their_part(
    model: tuple[dict[str, Any], list[Tensor]], options: dict[str, Any]
) -> None:
    one = plan_memory(*model, max_batch_size=1, max_seq_len=1, **options)
    two = plan_memory(*model, max_batch_size=1, max_seq_len=1, tp_size=2, **options)
    assert two.weights <= one.weights <= 2 * two.weights
    assert two.kv_cache <= one.kv_cache <= 2 * two.kv_cache
    # Which of two stages is the fullest depends on all parts together.
    stage = plan_memory(*model, max_batch_size=1, max_seq_len=1, pp_size=2, **options)
    assert one.total <= 2 * stage.total


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "mistral-7b-instruct", "tinyllama-1.1b-chat"]),
    st.sampled_from(sorted(GPUS)),
    options,
    st.sampled_from([1, 2]),
    st.sampled_from([1, 3]),
    st.integers(16, 8192),
    st.floats(0.5, 0.95),
)
def test_the_largest_batch_fits_and_one_more_does_not(
    name: str, kind: str, options: dict[str, Any], tp: int, pp: int, length: int, fraction: float
) -> None:
    config, tensors = LOADED[name]
    options = {**options, "tp_size": tp, "pp_size": pp, "max_seq_len": length}
    batch = largest_batch(config, tensors, gpu=gpu(kind), fraction=fraction, **options)
    if batch:
        assert check_fit(config, tensors, gpu=gpu(kind), max_batch_size=batch, fraction=fraction, **options)
    with pytest.raises(InvalidSpec, match=f"max_batch_size {batch} would fit" if batch else "not even one"):
        check_fit(config, tensors, gpu=gpu(kind), max_batch_size=batch + 1, fraction=fraction, **options)


LOADED = {
    name: named(name)
    for name in ("llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "mistral-7b-instruct", "tinyllama-1.1b-chat")
}


def test_sizes_that_a_model_can_be_split_by_stay_within_a_node() -> None:
    assert parallel_sizes(ModelShape.of(published_models.config("llama-3.1-8b-instruct"))) == [1, 2, 4, 8]
    assert parallel_sizes(ModelShape.of(published_models.config("smollm2-135m-instruct"))) == [1, 3]


def test_two_backends_count_what_each_keeps_besides() -> None:
    engine, torch = (planned("llama-3.1-8b-instruct", backend=name) for name in ("tensorrt", "pytorch"))
    # Llama-2-13B on an A100 had 558 MiB besides engine, activations and cache.
    assert engine.workspace == 558 * 2**20
    assert torch.workspace > engine.workspace
    assert planned("llama-3.1-8b-instruct", tp_size=2).workspace > engine.workspace
    with pytest.raises(InvalidSpec, match="backend must be one of pytorch, tensorrt, but got 'onnxruntime'"):
        planned("llama-3.1-8b-instruct", backend="onnxruntime")


def test_activations_grow_with_the_tokens_of_a_step_and_logits_with_the_rows() -> None:
    small, large = (planned("llama-3.1-8b-instruct", max_num_tokens=tokens).activations for tokens in (1024, 2048))
    assert large - small == 1024 * 2 * (4 * 4096 + 3 * 14336)
    small, large = (planned("mixtral-8x7b-instruct", max_num_tokens=tokens).activations for tokens in (1024, 2048))
    assert large - small == 1024 * 2 * (4 * 4096 + 2 * (2 * 4096 + 3 * 14336))  # two experts to a token
    one, two = (planned("llama-3.1-8b-instruct", max_batch_size=rows).activations for rows in (1, 2))
    assert two - one == 2 * 4 * 128256
    assert (
        planned("llama-3.1-8b-instruct").activations
        == planned("llama-3.1-8b-instruct", max_num_tokens=8192).activations
    )
