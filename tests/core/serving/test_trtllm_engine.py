"""The adapter over the stand-in for tensorrt_llm; what the stand-in vouches for is in its own docstring."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.serving.engine import EngineFailed, Event, Generation, Handle, Settings, open_engine
from kfp_trtllm.core.serving.layout import set_options
from kfp_trtllm.core.serving.schema import Request
from kfp_trtllm.core.serving.service import Piece, Service
from kfp_trtllm.core.serving.trtllm_engine import TrtllmEngine, end_tokens
from tiny_model import write_tokenizer

LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 1000}
PROMPT = (40, 41, 42, 43)
Open = Callable[..., TrtllmEngine]


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "standin"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "engine")
    (tmp_path / "engine/generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    return tmp_path / "engine"


@pytest.fixture
def load(standin: None, folder: Path) -> Iterator[Open]:
    engines: list[Any] = []

    def loaded(behavior: dict[str, Any] | None = None, adapter: str = "pytorch", **options: Any) -> Any:
        (folder / "standin.json").write_text(json.dumps(behavior or {}))
        engines.append(open_engine(folder, Settings(adapter=adapter, options=options, **LIMITS)))
        return engines[-1]

    yield loaded
    for engine in engines:
        engine.close()


class Answer:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        assert not self.ended.is_set(), "an event behind the last one"
        self.events.append(event)
        if event.token is None:
            self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.events if event.token is not None]

    @property
    def last(self) -> Event:
        assert self.ended.wait(10)
        return self.events[-1]


def ask(engine: TrtllmEngine, tokens: tuple[int, ...] = PROMPT, **fields: Any) -> tuple[Answer, Handle]:
    answer = Answer()
    return answer, engine.submit(Generation(tokens=tokens, **{"max_tokens": 10, **fields}), answer)


@pytest.mark.parametrize("adapter", ["pytorch", "tensorrt"])
def test_each_adapter_opens_its_own_class_with_its_own_arguments(load: Open, folder: Path, adapter: str) -> None:
    cache = {"free_gpu_memory_fraction": 0.3, "max_tokens": 5000}
    load({"record": "llm.json"}, adapter, kv_cache_config=cache, enable_chunked_prefill=True)
    note = json.loads((folder.parent / "llm.json").read_text())
    assert note["class"] == {"pytorch": "tensorrt_llm", "tensorrt": "tensorrt_llm._tensorrt_engine"}[adapter]
    lengths = {"max_input_len": 64, "max_seq_len": 1000} if adapter == "pytorch" else {}
    assert note["arguments"] == {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "max_batch_size": 4,
        "kv_cache_config": cache,
        "enable_chunked_prefill": True,
        **lengths,
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 20000), ({"max_num_tokens": 30000}, 30000), ({"enable_chunked_prefill": True}, None)],
)
def test_a_prompt_within_the_limits_fits_in_one_step(
    standin: None, folder: Path, options: dict[str, Any], expected: int | None
) -> None:
    (folder / "standin.json").write_text('{"record": "llm.json"}')
    limits = {**LIMITS, "max_input_len": 20000, "max_seq_len": 30000}
    open_engine(folder, Settings(adapter="pytorch", options=options, **limits)).close()
    arguments = json.loads((folder.parent / "llm.json").read_text())["arguments"]
    assert arguments.get("max_num_tokens") == expected


@pytest.mark.parametrize("adapter", ["pytorch", "tensorrt"])
def test_tokens_come_one_by_one_and_one_reason_at_the_end(load: Open, adapter: str) -> None:
    answer, _ = ask(load(adapter=adapter))
    assert answer.last == Event(finish_reason="length")
    assert answer.tokens == [40, 41, 42, 43, 40, 41, 42, 43, 40, 41]
    assert len(answer.events) == 11


def test_requests_at_once_keep_apart(load: Open) -> None:
    engine = load({"seconds": 0.001})
    answers = [ask(engine, (n, n + 1), max_tokens=5 + n)[0] for n in range(10, 60)]
    for n, answer in zip(range(10, 60), answers, strict=True):
        assert answer.last.finish_reason == "length"
        assert answer.tokens == [(n, n + 1)[i % 2] for i in range(5 + n)]
    assert engine.counters() == {
        "requests": 50,
        "prompt_tokens": 100,
        "output_tokens": sum(5 + n for n in range(10, 60)),
    }


def test_the_service_makes_text_and_finds_stop_texts(load: Open, folder: Path) -> None:
    load({"seconds": 0.001}).close()
    service = Service(folder, Settings(adapter="pytorch", **LIMITS))
    text, special = "the quick brown fox", 1
    count = len(service.tokens(Request(text_input=text))) - special
    for stop, expected, reason in ((), f"{text}", "length"), ((" brown",), "the quick", "stop"):
        pieces: list[Piece] = []
        done = threading.Event()

        def hear(piece: Piece, pieces: list[Piece] = pieces, done: threading.Event = done) -> None:
            pieces.append(piece)
            if piece.last:
                done.set()

        service.submit(Request(text_input=text, max_tokens=count + special, stop=stop, stream=True), hear)
        assert done.wait(10)
        assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == (expected, reason)
    service.close()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"top_k": 1}),
        ({"temperature": 0.0, "top_k": 50, "top_p": 0.5, "seed": 3}, {"top_k": 1}),
        ({"temperature": 0.7, "top_k": 1, "seed": 3}, {"top_k": 1}),
        ({"temperature": 0.7}, {"temperature": 0.7, "top_p": 1.0, "seed": 0}),
        ({"temperature": 1.0, "top_p": 0.9, "seed": 3}, {"temperature": 1.0, "top_p": 0.9, "seed": 3}),
        ({"temperature": 1.5, "top_k": 50}, {"temperature": 1.5, "top_k": 50, "top_p": 1.0, "seed": 0}),
    ],
)
def test_sampling_is_said_so_that_every_version_understands_it(
    load: Open, folder: Path, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    import tensorrt_llm

    said: list[Any] = []

    def keep(**values: Any) -> Any:
        said.append(values)
        return tensorrt_llm.SamplingParams(**values)

    engine = TrtllmEngine(tensorrt_llm.LLM(model=str(folder), skip_tokenizer_init=True), keep, (1, 7, 9))
    assert ask(engine, **fields)[0].last.finish_reason == "length"
    engine.close()
    assert said == [
        {"max_tokens": 10, "end_id": 1, "pad_id": 1, "detokenize": False, "stop_token_ids": [7, 9], **expected}
    ]
    assert tensorrt_llm.SamplingParams(**said[0]).greedy is (expected == {"top_k": 1})


@pytest.mark.parametrize("shows_end", [True, False])
def test_the_end_of_text_is_a_reason_and_no_token(load: Open, shows_end: bool) -> None:
    answer, _ = ask(load({"end_at": 3, "shows_end": shows_end}))
    assert answer.last == Event(finish_reason="stop")
    assert answer.tokens == [40, 41, 42]


def test_a_cancelled_request_ends_at_once_and_its_neighbor_does_not(load: Open) -> None:
    engine: Any = load({"seconds": 0.005})
    gone, handle = ask(engine, max_tokens=900)
    stays, _ = ask(engine, max_tokens=40)
    while not gone.tokens:
        time.sleep(0.001)
    handle.cancel()
    handle.cancel()
    assert gone.last == Event(finish_reason="cancelled")
    assert len(gone.tokens) < 100
    assert stays.last == Event(finish_reason="length")
    assert engine._llm._executor.aborted == 1
    assert engine.counters()["cancelled"] == 1
    handle.cancel()  # after the end it means nothing


def test_a_listener_that_fails_ends_its_own_request(load: Open) -> None:
    engine: Any = load({"seconds": 0.001})

    def fails(event: Event) -> None:
        raise OSError("gone")

    engine.submit(Generation(tokens=PROMPT, max_tokens=900), fails)
    assert ask(engine)[0].last.finish_reason == "length"
    deadline = time.monotonic() + 5
    while engine._llm._executor.aborted != 1:
        assert time.monotonic() < deadline


def test_a_failed_request_is_that_request_only(load: Open) -> None:
    engine = load({"fail_every": 3})
    ends = [ask(engine)[0].last for _ in range(12)]
    message = "TensorRT-LLM failed on this request (RequestError: CUDA error: out of memory)."
    assert [bool(end.error) for end in ends] == [False, False, True] * 4
    assert ends[2].error == message
    assert engine.failure == ""
    assert engine.counters()["failed"] == 4


def test_requests_that_fail_together_are_one_failure(load: Open) -> None:
    engine = load({"fail_all": True, "seconds": 0.05})
    for answer in [ask(engine)[0] for _ in range(8)]:
        assert "out of memory" in answer.last.error
    assert engine.failure == ""


def test_an_engine_on_which_nothing_works_is_given_up(load: Open) -> None:
    engine = load({"fail_all": True})
    for _ in range(3):
        assert ask(engine)[0].last.error.startswith("TensorRT-LLM failed on this request")
    deadline = time.monotonic() + 5
    while not engine.failure:
        assert time.monotonic() < deadline
    assert engine.failure == (
        "the engine has failed (3 requests in a row failed, the last one with RequestError: CUDA error: out of memory)."
    )
    with pytest.raises(EngineFailed, match="3 requests in a row"):
        ask(engine)


def test_a_dead_executor_leaves_nobody_waiting(load: Open) -> None:
    engine = load({"die_at": 2, "seconds": 0.01})
    first, _ = ask(engine, max_tokens=900)
    second, _ = ask(engine)
    for answer in (first, second):
        assert answer.last.error == "the engine has failed (RuntimeError: MPI worker exited with status 137)."
    assert engine.failure == second.last.error
    with pytest.raises(EngineFailed, match="status 137"):
        ask(engine)


def test_closing_lets_requests_end_and_takes_no_more(load: Open) -> None:
    engine: Any = load({"seconds": 0.002})
    short, _ = ask(engine, max_tokens=20)
    engine.close(drain_seconds=10)
    assert short.last == Event(finish_reason="length")
    with pytest.raises(EngineFailed, match="shutting down"):
        ask(engine)
    assert engine._llm._executor is None
    assert not engine._thread.is_alive()
    engine.close()


def test_closing_cancels_what_takes_too_long(load: Open) -> None:
    engine = load({"seconds": 0.01})
    long, _ = ask(engine, max_tokens=900)
    began = time.monotonic()
    engine.close(drain_seconds=0.1)
    assert time.monotonic() - began < 3
    assert long.last == Event(finish_reason="cancelled")


def test_what_can_not_be_loaded_says_why_in_one_line(load: Open, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^TensorRT-LLM can't load the engine: RuntimeError: CUDA driver too old$"):
        load({"load": "CUDA driver too old"})
    with pytest.raises(ValueError, match=r"TorchLLM max_num_token Extra inputs are not permitted$"):
        load(max_num_token=5)
    with pytest.raises(ValueError, match=r"TrtLLM cuda_graph_config Extra inputs"):
        load(adapter="tensorrt", cuda_graph_config={})
    with pytest.raises(ValueError, match=r"KvCacheConfig fraction Extra inputs"):
        load(kv_cache_config={"fraction": 0.5})


def test_an_image_without_tensorrt_llm_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="adapter tensorrt needs another image: No module named 'tensorrt_llm'"):
        open_engine(folder, Settings(adapter="tensorrt", **LIMITS))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": [5, 6]}, "config.json": {"eos_token_id": 5}}, (5, 6)),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 5}}, (5,)),
        ({"config.json": {"build_config": {}}}, (1,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "<s>"}}}, (0,)),
        ({"tokenizer_config.json": {}}, None),
        ({"tokenizer_config.json": {"eos_token": "<none>"}}, None),
    ],
)
def test_end_tokens_come_from_whatever_file_knows_them(
    tokenizer_folder: Path, tmp_path: Path, files: dict[str, Any], expected: tuple[int, ...] | None
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_folder / name).read_bytes())
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    if expected is None:
        with pytest.raises(ValueError, match=r"must tell its end-of-text token: put .* generation_config.json"):
            end_tokens(tmp_path)
    else:
        assert end_tokens(tmp_path) == expected


def test_other_options_leave_the_file_of_an_earlier_repository_alone(tmp_path: Path) -> None:
    earlier = Settings(adapter="pytorch", options={"kv_cache_config": {"free_gpu_memory_fraction": 0.9}}, **LIMITS)
    earlier.write(tmp_path / "earlier.json")
    (tmp_path / "1").mkdir()
    os.link(tmp_path / "earlier.json", tmp_path / "1/serving.json")
    set_options(tmp_path / "1", {"kv_cache_config": {"free_gpu_memory_fraction": 0.45}})
    assert Settings.read(tmp_path / "earlier.json") == earlier
    changed = Settings.read(tmp_path / "1/serving.json")
    assert changed == Settings(
        adapter="pytorch", options={"kv_cache_config": {"free_gpu_memory_fraction": 0.45}}, **LIMITS
    )
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["serving.json"]
