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


def steps_seconds(home: Path) -> float:
    """Seconds that the steps of all runs in a home spent at work; what is left of the wall time is ours and KFP's."""
    events = [
        json.loads(line) for log in (home / "runs").glob("*/events.jsonl") for line in log.read_text().splitlines()
    ]
    return sum(event["seconds"] for event in events if event["event"] == "end")


def bytes_on_disk(home: Path) -> tuple[int, int]:
    """(bytes of all large files counted once per inode, bytes counted once per name)."""
    files = [path.stat() for path in home.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    return sum({info.st_ino: info.st_size for info in files}.values()), sum(info.st_size for info in files)


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
        work = steps_seconds(home)
        second = quickstart(home)
        real, named = bytes_on_disk(home)
        found = speeds(home)
        shown = help_seconds(home)
        if options.home is None:
            cli(home, "local", "stop")
    one, eight = found["gateway, 1 stream"], found["gateway, 8 streams"]
    reference, direct = found["transformers fp32, 1 stream"], found["onnxruntime-genai"]
    rows = [
        row("wall time of `make run` / its steps' own times", "≤ 1.15", f"{first / work:.2f}", first / work <= 1.15),
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
        row("`kfp-trtllm --help`", "< 0.3 s", f"{shown:.2f} s", shown < 0.3),
    ]
    figures = "\n".join(f"| {name} | {value:.0f} |" for name, value in found.items())
    text = f"""# Benchmarks

Written by `make bench`. Ratios of things measured side by side in one run; absolute figures only tell what machine it was:
{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.

| what | wanted | measured | met |
|---|---|---|---|
{chr(10).join(rows)}

`make run` took {first:.0f} s the first time ({work:.0f} s in its steps) and {second:.0f} s the second. Its home holds
{real / 1e6:,.0f} MB in files over 1 MB, which have {named / 1e6:,.0f} MB by name: checkpoint, engines and served repositories share inodes.

| greedy, {MAX_TOKENS} tokens | tokens/s |
|---|---:|
{figures}
"""
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
