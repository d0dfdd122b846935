"""Compares TensorRT-LLM's tools, as they say --help, with the tables in commands/: run inside an image.

Not all can be asked: trtllm-eval loads its model before a task shows its options, so only its own are compared.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kfp_trtllm.core.backends.trtllm import commands
from kfp_trtllm.core.backends.trtllm.commands.argument import Argument, Tool
from kfp_trtllm.errors import InvalidSpec, tail

_TIMEOUT = 600.0  # seconds; importing tensorrt_llm takes up to a minute on a cold disk
_HELP = {"--help", "-h", "--version"}
_START = re.compile(r"^ {1,6}(-\S.*)$")  # deeper lines go on with a help text
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_CHOICES = re.compile(r"\{([^{}]*)\}|\[([^\[\]\s]*\|[^\[\]\s]*)\]")
_ARGPARSE_DEFAULT = re.compile(r"\(default: (.*?)\)(?=\s|$)")
_CLICK_DEFAULT = re.compile(r"\[(?:[^\[\]]*;\s*)?default: ([^\];]*)[^\]]*\]")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One argument as a help text shows it.

    Attributes:
        flags: All spellings.
        choices: Values that do; empty where none are shown.
        default: As text; None where none is shown.
    """

    flags: tuple[str, ...]
    choices: tuple[str, ...] = ()
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one tool was found to be.

    Attributes:
        tool: Name in commands.TOOLS, with the family where that matters ("convert_checkpoint llama"), or the program of
            a group of commands ("trtllm-bench").
        state: "same", "different", "absent" (not on this machine), "failed" (it showed no help) or "skipped" (it can't
            be asked).
        differences: In words; where nothing was compared, why.
    """

    tool: str
    state: str
    differences: tuple[str, ...] = ()


Run = Callable[[Sequence[str]], tuple[int, str]]


def run_help(argv: Sequence[str]) -> tuple[int, str]:
    """Runs a command and returns its status and what it printed; 127 when it can't be started, 124 after ten minutes."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        return 127, f"can't start {argv[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} took more than {_TIMEOUT:g} seconds"
    # Logs may go to either; the help text goes to stdout.
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return done.returncode, text.decode(errors="replace")


def parse_help(text: str) -> list[Shown]:
    """The arguments that a help text of argparse or click lists, without --help itself; positional ones are left out."""
    shown = []
    for head, body in _entries(text):
        whole = f"{head}  {body}"
        flags = tuple(dict.fromkeys(_FLAG.findall(_CHOICES.sub(" ", head))))
        if flags and not _HELP.intersection(flags):
            shown.append(Shown(flags=flags, choices=_choices(head), default=_default(whole)))
    return shown


def compare(tool: str, version: str, help_text: str, family: str | None = None, *, group: bool = False) -> list[str]:
    """Differences between a tool's help text and its table, in words; empty when there are none.

    Args:
        tool: Name in commands.TOOLS.
        version: Of TensorRT-LLM, whose rows are compared.
        help_text: What the tool printed.
        family: Name in families.FAMILIES, for convert_checkpoint.
        group: The help text is of the command before the subcommand, for tools that have both.
    """
    found = commands.find(tool)
    rows = commands.rows(tool, family)
    size = len(found.group)
    rows = rows[:size] if group else rows[size:]
    return _compare(found.program if group else found.title, version, rows, parse_help(help_text))


def probe(
    tools: Iterable[str] | None = None,
    *,
    version: str,
    examples: str = commands.EXAMPLES,
    run: Run = run_help,
) -> list[Report]:
    """Asks every tool that is on this machine for its help, and compares.

    Args:
        tools: Names in commands.TOOLS; all by default. Those that the version lacks are left out.
        version: Of TensorRT-LLM that is installed here.
        examples: Folder examples/ of TensorRT-LLM.
        run: Runs a command; returns its status and what it printed.

    Raises:
        InvalidSpec: A tool is unknown.
    """
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in commands.TOOLS if tools is None else tools:
            found = commands.find(name)
            try:
                commands.check_tool(name, version)
            except InvalidSpec:
                continue
            if found.group and found.program not in reports:
                differ = partial(compare, name, version, group=True)
                reports[found.program] = _report(found.program, [found.program, "--help"], run, differ)
            for family in found.families or (None,):
                label = f"{name} {family}" if family else name
                reports[label] = _ask(label, name, version, family, examples, scratch, run)
    return list(reports.values())


def _ask(label: str, name: str, version: str, family: str | None, examples: str, scratch: str, run: Run) -> Report:
    """One tool's report."""
    found = commands.find(name)
    if found.program == "trtllm-eval":
        return Report(tool=label, state="skipped", differences=("a task loads its model before it shows its options.",))
    try:
        argv = _argv(found, name, version, family, examples, scratch)
    except InvalidSpec as error:  # the version's place of scripts is not known
        return Report(tool=label, state="skipped", differences=(str(error),))
    return _report(label, argv, run, partial(compare, name, version, family=family))


def _argv(found: Tool, name: str, version: str, family: str | None, examples: str, scratch: str) -> list[str]:
    """The command that shows a tool's help."""
    start = commands.command(name, version=version, family=family, examples=examples)
    if found.program == "trtllm-serve":
        return [*start, "serve", "--help"]  # without the word it lists its subcommands
    if found.command:  # the group wants its required options even then, and makes the workspace
        return [*start, "--model", "none", "--workspace", scratch, found.command, "--help"]
    return [*start, "--help"]


def _report(label: str, argv: Sequence[str], run: Run, differ: Callable[[str], list[str]]) -> Report:
    """Runs a tool for its help and compares."""
    missing = next((word for word in argv[:2] if word.endswith(".py") and not Path(word).is_file()), "")
    if not missing and shutil.which(argv[0]) is None:
        missing = argv[0]
    if missing:
        return Report(tool=label, state="absent", differences=(f"{missing} is not on this machine.",))
    status, text = run(argv)
    if status != 0:
        words = " ".join(tail(text, 3).splitlines())
        return Report(
            tool=label, state="failed", differences=(f"{' '.join(argv)} exited with status {status}: {words}",)
        )
    differences = tuple(differ(text))
    return Report(tool=label, state="different" if differences else "same", differences=differences)


def _entries(text: str) -> list[tuple[str, str]]:
    """Each listed option: what stands before its help text, and the help text in one line."""
    entries: list[tuple[str, str]] = []
    inside = False
    for line in text.expandtabs().splitlines():
        started = _START.match(line)
        if started:
            head, _, rest = started[1].partition("  ")
            entries.append((head.strip(), rest.strip()))
            inside = True
        elif inside and line.startswith("       "):
            head, body = entries[-1]
            entries[-1] = (head, f"{body} {line.strip()}".strip())
        else:
            inside = False
    return entries


def _choices(head: str) -> tuple[str, ...]:
    """Choices in braces (argparse) or brackets with bars (click); enumerations without their class's name."""
    found = _CHOICES.search(head)
    if found is None:
        return ()
    words = [word.strip() for word in (found[1].split(",") if found[1] is not None else found[2].split("|"))]
    if all(re.fullmatch(r"[A-Z]\w*\.\w+", word) for word in words):
        words = [word.partition(".")[2] for word in words]
    return tuple(word for word in words if word != "None")


def _default(text: str) -> str | None:
    for pattern in (_ARGPARSE_DEFAULT, _CLICK_DEFAULT):
        if found := pattern.findall(text):
            return str(found[-1]).strip()
    return None


def _compare(title: str, version: str, rows: Sequence[Argument], shown: Sequence[Shown]) -> list[str]:
    differences = []
    by_flag: Mapping[str, Shown] = {flag: entry for entry in shown for flag in entry.flags}
    seen: set[str] = set()
    for row in rows:
        if not row.known(version) or not row.flag:
            continue
        entry = next((by_flag[flag] for flag in row.spellings if flag in by_flag), None)
        seen.update(row.spellings)
        if entry is None:
            differences.append(f"{title} has no {row.flag}, which the table has.")
            continue
        if row.flag not in entry.flags:
            differences.append(f"{title} spells {row.flag} {' or '.join(entry.flags)}.")
        differences += _differ(title, row, entry)
    for entry in shown:
        if seen.intersection(entry.flags):
            continue
        gone = next((row for row in rows if set(row.spellings).intersection(entry.flags)), None)
        if gone is None:
            differences.append(f"{title} has {', '.join(entry.flags)}, which the table has not.")
        else:
            when = f"before {gone.until}" if gone.until else f"from {gone.since} on"
            differences.append(f"{title} has {entry.flags[0]}, which the table has only {when}.")
    return differences


def _differ(title: str, row: Argument, entry: Shown) -> list[str]:
    """Differences in an argument's choices and default."""
    differences = []
    known = {str(choice) for choice in (("enable", "disable") if row.kind == "switch" else row.choices)}
    if known and entry.choices:
        unsure = {str(choice) for choice in row.unsure}
        more = sorted(set(entry.choices) - known)
        fewer = sorted(known - set(entry.choices) - unsure)
        if more:
            differences.append(f"{row.flag} of {title} also takes {', '.join(more)}.")
        if fewer:
            differences.append(f"{row.flag} of {title} does not take {', '.join(fewer)}.")
    if entry.default is not None and not _same(row, entry.default):
        differences.append(f"{row.flag} of {title} is {entry.default} by default, not {_spelled(row)}.")
    return differences


def _spelled(row: Argument) -> str:
    """A row's default as the tool would show it."""
    if row.kind == "switch" and isinstance(row.default, bool):
        return "enable" if row.default else "disable"
    return str(row.default)


def _same(row: Argument, shown: str) -> bool:
    """Whether a default is the row's, however it is written."""
    if shown.strip("'\"").lower() == _spelled(row).lower():
        return True
    try:
        return float(shown) == float(_spelled(row))
    except ValueError:
        return False
