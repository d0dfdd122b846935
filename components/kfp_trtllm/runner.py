"""Runs a compiled pipeline on this machine and shows it: a line a step, bars for long work, a table at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kfp_trtllm.core.home import home
from kfp_trtllm.core.step import EVENTS_VARIABLE
from kfp_trtllm.core.targets.ownership import RUN_PID_VARIABLE
from kfp_trtllm.errors import tail

_FRAME_SECONDS = 0.1
_REPORTS = ("report", "summary")


@dataclass
class _Step:
    """A step as its events tell it."""

    name: str
    began: float
    seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0
    what: str = ""
    done: float = 0.0
    total: float = 0.0
    unit: str = ""

    @property
    def reused(self) -> bool:
        return bool(self.facts.get("reused"))


class _Run:
    """The steps of a run, from its events' file."""

    def __init__(self, events: Path) -> None:
        self._events, self._read = events, 0
        self.steps: list[_Step] = []
        self._by_pid: dict[int, _Step] = {}

    def update(self) -> list[_Step]:
        """Reads new events; returns the steps that ended."""
        ended = []
        for event in self._new():
            kind, pid = event["event"], event["pid"]
            if kind == "start":
                self._by_pid[pid] = _Step(name=event["step"], began=event["time"])
                self.steps.append(self._by_pid[pid])
            step = self._by_pid.get(pid)
            if step is None:
                continue
            if kind == "fact":
                step.facts |= {
                    key: value for key, value in event.items() if key not in ("time", "step", "pid", "event")
                }
            elif kind == "note":
                step.notes.append(event["text"])
            elif kind == "progress":
                step.what, step.done, step.total = event["what"], event["done"], event["total"]
                step.unit = event["unit"]
            elif kind in ("end", "error", "stopped"):
                step.seconds = event["seconds"]
                if kind != "end":
                    step.error = event.get("text", "stopped")
                    step.exit_code = event.get("exit_code", 1)
                ended.append(step)
        return ended

    def _new(self) -> Iterator[dict[str, Any]]:
        with self._events.open("rb") as source:
            source.seek(self._read)
            for line in source:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)

    def fact(self, name: str) -> Any:
        """The last value that any step gave to a fact."""
        return next((step.facts[name] for step in reversed(self.steps) if name in step.facts), None)


def run_local(pipeline: Path, parameters: Mapping[str, Any], *, verbose: bool = False) -> int:
    """Runs a compiled pipeline by kfp.local and shows it.

    Args:
        pipeline: The compiled YAML.
        parameters: Those that differ from their defaults, or all.
        verbose: Show the whole log instead of a line a step.

    Returns:
        0, or the exit code of the step that failed: 2 a wrong parameter, 3 rolled back, 4 a gate, 5 inconclusive, 1
        anything else.
    """
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = home() / "runs" / run_id
    folder.mkdir(parents=True)
    events, log = folder / "events.jsonl", folder / "run.log"
    events.touch()
    console.print(f"[bold]{pipeline.stem}[/] on this machine, run {run_id}", style="none")
    began = time.monotonic()
    run = _Run(events)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "kfp_trtllm._local_run",
            str(pipeline),
            json.dumps(parameters),
            str(folder / "artifacts"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=None if verbose else log.open("wb"),
        stderr=subprocess.STDOUT if not verbose else None,
        env={
            **os.environ,
            EVENTS_VARIABLE: str(events),
            RUN_PID_VARIABLE: str(os.getpid()),
            # A terminal's width and colors are none of the steps' business.
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        },
    )
    try:
        _show(console, run, process, verbose=verbose)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        console.print("\nstopped; run the same command again to go on", style="yellow")
        return 130
    seconds = time.monotonic() - began
    failed = next((step for step in run.steps if step.error), None)
    (folder / "parameters.json").write_text(json.dumps(parameters, indent=1) + "\n", encoding="utf-8")
    _summary(console, run, seconds, folder)
    if failed is not None:
        console.print(Text(f"\n{failed.name}: {failed.error}", style="red"))
        return failed.exit_code or 1
    if process.returncode != 0:
        text = "" if verbose else tail(log.read_text(encoding="utf-8", errors="replace"))
        console.print(Text(f"\nthe run failed; the end of {log}:\n{text}", style="red"))
        return 1
    return 0


def _show(console: Console, run: _Run, process: subprocess.Popen[bytes], *, verbose: bool) -> None:
    """Follows the run to its end."""
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False) as live:
        while True:
            finished = process.poll() is not None
            for step in run.update():
                console.print(_line(step))
            if console.is_terminal and not verbose:
                live.update(_current(run), refresh=True)
            if finished:
                live.update("", refresh=True)
                return
            time.sleep(_FRAME_SECONDS)


def _line(step: _Step) -> Text:
    mark, style = ("✗", "red") if step.error else ("✓", "green")
    text = Text(f"{mark} ", style=style)
    text.append(f"{step.name:<20}", style="default")
    text.append(f"{step.seconds or 0:7.1f} s  ", style="dim")
    result = str(step.facts.get("result", "")) if not step.error else "failed"
    text.append(result, style="default")
    if step.reused:
        text.append(" (reused)", style="cyan")
    return text


def _current(run: _Run) -> Group:
    """The steps at work, each with its bar."""
    rows = []
    for step in run.steps:
        if step.seconds is not None:
            continue
        line = Table.grid(padding=(0, 1))
        elapsed = time.time() - step.began
        what = step.what or (step.notes[-1] if step.notes else "")
        cells: list[Any] = [
            Text("…", style="yellow"),
            Text(f"{step.name:<20}"),
            Text(f"{elapsed:7.1f} s ", style="dim"),
        ]
        cells.append(Text(what[:34]))
        if step.total:
            cells += [ProgressBar(total=step.total, completed=step.done, width=16), Text(_amount(step), style="dim")]
        line.add_row(*cells)
        rows.append(line)
    return Group(*rows)


def _amount(step: _Step) -> str:
    if step.unit == "B":
        return f"{step.done / 1e6:,.0f}/{step.total / 1e6:,.0f} MB"
    if step.unit == "%":
        return f"{100 * step.done / step.total:.0f} %"
    return f"{step.done:,.0f}/{step.total:,.0f}"


def _summary(console: Console, run: _Run, seconds: float, folder: Path) -> None:
    """The one table at the end."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, side in (("step", "left"), ("seconds", "right"), ("reused", "left"), ("result", "left")):
        table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    for step in run.steps:
        result = "failed" if step.error else str(step.facts.get("result", ""))
        table.add_row(step.name, f"{step.seconds or 0:.1f}", "yes" if step.reused else "", result)
    table.add_row("whole run", f"{seconds:.1f}", "", "", style="bold")
    console.print()
    console.print(table)
    if (decision := run.fact("decision")) is not None:
        console.print(f"\ndecision  {decision.replace('_', ' ')}: {run.fact('reason')}")
    reports = sorted(path for name in _REPORTS for path in folder.rglob(name) if path.is_file() and path.stat().st_size)
    pages = []
    for path in reports:
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.lstrip().lower().startswith("<!doctype html") and "<svg" in text:
            page = folder / f"{path.parent.name}.html"
            if not page.exists():
                page.write_text(text, encoding="utf-8")
            pages.append(page)
    for page in pages:
        console.print(f"report    {page}")
    endpoint = run.fact("endpoint")
    if endpoint:
        model = run.fact("model")
        console.print(f"endpoint  {endpoint}/v2/models/{model}")
        console.print("\ntry it:")
        console.print(_curl(endpoint, model, decoupled=bool(run.fact("decoupled"))), soft_wrap=True, markup=False)


def _curl(endpoint: str, model: str, *, decoupled: bool) -> str:
    """A line to paste into a shell."""
    if decoupled:
        body = {"text_input": "What is the capital of France?", "max_tokens": 32, "apply_chat_template": True}
        return f"curl -s {endpoint}/v2/models/{model}/generate -d '{json.dumps(body)}'"
    tensors = [
        {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["What is the capital of France?"]},
        {"name": "max_tokens", "shape": [1], "datatype": "INT32", "data": [32]},
        {"name": "apply_chat_template", "shape": [1], "datatype": "BOOL", "data": [True]},
    ]
    return f"curl -s {endpoint}/v2/models/{model}/infer -d '{json.dumps({'inputs': tensors})}'"
