"""Measures side by side, in one run, and writes docs/benchmarks.md: `make bench`.

Everything is a ratio of two things measured here and now; the absolute figures only tell what machine it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = ROOT / "pipelines" / "params"
PROMPTS = [f"Write a short story about the number {number}." for number in range(16)]
MAX_TOKENS = 48


def cli(home: Path, *arguments: str) -> float:
    """Runs the command line; returns its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kfp_trtllm.cli", *arguments],
        env={**os.environ, "KFP_TRTLLM_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def quickstart(home: Path) -> float:
    """What `make run` does; returns its seconds."""
    run = ("run", "release_llm_cpu", "--local", "--params")
    return cli(home, *run, str(PARAMETERS / "baseline.yaml"), "--if-absent") + cli(
        home, *run, str(PARAMETERS / "int4.yaml")
    )


# The steps that run somebody else's tools: download, model builder, evaluation, engine, Triton, probing.
TOOLS = ("fetch_model", "build_engine", "evaluate_accuracy", "benchmark_engine", "deploy_triton", "smoke_test", "roll_out_canary")  # fmt: skip


def tools_seconds(home: Path) -> float:
    """Seconds that the steps of all runs in a home spent in tools; what is left of the wall time is ours and KFP's."""
    events = [
        json.loads(line) for log in (home / "runs").glob("*/events.jsonl") for line in log.read_text().splitlines()
    ]
    return sum(event["seconds"] for event in events if event["event"] == "end" and event["step"] in TOOLS)


def bytes_on_disk(home: Path) -> tuple[int, int]:
    """(bytes of all large files counted once per inode, bytes counted once per name)."""
    files = [path.stat() for path in home.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    return sum({info.st_ino: info.st_size for info in files}.values()), sum(info.st_size for info in files)


def needed_bytes(home: Path) -> int:
    """Bytes of the checkpoint and of each engine, large files only: what must be on disk at least."""
    from kfp_trtllm.core.store import open_store

    files = {
        file.sha256: file.size
        for entry in open_store(f"file://{home}/store").ls()
        if entry.manifest.kind in ("checkpoint", "engine")
        for file in entry.manifest.files
        if file.size > 1_000_000
    }
    return sum(files.values())


def tokens_per_second(answers: list[Any], seconds: float) -> float:
    return float(sum(answer.output_tokens for answer in answers) / seconds)


def served(home: Path, streams: int) -> float:
    """Tokens/s through the gateway and Triton."""
    os.environ["KFP_TRTLLM_HOME"] = str(home)
    from kfp_trtllm.core.targets.local import LocalTarget
    from kfp_trtllm.core.traffic.client import generate

    endpoint = LocalTarget().endpoint("smollm2-135m")

    def ask(prompt: str) -> Any:
        answer = generate(endpoint, "smollm2-135m", prompt, max_tokens=MAX_TOKENS, apply_chat_template=True)
        assert not answer.error, answer.error
        return answer

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(ask, PROMPTS[:streams]))
        began = time.perf_counter()
        answers = list(pool.map(ask, PROMPTS))
        return tokens_per_second(answers, time.perf_counter() - began)


def stored(home: Path, kind: str, variant: str) -> Any:
    from kfp_trtllm.core.store import open_store

    store = open_store(f"file://{home}/store")
    return store, next(
        entry.manifest
        for entry in store.ls()
        if entry.manifest.kind == kind and entry.manifest.facts.get("variant") == variant
    )


def prompts_of(model: Any, count: int) -> list[str]:
    return [model.render_chat([{"role": "user", "content": prompt}]) for prompt in PROMPTS[:count]]


def offline(model: Any, count: int, batch: int) -> float:
    """Tokens/s of a loaded model, without a server."""
    from kfp_trtllm.core.backends.base import Sampling

    prompts = prompts_of(model, count)
    model.generate(prompts[:batch], Sampling(max_tokens=8))
    began = time.perf_counter()
    answers = []
    for first in range(0, count, batch):
        answers += model.generate(prompts[first : first + batch], Sampling(max_tokens=MAX_TOKENS))
    return tokens_per_second(answers, time.perf_counter() - began)


def genai(folder: Path) -> float:
    """Tokens/s of onnxruntime-genai called directly, one stream."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    total, seconds = 0, 0.0
    for index, prompt in enumerate(["warm up", *PROMPTS[:8]]):
        text = tokenizer.apply_chat_template(
            json.dumps([{"role": "user", "content": prompt}]), add_generation_prompt=True
        )
        parameters = og.GeneratorParams(model)
        tokens = tokenizer.encode(text)
        parameters.set_search_options(max_length=len(tokens) + MAX_TOKENS, do_sample=False)
        began = time.perf_counter()
        generator = og.Generator(model, parameters)
        generator.append_tokens(tokens)
        count = 0
        while not generator.is_done():
            generator.generate_next_token()
            count += 1
        if index:
            total, seconds = total + count, seconds + time.perf_counter() - began
    return total / seconds


def speeds(home: Path) -> dict[str, float]:
    """Tokens/s of everything that is compared."""
    from kfp_trtllm.core.backends.onnxruntime import OnnxRuntime
    from kfp_trtllm.core.evaluation.reference import TransformersModel

    found: dict[str, float] = {}
    # Interleaved, best of three: other load on the machine slows all alike.
    store, engine = stored(home, "engine", "int4")
    _, checkpoint = stored(home, "checkpoint", "")
    with store.folder(engine) as folder:
        rounds: dict[str, list[float]] = {"gateway, 1 stream": [], "gateway, 8 streams": [], "onnxruntime-genai": []}
        for _ in range(3):
            rounds["gateway, 1 stream"].append(served(home, 1))
            rounds["onnxruntime-genai"].append(genai(folder))
            rounds["gateway, 8 streams"].append(served(home, 8))
        found |= {name: max(values) for name, values in rounds.items()}
        model = OnnxRuntime().load(folder, engine.facts)
        found["engine, 1 stream"] = offline(model, 8, 1)
        found["engine, 8 streams"] = offline(model, 16, 8)
        model.close()
    with store.folder(checkpoint) as folder:
        reference = TransformersModel(folder)
        found["transformers fp32, 1 stream"] = offline(reference, 3, 1)
        reference.close()
    return found


def help_seconds(home: Path) -> float:
    return statistics.median(cli(home, "--help") for _ in range(5))


def memory_plans() -> str:
    """Planned weights against published sizes of real models; a cell without a source stays empty."""
    sys.path.insert(0, str(ROOT / "tests/core/backends/trtllm"))
    from published_models import table

    lines = [
        "## plan_build's weights against published sizes",
        "",
        "| model | variant | planned, GB | published, GB | ratio |",
    ]
    lines.append("|---|---|---:|---:|---:|")
    for entry in table():
        published = f"{entry.published / 1e9:.3f}" if entry.published else ""
        ratio = f"{entry.ratio:.4f}" if entry.ratio else ""
        lines.append(f"| {entry.model} | {entry.variant} | {entry.planned / 1e9:.3f} | {published} | {ratio} |")
    return "\n".join([*lines, "", "Sources are in `tests/core/backends/trtllm/models/`.", ""])


def quantization() -> str:
    """What tests/gpu/quantize_on_gpu.py found on the GPU that it last ran on."""
    found = json.loads((ROOT / "tests/gpu/h100.json").read_text())
    original, memory, on_cpu = found["original"], found["memory"], found["fp8_on_cpu"]
    rows = [
        f"| {name} | {entry['quantize_seconds']:.1f} | {entry['read_back']['perplexity']:.2f} "
        f"| {entry['read_back']['perplexity'] / original['perplexity'] - 1:+.1%} "
        f"| {entry['modelopt']['perplexity']:.2f} | {entry['read_back']['same_likeliest']:.1%} "
        f"| {entry['bytes'] / 1e6:.2f} | {entry['planned_bytes'] / 1e6:.2f} |"
        for name, entry in found["formats"].items()
    ]
    return f"""## Quantization on a GPU

By `tests/gpu/quantize_on_gpu.py` on one {found["machine"]} (torch {found["versions"]["torch"]}); not run by `make bench`. A Llama of
{found["training"]["weights"] / 1e6:.1f} million weights, trained there for {found["training"]["seconds"]:.0f} s on the sources of Python's standard library; perplexity is that of
{original["tokens"]:,} tokens of held-out files, {original["perplexity"]:.2f} before quantization. So small and hastily trained a model says which formats cost
more, not what they cost a real one. "Read back" computes with the exported checkpoint's own bytes, "in memory" is ModelOpt's
simulation. Compiling ModelOpt's CUDA extensions took {found["compile_seconds"]:.0f} s besides.

| variant | seconds | perplexity, read back | | in memory | same likeliest token | weights, MB | planned, MB |
|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

- FP8 on that machine's CPU took {on_cpu["quantize_seconds"]:.1f} s and has {on_cpu["read_back"]["perplexity"]:.2f}: {on_cpu["same_weight_bytes"]:.1%} of its weights' bytes are the GPU's, and all its weight scales.
- `plan_build` planned {memory["weights_bytes_planned"]:,} bytes of weights for the original, which has {memory["weights_bytes"]:,}, and {memory["kv_cache_bytes_planned"]:,} bytes of KV
  cache, where transformers filled {memory["kv_cache_bytes"]:,} ({memory["kv_cache_bytes_per_token"]:.0f} per token in bf16). Activations and workspace were not measured.
"""


def row(what: str, wanted: str, measured: str, good: bool) -> str:
    return f"| {what} | {wanted} | {measured} | {'yes' if good else '**no**'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="take the releases of this home instead of making new ones")
    parser.add_argument("--seconds", type=float, help="with --home: how long the first `make run` took there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch) / "home"
        first = options.seconds or quickstart(home)
        work = tools_seconds(home)
        second = quickstart(home)
        (real, named), needed = bytes_on_disk(home), needed_bytes(home)
        found = speeds(home)
        shown = help_seconds(home)
        if options.home is None:
            cli(home, "local", "stop")
    one, eight = found["gateway, 1 stream"], found["gateway, 8 streams"]
    reference, direct = found["transformers fp32, 1 stream"], found["onnxruntime-genai"]
    rows = [
        row("wall time of `make run` / its tools' own times", "≤ 1.15", f"{first / work:.2f}", first / work <= 1.15),
        row("`make run` again / first time", "≤ 0.15", f"{second / first:.2f}", second / first <= 0.15),
        row(
            "int4 through the gateway / transformers fp32, 1 stream",
            "≥ 5",
            f"{one / reference:.1f}",
            one / reference >= 5,
        ),
        row("int4 through the gateway, 8 streams / 1 stream", "≥ 2", f"{eight / one:.2f}", eight / one >= 2),
        row(
            "gateway and Triton / onnxruntime-genai directly, 1 stream",
            "≥ 0.95",
            f"{one / direct:.2f}",
            one / direct >= 0.95,
        ),
        row("bytes on disk / bytes of checkpoint and engines", "≤ 1.02", f"{real / needed:.3f}", real <= 1.02 * needed),
        row("`kfp-trtllm --help`", "< 0.3 s", f"{shown:.2f} s", shown < 0.3),
    ]
    figures = "\n".join(f"| {name} | {value:.0f} |" for name, value in found.items())
    text = f"""# Benchmarks

Written by `make bench`. Ratios of things measured side by side in one run; absolute figures only tell what machine it was:
{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.

| what | wanted | measured | met |
|---|---|---|---|
{chr(10).join(rows)}

`make run` took {first:.0f} s the first time ({work:.0f} s in its tools) and {second:.0f} s the second. Its home holds
{real / 1e6:,.0f} MB in files over 1 MB, which have {named / 1e6:,.0f} MB by name: checkpoint, engines and served repositories share inodes.

Where 8 streams are less than twice 1 stream, that is the engine: without any server it does
{found["engine, 8 streams"] / found["engine, 1 stream"]:.2f} times as much, and {eight / found["engine, 8 streams"]:.2f} of that comes through the gateway.

| greedy, {MAX_TOKENS} tokens | tokens/s |
|---|---:|
{figures}

{memory_plans()}
{quantization()}"""
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
