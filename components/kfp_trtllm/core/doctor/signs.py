"""Messages as data, and where a log has them.

A sign is a message as a tool writes it, with "…" for what differs from one log to the next. All of it must be found
in one line, in that order. "^" at its start and "$" at its end tie it to the line's; nothing else is special, so a
sign can be copied out of a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

_GAP = "…"
_REACH = 4000  # characters of a line that are looked at on either side: a log may be a single line of 50 MB
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a log.

    Attributes:
        begin: Where it begins, in characters from the log's start.
        end: Where it ends, likewise.
        text: The line, without colors.
        column: Where the message begins in `text`, in characters.
    """

    begin: int
    end: int
    text: str
    column: int = 0


@dataclass(frozen=True, kw_only=True)
class _Sign:
    pieces: tuple[str, ...]
    rarest: str
    at_start: bool
    at_end: bool


def plain(log: str) -> str:
    """A log in which every line ends with a line feed, as progress bars' don't."""
    return log.replace("\r", "\n") if "\r" in log else log


def find(log: str, sign: str, start: int = 0) -> Iterator[Line]:
    """Every line of a log (as `plain` leaves it) that has a sign, in order; takes time in proportion to the log.

    Args:
        log: The log.
        sign: See this module.
        start: Where to begin, in characters.
    """
    parsed = _parse(sign)
    place = log.find(parsed.rarest, start)
    while place >= 0:
        line = line_at(log, place)
        column = _match(parsed, line.text)
        if column >= 0:
            yield replace(line, column=column)
        place = log.find(parsed.rarest, max(line.end, place + len(parsed.rarest)))


def line_at(log: str, place: int) -> Line:
    """The line around a place, or as much of it as is looked at."""
    low, high = max(0, place - _REACH), min(len(log), place + _REACH)
    begin = log.rfind("\n", low, place) + 1 or low
    end = log.find("\n", place, high)
    end = high if end < 0 else end
    return Line(begin=begin, end=end, text=_COLORS.sub("", log[begin:end]))


def has(line: str, sign: str) -> bool:
    """Whether a single line has a sign."""
    return _match(_parse(sign), line) >= 0


def _match(sign: _Sign, line: str) -> int:
    """Where a sign begins in a line; -1 when the line does not have it."""
    line = line.strip() if sign.at_start or sign.at_end else line
    begin, end = -1, 0
    for piece in sign.pieces:
        place = line.find(piece, end)
        if place < 0:
            return -1
        begin, end = begin if begin >= 0 else place, place + len(piece)
    tied = (not sign.at_start or begin == 0) and (not sign.at_end or line.endswith(sign.pieces[-1]))
    return begin if tied else -1


@cache
def _parse(sign: str) -> _Sign:
    body = sign.removeprefix("^").removesuffix("$")
    pieces = tuple(piece for piece in body.split(_GAP) if piece)
    return _Sign(
        pieces=pieces,
        rarest=max(pieces, key=len),
        at_start=sign.startswith("^"),
        at_end=sign.endswith("$"),
    )
