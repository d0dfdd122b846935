"""What an evaluation leaves: the score of every item, so that two evaluations can be paired."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kfp_trtllm.errors import StoreError


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of a task, answered.

    Attributes:
        task: Name of the task.
        key: The item's place in its task and a hash of its content; with `task` it names the item everywhere.
        score: From 0 to 1; the higher, the better.
        prompt: The end of what the model was given.
        answer: What the model said, or the choice that it found likeliest.
        target: What would have been right.
    """

    task: str
    key: str
    score: float
    prompt: str
    answer: str
    target: str


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task, summed up.

    Attributes:
        task: Name of the task.
        metric: What an item's score is, for example "acc".
        n: Items.
        score: Mean of the items' scores.
        metrics: Everything that the harness computed for the task, by metric.
    """

    task: str
    metric: str
    n: int
    score: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's answers to tasks.

    Attributes:
        tasks: Sorted by name.
        items: Sorted by task and place.
        limit: Items per task at most; None for all.
        seed: What the tasks' own sampling started from.
        seconds: How long it took.
    """

    tasks: tuple[TaskResult, ...]
    items: tuple[Item, ...]
    limit: int | None = None
    seed: int = 0
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """Mean score over all items, each with the same weight."""
        return mean(item.score for item in self.items)

    def to_json(self) -> str:
        """The evaluation as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the evaluation") -> Evaluation:
        """Reads `to_json`'s text back.

        Raises:
            StoreError: It is something else.
        """
        try:
            document = json.loads(text)
            tasks = tuple(TaskResult(**entry) for entry in document.pop("tasks"))
            items = tuple(Item(**entry) for entry in document.pop("items"))
            return cls(tasks=tasks, items=items, **document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is not an evaluation ({type(error).__name__}: {error}).") from None

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """Reads what `write` wrote; StoreError when it is something else."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"can't read the evaluation {path}: {error.strerror}.") from None
        return cls.from_json(text, where=str(path))

    def write(self, path: str | Path) -> None:
        """Writes the evaluation to a file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.to_json(), encoding="utf-8")


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; 0 of nothing."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else 0.0
