from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.backends.trtllm.llm_args import (
    ACCEPTED,
    KV_CACHE,
    check_llm_args,
    engine_options,
    fractions_in_order,
    share_tokens,
    shared_fraction,
)
from kfp_trtllm.errors import InvalidSpec


@pytest.mark.parametrize(
    ("options", "version", "backend"),
    [
        ({}, "1.2.1", "pytorch"),
        ({"enable_chunked_prefill": True, "max_num_tokens": 4096}, "1.0.0", "pytorch"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 0.4, "dtype": "fp8"}}, "1.1.0", "pytorch"),
        ({"cuda_graph_config": {"max_batch_size": 8}, "moe_config": {}}, "1.0.0", "pytorch"),
        ({"sampler_type": "TRTLLMSampler"}, "1.1.0", "pytorch"),
        ({"enable_mixed_sampler": True}, "1.0.3.2510", "pytorch"),
        ({"env_overrides": {"A": "1"}}, "1.2.0", "tensorrt"),
        ({"normalize_log_probs": True, "batching_type": "INFLIGHT"}, "1.2.1", "tensorrt"),
        ({"auto_parallel": True}, "1.0.0", "tensorrt"),
        ({"whatever_comes": 1}, "1.3.0rc29", "pytorch"),
        ({"kv_cache_config": {"pool_ratio_of_tomorrow": 1}}, "1.2.1", "pytorch"),
    ],
)
def test_what_the_version_knows_is_accepted(options: dict[str, Any], version: str, backend: str) -> None:
    check_llm_args(options, version, backend=backend)


@pytest.mark.parametrize(
    ("options", "version", "backend", "message"),
    [
        ({"enable_chunked_prefil": 1}, "1.2.1", "pytorch", r"^'enable_chunked_prefil' is no argument of LLM\(\) of TensorRT-LLM 1.2 with backend pytorch. Did you mean 'enable_chunked_prefill'\?$"),
        ({"cuda_graph_config": {}}, "1.2.1", "tensorrt", "'cuda_graph_config' is no argument of .* with backend tensorrt"),
        ({"sampler_type": "auto"}, "1.0.0", "pytorch", "'sampler_type' is no argument of LLM\\(\\) of TensorRT-LLM 1.0"),
        ({"enable_mixed_sampler": True}, "1.2.1", "pytorch", "'enable_mixed_sampler' is no argument"),
        ({"kv_cache_free_gpu_memory_fraction": 0.5}, "1.2.1", "pytorch", "Did you mean kv_cache_config with free_gpu_memory_fraction"),
        ({"zzz": 1}, "1.2.1", "pytorch", r"with backend pytorch\.$"),
        ({"model": "x"}, "1.2.1", "pytorch", "engine options must not set model: it is the engine."),
        ({"tokenizer": "x"}, "1.3.0", "pytorch", "must not set tokenizer: text and tokens are made by"),
        ({"backend": "pytorch"}, "1.2.1", "tensorrt", "must not set backend: set the step's backend."),
        ({"tensor_parallel_size": 2}, "1.2.1", "pytorch", "must not set tensor_parallel_size: set tp_size."),
        ({"max_seq_len": 2}, "1.2.1", "pytorch", "must not set max_seq_len: set the plan's max_seq_len."),
        ({"build_config": {}}, "1.2.1", "tensorrt", "must not set build_config: set the plan's build_options."),
        ({"checkpoint_loader": "x"}, "1.2.1", "pytorch", "must not set checkpoint_loader: an object can't be written down."),
        ({"kv_cache_config": 0.9}, "1.2.1", "pytorch", "kv_cache_config must be a dictionary, but got 0.9."),
        ({"kv_cache_config": {"free_gpu_memory_fracton": 0.9}}, "1.2.1", "pytorch", "Did you mean 'free_gpu_memory_fraction'"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.2}}, "1.2.1", "pytorch", "free_gpu_memory_fraction must be above 0 and below 1, but got 1.2."),
        ({"kv_cache_config": {"dtype": "fp8"}}, "1.2.1", "tensorrt", "kv_cache_config.dtype must be auto with backend tensorrt"),
        ({}, "1.2.1", "onnxruntime", "backend must be one of pytorch, tensorrt"),
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_refused_with_what_was_meant(
    options: dict[str, Any], version: str, backend: str, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        check_llm_args(options, version, backend=backend)


def test_the_stand_in_of_the_serving_tests_accepts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "serving/standin"))
    from tensorrt_llm import _accepted

    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, name)
    assert ACCEPTED["tensorrt", "1.2"] == _accepted.TRT
    assert ACCEPTED["pytorch", "1.2"] == _accepted.TORCH
    assert KV_CACHE == _accepted.KV_CACHE


@pytest.mark.parametrize(
    ("options", "fields", "expected"),
    [
        ({}, {}, {"kv_cache_config": {"free_gpu_memory_fraction": 0.9}}),
        ({}, {"versions": 3}, {"kv_cache_config": {"free_gpu_memory_fraction": 0.3}}),
        (
            {"kv_cache_config": {"max_tokens": 5000}},
            {"versions": 3, "tp_size": 2},
            {"kv_cache_config": {"max_tokens": 5000}, "tensor_parallel_size": 2},
        ),
        (
            {"kv_cache_config": {"free_gpu_memory_fraction": 0.2, "enable_block_reuse": False}},
            {"versions": 2, "pp_size": 2, "backend": "tensorrt"},
            {
                "kv_cache_config": {"free_gpu_memory_fraction": 0.2, "enable_block_reuse": False},
                "pipeline_parallel_size": 2,
            },
        ),
        (
            {},
            {"version": "1.0.0"},
            {"kv_cache_config": {"free_gpu_memory_fraction": 0.9}, "enable_trtllm_sampler": True},
        ),
        (
            {"enable_mixed_sampler": True},
            {"version": "1.0.0"},
            {"kv_cache_config": {"free_gpu_memory_fraction": 0.9}, "enable_mixed_sampler": True},
        ),
    ],
)
def test_options_are_the_users_and_what_the_plan_says(
    options: dict[str, Any], fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = {key: dict(value) if isinstance(value, dict) else value for key, value in options.items()}
    assert engine_options(options, **{"backend": "pytorch", "version": "1.2.1", **fields}) == expected
    assert options == before


def loaded(weights: list[float], fractions: list[float], memory: float, together: bool) -> list[float]:
    """KV caches that versions take: each its fraction of what is free when it measures."""
    if together:
        free = memory - sum(weights)
        return [fraction * free for fraction in fractions]
    caches = []
    for weight, fraction in zip(weights, fractions, strict=True):
        memory -= weight
        caches.append(fraction * memory)
        memory -= caches[-1]
    return caches


@given(st.integers(1, 8), st.floats(0.05, 0.95))
def test_the_shared_fraction_holds_in_any_order_and_at_once(versions: int, total: float) -> None:
    fractions = [shared_fraction(versions, total)] * versions
    at_once = loaded([0.0] * versions, fractions, 80e9, together=True)
    in_turn = loaded([0.0] * versions, fractions, 80e9, together=False)
    assert sum(at_once) == pytest.approx(total * 80e9)
    assert sum(in_turn) <= total * 80e9 * (1 + 1e-9)
    assert in_turn == sorted(in_turn, reverse=True)
    # The last one alone could still load where all of them fit: what is left is the promised rest.
    assert 80e9 - sum(in_turn) >= (1 - total) * 80e9 * (1 - 1e-9)


def test_equal_shares_need_growing_fractions() -> None:
    assert fractions_in_order([0, 0, 0], 1.0) == pytest.approx((0.3, 0.3 / 0.7, 0.3 / 0.4))
    assert fractions_in_order([16e9], 80e9) == pytest.approx((0.9,))


@given(st.lists(st.floats(1e9, 16e9), min_size=1, max_size=4), st.floats(0.1, 0.95))
def test_fractions_in_order_give_equal_caches_and_room_for_all_weights(weights: list[float], total: float) -> None:
    for order in itertools.permutations(weights):
        fractions = fractions_in_order(order, 80e9, total)
        caches = loaded(list(order), list(fractions), 80e9, together=False)
        share = (80e9 - sum(weights)) * total / len(weights)
        assert caches == pytest.approx([share] * len(weights))
        assert sum(caches) + sum(weights) <= 80e9
        assert all(0 < fraction <= total + 1e-9 for fraction in fractions)
        # Equal weights or none make them grow; in any case a token count says the same without an order.
        assert share_tokens(order, 80e9, [131072] * len(order), total) == tuple([int(share // 131072)] * len(order))


def test_weights_that_fill_the_gpu_are_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"but 2 take 32.0 of 24.0 GB: serve fewer versions, or on more GPUs."):
        fractions_in_order([16e9, 16e9], 24e9)
    with pytest.raises(InvalidSpec, match="versions must be at least 1, but got 0"):
        shared_fraction(0)
    with pytest.raises(InvalidSpec, match="total must be above 0 and below 1, but got 1"):
        shared_fraction(2, 1.0)
