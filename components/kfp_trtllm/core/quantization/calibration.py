"""The texts whose activations set the scales of a quantized model."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.core import keys, rules
from kfp_trtllm.errors import InvalidSpec

OURS = Path(__file__).with_name("calibration.jsonl")

_FILES = (".jsonl", ".txt")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

Turns = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What to calibrate with.

    Attributes:
        dataset: "" takes the set that kfp-trtllm ships; a path that ends with .jsonl or .txt, a file; else the name of
            a data set on the Hugging Face Hub, whose first texts are taken.
        size: Texts at most; chosen by the seed where there are more.
        max_seq_length: Tokens of a text at most; the rest is cut off.
        batch_size: Texts that run together. A batch is cut to its shortest text, so that no padding is ever measured.
        seed: Of the choice of texts, and of everything random in the quantization.
    """

    dataset: str = ""
    size: int = 128
    max_seq_length: int = 512
    batch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dataset and not self.file and not _HUB.fullmatch(self.dataset):
            raise InvalidSpec(
                "calibration_dataset must be empty, a .jsonl or .txt file, or the name of a data set on the Hugging Face "
                f"Hub, but got {self.dataset!r}."
            )
        rules.at_least("calibration_size", self.size, 1)
        rules.at_least("calibration_max_seq_length", self.max_seq_length, 8)
        rules.at_least("calibration_batch_size", self.batch_size, 1)
        rules.at_least("calibration_seed", self.seed, 0)

    @property
    def file(self) -> Path | None:
        """The file that holds the texts; None for a data set on the hub."""
        if not self.dataset:
            return OURS
        return Path(self.dataset) if self.dataset.endswith(_FILES) else None

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of all that decides the scales; a file counts by its content, the hub's sets by name."""
        content = self.dataset if self.file is None else hashlib.sha256(_read(self.file)).hexdigest()
        return keys.key(
            content=content,
            size=self.size,
            max_seq_length=self.max_seq_length,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def texts(self) -> list[str | Turns]:
        """The chosen texts of a file, in the order in which they run; chats as their turns.

        Raises:
            InvalidSpec: The file is missing, empty, or has a line that is no text.
        """
        assert self.file is not None
        entries = _parse(self.file)
        if not entries:
            raise InvalidSpec(f"the calibration file {self.file} must hold at least one text, but is empty.")
        if len(entries) > self.size:
            entries = random.Random(self.seed).sample(entries, self.size)
        return entries


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"can't read the calibration file {path}: {error.strerror}.") from None


def _parse(path: Path) -> list[str | Turns]:
    """Paragraphs of a .txt file; a .jsonl file has an object with `text` or `messages` on each line."""
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidSpec(
            f"the calibration file {path} must be UTF-8, but has a wrong byte at {error.start}."
        ) from None
    if path.suffix == ".txt":
        return [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
    entries: list[str | Turns] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            entry = _entry(line)
            if not entry:
                raise InvalidSpec(
                    f'the calibration file {path} must have an object with "text" or "messages" on each line, but line '
                    f"{number} is {line[:60]!r}."
                )
            entries.append(entry)
    return entries


def _entry(line: str) -> str | Turns | None:
    """A line's text, or its turns; None when it is neither."""
    try:
        document: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    if isinstance(text := document.get("text"), str):
        return text.strip()
    turns = document.get("messages")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    ):
        return None
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
