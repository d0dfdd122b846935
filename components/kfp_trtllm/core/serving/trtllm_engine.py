"""TensorRT-LLM on GPUs through its LLM API: adapters "pytorch" and "tensorrt".

TensorRT-LLM batches by itself, and runs each rank in a process of its own that it starts itself. This module feeds it
tokens and passes tokens on; what the options may hold is in core.backends.trtllm.llm_args.

The interface that it relies on, from NVIDIA/TensorRT-LLM's sources of 1.0 to 1.2 (read, never run here):

    tensorrt_llm.LLM                       the PyTorch backend's class since 1.0
    tensorrt_llm._tensorrt_engine.LLM      the one for built engines; gone after 1.2
    tensorrt_llm.SamplingParams            end_id must be set where there is no tokenizer; unknown fields are refused
    llmapi.llm_utils.update_llm_args_with_extra_dict(args, more)
                                           makes configuration classes of nested dictionaries, as in NVIDIA's model.py
    LLM.generate_async(tokens, params, streaming=True)
                                           must be called where an event loop runs, or its result can't be awaited
    result.__aiter__                       yields the result itself for each new piece; raises this request's error
    result.outputs[0].token_ids            all tokens so far; a token of stop_token_ids is taken off again at the end
    result.outputs[0].finish_reason        None, "stop", "length", "timeout" or "cancelled"
    result.abort()                         asks for the end; the stream still ends by itself, a little later
    LLM.shutdown()
    LLM._executor                          None after a shutdown; doing_shutdown and _error_queue tell of one that died

Greedy is top_k 1 and nothing else: it means the same in every version and for both backends, whereas a temperature of
0 does not. A seed is passed on; PyTorch's sampler heeds it per request only from 1.3 on (pull request 17172), and as
sums depend on the batch on a GPU, the same request can differ in company.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .engine import EngineFailed, Event, Generation, Settings

_MODULES = {"pytorch": "tensorrt_llm", "tensorrt": "tensorrt_llm._tensorrt_engine"}
_FAILURES = 3  # requests in a row, each begun after the last one had failed, after which the engine is given up
_WATCH_SECONDS = 1.0  # how often a silent executor is asked whether it still lives
_ABORT_SECONDS = 30.0  # for aborted requests to end at a close; afterwards nobody waits for them
_MAX_NUM_TOKENS = 8192  # TensorRT-LLM's own default: tokens of all requests in one step
_REASONS = ("stop", "length", "cancelled")


def open_engine(folder: Path, settings: Settings) -> TrtllmEngine:
    """Loads a checkpoint folder ("pytorch") or an engine folder ("tensorrt"); its tokenizer files stay ours.

    Raises:
        ValueError: TensorRT-LLM is not there, refuses the folder or an argument, or no end-of-text token is known.
    """
    ends = end_tokens(folder)
    try:
        package = importlib.import_module("tensorrt_llm")
        api = importlib.import_module(_MODULES[settings.adapter])
        utilities = importlib.import_module("tensorrt_llm.llmapi.llm_utils")
    except ImportError as error:
        raise ValueError(f"adapter {settings.adapter} needs another image: {error}.") from None
    try:
        llm = api.LLM(**utilities.update_llm_args_with_extra_dict(arguments(folder, settings), dict(settings.options)))
    except Exception as error:  # pydantic's, CUDA's, MPI's: they have no base but this
        raise ValueError(f"TensorRT-LLM can't load the engine: {_words(error)}") from error
    return TrtllmEngine(llm, package.SamplingParams, ends)


def arguments(folder: Path, settings: Settings) -> dict[str, Any]:
    """The arguments of LLM() that are not options.

    A built engine brings its own lengths, and LLM() overrides others with a warning, so only `pytorch` gets them. There
    a prompt must fit in one step unless `enable_chunked_prefill` is on.
    """
    values: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "max_batch_size": settings.max_batch_size,
    }
    if settings.adapter == "pytorch":
        values |= {"max_input_len": settings.max_input_len, "max_seq_len": settings.max_seq_len}
        if settings.max_input_len > _MAX_NUM_TOKENS and not settings.options.get("enable_chunked_prefill"):
            values["max_num_tokens"] = settings.max_input_len
    return values


def end_tokens(folder: Path) -> tuple[int, ...]:
    """Tokens that mean "end of text": generation_config.json knows all, config.json some, the tokenizer's names one.

    Raises:
        ValueError: None of them tells.
    """
    for name in ("generation_config.json", "config.json"):
        found = _read(folder / name).get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    token = _read(folder / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, Mapping) else token  # older files nest it
    for entry in _read(folder / "tokenizer.json").get("added_tokens", []):
        if text and entry.get("content") == text:
            return (int(entry["id"]),)
    raise ValueError(
        "the engine folder must tell its end-of-text token: put the checkpoint's generation_config.json beside it."
    )


class Job:
    """One request under way."""

    def __init__(self, engine: TrtllmEngine, generation: Generation, on_event: Callable[[Event], None]) -> None:
        self.generation = generation
        self.began = time.monotonic()
        self.cancelled = False
        self.ended = False
        self.result: Any = None
        self._engine = engine
        self._on_event = on_event

    def cancel(self) -> None:
        """Ends the request; see engine.Handle."""
        self.cancelled = True
        self._engine.call(self.abort)

    def abort(self) -> None:
        """Asks TensorRT-LLM to end it, once; on the loop's thread."""
        if self.result is not None and not self.ended and not self.result.aborted():
            with contextlib.suppress(Exception):  # a dead executor takes no wishes
                self.result.abort()

    def tell(self, event: Event) -> None:
        """Passes an event on; a listener that fails ends its own request only."""
        if self.ended:
            return
        self.ended = event.token is None
        try:
            self._on_event(event)
        except Exception:
            self.cancelled = True


class TrtllmEngine:
    """engine.Engine over a tensorrt_llm LLM, on an event loop in a thread of its own."""

    def __init__(self, llm: Any, sampling_params: Callable[..., Any], ends: tuple[int, ...]) -> None:
        self.end_tokens = frozenset(ends)
        self._llm = llm
        self._sampling_params = sampling_params
        self._ends = ends
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counters: Counter[str] = Counter()
        self._failures = 0
        self._failed_at = 0.0
        self._failure = ""
        self._closing = False
        self._idle = threading.Event()
        self._idle.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why the engine can't take requests any more; "" while it can."""
        return self._failure

    def submit(self, generation: Generation, on_event: Callable[[Event], None]) -> Job:
        """Queues a request; see engine.Engine."""
        job = Job(self, generation, on_event)
        with self._lock:
            if self._failure or self._closing:
                raise EngineFailed(self._failure or "the server is shutting down.")
            self._jobs.add(job)
            self._idle.clear()
            self._counters["requests"] += 1
        self.call(lambda: self._start(job))
        return job

    def counters(self) -> Mapping[str, int]:
        """Counts since the start: requests, prompt_tokens and output_tokens, cancelled, failed."""
        with self._lock:
            return dict(self._counters)

    def close(self, drain_seconds: float = 0.0) -> None:
        """Takes no more requests, gives those under way some time, cancels the rest, ends TensorRT-LLM and the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._idle.wait(drain_seconds)
        with self._lock:
            left = list(self._jobs)
        for job in left:
            job.cancel()
        if not self._idle.wait(_ABORT_SECONDS):
            self.call(lambda: self._give_up("the server is shutting down."))
            self._idle.wait(_WATCH_SECONDS)
        with contextlib.suppress(Exception):  # a dead executor repeats here what it died of
            self._llm.shutdown()
        self.call(self._loop.stop)
        self._thread.join()

    def call(self, function: Callable[[], Any]) -> None:
        """Runs a function on the loop's thread; nothing happens after the end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        watch = self._loop.create_task(self._watch())
        try:
            self._loop.run_forever()
        finally:
            watch.cancel()
            self._loop.run_until_complete(asyncio.gather(watch, *self._tasks, return_exceptions=True))
            self._loop.close()

    def _start(self, job: Job) -> None:
        task = self._loop.create_task(self._serve(job))
        self._tasks.add(task)  # the loop itself keeps no hold of it
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, job: Job) -> None:
        """One request, from its submission to its last event."""
        try:
            if job.cancelled:
                self._end(job, Event(finish_reason="cancelled"))
            elif not job.ended:  # the engine was given up before this began
                await self._follow(job)
        except Exception as error:
            self._fail(job, error)

    async def _follow(self, job: Job) -> None:
        generation = job.generation
        job.result = self._llm.generate_async(
            list(generation.tokens), self._sampling_params(**self._sampling(generation)), streaming=True
        )
        self._count(prompt_tokens=len(generation.tokens))
        reason, sent = None, 0
        async for result in job.result:
            output = result.outputs[0]
            tokens, reason = output.token_ids[sent:], output.finish_reason
            sent += len(tokens)
            for token in tokens:
                if token in self.end_tokens:  # whether it comes depends on backend and version
                    self._end(job, Event(finish_reason="stop"))
                    job.abort()
                    return
                self._count(output_tokens=1)
                job.tell(Event(token=token))
                if job.cancelled:  # by its listener, for example at a stop text
                    job.abort()
            self._failures = 0
        if job.cancelled or reason in _REASONS:
            self._end(job, Event(finish_reason="cancelled" if job.cancelled else str(reason)))
        else:
            self._fail(job, RuntimeError(f"it ended the request with {reason or 'no reason'}"))

    def _sampling(self, generation: Generation) -> dict[str, Any]:
        """Fields of SamplingParams."""
        fields: dict[str, Any] = {
            "max_tokens": generation.max_tokens,
            "end_id": self._ends[0],
            "pad_id": self._ends[0],
            "detokenize": False,
        }
        if len(self._ends) > 1:
            fields["stop_token_ids"] = list(self._ends[1:])
        if generation.temperature == 0 or generation.top_k == 1:
            return fields | {"top_k": 1}
        # top_p is always said: where it and top_k are left out, some versions are greedy whatever the temperature.
        fields |= {"temperature": generation.temperature, "top_p": generation.top_p, "seed": generation.seed}
        if generation.top_k:
            fields["top_k"] = generation.top_k
        return fields

    def _fail(self, job: Job, error: Exception) -> None:
        """Ends a request with an error; gives the engine up when it is dead, or nothing works any more.

        An executor that can't be used (a sticky CUDA error, say) answers every request with an error. Failures count
        only for requests that began after the last failure: one bad step fails all that ran in it.
        """
        if job.cancelled:  # nobody is interested in how it ended
            self._end(job, Event(finish_reason="cancelled"))
        else:
            if job.began >= self._failed_at:
                self._failures += 1
                self._failed_at = time.monotonic()
            self._count(failed=1)
            self._end(job, Event(error=f"TensorRT-LLM failed on this request ({_words(error)})."))
        if dead := self._dead():
            self._give_up(dead)
        elif self._failures >= _FAILURES:
            self._give_up(f"{_FAILURES} requests in a row failed, the last one with {_words(error)}")

    def _end(self, job: Job, event: Event) -> None:
        with self._lock:
            self._jobs.discard(job)
        if event.finish_reason == "cancelled":
            self._count(cancelled=1)
        job.tell(event)
        with self._lock:
            if not self._jobs:
                self._idle.set()

    def _dead(self) -> str:
        """Why the executor can't answer any more; "" while it can, or where a version tells nothing."""
        executor = getattr(self._llm, "_executor", self)
        if executor is None:
            return "its executor is gone"
        errors = getattr(executor, "_error_queue", None)
        if errors is not None and not errors.empty():
            with contextlib.suppress(Exception):  # another thread may have taken it meanwhile
                return _words(errors.queue[0])
        return "its executor shuts down" if getattr(executor, "doing_shutdown", False) else ""

    async def _watch(self) -> None:
        """Requests wait for ever on an executor whose process died, so somebody has to look."""
        while not self._failure:
            await asyncio.sleep(_WATCH_SECONDS)
            if not self._closing and (dead := self._dead()):
                self._give_up(dead)

    def _give_up(self, why: str) -> None:
        """Refuses requests from now on, and ends all that are under way; on the loop's thread."""
        with self._lock:
            self._failure = self._failure or f"the engine has failed ({why})."
            left = list(self._jobs)
        for job in left:
            self._end(job, Event(error=self._failure))
        for task in self._tasks:
            if task is not asyncio.current_task(self._loop):
                task.cancel()

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counters.update(counts)


def _words(error: BaseException) -> str:
    """An error in one line; TensorRT-LLM's own append a stack trace, pydantic's several lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].startswith("Stack trace"):
        lines = lines[:1]
    return f"{type(error).__name__}: {' '.join(lines[:4])}"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
