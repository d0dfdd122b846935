"""The client against a server on the wire that answers whatever a test wants. The real Triton is in tests/core/serving."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kfp_trtllm.core.targets.base import Endpoint
from kfp_trtllm.core.traffic.client import Answer, generate, generate_grpc, infer, metadata
from kfp_trtllm.errors import DeployFailed

Script = Callable[[BaseHTTPRequestHandler], None]


class Wire:
    """A server; `script` answers each request, `seen` keeps what came."""

    def __init__(self) -> None:
        self.script: Script = lambda handler: None
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.connections = 0
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                wire.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                wire.seen.append((self.path, dict(self.headers), json.loads(body)))
                wire.script(self)

            def do_GET(self) -> None:
                wire.script(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = Endpoint(url=f"http://127.0.0.1:{self.server.server_port}", headers={"x-arm": "canary"})
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def wire() -> Iterator[Wire]:
    running = Wire()
    yield running
    running.server.shutdown()
    running.server.server_close()


def whole(body: object, status: int = 200, **headers: str) -> Script:
    """An answer in one."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return script


def events(*pieces: object, pause: float = 0.0, cut: bool = False) -> Script:
    """A stream of server-sent events; with `cut` the connection breaks before its end."""

    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            data = f"data: {json.dumps(piece)}\n\n".encode()
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            handler.wfile.flush()
            time.sleep(pause)
        if cut:
            hang_up(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return script


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def piece(text: str, tokens: int, reason: str = "") -> dict[str, object]:
    return {"text_output": text, "finish_reason": reason, "input_tokens": 3, "output_tokens": tokens}


def test_a_stream_is_read_to_its_end_and_timed(wire: Wire) -> None:
    wire.script = events(piece("Par", 1), piece("is", 3), piece(".", 4, "stop"), pause=0.05)
    answer = generate(wire.endpoint, "m", "France?", max_tokens=8, stop=["\n"], version=2)
    assert (answer.text, answer.finish_reason, answer.error) == ("Paris.", "stop", "")
    assert (answer.input_tokens, answer.output_tokens) == (3, 4)
    assert len(answer.itl_seconds) == 3  # a piece of two tokens counts for two gaps
    assert answer.itl_seconds[0] == answer.itl_seconds[1] == pytest.approx(0.025, abs=0.015)
    assert answer.ttft_seconds < answer.total_seconds
    path, headers, body = wire.seen[0]
    assert path == "/v2/models/m/versions/2/generate_stream"
    assert headers["x-arm"] == "canary"
    assert body == {"text_input": "France?", "stream": True, "max_tokens": 8, "stop": ["\n"]}


def test_one_answer_in_whole_names_who_answered(wire: Wire) -> None:
    wire.script = whole(piece("Paris", 2, "length"), x_served_by="m-abc")
    answer = generate(wire.endpoint, "m", "France?", stream=False)
    assert (answer.text, answer.served_by, answer.itl_seconds, answer.error) == ("Paris", "m-abc", (), "")
    assert wire.seen[0][0] == "/v2/models/m/generate"


def test_an_answer_of_infer_is_read_from_tensors(wire: Wire) -> None:
    outputs = [{"name": name, "data": [value]} for name, value in piece("Paris", 2, "stop").items()]
    wire.script = whole({"outputs": outputs})
    answer = infer(wire.endpoint, "m", "France?", max_tokens=8, apply_chat_template=True, stop=["a", "b"])
    assert (answer.text, answer.finish_reason, answer.output_tokens, answer.error) == ("Paris", "stop", 2, "")
    inputs = {entry["name"]: (entry["datatype"], entry["shape"], entry["data"]) for entry in wire.seen[0][2]["inputs"]}
    assert inputs == {
        "text_input": ("BYTES", [1], ["France?"]),
        "max_tokens": ("INT32", [1], [8]),
        "apply_chat_template": ("BOOL", [1], [True]),
        "stop": ("BYTES", [2], ["a", "b"]),
    }


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (events(piece("Par", 1), {"error": "the engine\nfailed"}), "the engine failed"),
        (events({"error": ""}), "an error without words"),
        (events(), "the answer ended before it began"),
        (events(piece("Par", 1)), "the answer was cut off: it has no finish_reason"),
        (events(piece("Par", 1), cut=True), "RemoteProtocolError"),
        (events("nonsense"), "AttributeError"),
        (whole(b"data: {nonsense}\n\n"), "JSONDecodeError"),
        (whole({"error": "no such model"}, status=400), "HTTP 400: no such model"),
        (whole(b'data: {"error":"too long"}\n\n', status=400), "HTTP 400: too long"),
        (whole(b"<html>bad gateway</html>", status=502), "HTTP 502: <html>bad gateway</html>"),
        (whole(b"", status=503), "HTTP 503: no words"),
        (lambda handler: hang_up(handler), "RemoteProtocolError"),
    ],
)
def test_whatever_goes_wrong_is_one_line_of_the_answer(wire: Wire, script: Script, error: str) -> None:
    wire.script = script
    answer = generate(wire.endpoint, "m", "x", timeout=5)
    assert error in answer.error
    assert "\n" not in answer.error
    assert answer.total_seconds > 0


@pytest.mark.parametrize("call", [generate, infer, lambda *args, **options: generate(*args, stream=False, **options)])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"text_output": 5}', b'{"outputs": []}'])
def test_a_body_of_any_form_is_survived(wire: Wire, call: Callable[..., Answer], body: bytes) -> None:
    wire.script = whole(body)
    assert call(wire.endpoint, "m", "x").error


def test_a_request_that_nobody_heard_is_sent_again_and_one_that_broke_off_is_not(wire: Wire) -> None:
    wire.script = events(piece("ok", 1, "stop"))
    assert generate(wire.endpoint, "m", "x").text == "ok"

    def once_deaf(handler: BaseHTTPRequestHandler) -> None:
        wire.script = events(piece("ok", 1, "stop"))
        hang_up(handler)

    wire.script = once_deaf
    assert generate(wire.endpoint, "m", "x").text == "ok"
    assert len(wire.seen) == 3
    wire.script = events(piece("Par", 1), cut=True)
    assert generate(wire.endpoint, "m", "x").error
    assert len(wire.seen) == 4


def test_time_runs_out_while_nothing_comes_and_while_too_much_comes(wire: Wire) -> None:
    wire.script = lambda handler: time.sleep(1)
    for answer in (generate(wire.endpoint, "m", "x", timeout=0.2), infer(wire.endpoint, "m", "x", timeout=0.2)):
        assert answer.error == "no answer within 0.2 s"
        assert answer.total_seconds < 0.9
    wire.script = events(*(piece("x", n) for n in range(100)), pause=0.02)
    answer = generate(wire.endpoint, "m", "x", timeout=0.3)
    assert answer.error == "no end of the answer within 0.3 s"
    assert answer.total_seconds < 1


def test_nobody_there_is_an_error_of_the_answer() -> None:
    nowhere = Endpoint(url="http://127.0.0.1:9", grpc="127.0.0.1:9")
    for call in (generate, infer, generate_grpc):
        answer = call(nowhere, "m", "x", timeout=5)
        assert answer.error
        assert not answer.text
    assert generate(Endpoint(url="not a url"), "m", "x").error
    with pytest.raises(DeployFailed, match="the metadata of m can't be had"):
        metadata(nowhere, "m")


def test_a_connection_is_used_again(wire: Wire) -> None:
    wire.script = events(piece("ok", 1, "stop"))
    for _ in range(5):
        assert generate(wire.endpoint, "m", "x").text == "ok"
    assert wire.connections == 1
