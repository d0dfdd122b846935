"""Real models: dimensions from their config.json, headers made from them, and published sizes to compare with.

As a program it prints the table for docs/benchmarks.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import Tensor
from kfp_trtllm.core.backends.trtllm.memory import plan_memory
from kfp_trtllm.core.backends.trtllm.shape import ModelShape

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bytes of one model's weights in one precision, on one GPU; `published` is None where no source was found."""

    model: str
    variant: str
    planned: int
    published: int | None
    digits: int | None  # that the published figure has; None for all
    source: str | None

    @property
    def ratio(self) -> float | None:
        return self.planned / self.published if self.published else None


def names() -> list[str]:
    return sorted(path.stem for path in MODELS.glob("*.json"))


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MODELS / f"{name}.json").read_text())
    return loaded


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = document(name)["config"]
    return found


def headers(config: dict[str, Any], dtype: str = "BF16") -> list[Tensor]:
    """The tensors of a Llama, Mistral, Qwen, Mixtral or Gemma 2 checkpoint, as transformers saves it."""
    return [Tensor(name=name, dtype=dtype, shape=shape) for name, shape in sorted(_tensors(config))]


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    shape = ModelShape.of(config)
    kind = config["model_type"]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    yield "model.norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        for norm in norms:
            yield f"{prefix}.{norm}.weight", (shape.hidden,)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"{prefix}.self_attn.{name}.weight", (rows, shape.hidden)
            if kind == "qwen2":
                yield f"{prefix}.self_attn.{name}.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (shape.hidden, queries)
        if kind in ("qwen3", "qwen3_moe"):
            yield f"{prefix}.self_attn.q_norm.weight", (shape.head_dim,)
            yield f"{prefix}.self_attn.k_norm.weight", (shape.head_dim,)
        if not shape.experts:
            yield from _mlp(f"{prefix}.mlp", ("gate_proj", "up_proj", "down_proj"), shape.hidden, shape.inner)
            continue
        block, parts = (
            ("block_sparse_moe", ("w1", "w3", "w2"))
            if kind == "mixtral"
            else ("mlp", ("gate_proj", "up_proj", "down_proj"))
        )
        yield f"{prefix}.{block}.gate.weight", (shape.experts, shape.hidden)
        for expert in range(shape.experts):
            yield from _mlp(f"{prefix}.{block}.experts.{expert}", parts, shape.hidden, shape.moe_inner)


def _mlp(prefix: str, names: tuple[str, str, str], hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    gate, up, down = names
    yield f"{prefix}.{gate}.weight", (inner, hidden)
    yield f"{prefix}.{up}.weight", (inner, hidden)
    yield f"{prefix}.{down}.weight", (hidden, inner)


def table() -> list[Row]:
    """Every model and precision, planned and published."""
    rows = []
    for name in names():
        known = document(name)
        tensors = headers(known["config"])
        for cell in known["published"]:
            memory = plan_memory(
                known["config"],
                tensors,
                variant=cell["variant"],
                max_batch_size=1,
                max_seq_len=1,
                backend="pytorch",
            )
            rows.append(
                Row(
                    model=name,
                    variant=cell["variant"],
                    planned=memory.weights,
                    published=cell["bytes"],
                    digits=cell["digits"],
                    source=cell["source"],
                )
            )
    return rows


def main() -> None:
    print("| model | variant | planned weights, bytes | published, bytes | ratio | source |")
    print("|---|---|---|---|---|---|")
    for row in table():
        published = f"{row.published:,}" if row.published else ""
        if row.digits:
            published = f"{published} ({row.digits} digits)"
        ratio = f"{row.ratio:.4f}" if row.ratio else ""
        print(f"| {row.model} | {row.variant} | {row.planned:,} | {published} | {ratio} | {row.source or ''} |")


if __name__ == "__main__":
    main()
