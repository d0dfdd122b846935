"""What both classes share."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ._accepted import KV_CACHE, SAMPLING, TORCH, TRT


class RequestError(RuntimeError):
    """This request's error; the executor goes on."""


class SamplingParams:
    """Fields by name; refuses those that the real one lacks."""

    def __init__(self, **fields: Any) -> None:
        for name in fields:
            if name not in SAMPLING:
                raise TypeError(f"SamplingParams.__init__() got an unexpected keyword argument {name!r}")
        self.fields = fields

    @property
    def greedy(self) -> bool:
        """As SamplingParams.params_imply_greedy_decoding has it."""
        top_k, top_p, temperature = (self.fields.get(name) for name in ("top_k", "top_p", "temperature"))
        return (top_k, top_p, temperature) == (None, None, None) or top_k == 1 or top_p == 0 or temperature == 0


class KvCacheConfig:
    """Refuses fields that the real one lacks."""

    def __init__(self, **fields: Any) -> None:
        _check("KvCacheConfig", fields, KV_CACHE)
        self.fields = fields


class CompletionOutput:
    """One answer, growing."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None


class RequestOutput:
    """An asynchronous iterator that yields itself."""

    def __init__(self, executor: Executor, number: int, prompt: Sequence[int], params: SamplingParams) -> None:
        self.outputs = [CompletionOutput()]
        self._executor = executor
        self._number = number
        self._prompt = prompt
        self._params = params
        self._aborted = False
        self._done = False
        try:
            asyncio.get_running_loop()
            self._awaitable = True
        except RuntimeError:
            self._awaitable = False

    def abort(self) -> None:
        """Asks for the end."""
        self._executor.abort()
        self._aborted = True

    def aborted(self) -> bool:
        """Whether it was asked for."""
        return self._aborted

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._done:
            raise StopAsyncIteration
        assert self._awaitable, "The asyncio event loop was not present during initialization."
        behavior = self._executor.behavior
        await asyncio.sleep(behavior.get("seconds", 0))
        if self._executor.silent:
            await asyncio.sleep(3600)
        output = self.outputs[0]
        if self._aborted:
            self._done, output.finish_reason = True, "cancelled"
            return self
        if behavior.get("fail_all") or self._number % behavior.get("fail_every", 1 << 30) == 0:
            raise RequestError("CUDA error: out of memory")
        count = len(output.token_ids)
        if count == behavior.get("end_at"):
            self._done, output.finish_reason = True, "stop"
            if behavior.get("shows_end"):
                output.token_ids.append(self._params.fields["end_id"])
            return self
        # Sampled answers run backwards from a place that the seed gives.
        step = count if self._params.greedy else self._params.fields["seed"] - count
        output.token_ids.append(self._prompt[step % len(self._prompt)])
        if len(output.token_ids) == self._params.fields["max_tokens"]:
            self._done, output.finish_reason = True, "length"
        return self


class Executor:
    """The part that dies."""

    def __init__(self, behavior: dict[str, Any], notes: Path) -> None:
        self.behavior = behavior
        self._notes = notes
        self.requests = 0
        self.aborted = 0
        self.silent = False
        self.doing_shutdown = False
        self._error_queue: queue.Queue[Exception] = queue.Queue()

    def abort(self) -> None:
        """A request's wish."""
        self.aborted += 1
        if "record" in self.behavior:
            (self._notes / "aborted").write_text(str(self.aborted))

    def die(self) -> None:
        """As when a worker process is killed: nobody answers, and an error lies in the queue."""
        self.silent = True
        self._error_queue.put(RuntimeError("MPI worker exited with status 137"))


class _LLM:
    accepted: ClassVar[frozenset[str]]

    def __init__(self, **arguments: Any) -> None:
        _check(type(self).__mro__[1].__name__, arguments, self.accepted)
        folder = Path(arguments["model"])
        behavior = json.loads(os.environ.get("TRTLLM_STANDIN", "{}"))
        if (folder / "standin.json").is_file():
            behavior |= json.loads((folder / "standin.json").read_text())
        if "record" in behavior:
            plain = {key: getattr(value, "fields", value) for key, value in arguments.items()}
            note = {"class": type(self).__module__, "arguments": plain, "began": time.time()}
            (folder.parent / behavior["record"]).write_text(json.dumps(note))
        time.sleep(behavior.get("load_seconds", 0))
        if "load" in behavior:
            raise RuntimeError(behavior["load"])
        self.arguments = arguments
        self.tokenizer = None if arguments.get("skip_tokenizer_init") else object()
        self._executor: Executor | None = Executor(behavior, folder.parent)

    def generate_async(
        self, inputs: Sequence[int], sampling_params: SamplingParams | None = None, *, streaming: bool = False
    ) -> RequestOutput:
        """One request."""
        executor = self._executor
        if executor is None or executor.doing_shutdown:
            raise RuntimeError("LLM is shutting down")
        if sampling_params is None or (sampling_params.fields.get("end_id") is None and self.tokenizer is None):
            raise ValueError("tokenizer is required to reset end_id if it is None")
        assert streaming and all(isinstance(token, int) for token in inputs)
        executor.requests += 1
        if executor.requests == executor.behavior.get("die_at"):
            threading.Timer(0.05, executor.die).start()
            executor.silent = True
        return RequestOutput(executor, executor.requests, inputs, sampling_params)

    def shutdown(self) -> None:
        """Ends the executor."""
        if self._executor is not None:
            self._executor.doing_shutdown = True
        self._executor = None


class TorchLLM(_LLM):
    """Arguments of TorchLlmArgs."""

    accepted = TORCH


class TrtLLM(_LLM):
    """Arguments of TrtLlmArgs."""

    accepted = TRT


def _check(what: str, given: dict[str, Any], accepted: frozenset[str]) -> None:
    for name in given:
        if name not in accepted:
            raise ValueError(f"1 validation error for {what}\n{name}\n  Extra inputs are not permitted")
