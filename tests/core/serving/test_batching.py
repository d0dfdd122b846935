"""The loop over a decoder that is a few lines long, so that each step can be watched and made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from kfp_trtllm.core.serving.batching import ContinuousBatching
from kfp_trtllm.core.serving.engine import EngineFailed, Event, Generation

END = 9


class Counting:
    """The next token is the last one plus 1, up to 9, which ends the text; a prompt that holds 7 can't be read."""

    chunk = 2

    def __init__(self, rows: int = 2) -> None:
        self.rows = rows
        self.steps: list[tuple[str, list[int]]] = []
        self.cells: dict[int, list[int]] = {}
        self.fail_decode = 0
        self.gate: Callable[[], None] = lambda: None

    def prefill(self, tokens: Sequence[int], start: int) -> np.ndarray:
        self.gate()
        self.steps.append(("prefill", list(tokens)))
        if 7 in tokens:
            raise RuntimeError("can't read 7")
        self.cells[self.rows] = [*self.cells.get(self.rows, [])[:start], *tokens]
        return self.logits(tokens[-1])

    def admit(self, row: int, length: int) -> None:
        self.move(self.rows, row, length)

    def move(self, source: int, target: int, length: int) -> None:
        assert len(self.cells[source]) == length
        self.cells[target] = list(self.cells[source])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
        self.gate()
        self.steps.append(("decode", list(tokens)))
        if self.fail_decode:
            self.fail_decode -= 1
            raise RuntimeError("no memory")
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.cells[row]) == length - 1, "a row does not hold what its sequence says"
            assert not self.cells[row] or self.cells[row][-1] == token - 1, "a row holds another sequence"
            self.cells[row].append(token)
        return np.stack([self.logits(token) for token in tokens])

    def logits(self, token: int) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[min(token + 1, END)]


class Asked:
    """One request and what came of it."""

    def __init__(self, engine: ContinuousBatching, tokens: Sequence[int], max_tokens: int = 20) -> None:
        self.tokens: list[int] = []
        self.ends: list[str] = []
        self.done = threading.Event()
        self.handle = engine.submit(Generation(tokens=tuple(tokens), max_tokens=max_tokens), self.on_event)

    def on_event(self, event: Event) -> None:
        if event.token is not None:
            assert not self.ends, "a token came after the end"
            self.tokens.append(event.token)
        else:
            self.ends.append(event.finish_reason or event.error)
            self.done.set()

    def end(self) -> str:
        assert self.done.wait(10)
        assert len(self.ends) == 1
        return self.ends[0]


@pytest.fixture
def decoder() -> Counting:
    return Counting()


@pytest.fixture
def engine(decoder: Counting) -> ContinuousBatching:
    return ContinuousBatching(decoder, end_tokens=[END])


def test_requests_end_by_the_model_or_by_length(engine: ContinuousBatching) -> None:
    first, second = Asked(engine, [1]), Asked(engine, [1], max_tokens=3)
    assert (first.end(), first.tokens) == ("stop", [2, 3, 4, 5, 6, 7, 8])
    assert (second.end(), second.tokens) == ("length", [2, 3, 4])
    engine.close()


def test_many_more_requests_than_rows_all_get_their_own_answer(engine: ContinuousBatching) -> None:
    asked = [Asked(engine, [start], max_tokens=1 + n % 5) for n, start in enumerate([1, 2, 3, 4, 5, 6] * 10)]
    for n, request in enumerate(asked):
        start = [1, 2, 3, 4, 5, 6][n % 6]
        expected = list(range(start + 1, END))[: 1 + n % 5]
        request.end()
        assert request.tokens == expected
    engine.close()


def test_a_newcomer_joins_while_others_run(decoder: Counting, engine: ContinuousBatching) -> None:
    running, go = threading.Semaphore(0), threading.Semaphore(0)

    def gate() -> None:
        running.release()
        assert go.acquire(timeout=10)

    decoder.gate = gate
    first = Asked(engine, [0])
    for _ in range(3):
        assert running.acquire(timeout=10)
        go.release()
    second = Asked(engine, [0, 1, 2])
    go.release(100)
    assert (first.end(), second.end()) == ("stop", "stop")
    assert ("decode", [6, 4]) in decoder.steps or ("decode", [5, 4]) in decoder.steps
    # The prompt of three tokens took two chunks, with a step of the neighbor between them.
    place = decoder.steps.index(("prefill", [0, 1]))
    assert decoder.steps[place + 1][0] == "decode"
    assert decoder.steps[place + 2] == ("prefill", [2])
    engine.close()


def test_one_that_fails_takes_no_other_with_it(engine: ContinuousBatching) -> None:
    good, bad, after = Asked(engine, [1]), Asked(engine, [1, 2, 7]), Asked(engine, [1])
    assert bad.end() == "the engine failed on this request (RuntimeError: can't read 7)."
    assert (good.end(), after.end()) == ("stop", "stop")
    assert engine.counters()["failed"] == 1
    engine.close()


def test_a_step_that_fails_ends_those_in_it_and_the_engine_goes_on(
    decoder: Counting, engine: ContinuousBatching
) -> None:
    decoder.fail_decode = 1
    assert Asked(engine, [1]).end() == "the engine failed on this request (RuntimeError: no memory)."
    assert Asked(engine, [1]).end() == "stop"
    assert not engine.failure
    engine.close()


def test_an_engine_that_keeps_failing_gives_up_and_says_so(decoder: Counting, engine: ContinuousBatching) -> None:
    decoder.fail_decode = 99
    ends = []
    with pytest.raises(EngineFailed, match="3 steps in a row failed"):
        for _ in range(9):
            ends.append(Asked(engine, [1]).end())
            if len(ends) >= 3:
                engine._thread.join(10)
    assert len(ends) == 3
    assert "no memory" in engine.failure
    engine.close()


def test_cancelled_requests_cost_nothing_from_the_next_step_on(decoder: Counting, engine: ContinuousBatching) -> None:
    hold = threading.Event()
    entered = threading.Event()

    def gate() -> None:
        entered.set()
        assert hold.wait(10)

    decoder.gate = gate
    first, waiting = Asked(engine, [0]), Asked(engine, [0])
    assert entered.wait(10)
    first.handle.cancel()
    waiting.handle.cancel()
    hold.set()
    assert (first.end(), waiting.end()) == ("cancelled", "cancelled")
    assert decoder.steps == [("prefill", [0])]
    first.handle.cancel()  # again, when it is long over
    assert Asked(engine, [1]).end() == "stop"
    engine.close()


def test_a_listener_that_fails_ends_its_own_request_only(engine: ContinuousBatching) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    engine.submit(Generation(tokens=(1,), max_tokens=5), broken)
    assert Asked(engine, [1]).end() == "stop"
    engine.close()


def test_close_lets_requests_end_or_cancels_them(decoder: Counting, engine: ContinuousBatching) -> None:
    asked = [Asked(engine, [1]) for _ in range(5)]
    engine.close(drain_seconds=10)
    assert [request.end() for request in asked] == ["stop"] * 5
    with pytest.raises(EngineFailed, match="shutting down"):
        Asked(engine, [1])

    hold = threading.Event()
    slow = Counting()
    slow.gate = lambda: hold.wait(0.05) and None
    other = ContinuousBatching(slow, end_tokens=[])
    asked = [Asked(other, [1], max_tokens=10**6) for _ in range(3)]
    other.close(drain_seconds=0.1)
    assert [request.end() for request in asked] == ["cancelled"] * 3
    assert not other._thread.is_alive()


def test_calls_run_between_steps_and_carry_errors(engine: ContinuousBatching) -> None:
    assert engine.call(lambda: threading.current_thread().name).result(10) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0).result(10)
    engine.close()
    with pytest.raises(EngineFailed):
        engine.call(lambda: 1)
