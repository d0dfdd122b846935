from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.base import BuildPlan, Memory
from kfp_trtllm.core.backends.trtllm.folders import check_checkpoint, check_engine
from kfp_trtllm.errors import BuildFailed

PLAN = BuildPlan(
    backend="tensorrt",
    variant="fp8",
    checkpoint="sha256:" + 64 * "0",
    engine_key=64 * "0",
    max_batch_size=4,
    max_input_len=64,
    max_seq_len=128,
    max_num_tokens=256,
    tp_size=2,
    pp_size=2,
    memory=Memory(weights=0, kv_cache=0, activations=0, workspace=0),
    trtllm_version="1.2.1",
)
CONFIG = {
    "architecture": "LlamaForCausalLM",
    "dtype": "float16",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "mapping": {"world_size": 4, "tp_size": 2, "pp_size": 2},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None},
}


def write_rank(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(place))


def rank(number: int) -> dict[str, tuple[int, ...]]:
    stage = number // 2
    shapes: dict[str, tuple[int, ...]] = {"transformer.vocab_embedding.weight": (100, 16)} if stage == 0 else {}
    for layer in range(3 - stage):
        shapes[f"transformer.layers.{layer}.input_layernorm.weight"] = (16,)
    return shapes


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for number in range(4):
        write_rank(tmp_path / f"rank{number}.safetensors", rank(number))
    return tmp_path


def change(path: Path, **values: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **values}))


def test_a_whole_checkpoint_passes(checkpoint: Path) -> None:
    check_checkpoint(checkpoint, PLAN)
    check_checkpoint(checkpoint, PLAN, {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 4})


def test_an_embedding_that_is_shared_out_passes(checkpoint: Path) -> None:
    for number in (0, 1):
        write_rank(
            checkpoint / f"rank{number}.safetensors",
            {**rank(number), "transformer.vocab_embedding.weight": (50, 16)},
        )
    check_checkpoint(checkpoint, PLAN)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "the checkpoint has no config.json, though the tool ended well"),
        (lambda f: (f / "config.json").write_text("{"), "config.json of the checkpoint is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "must be a JSON object, but is a list"),
        (lambda f: (f / "rank3.safetensors").unlink(), "the checkpoint lacks rank3.safetensors of 4 rank files"),
        (lambda f: (f / "rank2.safetensors").write_bytes(b""), "the checkpoint lacks rank2.safetensors"),
        (lambda f: write_rank(f / "rank4.safetensors", rank(3)), "but also has rank4.safetensors"),
        (
            lambda f: change(f / "config.json", mapping={"tp_size": 4, "pp_size": 1}),
            "tp_size of the checkpoint must be 2 as planned, but its mapping says 4",
        ),
        (
            lambda f: change(f / "config.json", quantization={"quant_algo": None}),
            "quant_algo must be FP8 for the variant fp8, but config.json says none",
        ),
        (lambda f: change(f / "config.json", hidden_size=32), "must have 32 elements, but has the shape (16,)"),
        (
            lambda f: write_rank(f / "rank1.safetensors", {k: v for k, v in rank(1).items() if ".2." not in k}),
            "rank1.safetensors must have layers 0 to 2, but has 0, 1",
        ),
        (
            lambda f: write_rank(f / "rank0.safetensors", {**rank(0), "transformer.vocab_embedding.weight": (30, 16)}),
            "must have 100 × 16 weights, or its share of them, but has the shape (30, 16)",
        ),
        (
            lambda f: (f / "rank0.safetensors").write_bytes((f / "rank0.safetensors").read_bytes()[:-4]),
            "the checkpoint is damaged: rank0.safetensors is cut off",
        ),
    ],
)
def test_a_checkpoint_that_is_something_else_is_refused(checkpoint: Path, spoil: Any, message: str) -> None:
    spoil(checkpoint)
    with pytest.raises(BuildFailed) as caught:
        check_checkpoint(checkpoint, PLAN)
    assert message in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(
        BuildFailed, match=r"num_hidden_layers of the checkpoint must be the model's \(6\), but it is 5"
    ):
        check_checkpoint(checkpoint, PLAN, {"num_hidden_layers": 6})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    build = {"max_batch_size": 4, "max_num_tokens": 256, "max_seq_len": 128, "plugin_config": {}}
    document = {"version": "1.2.1", "pretrained_config": CONFIG, "build_config": build}
    (tmp_path / "config.json").write_text(json.dumps(document))
    for number in range(4):
        (tmp_path / f"rank{number}.engine").write_bytes(b"ftrt")
    return tmp_path


def test_a_whole_engine_passes(engine: Path) -> None:
    check_engine(engine, PLAN)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "rank1.engine").unlink(), "the engine lacks rank1.engine of 4 rank files"),
        (lambda f: change(f / "config.json", version="1.1.0"), "built by TensorRT-LLM 1.2.1, which serves it"),
        (lambda f: change(f / "config.json", build_config=None), "must have pretrained_config and build_config"),
        (
            lambda f: change(f / "config.json", build_config={"max_batch_size": 2}),
            "max_batch_size of the engine must be at least 4 as planned, but it is 2",
        ),
        (
            lambda f: change(f / "config.json", pretrained_config={**CONFIG, "mapping": {"tp_size": 2, "pp_size": 1}}),
            "pp_size of the engine must be 2 as planned, but its mapping says 1",
        ),
    ],
)
def test_an_engine_that_is_something_else_is_refused(engine: Path, spoil: Any, message: str) -> None:
    spoil(engine)
    with pytest.raises(BuildFailed) as caught:
        check_engine(engine, PLAN)
    assert message in str(caught.value)


def test_smoothquant_s_kernels_are_one_variant(checkpoint: Path) -> None:
    change(checkpoint / "config.json", quantization={"quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"})
    check_checkpoint(checkpoint, dataclasses.replace(PLAN, variant="int8_sq"))
