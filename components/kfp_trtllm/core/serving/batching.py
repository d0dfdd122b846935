"""Continuous batching: requests join and leave between two steps, and one that fails takes no other with it.

A decoder runs sequences side by side in rows 0, 1, … of its cache. Each turn of the loop advances the newcomer by one
chunk of its prompt, then all running rows by one token. So a long prompt delays its neighbors by a chunk at a time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .engine import EngineFailed, Event, Generation
from .sampling import Sampler

_FAILURES = 3  # failed steps of one kind in a row after which the engine is given up

T = TypeVar("T")


class Decoder(Protocol):
    """A model with a cache of rows; used by one thread only."""

    @property
    def rows(self) -> int:
        """Sequences that can run side by side."""

    @property
    def chunk(self) -> int:
        """Tokens of a prompt to run at once."""

    def prefill(self, tokens: Sequence[int], start: int) -> npt.NDArray[np.float32]:
        """Runs a part of a prompt in a row of its own, beside the others.

        Args:
            tokens: The part.
            start: Its place in the prompt.

        Returns:
            Logits behind the part's last token, [vocabulary]; valid until the next call.
        """

    def admit(self, row: int, length: int) -> None:
        """Puts the prompt that was run last, of `length` tokens, into a row."""

    def move(self, source: int, target: int, length: int) -> None:
        """Puts what is in a row into another one."""

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> npt.NDArray[np.float32]:
        """Runs one token in each of the rows 0 to len(tokens) - 1.

        Args:
            tokens: One per row.
            lengths: Tokens of each row, the new one counted.

        Returns:
            Logits behind each token, [rows, vocabulary]; valid until the next call.
        """


class Job:
    """One request under way: the engine's own notes, and the client's handle."""

    def __init__(self, generation: Generation, on_event: Callable[[Event], None], wake: Callable[[], None]) -> None:
        self.generation = generation
        self.sampler = Sampler(
            temperature=generation.temperature, top_k=generation.top_k, top_p=generation.top_p, seed=generation.seed
        )
        self.length = 0  # tokens in the cache
        self.produced = 0
        self.last = -1
        self.cancelled = False
        self.ended = False
        self._on_event = on_event
        self._wake = wake

    def cancel(self) -> None:
        """Ends the request before the engine's next step."""
        self.cancelled = True
        self._wake()

    def tell(self, event: Event) -> None:
        """Passes an event on; a listener that fails ends its own request only."""
        try:
            self._on_event(event)
        except Exception:
            self.cancelled = True

    def end(self, *, reason: str = "", error: str = "") -> None:
        """Tells the end, once."""
        if not self.ended:
            self.ended = True
            self.tell(Event(finish_reason=reason, error=error))


class ContinuousBatching:
    """An engine over a decoder, with one thread that is the only one to touch it."""

    def __init__(self, decoder: Decoder, *, end_tokens: Collection[int]) -> None:
        self._decoder = decoder
        self._end_tokens = frozenset(end_tokens)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._newcomer: Job | None = None
        self._running: list[Job] = []  # by row
        self._counters: Counter[str] = Counter()
        self._failures = Counter[str]()  # in a row, by kind of step
        self._failure = ""
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why the engine can't take requests any more; "" while it can."""
        return self._failure

    def submit(self, generation: Generation, on_event: Callable[[Event], None]) -> Job:
        """Queues a request; see engine.Engine."""
        job = Job(generation, on_event, self._wake)
        with self._changed:
            self._refuse_if_over()
            self._waiting.append(job)
            self._counters["requests"] += 1
            self._changed.notify()
        return job

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Runs a function on the engine's thread, between two steps, when no prompt is half done."""
        future: Future[T] = Future()
        with self._changed:
            self._refuse_if_over()
            self._calls.append((future, function))
            self._changed.notify()
        return future

    def counters(self) -> Mapping[str, int]:
        """Counts since the start: requests, prompt_tokens and output_tokens computed, steps, cancelled, failed."""
        with self._changed:
            return dict(self._counters)

    def close(self, drain_seconds: float = 0.0) -> None:
        """Takes no more requests, gives those under way some time, cancels the rest, and ends the thread."""
        deadline = time.monotonic() + drain_seconds
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            for job in self._under_way():
                job.cancelled = True
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _refuse_if_over(self) -> None:
        if self._failure or self._closing:
            raise EngineFailed(self._failure or "the server is shutting down.")

    def _under_way(self) -> list[Job]:
        return [*self._running, *([self._newcomer] if self._newcomer else []), *self._waiting]

    def _loop(self) -> None:
        try:
            while self._wait():
                self._drop_cancelled()
                self._run_calls()
                self._advance_newcomer()
                self._advance_rows()
        except BaseException as error:  # nobody else would see it: the thread ends here
            with self._changed:
                self._failure = f"the engine has failed ({type(error).__name__}: {error})."
                left, calls = self._under_way(), list(self._calls)
            for job in left:
                job.end(error=self._failure)
            for future, _ in calls:
                future.set_exception(EngineFailed(self._failure))

    def _wait(self) -> bool:
        """Sleeps while there is nothing to do; False when there will be nothing any more."""
        with self._changed:
            while not (self._under_way() or self._calls):
                if self._closing:
                    return False
                self._changed.wait()
            return True

    def _drop_cancelled(self) -> None:
        with self._changed:
            dropped = [job for job in self._waiting if job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        if self._newcomer is not None and self._newcomer.cancelled:
            dropped.append(self._newcomer)
            self._newcomer = None
        dropped += [job for job in self._running if job.cancelled]
        for job in dropped:
            self._count(cancelled=1)
            job.end(reason="cancelled")
        self._compact()

    def _run_calls(self) -> None:
        # A call may use the row of the newcomer, so it waits until that row is free.
        while self._newcomer is None and self._calls:
            future, function = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _advance_newcomer(self) -> None:
        """Runs the next chunk of the prompt that is being read, or begins with the next one."""
        if self._newcomer is None:
            with self._changed:
                if not self._waiting or len(self._running) == self._decoder.rows:
                    return
                self._newcomer = self._waiting.popleft()
        job = self._newcomer
        tokens = job.generation.tokens
        part = tokens[job.length : job.length + self._decoder.chunk]
        try:
            logits = self._decoder.prefill(part, job.length)
            job.length += len(part)
            self._count(prompt_tokens=len(part), prefill_steps=1)
            if job.length < len(tokens):
                return
            self._newcomer = None
            if self._take(job, logits):
                self._decoder.admit(len(self._running), job.length)
                self._running.append(job)
            self._failures["prefill"] = 0
        except Exception as error:
            self._newcomer = None
            self._fail("prefill", [job], error)

    def _advance_rows(self) -> None:
        """Runs one step of all rows."""
        running = self._running
        if not running:
            return
        try:
            logits = self._decoder.decode([s.last for s in running], [s.length + 1 for s in running])
        except Exception as error:
            # Which row was to blame can't be told, and the cache may be half written: all of them end.
            self._running = []
            self._fail("decode", running, error)
            return
        self._failures["decode"] = 0
        self._count(steps=1)
        for row, job in enumerate(running):
            job.length += 1
            try:
                self._take(job, logits[row])
            except ArithmeticError as error:
                job.end(error=_words(error))
                self._count(failed=1)
        self._compact()

    def _take(self, job: Job, logits: npt.NDArray[np.float32]) -> bool:
        """Chooses the next token and tells it; False when that was the end."""
        token = job.sampler.choose(logits)
        if token in self._end_tokens:
            job.end(reason="stop")
            return False
        job.last = token
        job.produced += 1
        self._count(output_tokens=1)
        job.tell(Event(token=token))
        if job.cancelled:  # by its listener, for example at a stop text
            job.end(reason="cancelled")
        elif job.produced >= job.generation.max_tokens:
            job.end(reason="length")
        return not job.ended

    def _compact(self) -> None:
        """Fills the rows of ended jobs with the last ones, so that rows 0 to n - 1 are those that run."""
        row = 0
        while row < len(self._running):
            if not self._running[row].ended:
                row += 1
                continue
            last = self._running.pop()
            if row < len(self._running) and not last.ended:
                self._decoder.move(len(self._running), row, last.length)
                self._running[row] = last

    def _fail(self, kind: str, jobs: Sequence[Job], error: Exception) -> None:
        """Ends jobs with an error; gives the engine up when it keeps failing."""
        for job in jobs:
            job.end(error=_words(error))
        self._count(failed=len(jobs))
        self._failures[kind] += 1
        if self._failures[kind] >= _FAILURES:
            raise EngineFailed(f"{_FAILURES} steps in a row failed, the last one with {type(error).__name__}: {error}")

    def _count(self, **counts: int) -> None:
        with self._changed:
            self._counters.update(counts)


def _words(error: Exception) -> str:
    return f"the engine failed on this request ({type(error).__name__}: {error})."
