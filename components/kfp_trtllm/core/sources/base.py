"""What a source must do. A source is one module with one class; add its line to the table in `__init__.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

OnProgress = Callable[[int, int], None]

_SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=//)[^/@\s]*:[^/@\s]*(?=@)")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A source, pinned.

    Attributes:
        source: The canonical URL, without revision and without secrets; `parse` reads it back.
        revision: What never changes: a commit, or a digest ("sha256:…").
    """

    source: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a source tells about the model that it wrote.

    Attributes:
        license: SPDX name or the hub's tag; "" where the source doesn't tell it.
        name: Short name of the model, for people.
    """

    license: str
    name: str


class Source(Protocol):
    """A place that models come from."""

    @classmethod
    def parse(cls, location: str) -> Self:
        """The source at what follows "scheme://"; no I/O.

        Raises:
            InvalidSpec: A part is missing or wrong.
        """

    def resolve(self, *, on_progress: OnProgress = ...) -> Resolved:
        """The exact revision that the source stands for at this moment.

        Args:
            on_progress: Called with (done, total) in bytes where resolving means reading.

        Raises:
            SourceError: The source is missing, unreachable or not what it should be.
        """

    def fetch(
        self, revision: str, folder: Path, *, on_progress: OnProgress = ..., allow_pickle: bool = False
    ) -> Fetched:
        """Writes a revision as a Hugging Face style checkpoint in safetensors, every file verified.

        Args:
            revision: As `resolve` gave it.
            folder: Existing work folder of this fetch alone. What an earlier, killed attempt left there is used;
                whatever else it holds is removed.
            on_progress: Called with (done, total) in bytes; never from two threads at once.
            allow_pickle: Whether weights that exist as pickles only may be loaded and converted.

        Raises:
            SourceError: The model can't be had, or its bytes are not those of the revision.
        """


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def redact(text: str) -> str:
    """A text that may hold a token or a password which someone typed into a URL, without it."""
    return _SECRET.sub("***", text)
