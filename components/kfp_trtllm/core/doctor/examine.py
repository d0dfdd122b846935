"""A log in, a diagnosis out."""

from __future__ import annotations

import re
import textwrap
from pathlib import PurePath

from kfp_trtllm.core.doctor.ailments import AILMENTS, BUILT, HARMLESS, Ailment
from kfp_trtllm.core.doctor.diagnosis import Diagnosis
from kfp_trtllm.core.doctor.signs import Line, find, has, line_at, plain

_KILLED = {137: "exit status 137", -9: "killed by signal 9"}  # as a shell and as Python's subprocess tell it
_EVIDENCE = 300  # characters
_BEFORE = 100  # of these, at most, before the message
_ERROR = re.compile(r"^E\d{4} |\[E\]|\[ERROR\]|^[\w.]{0,200}(?:Error|Exception)\b|^(?:error|fatal): ", re.MULTILINE)


def examine(log: str, *, status: int | None = None, tool: str = "") -> Diagnosis | None:
    """Finds out why a tool failed; takes time in proportion to the log.

    Args:
        log: Its output, as it came: with colors, progress bars and all.
        status: Its exit status, negative for a signal; None when it is not known. A process that was killed had
            survived whatever its log says; one that ended with 0 did not fail.
        tool: The program, by name or path, for example "trtllm-build"; some messages mean something else in another
            program's log. "" when it is not known.

    Returns:
        The first ailment of the table that the log has, or None when it has none.
    """
    if status == 0:
        return None
    text = plain(log)
    if status in _KILLED:
        ailment = next(ailment for ailment in AILMENTS if ailment.kind == "host_oom")
        line = _first(ailment, text)
        return _diagnose(ailment, _shorten(line) if line else _KILLED[status])
    name = PurePath(tool).name
    for ailment in AILMENTS:
        if _applies(ailment, text, name) and (line := _first(ailment, text)):
            return _diagnose(ailment, _shorten(_cause(ailment, text, line) if ailment.symptom else line))
    return None


def _diagnose(ailment: Ailment, evidence: str) -> Diagnosis:
    return Diagnosis(
        kind=ailment.kind, cause=ailment.cause, remedy=ailment.remedy, evidence=evidence, retry=ailment.retry
    )


def _applies(ailment: Ailment, text: str, tool: str) -> bool:
    """Whether the ailment's signs mean it in this log."""
    if ailment.tools and tool:
        return tool in ailment.tools
    if ailment.mentions:
        return any(mention in text for mention in ailment.mentions)
    return not ailment.tools


def _first(ailment: Ailment, text: str) -> Line | None:
    """The first line with any of the ailment's signs that means something."""
    start = text.rfind(ailment.unless_then) if ailment.unless_then else -1
    lines = []
    for sign in ailment.signs:
        for line in find(text, sign, max(0, start)):
            if not _harmless(line.text):
                lines.append(line)
                break
    return min(lines, key=lambda line: line.begin, default=None)


def _cause(ailment: Ailment, text: str, symptom: Line) -> Line:
    """The log's first error that is neither the ailment's own message nor harmless; else the symptom itself."""
    # What a build reports and overcomes is no cause of what fails after it.
    for match in _ERROR.finditer(text, max(0, text.rfind(BUILT, 0, symptom.begin))):
        line = line_at(text, match.start())
        if not _harmless(line.text) and not any(has(line.text, sign) for sign in ailment.signs):
            return line
    return symptom


def _harmless(line: str) -> bool:
    return any(has(line, sign) for sign in HARMLESS)


def _shorten(line: Line) -> str:
    """The message with what stands before it, as far as there is room; cut between words."""
    text, cut = line.text, line.column - _BEFORE
    if cut > 0:
        space = text.find(" ", cut, line.column)
        text = "…" + text[space if space > 0 else line.column :].lstrip()
    return textwrap.shorten(text, _EVIDENCE, placeholder=" …") if " " in text else text[:_EVIDENCE]
