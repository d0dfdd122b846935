"""A diagnosis, and its words for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Retry = Literal["", "smaller", "drop_timing_cache", "other_backend"]

RETRIES: Mapping[Retry, str] = {
    "": "Nothing is tried again by itself: it would fail the same way.",
    "smaller": "A build is tried again by itself with a smaller max_num_tokens, then a smaller max_batch_size.",
    "drop_timing_cache": "The build is tried again by itself, once, without the timing cache.",
    "other_backend": "It is tried again by itself with backend pytorch where allow_fallback is set.",
}
_WIDTH = 80  # columns
_INDENT = 12  # columns that the names of the parts take


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why a tool failed.

    Attributes:
        kind: Name of the ailment, for example "build_oom_gpu"; stable, so that code may depend on it.
        cause: What happened, in a sentence.
        remedy: What to change, in a sentence, in the names of our parameters.
        evidence: The log's line that told, shortened.
        retry: The change with which a retry is safe; "" for none.
    """

    kind: str
    cause: str
    remedy: str
    evidence: str
    retry: Retry = ""


def describe(diagnosis: Diagnosis) -> str:
    """A diagnosis for a terminal of 80 columns, with a line break at its end."""
    parts = {
        "Diagnosis": diagnosis.kind,
        "Cause": diagnosis.cause,
        "Evidence": diagnosis.evidence,
        "What to do": diagnosis.remedy,
        "Retry": RETRIES[diagnosis.retry],
    }
    return "\n".join(_part(name, text) for name, text in parts.items()) + "\n"


def _part(name: str, text: str) -> str:
    # Words stay whole where they fit a line: a parameter's name that is cut in two can't be searched for.
    return textwrap.fill(
        text,
        width=_WIDTH,
        initial_indent=name.ljust(_INDENT),
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )
