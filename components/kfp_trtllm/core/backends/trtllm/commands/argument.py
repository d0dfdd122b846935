"""What a tool's table is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kfp_trtllm.core.backends.trtllm.releases import numbers

Value = str | int | float | bool | None
# TensorRT-LLM's logger knows these (tensorrt_llm/logger.py).
LOG_LEVELS = ("internal_error", "error", "warning", "info", "verbose", "debug", "trace")


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a tool. A name has several rows where versions differ; their ranges do not overlap.

    Attributes:
        name: The key in options: the tool's own name, but the same for all families.
        flag: What is written before the value; "" for one that has no flag (see `kind`).
        kind: "text", "int", "float", "flag" (no value), "switch" (enable or disable), "bool" (true or false), "texts"
            (one or more values behind one flag), "repeated" (the flag before each value), "positional" (a text without
            flag), or "fixed" (the tool lacks it; `choices` has the one value that needs no flag).
        aliases: Other spellings that some versions have.
        choices: Values that do; empty for any of the kind.
        unsure: Those of `choices` that only some versions of the tool have, which ones not being known.
        renamed: What the tool calls values, by what others call them.
        default: Of the tool; None for none.
        minimum: The lowest number.
        required: The tool refuses to run without.
        needs: Name of a flag or switch without which the tool ignores this one.
        since: The first version that has it; None where that is not known.
        until: The first version that lacks it; None for none, as far as is known.
        instead: What to do where it is not, or where `choices` has only one: the end of a sentence.
    """

    name: str
    flag: str = ""
    kind: str = "text"
    aliases: tuple[str, ...] = ()
    choices: tuple[str | int, ...] = ()
    unsure: tuple[str | int, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    default: Value = None
    minimum: float | None = None
    required: bool = False
    needs: str = ""
    since: str | None = None
    until: str | None = None
    instead: str = ""

    def known(self, version: str) -> bool:
        """Whether this row is for a version of TensorRT-LLM."""
        return within(version, self.since, self.until)

    @property
    def spellings(self) -> tuple[str, ...]:
        """The flag and its aliases."""
        return (self.flag, *self.aliases) if self.flag else ()


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool of TensorRT-LLM.

    Attributes:
        title: What messages call it.
        program: Its command; a path that ends with .py lies under TensorRT-LLM's examples/.
        command: Its subcommand, or "".
        arguments: In the order in which they are rendered.
        group: Arguments that come before the subcommand.
        families: Arguments, instead, by family of models; their program is the family's script.
        since: The first version that has it; None where that is not known.
        until: The first version that lacks it; None for none, as far as is known.
        instead: What to do where it is not: the end of a sentence.
    """

    title: str
    program: str
    command: str = ""
    arguments: tuple[Argument, ...] = ()
    group: tuple[Argument, ...] = ()
    families: Mapping[str, tuple[Argument, ...]] = field(default_factory=dict)
    since: str | None = None
    until: str | None = None
    instead: str = ""


def within(version: str, since: str | None, until: str | None) -> bool:
    """Whether a version lies in a range; an end that is not known is open."""
    found = numbers(version)
    return (since is None or found >= numbers(since)) and (until is None or found < numbers(until))
