"""TensorRT-LLM's tools: each one's arguments as data, and command lines made from them.

    argument.py             what a table is made of
    build.py                trtllm-build
    convert_checkpoint.py   convert_checkpoint.py of each family
    quantize.py             quantize.py
    serve.py                trtllm-serve
    bench.py                trtllm-bench: throughput, latency, build
    eval.py                 trtllm-eval: its tasks

Files of TensorRT-LLM were read at commits, not at tags: a range of versions is given where release notes tell it, else
it is open, and `kfp-trtllm probe` compares the tables with the tools themselves.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_trtllm.core.backends.trtllm import families
from kfp_trtllm.core.backends.trtllm.commands.argument import Argument, Tool, within
from kfp_trtllm.core.backends.trtllm.commands.bench import BENCH_BUILD, BENCH_LATENCY, BENCH_THROUGHPUT
from kfp_trtllm.core.backends.trtllm.commands.build import BUILD
from kfp_trtllm.core.backends.trtllm.commands.convert_checkpoint import CONVERT_CHECKPOINT
from kfp_trtllm.core.backends.trtllm.commands.eval import EVAL_TASKS
from kfp_trtllm.core.backends.trtllm.commands.quantize import QUANTIZE
from kfp_trtllm.core.backends.trtllm.commands.serve import SERVE
from kfp_trtllm.errors import InvalidSpec, unknown

EXAMPLES = "/app/tensorrt_llm/examples"  # where NVIDIA's release image has TensorRT-LLM's examples/
# The image's own Python, which has tensorrt_llm and the packages that it was tested with; ours may have newer ones.
PYTHON_VARIABLE = "TENSORRT_LLM_PYTHON"
PYTHON = "python3"
EXAMPLES_VARIABLE = "TENSORRT_LLM_EXAMPLES"  # where the image has TensorRT-LLM's examples/, if not in NVIDIA's place

TOOLS: Mapping[str, Tool] = {
    "bench build": BENCH_BUILD,
    "bench latency": BENCH_LATENCY,
    "bench throughput": BENCH_THROUGHPUT,
    "build": BUILD,
    "convert_checkpoint": CONVERT_CHECKPOINT,
    **{f"eval {task}": tool for task, tool in EVAL_TASKS.items()},
    "quantize": QUANTIZE,
    "serve": SERVE,
}


def examples() -> str:
    """The folder examples/ of the TensorRT-LLM here."""
    return os.environ.get(EXAMPLES_VARIABLE, EXAMPLES)


def find(tool: str) -> Tool:
    """The tool of that name in TOOLS; InvalidSpec with the nearest match when there is none."""
    if tool not in TOOLS:
        raise InvalidSpec(unknown("tool", tool, TOOLS))
    return TOOLS[tool]


def check_tool(tool: str, version: str) -> None:
    """InvalidSpec unless a version of TensorRT-LLM has the tool; says what to do."""
    found = find(tool)
    if not within(version, found.since, found.until):
        raise InvalidSpec(
            f"TensorRT-LLM {version} has no {found.title} ({_range(version, found)}): {found.instead or 'leave it out'}."
        )


def rows(tool: str, family: str | None = None) -> tuple[Argument, ...]:
    """All rows of a tool, whatever the version, in order: the group's, then the command's.

    Args:
        tool: Name in TOOLS.
        family: Name in families.FAMILIES, for the tool that differs by it; ignored by the others.

    Raises:
        InvalidSpec: There is no such tool or family.
    """
    found = find(tool)
    if not found.families:
        return (*found.group, *found.arguments)
    if family is None or family not in found.families:
        raise InvalidSpec(unknown(f"the family, for {found.title},", family or "", found.families))
    return found.families[family]


def arguments(tool: str, *, version: str, family: str | None = None) -> tuple[Argument, ...]:
    """The arguments that a version of TensorRT-LLM has, as far as is known; else as `rows`."""
    return tuple(row for row in rows(tool, family) if row.known(version))


def command(tool: str, *, version: str, family: str | None = None, examples: str = EXAMPLES) -> list[str]:
    """How a tool is started, without arguments and subcommand; else as `render`."""
    found = find(tool)
    script = families.convert_script(family or "", version) if found.families else found.program
    return [os.environ.get(PYTHON_VARIABLE, PYTHON), f"{examples}/{script}"] if script.endswith(".py") else [script]


def render(
    tool: str,
    options: Mapping[str, Any],
    *,
    version: str,
    family: str | None = None,
    examples: str = EXAMPLES,
) -> list[str]:
    """A whole command line, its arguments in the table's order whatever that of the options.

    Args:
        tool: Name in TOOLS.
        options: Values by the tool's own names (snake_case); None leaves an argument out.
        version: Of TensorRT-LLM.
        family: Name in families.FAMILIES, for convert_checkpoint.
        examples: Folder examples/ of TensorRT-LLM, for its scripts.

    Raises:
        InvalidSpec: The version lacks the tool or an argument (says what replaces it), or an argument is unknown,
            missing, of a wrong type or value, or without effect.
    """
    check_tool(tool, version)
    found = find(tool)
    table = rows(tool, family)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        _check_name(found, table, name, version)
    before: list[str] = []
    behind: list[str] = []
    for position, row in enumerate(table):
        if not row.known(version):
            continue
        if row.name not in given:
            if row.required:
                raise InvalidSpec(f"{found.title} needs {row.name}.")
            continue
        words = _words(found, row, given[row.name])
        if row.needs and words and not _on(given.get(row.needs)) and given[row.name] != row.default:
            raise InvalidSpec(
                f"{row.name} of {found.title} has no effect without {row.needs}: give that too, or leave it out."
            )
        (before if position < len(found.group) else behind).extend(words)
    start = command(tool, version=version, family=family, examples=examples)
    return [*start, *before, *([found.command] if found.command else []), *behind]


def _check_name(tool: Tool, table: Sequence[Argument], name: str, version: str) -> None:
    """InvalidSpec unless a row of that name is for the version."""
    named = [row for row in table if row.name == name]
    if any(row.known(version) for row in named):
        return
    if named:
        row = named[0]
        raise InvalidSpec(
            f"{tool.title} of TensorRT-LLM {version} has no {name} ({_range(version, row)}): "
            f"{row.instead or 'leave it out'}."
        )
    names = sorted({row.name for row in table if row.known(version)})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:  # without the list: some tools have a hundred
        raise InvalidSpec(f"{tool.title} of TensorRT-LLM {version} has no {name!r}. Did you mean {close[0]!r}?")
    raise InvalidSpec(unknown(f"an argument of {tool.title}", name, names))


def _range(version: str, entry: Argument | Tool) -> str:
    """Why a version is out of an entry's range."""
    if entry.since is not None and not within(version, entry.since, None):
        return f"it came in {entry.since}"
    return f"removed in {entry.until}"


def _on(value: Any) -> bool:
    """Whether an option turns something on."""
    return value not in (None, False, "disable")


def _words(tool: Tool, row: Argument, value: Any) -> list[str]:
    """The words of one argument; InvalidSpec when its value will not do."""
    if row.kind in ("texts", "repeated"):
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise InvalidSpec(f"{row.name} of {tool.title} must be a list of texts, but got {value!r}.")
        texts = [_text(tool, row, entry) for entry in value]
        return [row.flag, *texts] if row.kind == "texts" else [word for text in texts for word in (row.flag, text)]
    if row.kind in ("flag", "bool"):
        if not isinstance(value, bool):
            raise InvalidSpec(f"{row.name} of {tool.title} must be true or false, but got {value!r}.")
        if row.kind == "bool":
            return [row.flag, str(value)]
        return [row.flag] if value else []
    if row.kind == "switch":
        value = {True: "enable", False: "disable"}[value] if isinstance(value, bool) else value
        _check_choice(tool, row, value, row.choices or ("enable", "disable"))
        return [row.flag, str(value)]
    if row.kind in ("int", "float", "fixed"):
        number = _number(tool, row, value)
        return [] if row.kind == "fixed" else [row.flag, str(number)]
    text = _text(tool, row, value)
    return [text] if row.kind == "positional" else [row.flag, text]


def _text(tool: Tool, row: Argument, value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InvalidSpec(f"{row.name} of {tool.title} must be a text, but got {value!r}.")
    text = str(os.fspath(value))
    if text.startswith("-"):  # the tool would take it for a flag
        raise InvalidSpec(f"{row.name} of {tool.title} must not start with a dash, but got {text!r}.")
    if row.choices:
        _check_choice(tool, row, text, row.choices)
    return text


def _number(tool: Tool, row: Argument, value: Any) -> int | float:
    """The number, whole where it must be (also where it comes as 8.0: JSON from KFP has no integers)."""
    whole = row.kind != "float"
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise InvalidSpec(f"{row.name} of {tool.title} must be {what}, but got {value!r}.")
    number = int(value) if whole else float(value)
    if row.choices:
        _check_choice(tool, row, number, row.choices)
    if row.minimum is not None and number < row.minimum:
        raise InvalidSpec(f"{row.name} of {tool.title} must be at least {row.minimum:g}, but got {number:g}.")
    return number


def _check_choice(tool: Tool, row: Argument, value: Any, choices: Sequence[str | int]) -> None:
    if value in choices:
        return
    if isinstance(value, str) and value in row.renamed:
        raise InvalidSpec(f"{row.name} of {tool.title} must not be {value!r}, which it spells {row.renamed[value]!r}.")
    if len(choices) == 1:
        reason = f": {row.instead}" if row.instead else ""
        raise InvalidSpec(f"{row.name} of {tool.title} must be {choices[0]}, but got {value!r}{reason}.")
    raise InvalidSpec(unknown(f"{row.name} of {tool.title}", str(value), map(str, choices)))
