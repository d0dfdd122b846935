"""Quantizes a small trained model in all formats on a GPU, and measures what that costs; not a test, run by hand.

    PYTHONPATH=components:WHEELS python tests/gpu/quantize_on_gpu.py MODEL

MODEL is a checkpoint's folder; where it has no config.json, a Llama of some 12 million weights is trained into it first,
on the sources of Python's standard library (every twentieth file is kept for measuring). WHEELS holds nvidia-modelopt and
what it needs; torch and transformers are the machine's. Writes quantize_on_gpu.json into $OUT (else the working folder):
per format the seconds, perplexity and logits' errors against the bf16 original, of ModelOpt's own fake-quantized model and
of what we read back from its export; FP8 made on the CPU beside it; bytes of weights and of the KV cache against
plan_build's model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from kfp_trtllm.core.backends.trtllm.memory import plan_memory
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.checkpoint import read_config, read_headers
from kfp_trtllm.core.evaluation.quantized import QuantizedModel
from kfp_trtllm.core.evaluation.reference import TransformersModel
from kfp_trtllm.core.quantization import Calibration
from kfp_trtllm.core.quantization.checking import check_quantized
from kfp_trtllm.core.quantization.quantize import configuration, load, make_batches, rows
from kfp_trtllm.core.quantization.runner import complete, plain_dtype
from torch import Tensor

FORMATS = ("fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4")
WINDOW = 512  # tokens
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def main() -> None:
    """Does everything, and writes what there is after each part, so that a run that is cut off is not lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--train-seconds", type=float, default=100)
    parser.add_argument("--width", type=int, default=384, help="of the model to train; 128 must divide it")
    parser.add_argument("--windows", type=int, default=96, help=f"windows of {WINDOW} held-out tokens to measure on")
    parser.add_argument("--texts", type=int, default=128, help="calibration texts")
    parser.add_argument("--made-on-cpu", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if asked.made_on_cpu:
        quantize(asked.model, asked.made_on_cpu, "fp8", texts_of(asked.model, asked.texts))
        return
    path = Path(os.environ.get("OUT", ".")) / "quantize_on_gpu.json"
    results: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if GPU else "CPU",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "formats": {},
    }

    def keep(**values: Any) -> None:
        results.update(values)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(values), flush=True)

    if not (asked.model / "config.json").is_file():
        keep(training=train(asked.model, width=asked.width, seconds=asked.train_seconds))
    windows = held_out(asked.model, asked.windows)
    calibration = texts_of(asked.model, asked.texts)
    original = TransformersModel(asked.model, device=DEVICE)._model
    reference = logits(original, windows)
    keep(original={"perplexity": perplexity(reference, windows), "tokens": windows.numel()})
    keep(memory=memory(asked.model, original))
    del original
    if GPU:
        keep(compile_seconds=seconds(_compile)[0])
    for variant in FORMATS:
        made = asked.model.with_name(f"{asked.model.name}-{variant}")
        try:
            figures = measure(asked.model, made, variant, calibration, windows, reference)
        except Exception as error:  # the others' figures are wanted all the same
            figures = {"error": f"{type(error).__name__}: {error}"}
        results["formats"][variant] = figures
        keep(last={variant: figures})
    keep(fp8_on_cpu=beside_the_cpu(asked.model, windows, reference))
    results.pop("last")
    keep()


def _compile() -> None:
    """ModelOpt compiles its kernels at their first use; once, before anything is timed."""
    from modelopt.torch.quantization.extensions import precompile

    precompile()


# Training


def train(folder: Path, *, width: int, seconds: float) -> dict[str, Any]:
    """Trains a tokenizer and a Llama for so many seconds; returns its size and its progress."""
    texts = [text for text, kept in sources() if not kept]
    write_tokenizer(folder, texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    stream: list[int] = []
    for encoded in tokenizer(texts)["input_ids"]:
        stream += [*encoded, tokenizer.eos_token_id]
    tokens = torch.tensor(stream, device=DEVICE)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 128 * 128,
        num_hidden_layers=6,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128 if width // 64 % (width // 128) == 0 else 2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=GPU)
    batch = 64 if GPU else 4
    begun, step, losses = time.perf_counter(), 0, []
    while (share := (time.perf_counter() - begun) / seconds) < 1:
        for group in optimizer.param_groups:  # warm up, then down to a tenth along half a cosine
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * share))
        starts = torch.randint(len(tokens) - WINDOW - 1, (batch,), device=DEVICE)
        rows_ = tokens[starts[:, None] + torch.arange(WINDOW, device=DEVICE)]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=GPU):
            loss = model(rows_, labels=rows_).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 0:
            losses.append(round(float(loss), 3))
        step += 1
    model.to(torch.bfloat16).save_pretrained(folder)
    return {
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - begun, 1),
        "steps": step,
        "corpus_tokens": len(tokens),
        "losses": [*losses, round(float(loss), 3)],
    }


def sources() -> Iterator[tuple[str, bool]]:
    """Files of the standard library in their order, each with whether it is kept for measuring."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        name = path.relative_to(root).as_posix().encode()
        if 500 < len(text) < 400_000:
            yield text, int(hashlib.sha256(name).hexdigest(), 16) % 20 == 0


def write_tokenizer(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE tokenizer of 8192 tokens, learned from a part of the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[::4], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)


def held_out(folder: Path, count: int) -> Tensor:
    """Windows of [count, WINDOW] tokens from the files that were not learned."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cut = [
        encoded[:WINDOW] for text, kept in sources() if kept and len(encoded := tokenizer(text)["input_ids"]) >= WINDOW
    ]
    return torch.tensor(cut[:count], device=DEVICE)


def texts_of(folder: Path, count: int) -> Calibration:
    """Calibration texts of the model's own kind: beginnings of files that it learned."""
    path = folder.with_name(f"{folder.name}-texts.jsonl")
    if not path.exists():
        learned = [text for text, kept in sources() if not kept]
        chosen = learned[:: max(1, len(learned) // count)][:count]
        path.write_text("".join(json.dumps({"text": text[:2000]}) + "\n" for text in chosen), encoding="utf-8")
    return Calibration(dataset=str(path), batch_size=8)


# Measuring


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, with what the GPU still has to do, and what it returns."""
    begun = time.perf_counter()
    done = work()
    if GPU:
        torch.cuda.synchronize()
    return round(time.perf_counter() - begun, 2), done


@torch.inference_mode()
def logits(model: Any, windows: Tensor) -> Tensor:
    """Logits of [windows, WINDOW, vocabulary], in 16 bits to spare memory."""
    return torch.cat([model(part, use_cache=False).logits.to(torch.float16) for part in windows.split(8)])


def perplexity(values: Tensor, windows: Tensor) -> float:
    """Of the windows under these logits."""
    total, count = 0.0, 0
    for part, ids in zip(values.split(8), windows.split(8), strict=True):
        scores = part[:, :-1].float().log_softmax(-1)
        total -= float(scores.gather(2, ids[:, 1:, None]).double().sum())
        count += ids[:, 1:].numel()
    return round(math.exp(total / count), 4)


def compared(values: Tensor, reference: Tensor, windows: Tensor) -> dict[str, float]:
    """How far logits are from the original's."""
    error, size, same, divergence = 0.0, 0.0, 0.0, 0.0
    for part, other in zip(values.split(8), reference.split(8), strict=True):
        a, b = part.float(), other.float()
        error += float((a - b).abs().mean(-1).sum())
        size += float(b.abs().mean(-1).sum())
        same += float((a.argmax(-1) == b.argmax(-1)).sum())
        divergence += float((b.softmax(-1) * (b.log_softmax(-1) - a.log_softmax(-1))).sum())
    count = windows.numel()
    return {
        "perplexity": perplexity(values, windows),
        "mean_logit_error": round(error / count, 5),
        "relative_logit_error": round(error / size, 5),
        "same_likeliest": round(same / count, 5),
        "divergence": round(divergence / count, 6),
    }


def quantize(source: Path, made: Path, variant: str, calibration: Calibration, windows: Tensor | None = None) -> Any:
    """Quantizes and exports as our program does; returns seconds, and logits of ModelOpt's own model where asked."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    precision = VARIANTS[variant]
    dtype = plain_dtype(read_headers(source))
    tokenizer, model = load(source, dtype)
    batches = list(make_batches(rows(calibration, tokenizer), calibration.batch_size))

    def calibrate(model: Any) -> None:
        for batch in batches:
            model(torch.tensor(batch, device=model.device), use_cache=False)

    with torch.inference_mode():
        config = configuration(precision.modelopt, kv_cache_fp8=False)
        took, model = seconds(lambda: mtq.quantize(model, config, calibrate))
        own = logits(model, windows) if windows is not None and (GPU or variant != "nvfp4") else None
        exported = made.with_name(made.name + "-export")
        wrote, _ = seconds(lambda: export_hf_checkpoint(model, export_dir=exported))
    made.mkdir()
    complete(source, exported, made, dtype=dtype)
    check_quantized(made, source, variant=precision, kv_cache_fp8=False)
    if windows is None:
        print("@" + json.dumps({"quantize_seconds": took, "export_seconds": wrote}))
    return took, wrote, own


def measure(
    source: Path, made: Path, variant: str, calibration: Calibration, windows: Tensor, reference: Tensor
) -> dict[str, Any]:
    """One format."""
    took, wrote, own = quantize(source, made, variant, calibration, windows)
    back = QuantizedModel(made, device=DEVICE)._model
    again, ours = seconds(lambda: logits(back, windows))
    figures = {
        "quantize_seconds": took,
        "export_seconds": wrote,
        "read_back_seconds_per_1000_tokens": round(again / windows.numel() * 1000, 4),
        "bytes": (made / "model.safetensors").stat().st_size,
        "planned_bytes": planned(source, variant),
        "read_back": compared(ours, reference, windows),
    }
    if own is not None:
        figures["modelopt"] = compared(own, reference, windows)
        figures["read_back_against_modelopt"] = compared(ours, own, windows)
    return figures


def beside_the_cpu(source: Path, windows: Tensor, reference: Tensor) -> dict[str, Any]:
    """FP8 made by a process that sees no GPU, and how its checkpoint differs from the GPU's."""
    from safetensors.torch import load_file

    made = source.with_name(f"{source.name}-fp8-cpu")
    command = [sys.executable, __file__, str(source), "--made-on-cpu", str(made)]
    whole, done = seconds(
        lambda: subprocess.run(
            command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False
        )
    )
    if done.returncode:
        return {"error": (done.stdout + done.stderr)[-1500:]}
    report = next(line for line in done.stdout.splitlines() if line.startswith("@{"))
    figures: dict[str, Any] = {"process_seconds": whole, "threads": torch.get_num_threads(), **json.loads(report[1:])}
    figures["read_back"] = compared(logits(QuantizedModel(made, device=DEVICE)._model, windows), reference, windows)
    gpu, cpu = (load_file(folder / "model.safetensors") for folder in (source.with_name(f"{source.name}-fp8"), made))
    weights = [name for name, tensor in gpu.items() if tensor.dtype == torch.float8_e4m3fn]
    same = sum(int((gpu[name].view(torch.uint8) == cpu[name].view(torch.uint8)).sum()) for name in weights)
    figures["same_weight_bytes"] = round(same / sum(gpu[name].numel() for name in weights), 6)
    for part in ("weight_scale", "input_scale"):
        names = [name for name in gpu if name.endswith(part)]
        figures[f"largest_difference_of_{part}"] = round(
            max(abs(float(cpu[name]) / float(gpu[name]) - 1) for name in names), 6
        )
    return figures


def planned(source: Path, variant: str) -> int:
    """Bytes of weights as plan_build counts them."""
    plan = plan_memory(
        read_config(source),
        read_headers(source),
        variant=variant,
        max_batch_size=1,
        max_seq_len=WINDOW,
        backend="pytorch",
    )
    return plan.weights


@torch.inference_mode()
def memory(source: Path, model: Any) -> dict[str, Any]:
    """Bytes of weights and of the KV cache, as torch holds them and as plan_build counts them."""
    batch, length = 8, 1024
    plan = plan_memory(
        read_config(source),
        read_headers(source),
        variant="bf16",
        max_batch_size=batch,
        max_seq_len=length,
        backend="pytorch",
    )
    figures: dict[str, Any] = {
        "weights_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "weights_bytes_planned": plan.weights,
        "kv_cache_bytes_planned": plan.kv_cache,
    }
    if GPU:
        torch.cuda.synchronize()
        figures["weights_bytes_allocated"] = torch.cuda.memory_allocated()
    ids = torch.randint(1, 1000, (batch, length), device=DEVICE)
    cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    figures["kv_cache_bytes"] = sum(tensor.nbytes for tensor in held)
    figures["kv_cache_bytes_per_token"] = figures["kv_cache_bytes"] / (batch * length)
    figures["kv_cache_dtype"] = str(held[0].dtype)
    return figures


if __name__ == "__main__":
    main()
