from __future__ import annotations

from typing import Any

import published_models
import pytest
from kfp_trtllm.core.backends.trtllm.shape import ModelShape
from kfp_trtllm.errors import InvalidSpec

LLAMA = published_models.config("llama-3.1-8b-instruct")


def test_a_dense_model_is_read_from_its_config() -> None:
    assert ModelShape.of(LLAMA) == ModelShape(
        layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256, positions=131072
    )


@pytest.mark.parametrize(
    ("name", "experts"),
    [("mixtral-8x7b-instruct", (8, 2, 14336)), ("qwen3-30b-a3b", (128, 8, 768)), ("qwen3-8b", (0, 0, 0))],
)
def test_experts_are_counted_and_measured(name: str, experts: tuple[int, int, int]) -> None:
    shape = ModelShape.of(published_models.config(name))
    assert (shape.experts, shape.experts_per_token, shape.moe_inner) == experts


@pytest.mark.parametrize(
    ("changes", "tied"),
    [
        ({}, False),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": None}, False),
        ({"tie_word_embeddings": None, "model_type": "gemma2"}, True),
    ],
)
def test_a_head_is_tied_as_the_config_or_its_class_says(changes: dict[str, Any], tied: bool) -> None:
    assert ModelShape.of({**LLAMA, **changes}).tied is tied


def test_a_window_that_is_not_used_is_none() -> None:
    assert ModelShape.of(published_models.config("gemma-2-9b-it")).sliding_window == 4096
    assert ModelShape.of(published_models.config("qwen2.5-7b-instruct")).sliding_window == 0


def test_a_multimodal_model_nests_its_language_model() -> None:
    nested = {"model_type": "mistral3", "text_config": LLAMA, "vision_config": {"hidden_size": 64}}
    assert ModelShape.of(nested) == ModelShape.of(LLAMA)


def test_heads_may_be_wider_than_the_stream_is_shared_out() -> None:
    shape = ModelShape.of(published_models.config("gemma-2-9b-it"))
    assert (shape.heads, shape.head_dim, shape.hidden) == (16, 256, 3584)


def test_gpt_2_spells_its_numbers_otherwise() -> None:
    gpt = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
    shape = ModelShape.of({**gpt, "n_inner": None})
    assert (shape.layers, shape.inner, shape.kv_heads, shape.positions, shape.tied) == (12, 3072, 12, 1024, True)


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"]
)
def test_a_missing_number_is_named(key: str) -> None:
    config = {name: value for name, value in LLAMA.items() if name != key}
    with pytest.raises(InvalidSpec, match=rf"config\.json must have {key}, but it has not"):
        ModelShape.of(config)
    with pytest.raises(InvalidSpec, match=rf"config\.json's text_config must have {key}, but it has not"):
        ModelShape.of({"text_config": config})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "4096"}, "config.json must have hidden_size as a whole number above 0, but got '4096'"),
        ({"num_hidden_layers": 0}, "config.json must have num_hidden_layers as a whole number above 0, but got 0"),
        ({"num_attention_heads": True}, "num_attention_heads as a whole number above 0, but got True"),
        ({"num_key_value_heads": -1}, "num_key_value_heads as a whole number above 0, but got -1"),
        ({"num_attention_heads": 30}, "must have head_dim, since hidden_size (4096) is no multiple of"),
        ({"num_local_experts": 8}, "config.json must have num_experts_per_tok, but it has not"),
        ({"kv_lora_rank": 512}, "can't be planned (kv_lora_rank in config.json): it keeps a compressed cache"),
        ({"mamba_d_state": 128}, "can't be planned (mamba_d_state in config.json): its layers keep a state"),
    ],
)
def test_what_can_not_be_planned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        ModelShape.of({**LLAMA, **changes})
    assert message in str(caught.value)
