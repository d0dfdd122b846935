"""What an engine must do to be served, and the table of engines. To add one: a module, and its line in `ENGINES`."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

SETTINGS = "serving.json"  # beside model.py; the versions of a model share config.pbtxt, but not their limits

ENGINES = {
    "onnxruntime": "onnxruntime_engine:open_engine",
    "pytorch": "trtllm_engine:open_engine",
    "tensorrt": "trtllm_engine:open_engine",
}


class EngineFailed(RuntimeError):
    """The engine can't take requests any more, or could not do this one; the message is for the client."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a version folder says about its engine.

    Attributes:
        adapter: Name in `ENGINES`.
        max_batch_size: Requests that run at once; more of them wait.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        options: The engine's own arguments besides, in its own names; each adapter says which. JSON values only.
    """

    adapter: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the settings as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request in tokens, within the engine's limits.

    Attributes:
        tokens: The prompt.
        max_tokens: Longest answer.
        temperature: As in schema.Request, as are the rest.
        top_k: See there.
        top_p: See there.
        seed: See there.
    """

    tokens: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to a request: a token, and after the last one a reason or an error.

    Attributes:
        token: The next token of the answer; None in the last event. Tokens that mean "end of text" don't come.
        finish_reason: "stop" (the model ended), "length" (max_tokens reached) or "cancelled".
        error: One line, instead of a reason.
    """

    token: int | None = None
    finish_reason: str = ""
    error: str = ""


class Handle(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Ends the request: it costs nothing from the engine's next step on. Safe at any time, from any thread."""


class Engine(Protocol):
    """Runs requests concurrently, on threads of its own."""

    @property
    def failure(self) -> str:
        """Why the engine can't take requests any more; "" while it can."""

    def submit(self, generation: Generation, on_event: Callable[[Event], None]) -> Handle:
        """Queues a request.

        Args:
            generation: The request.
            on_event: Called on the engine's thread, so it must be quick; exactly one call carries a reason or an error.

        Raises:
            EngineFailed: The engine is closed or has failed.
        """

    def counters(self) -> Mapping[str, int]:
        """What the engine did since its start, for example {"output_tokens": 12}."""

    def close(self, drain_seconds: float = 0.0) -> None:
        """Takes no more requests, gives those under way some time, cancels the rest, and ends the threads."""


def open_engine(folder: Path, settings: Settings) -> Engine:
    """Loads an engine folder.

    Raises:
        ValueError: The adapter is unknown, or the folder holds something that it can't run; says what.
    """
    if settings.adapter not in ENGINES:
        raise ValueError(f"adapter must be one of {', '.join(sorted(ENGINES))}, but got {settings.adapter!r}.")
    module, _, attribute = ENGINES[settings.adapter].partition(":")
    opener: Any = getattr(importlib.import_module(f".{module}", __package__), attribute)
    engine: Engine = opener(folder, settings)
    return engine
