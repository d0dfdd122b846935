"""What clients see, in the real Triton."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from kfp_trtllm.core.serving.engine import Settings
from kfp_trtllm.core.serving.schema import Request
from kfp_trtllm.core.serving.service import Service
from kfp_trtllm.core.traffic.client import Answer, generate, generate_grpc, infer, metadata
from real_triton import Server
from test_onnxruntime_engine import ask, ask_all
from tiny_model import LIMITS

pytestmark = pytest.mark.slow

LONG = 5000  # tokens that take the tiny model some seconds


def stream(server: Server, prompt: str, **fields: Any) -> Answer:
    return generate(server.endpoint, "tiny", prompt, **fields)


def whole(server: Server, prompt: str, **fields: Any) -> Answer:
    return generate(server.endpoint, "tiny", prompt, stream=False, **fields)


def over_grpc(server: Server, prompt: str, **fields: Any) -> Answer:
    return generate_grpc(server.endpoint, "tiny", prompt, **fields)


def in_one(server: Server, prompt: str, **fields: Any) -> Answer:
    return infer(server.endpoint, "whole", prompt, **fields)


def grpc_in_one(server: Server, prompt: str, **fields: Any) -> Answer:
    return generate_grpc(server.endpoint, "whole", prompt, stream=False, **fields)


WAYS = [stream, whole, over_grpc, in_one, grpc_in_one]
Way = Callable[..., Answer]


@pytest.fixture(scope="module")
def local(engines: dict[str, Path]) -> Any:
    """The same engines without Triton, by variant."""
    services = {
        variant: Service(engines[variant], Settings(adapter="onnxruntime", **LIMITS)) for variant in ("fp32", "int4", "int8")
    }  # fmt: skip
    yield services
    for service in services.values():
        service.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_served_is_what_the_engine_says(way: Way, triton: Server, local: dict[str, Service]) -> None:
    fields = {"max_tokens": 40, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "seed": 5, "apply_chat_template": True}
    for options in ({"max_tokens": 40}, fields, {"stop": ("e", "a")}):
        for version, variant in ((1, "fp32"), (2, "int4")):
            answer = way(triton, "hello", version=version, **options)
            expected = ask(local[variant], "hello", **options)
            assert (answer.error, answer.text) == ("", expected.text)
            assert answer.finish_reason == expected.finish_reason
            assert (answer.input_tokens, answer.output_tokens) == (expected.input_tokens, expected.output_tokens)


def test_versions_stand_side_by_side_and_the_newest_is_the_default(triton: Server, local: dict[str, Service]) -> None:
    assert metadata(triton.endpoint, "whole")["versions"] == ["1", "2", "3"]
    answers = {version: in_one(triton, "hello", version=version, max_tokens=30) for version in (1, 2, 3)}
    for version, variant in ((1, "fp32"), (2, "int4"), (3, "int8")):
        assert answers[version].text == ask(local[variant], "hello", max_tokens=30).text
    assert in_one(triton, "hello", max_tokens=30).text == answers[3].text
    # Limits are those of the version, though config.pbtxt is shared.
    for version in (1, 2, 3):
        error = in_one(triton, "x" * 100, version=version).error
        assert error == f"HTTP 400: text_input must have at most {64 + version} tokens, but got 101."


def test_a_stream_comes_in_pieces_with_counts_and_one_reason_at_the_end(
    triton: Server, local: dict[str, Service]
) -> None:
    url = f"{triton.endpoint.url}/v2/models/tiny/versions/1/generate_stream"
    body = {"text_input": "日本語 🙂", "stream": True, "max_tokens": 60, "temperature": 1.5}
    with httpx.stream("POST", url, json=body) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    (expected,) = ask_all(
        local["fp32"], [Request(text_input="日本語 🙂", max_tokens=60, temperature=1.5, stream=True)]
    )  # fmt: skip
    assert [event["text_output"] for event in events] == [piece.text for piece in expected]
    assert [event["output_tokens"] for event in events] == [piece.output_tokens for piece in expected]
    assert [event["finish_reason"] for event in events] == [""] * (len(events) - 1) + ["length"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ("", {}, "text_input must not be empty."),
        ("x" * 300, {}, "text_input must have at most 66 tokens, but got 301."),
        ("x", {"max_tokens": 0}, "max_tokens must be at least 1, but got 0."),
        (
            "x",
            {"max_tokens": 20000},
            "max_tokens must be at most 15998 behind a prompt of 2 tokens (16000 in all), but got 20000.",
        ),
        ("x", {"temperature": -1.0}, "temperature must be at least 0, but got -1."),
        ("x", {"top_p": 0.0}, "top_p must be above 0 and at most 1, but got 0."),
        ("x", {"seed": -3}, "seed must be at least 0, but got -3."),
        ("x", {"stop": ["ok", ""]}, "each stop text must have 1 to 256 characters, but got 0."),
    ],
)
def test_a_bad_request_gets_one_line_and_hurts_no_other(
    way: Way, prompt: str, fields: dict[str, Any], message: str, triton: Server
) -> None:
    with ThreadPoolExecutor() as pool:
        good = pool.submit(way, triton, "hello", max_tokens=100, version=2)
        bad = way(triton, prompt, version=2, **fields)
        assert (good.result().error, good.result().output_tokens) == ("", 100)
    assert bad.error.endswith(message)
    if not way.__name__.endswith("grpc") and not way.__name__.startswith("grpc"):
        assert bad.error == f"HTTP 400: {message}"


def test_what_triton_itself_or_a_typing_error_would_swallow_is_refused(triton: Server) -> None:
    assert "Did you mean 'max_tokens'?" in whole(triton, "x", max_token=3).error
    assert "text_input" in httpx.post(f"{triton.endpoint.url}/v2/models/tiny/generate", json={}).text
    assert "stream must be false" in in_one(triton, "x", stream=True).error


def test_requests_run_together(triton: Server) -> None:
    for way in (stream, in_one):
        way(triton, "x", max_tokens=5)
        began = time.monotonic()
        way(triton, "x", max_tokens=1500)
        alone = time.monotonic() - began
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: way(triton, "x" * (n + 1), max_tokens=1500), range(4)))  # noqa: B023
        together = time.monotonic() - began
        assert [answer.output_tokens for answer in answers] == [1500] * 4
        # Rows of long contexts cost their own attention, so this is less than four times and not once.
        assert together < 3.7 * alone


def test_a_crowd_gets_the_same_answers_as_each_alone(triton: Server) -> None:
    prompts = [f"{n} bottles" for n in range(24)]
    for version in (1, 2):
        alone = [whole(triton, prompt, max_tokens=30, version=version).text for prompt in prompts]
        for way in (stream, in_one):
            with ThreadPoolExecutor(24) as pool:
                crowd = list(pool.map(lambda p: way(triton, p, max_tokens=30, version=version).text, prompts))  # noqa: B023
            if version == 1:
                assert crowd == alone
            # Sums of another batch differ in the last bit, which int4's rounding of activations makes larger: in this
            # random model, whose tokens are all about as likely, a near tie may fall otherwise.
            assert sum(one == other for one, other in zip(crowd, alone, strict=True)) >= 20


def posted(server: Server, path: str, body: dict[str, Any]) -> socket.socket:
    """A request whose answer nobody reads."""
    host, port = server.endpoint.url.removeprefix("http://").split(":")
    text = json.dumps(body)
    sock = socket.create_connection((host, int(port)))
    sock.sendall(f"POST /v2/models/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
    return sock


def seconds(way: Way, server: Server, **fields: Any) -> float:
    began = time.monotonic()
    assert way(server, "x", max_tokens=1, **fields).error == ""
    return time.monotonic() - began


def test_a_stream_whose_client_goes_away_stops_costing(triton: Server) -> None:
    body = {"text_input": "hi", "stream": True, "max_tokens": LONG}
    sockets = [posted(triton, "tiny/versions/1/generate_stream", body) for _ in range(LIMITS["max_batch_size"])]
    time.sleep(0.5)
    for sock in sockets:
        sock.close()
    # All rows were taken, for many seconds: a newcomer can only be fast because they are free again.
    assert seconds(stream, triton, version=1) < 3


def inputs(**fields: Any) -> list[grpcclient.InferInput]:
    tensors = []
    for name, kind, value in (("text_input", "BYTES", np.array([b"hi"], np.object_)), ("max_tokens", "INT32", np.array([LONG], np.int32))):  # fmt: skip
        tensor = grpcclient.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    return tensors


def test_a_cancelled_grpc_stream_stops_costing(triton: Server) -> None:
    with grpcclient.InferenceServerClient(triton.endpoint.grpc) as client:
        client.start_stream(callback=lambda result, error: None)
        for _ in range(LIMITS["max_batch_size"]):
            client.async_stream_infer("tiny", inputs(), model_version="1")
        time.sleep(0.5)
        client.stop_stream(cancel_requests=True)
        assert seconds(stream, triton, version=1) < 3


def test_a_cancelled_grpc_request_stops_costing_without_decoupling(triton: Server) -> None:
    with grpcclient.InferenceServerClient(triton.endpoint.grpc) as client:
        contexts = [
            client.async_infer("whole", inputs(), lambda result, error: None, model_version="1")
            for _ in range(LIMITS["max_batch_size"])
        ]
        time.sleep(0.5)
        for context in contexts:
            context.cancel()
        assert seconds(in_one, triton, version=1) < 3


def test_a_time_out_of_the_client_is_its_error_and_ends_the_request(triton: Server) -> None:
    answer = over_grpc(triton, "hi", max_tokens=LONG, timeout=0.5, version=1)
    assert answer.error
    answer = stream(triton, "hi", max_tokens=LONG, timeout=0.5, version=1)
    assert answer.error == "no end of the answer within 0.5 s"
    assert seconds(stream, triton, version=1) < 3


def test_an_engine_that_fails_says_so_at_once_and_leaves_other_models_alone(triton: Server) -> None:
    def broken(**fields: Any) -> Answer:
        return generate(triton.endpoint, "broken", "x", **fields)

    assert broken(max_tokens=1).finish_reason == "length"
    for stream_ in (True, False):
        answer = broken(stream=stream_)
        assert answer.error.endswith("the engine failed on this request (MemoryError: no memory).")
    broken()
    for _ in range(2):
        answer = broken(max_tokens=1)
        assert "the engine has failed (EngineFailed: 3 steps in a row failed" in answer.error
        assert answer.total_seconds < 1
    assert stream(triton, "x").error == ""


def test_triton_counts_requests_and_failures(triton: Server) -> None:
    before = {name: triton.counters(f"nv_inference_request_{name}") for name in ("success", "failure")}
    whole(triton, "x", version=1)
    whole(triton, "", version=1)
    after = {name: triton.counters(f"nv_inference_request_{name}") for name in ("success", "failure")}
    gained = {name: after[name]["tiny", "1"] - before[name]["tiny", "1"] for name in before}
    assert gained["success"] >= 1
    assert triton.ready("tiny", 1)


def test_prompts_and_answers_are_not_logged(triton: Server) -> None:
    secret = "correct-horse-battery-staple"
    for way in WAYS:
        way(triton, secret, max_tokens=4)
        way(triton, secret, max_tokens=0)
    log = triton.log.read_text(errors="replace")
    assert secret not in log
    assert not re.search(r"Traceback", log)


def test_an_idle_server_uses_no_cpu(triton: Server) -> None:
    def ticks() -> int:
        total = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if str(triton.log.parent) in (entry / "cmdline").read_text():
                        fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                        total += int(fields[11]) + int(fields[12])
                except OSError:
                    continue
        return total

    stream(triton, "x", max_tokens=50)
    time.sleep(0.5)
    before = ticks()
    time.sleep(2)
    assert ticks() - before < 40  # hundredths of a second, of Triton and five stubs together
    assert threading.active_count() < 50
