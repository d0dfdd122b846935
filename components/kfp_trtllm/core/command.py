"""`python -m kfp_trtllm.<component>`: a component without KFP, its flags made from its spec and its `run`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from kfp_trtllm.core.step import step


def main(spec_class: type[Any], run: Callable[..., Any], argv: Sequence[str] | None = None) -> None:
    """Parses flags, runs the component and prints what it returns as JSON.

    Args:
        spec_class: The component's spec; each field is a flag.
        run: Takes the spec, then paths of artifacts by keyword; each is a flag, lists of paths may be given many times.
        argv: Arguments; the process's own by default.
    """
    name = spec_class.__module__.split(".")[-2]
    parser = argparse.ArgumentParser(
        prog=f"python -m kfp_trtllm.{name}",
        description=inspect.getdoc(run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    hints = get_type_hints(spec_class)
    described = attributes(spec_class)
    for field in dataclasses.fields(spec_class):
        _add(parser, field.name, hints[field.name], field.default, described.get(field.name, ""))
    paths = [p for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY]
    run_hints = get_type_hints(run)
    for parameter in paths:
        many = get_origin(run_hints[parameter.name]) is not None
        parser.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            dest=parameter.name,
            type=Path,
            action="append" if many else "store",
            required=parameter.default is inspect.Parameter.empty,
            default=None if parameter.default is inspect.Parameter.empty else parameter.default,
            metavar="PATH",
            help="artifact: a file to read or to write" + ("; may be given many times" if many else ""),
        )
    values = vars(parser.parse_args(argv))
    artifacts = {parameter.name: values.pop(parameter.name) for parameter in paths}
    with step(name):
        result = run(spec_class(**values), **artifacts)
    if result is not None:
        document = (
            dataclasses.asdict(result) if dataclasses.is_dataclass(result) and not isinstance(result, type) else result
        )
        json.dump(document, sys.stdout, indent=1, default=str)
        print()


def attributes(spec_class: type[Any]) -> dict[str, str]:
    """Descriptions of a dataclass's fields, from the Attributes section of its docstring."""
    described: dict[str, str] = {}
    name = ""
    _, _, section = (inspect.getdoc(spec_class) or "").partition("Attributes:\n")
    for line in section.splitlines():
        head, colon, text = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name = head
            described[name] = text
        elif line.startswith("     ") and name:
            described[name] += " " + line.strip()
        else:
            name = ""
    return described


def _add(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, text: str) -> None:
    required = default is dataclasses.MISSING
    text = text.replace("%", "%%") + ("" if required else f" (default: {_show(default)})")
    flag = f"--{name.replace('_', '-')}"
    options: dict[str, Any] = {"dest": name, "required": required, "help": text}
    if not required:
        options["default"] = default
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif get_origin(kind) in (tuple, list, Sequence):
        item = get_args(kind)[0]
        parser.add_argument(flag, nargs="*", type=item, metavar=item.__name__.upper(), **options)
    else:
        parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), **options)


def _show(default: Any) -> str:
    shown = " ".join(str(item) for item in default) if isinstance(default, tuple | list) else str(default)
    return (shown or "empty").replace("%", "%%")
