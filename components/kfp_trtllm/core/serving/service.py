"""Text in, text out, over any engine: what Triton serves, and what evaluation and benchmarks measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engine import Engine, Event, Generation, Handle, Settings, open_engine
from .schema import Request, room
from .tokenizer import Detokenizer, Stops, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: Text that the last tokens completed; may be "" in the last piece.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer so far; one that means "end of text" is not counted.
        finish_reason: In the last piece only: "stop" (the model ended, or a stop text), "length" or "cancelled".
        error: One line, instead of a reason.
    """

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str = ""
    error: str = ""

    @property
    def last(self) -> bool:
        """Whether no more follow."""
        return bool(self.finish_reason or self.error)


class Service:
    """A tokenizer and an engine."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Loads an engine folder.

        Args:
            folder: Engine, tokenizer.json and, where there is one, chat template.
            settings: Adapter and limits.
        """
        self.settings = settings
        self.tokenizer = Tokenizer(folder)
        self.engine: Engine = open_engine(folder, settings)

    def submit(self, request: Request, on_piece: Callable[[Piece], None]) -> Handle:
        """Queues a request.

        Args:
            request: The request.
            on_piece: Called on the engine's thread, so it must be quick; exactly one call, the last, ends the answer.

        Raises:
            RequestError: The request breaks a rule that needs its tokens.
            EngineFailed: The engine takes no more requests.
        """
        tokens = self.tokens(request)
        generation = Generation(
            tokens=tuple(tokens),
            max_tokens=room(request, len(tokens), self.settings.max_input_len, self.settings.max_seq_len),
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            seed=request.seed,
        )
        return Answer(self.tokenizer, request, len(tokens), on_piece).start(self.engine, generation)

    def tokens(self, request: Request) -> list[int]:
        """The prompt's tokens, chat template and special tokens included."""
        if request.apply_chat_template:
            prompt = self.tokenizer.render([{"role": "user", "content": request.text_input}])
            return self.tokenizer.encode(prompt, special=False)
        return self.tokenizer.encode(request.text_input, special=True)

    def close(self, drain_seconds: float = 0.0) -> None:
        """Takes no more requests, gives those under way some time, cancels the rest, and ends the threads."""
        self.engine.close(drain_seconds)


class Answer:
    """Turns an engine's tokens into pieces of text."""

    def __init__(
        self, tokenizer: Tokenizer, request: Request, input_tokens: int, on_piece: Callable[[Piece], None]
    ) -> None:
        self._text = Detokenizer(tokenizer)
        self._stops = Stops(request.stop)
        self._stream = request.stream
        self._input_tokens = input_tokens
        self._output_tokens = 0
        self._pending = ""
        self._stopped = False
        self._ended = False
        self._on_piece = on_piece
        self._handle: Handle | None = None

    def start(self, engine: Engine, generation: Generation) -> Answer:
        """Submits the request."""
        self._handle = engine.submit(generation, self._on_event)
        if self._stopped:  # the first token ended it before the handle was here
            self._handle.cancel()
        return self

    def cancel(self) -> None:
        """Ends the request."""
        if self._handle is not None:
            self._handle.cancel()

    def _on_event(self, event: Event) -> None:
        if self._ended:
            return
        if event.token is not None:
            self._output_tokens += 1
            self._add(self._text.feed(event.token))
        elif event.error:
            self._emit(error=event.error)
        else:
            self._add(self._text.flush())
            if not self._stopped:
                self._pending += self._stops.flush()
                self._emit(finish_reason=event.finish_reason)

    def _add(self, text: str) -> None:
        text, self._stopped = self._stops.feed(text)
        self._pending += text
        if self._stopped:
            self._emit(finish_reason="stop")
            self.cancel()
        elif self._stream and self._pending:
            self._emit()

    def _emit(self, *, finish_reason: str = "", error: str = "") -> None:
        text, self._pending = self._pending, ""
        self._ended = bool(finish_reason or error)
        self._on_piece(
            Piece(
                text=text,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                finish_reason=finish_reason,
                error=error,
            )
        )
