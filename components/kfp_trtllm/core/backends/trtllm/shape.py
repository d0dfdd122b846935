"""What a model's size depends on, as its config.json says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.errors import InvalidSpec

_NESTED = ("text_config", "llm_config", "language_config")
# Whose configuration classes in transformers tie embeddings and head unless config.json says otherwise.
_TIED_BY_DEFAULT = ("gemma", "gemma2", "gemma3", "gemma3_text", "gpt2")
# What the memory model has no formula for.
_UNKNOWN = {
    "kv_lora_rank": "it keeps a compressed cache instead of keys and values",
    "ssm_cfg": "its layers keep a state besides keys and values",
    "mamba_d_state": "its layers keep a state besides keys and values",
    "linear_num_value_heads": "its layers keep a state besides keys and values",
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Dimensions of a language model.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        inner: Width of a dense layer's MLP.
        heads: Attention heads.
        kv_heads: Heads of keys and values; fewer than `heads` where they are shared.
        head_dim: Width of one head.
        vocab: Rows of the embedding.
        positions: Longest context in tokens that the model was made for.
        experts: Experts of a layer; 0 in dense models.
        experts_per_token: Experts that one token visits; 0 in dense models.
        moe_inner: Width of one expert; 0 in dense models.
        tied: Whether the output head is the embedding.
        sliding_window: Tokens that a layer looks back at most; 0 for all.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int
    experts: int = 0
    experts_per_token: int = 0
    moe_inner: int = 0
    tied: bool = False
    sliding_window: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """Reads a config.json; multimodal models nest the language model's.

        Raises:
            InvalidSpec: A number is missing or no number, or the architecture has a memory that is not modeled.
        """
        nested = next((name for name in _NESTED if isinstance(config.get(name), Mapping)), "")
        read = _Reader(config[nested] if nested else config, f"config.json's {nested}" if nested else "config.json")
        for key, why in _UNKNOWN.items():
            if read.config.get(key):
                raise InvalidSpec(f"the memory of this model can't be planned ({key} in {read.where}): {why}.")
        hidden, heads = read.number("hidden_size", "n_embd"), read.number("num_attention_heads", "n_head")
        head_dim = read.number("head_dim", default=0)
        if not head_dim and hidden % heads:
            raise InvalidSpec(
                f"{read.where} must have head_dim, since hidden_size ({hidden}) is no multiple of "
                f"num_attention_heads ({heads}), but it has not."
            )
        experts = read.number("num_local_experts", "num_experts", "n_routed_experts", default=0)
        inner = read.number("intermediate_size", "n_inner", default=4 * hidden)
        tied = read.config.get("tie_word_embeddings", config.get("tie_word_embeddings"))
        if tied is None:
            tied = read.config.get("model_type") in _TIED_BY_DEFAULT
        return cls(
            layers=read.number("num_hidden_layers", "n_layer"),
            hidden=hidden,
            inner=inner,
            heads=heads,
            kv_heads=read.number("num_key_value_heads", "num_kv_heads", default=heads),
            head_dim=head_dim or hidden // heads,
            vocab=read.number("vocab_size"),
            positions=read.number("max_position_embeddings", "n_positions", "n_ctx"),
            experts=experts,
            experts_per_token=read.number("num_experts_per_tok", "num_experts_per_token") if experts else 0,
            moe_inner=read.number("moe_intermediate_size", default=inner) if experts else 0,
            tied=bool(tied),
            # Qwen names a window that it does not use.
            sliding_window=read.number("sliding_window", default=0)
            if read.config.get("use_sliding_window", True)
            else 0,
        )


@dataclass(frozen=True)
class _Reader:
    config: Mapping[str, Any]
    where: str

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of some names that the configuration has."""
        for name in names:
            value = self.config.get(name)
            if value is None or (value == 0 and default is not None):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidSpec(f"{self.where} must have {name} as a whole number above 0, but got {value!r}.")
            return value
        if default is None:
            raise InvalidSpec(f"{self.where} must have {names[0]}, but it has not.")
        return default
