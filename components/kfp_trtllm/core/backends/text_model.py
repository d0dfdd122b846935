"""A loaded engine as a text model: what is evaluated and measured is what Triton serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import Generated, Sampling
from kfp_trtllm.core.serving.engine import Event, Generation, Settings
from kfp_trtllm.core.serving.service import Service
from kfp_trtllm.core.serving.tokenizer import Detokenizer, Stops
from kfp_trtllm.errors import BuildFailed, InvalidSpec


class EngineTextModel:
    """Implements `base.TextModel` on an engine as Triton serves it."""

    def __init__(self, engine: Path, settings: Settings) -> None:
        """Loads the engine folder; ValueError, KeyError or OSError says why it can't."""
        self._service = Service(engine, settings)
        self.max_seq_len = settings.max_seq_len
        self.max_batch_size = settings.max_batch_size
        self._tokenizer = self._service.tokenizer
        self._engine: Any = self._service.engine
        self._adapter = settings.adapter

    def encode(self, text: str) -> list[int]:
        """See `base.TextModel`."""
        return self._tokenizer.encode(text, special=False)

    @property
    def prefix_token(self) -> int:
        """See `base.TextModel`."""
        for name in ("bos_token", "eos_token"):
            if (token := self._tokenizer.id_of(name)) is not None:
                return token
        end: int = min(self._engine.end_tokens)
        return end

    def render_chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """See `base.TextModel`."""
        return self._tokenizer.render(turns)

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """See `base.TextModel`.

        Raises:
            InvalidSpec: The engine tells no log-probabilities.
        """
        if not hasattr(self._engine, "loglikelihoods"):
            raise InvalidSpec(
                f"accuracy_tasks must be tasks that generate (kfp_answers, kfp_chat, gsm8k, …) with the "
                f"{self._adapter} backend, whose engines tell no log-probabilities of a prompt: or set accuracy_subject "
                "to checkpoint."
            )
        found: list[tuple[float, bool]] = self._engine.loglikelihoods(pairs)
        return found

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
        """See `base.TextModel`; prompts are taken as they are, without special tokens."""
        import queue

        done: queue.SimpleQueue[tuple[int, Event, float]] = queue.SimpleQueue()
        answers = []
        began = time.perf_counter()
        for index, prompt in enumerate(prompts):
            tokens = self.encode(prompt) or [self.prefix_token]
            if len(tokens) >= self.max_seq_len:
                raise BuildFailed(
                    f"a prompt must have less than {self.max_seq_len} tokens (max_seq_len), but got {len(tokens)}."
                )
            answer = _Collected(self._tokenizer, len(tokens), sampling)
            answers.append(answer)
            generation = Generation(
                tokens=tuple(tokens),
                max_tokens=min(sampling.max_tokens, self.max_seq_len - len(tokens)),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed,
            )

            def on_event(event: Event, index: int = index) -> None:
                done.put((index, event, time.perf_counter() - began))

            answer.handle = self._engine.submit(generation, on_event)
        left = len(answers)
        while left:
            index, event, seconds = done.get()
            if answers[index].take(event, seconds):
                left -= 1
        return [answer.result() for answer in answers]

    def close(self) -> None:
        """See `base.TextModel`."""
        self._service.close()


class _Collected:
    """One answer as it comes."""

    def __init__(self, tokenizer: Any, input_tokens: int, sampling: Sampling) -> None:
        self._text, self._stops = Detokenizer(tokenizer), Stops(sampling.stop)
        self._input_tokens = input_tokens
        self._said: list[str] = []
        self._seconds: list[float] = []
        self._stopped = False
        self._reason = ""
        self.handle: Any = None

    def take(self, event: Event, seconds: float) -> bool:
        """Whether the engine is done with the request."""
        if event.error:
            raise BuildFailed(f"the engine failed while it answered: {event.error}")
        if event.token is None:
            if not self._stopped:
                text, self._stopped = self._stops.feed(self._text.flush())
                self._said.append(text)
                if not self._stopped:
                    self._said.append(self._stops.flush())
            self._reason = "stop" if self._stopped else event.finish_reason
            return True
        if not self._stopped:
            self._seconds.append(seconds)
            text, self._stopped = self._stops.feed(self._text.feed(event.token))
            self._said.append(text)
            if self._stopped:
                self.handle.cancel()
        return False

    def result(self) -> Generated:
        return Generated(
            text="".join(self._said),
            finish_reason=self._reason,
            input_tokens=self._input_tokens,
            output_tokens=len(self._seconds),
            token_seconds=tuple(self._seconds),
        )
