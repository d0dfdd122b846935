"""Stand-ins for TensorRT-LLM's command-line tools, which need a GPU.

They take the arguments of the real ones (made from the tables in core/backends/trtllm/commands, as `kfp-trtllm probe`
compares them with an image) and leave folders of the real formats with tiny rank files, so that everything around them
can run: planning, rendering, progress, checks, retries, packaging.

TRTLLM_TOOLS (JSON) makes them misbehave: `oom` is the number of tokens (max_num_tokens) from which a build runs out of
memory, `lose_rank` leaves out the last rank's file, `version` is another TensorRT-LLM, `unsupported` makes the
conversion refuse the model, `stale_cache` makes the first build with a timing cache fail.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.trtllm import commands
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS

VERSION = "1.2.1"
_OOM = (
    "[TRT] [E] [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further information)\n"
    "[TRT] [E] Requested amount of GPU memory (34359738368 bytes) could not be allocated. There may not be enough free "
    "memory for allocation to succeed.\n"
    "RuntimeError: Engine building failed, please check the error log."
)


def parse(tool: str, family: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for row in commands.arguments(tool, version=VERSION, family=family):
        if row.flag and row.kind == "flag":
            parser.add_argument(row.flag, dest=row.name, action="store_true")
        elif row.flag:
            parser.add_argument(row.flag, dest=row.name, nargs="*" if row.kind == "texts" else None)
    return parser.parse_args()


def misbehavior(name: str, usual: Any = None) -> Any:
    return json.loads(os.environ.get("TRTLLM_TOOLS", "{}")).get(name, usual)


def convert(family: str) -> None:
    options = parse("convert_checkpoint", family)
    variant = (
        {"int8": "int8_wo", "int4": "int4_wo"}[options.weight_only_precision] if options.use_weight_only else "bf16"
    )
    write_checkpoint(options, VARIANTS[variant].quant_algo)


def quantize() -> None:
    options = parse("quantize")
    texts = Path(options.calib_dataset) / "train.jsonl"
    if texts.is_file():
        assert all(json.loads(line)["text"] for line in texts.read_text().splitlines())
    algo = next(variant.quant_algo for variant in VARIANTS.values() if variant.qformat == options.qformat)
    write_checkpoint(options, algo)


def write_checkpoint(options: argparse.Namespace, quant_algo: str) -> None:
    source = json.loads((Path(options.model_dir) / "config.json").read_text())
    if misbehavior("unsupported"):
        print("INFO reading the model")
        sys.exit(f"NotImplementedError: Unsupported model architecture: {source['architectures'][0]}")
    tp, pp = int(options.tp_size or 1), int(options.pp_size or 1)
    config = {
        "architecture": source["architectures"][0],
        "dtype": "bfloat16",
        "vocab_size": source["vocab_size"],
        "hidden_size": source["hidden_size"],
        "num_hidden_layers": source["num_hidden_layers"],
        "num_attention_heads": source["num_attention_heads"],
        "num_key_value_heads": source.get("num_key_value_heads"),
        "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
        "quantization": {"quant_algo": quant_algo or None, "kv_cache_quant_algo": None},
    }
    output = Path(options.output_dir)
    output.mkdir(parents=True)
    (output / "config.json").write_text(json.dumps(config))
    for rank in range(tp * pp - bool(misbehavior("lose_rank"))):
        write_rank(output / f"rank{rank}.safetensors", config, rank)
        print(f"rank {rank} done", flush=True)


def write_rank(path: Path, config: dict[str, Any], rank: int) -> None:
    """A safetensors file with the tensors that every architecture has; BF16 zeros."""
    tp, pp = config["mapping"]["tp_size"], config["mapping"]["pp_size"]
    hidden, layers, stage = config["hidden_size"], config["num_hidden_layers"], rank // tp
    shapes: dict[str, list[int]] = {}
    if stage == 0:
        shapes["transformer.vocab_embedding.weight"] = [config["vocab_size"], hidden]
    for layer in range(layers // pp + (stage < layers % pp)):
        shapes[f"transformer.layers.{layer}.input_layernorm.weight"] = [hidden]
        shapes[f"transformer.layers.{layer}.post_layernorm.weight"] = [hidden]
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(place))


def build() -> None:
    options = parse("build")
    checkpoint, output = Path(options.checkpoint_dir), Path(options.output_dir)
    config = json.loads((checkpoint / "config.json").read_text())
    cache = options.input_timing_cache
    if cache and misbehavior("stale_cache"):
        sys.exit(
            "[TRT] [W] The timing cache will not be used!\n[TRT] [E] Engine building failed, please check the error log."
        )
    limit = misbehavior("oom")
    if limit and int(options.max_num_tokens) >= int(limit):
        sys.exit(_OOM)
    output.mkdir(parents=True, exist_ok=True)
    world = config["mapping"]["world_size"]
    for rank in range(world - bool(misbehavior("lose_rank"))):
        print(f"[TRT-LLM] [I] Build TensorRT engine of rank {rank}", flush=True)
        (output / f"rank{rank}.engine").write_bytes(b"ftrt" + bytes([rank]) * 4096)
        time.sleep(0.02)
    limits = {
        name: int(getattr(options, name))
        for name in ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")
    }
    document = {
        "version": misbehavior("version", VERSION),
        "pretrained_config": config,
        "build_config": {**limits, "plugin_config": {"gemm_plugin": options.gemm_plugin}},
    }
    (output / "config.json").write_text(json.dumps(document))
    Path(options.output_timing_cache).write_bytes(b"timing" + (Path(cache).read_bytes() if cache else b""))
    print("Total time of building all engines: 00:00:01")
