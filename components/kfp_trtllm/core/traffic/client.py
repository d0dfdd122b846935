"""A client of a served model: one answer per call, read to its end, with the times that a user would feel.

A request never raises: what went wrong is in `Answer.error`, in one line. A stream that began well can still carry an
error, and a 200 may come with no text at all; a caller who only looks at the status sees neither.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.core.targets.base import SERVED_BY_HEADER, Endpoint
from kfp_trtllm.errors import DeployFailed

_clients = threading.local()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        text: The whole answer.
        finish_reason: As the model gave it; "" where it gave none.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        ttft_seconds: Time to the first piece of the answer; the whole time where it came in one.
        itl_seconds: Mean time between tokens for each further piece of a stream; empty where there was none.
        total_seconds: Time to the end.
        served_by: The revision that answered, as the gateway says; "" without one.
        error: One line; "" for a good answer.
    """

    text: str = ""
    finish_reason: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    ttft_seconds: float = 0.0
    itl_seconds: tuple[float, ...] = ()
    total_seconds: float = 0.0
    served_by: str = ""
    error: str = ""


class _Reading:
    """Collects the pieces of one answer."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.last, self.first = 0.0, 0.0
        self.text, self.reason, self.error, self.served_by = "", "", "", ""
        self.input_tokens = self.output_tokens = 0
        self.gaps: list[float] = []
        self.unheard = False  # the connection ended before the server said anything

    def piece(self, values: Mapping[str, Any]) -> None:
        """One response of the model, as JSON values by name."""
        if "error" in values:
            # Also with status 200: what came before it was a good beginning of a bad answer.
            self.error = " ".join(str(values["error"]).split()) or "an error without words"
            return
        now = time.perf_counter() - self.began
        tokens = int(values.get("output_tokens", 0))
        if not self.first:
            self.first = now
        elif (new := tokens - self.output_tokens) > 0:
            # A piece may complete several tokens: their mean counts for each.
            self.gaps += [(now - self.last) / new] * new
        self.last = now
        self.text += str(values.get("text_output", ""))
        self.reason = str(values.get("finish_reason", "")) or self.reason
        self.input_tokens = int(values.get("input_tokens", self.input_tokens))
        self.output_tokens = tokens

    def answer(self) -> Answer:
        """Everything together."""
        total = time.perf_counter() - self.began
        if not self.error and not self.first:
            self.error = "the answer ended before it began"
        elif not self.error and not self.reason:
            self.error = "the answer was cut off: it has no finish_reason"
        return Answer(
            text=self.text,
            finish_reason=self.reason,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            ttft_seconds=self.first or total,
            itl_seconds=tuple(self.gaps),
            total_seconds=total,
            served_by=self.served_by,
            error=self.error,
        )


def generate(
    endpoint: Endpoint,
    model: str,
    prompt: str,
    *,
    version: int | None = None,
    stream: bool = True,
    timeout: float = 60.0,
    **fields: Any,
) -> Answer:
    """Asks over HTTP: /generate_stream with `stream`, else /generate.

    Args:
        endpoint: Where to.
        model: Model name.
        prompt: The request's text_input.
        version: Triton's version; None for the newest.
        stream: Whether to have the answer in pieces.
        timeout: Seconds for the whole answer.
        fields: Further fields of the request, such as max_tokens or apply_chat_template.
    """
    body = {"text_input": prompt, "stream": stream, **fields}
    url = f"{_model_url(endpoint, model, version)}/{'generate_stream' if stream else 'generate'}"
    reading = _read_http(endpoint, url, body, stream=stream, timeout=timeout)
    if reading.unheard:
        # A gateway that takes a new configuration closes idle connections; nothing was asked yet, so ask again.
        reading = _read_http(endpoint, url, body, stream=stream, timeout=timeout)
    return reading.answer()


def _read_http(endpoint: Endpoint, url: str, body: Mapping[str, Any], *, stream: bool, timeout: float) -> _Reading:
    import httpx

    reading = _Reading()
    deadline = reading.began + timeout
    heard = False
    try:
        with _client().stream("POST", url, json=body, headers=dict(endpoint.headers), timeout=timeout) as response:
            heard = True
            reading.served_by = response.headers.get(SERVED_BY_HEADER, "")
            if response.status_code != 200:
                reading.error = _refusal(response.status_code, response.read())
            elif stream:
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        reading.piece(json.loads(line[5:]))
                    if time.perf_counter() > deadline:
                        reading.error = f"no end of the answer within {timeout:g} s"
                        break
            else:
                reading.piece(json.loads(response.read()))
    except httpx.TimeoutException:
        reading.error = f"no answer within {timeout:g} s"
    except Exception as error:  # a server may answer anything; whatever it is, it is no answer
        reading.error = _words(error)
        reading.unheard = not heard and isinstance(error, httpx.RemoteProtocolError | httpx.WriteError)
    return reading


def infer(
    endpoint: Endpoint, model: str, prompt: str, *, version: int | None = None, timeout: float = 60.0, **fields: Any
) -> Answer:
    """Asks a model that is not decoupled, over HTTP /infer; the arguments are those of `generate`."""
    import httpx

    reading = _Reading()
    inputs = [
        {"name": name, "shape": list(data.shape), "datatype": kind, "data": _plain(data)}
        for name, kind, data in _tensors({"text_input": prompt, **fields})
    ]
    try:
        response = _client().post(
            f"{_model_url(endpoint, model, version)}/infer",
            json={"inputs": inputs},
            headers=dict(endpoint.headers),
            timeout=timeout,
        )
        reading.served_by = response.headers.get(SERVED_BY_HEADER, "")
        if response.status_code != 200:
            reading.error = _refusal(response.status_code, response.content)
        else:
            reading.piece({output["name"]: output["data"][0] for output in response.json()["outputs"]})
    except httpx.TimeoutException:
        reading.error = f"no answer within {timeout:g} s"
    except Exception as error:  # as above
        reading.error = _words(error)
    return reading.answer()


def generate_grpc(
    endpoint: Endpoint, model: str, prompt: str, *, version: int | None = None, timeout: float = 60.0, **fields: Any
) -> Answer:
    """Asks over gRPC's ModelStreamInfer, which serves decoupled models and others; the arguments are those of `generate`."""
    import queue

    import tritonclient.grpc as grpcclient

    reading = _Reading()
    deadline = reading.began + timeout
    arrived: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    inputs = []
    for name, kind, data in _tensors({"text_input": prompt, "stream": True, **fields}):
        tensor = grpcclient.InferInput(name, list(data.shape), kind)
        tensor.set_data_from_numpy(data)
        inputs.append(tensor)
    try:
        with grpcclient.InferenceServerClient(endpoint.grpc) as client:
            client.start_stream(
                callback=lambda result, error: arrived.put((result, error)),
                stream_timeout=timeout,
                headers=dict(endpoint.headers),
            )
            client.async_stream_infer(model, inputs, model_version=str(version or ""), enable_empty_final_response=True)
            while True:
                result, error = arrived.get(timeout=max(deadline - time.perf_counter(), 0.0))
                if error is not None:
                    reading.error = " ".join(str(error).split())
                    break
                response = result.get_response()
                if response.outputs:
                    reading.piece({output.name: _scalar(result.as_numpy(output.name)) for output in response.outputs})
                if response.parameters["triton_final_response"].bool_param:
                    break
            client.stop_stream(cancel_requests=bool(reading.error))
    except queue.Empty:
        reading.error = f"no answer within {timeout:g} s"
    except Exception as error:  # tritonclient lets grpc's own exceptions through
        reading.error = _words(error)
    return reading.answer()


def metadata(endpoint: Endpoint, model: str) -> dict[str, Any]:
    """The model's metadata, as Triton tells it.

    Raises:
        DeployFailed: It can't be had.
    """
    import httpx

    try:
        response = _client().get(_model_url(endpoint, model, None), headers=dict(endpoint.headers), timeout=30)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise DeployFailed(f"the metadata of {model} can't be had: {_words(error)}.") from None
    return found


def _client() -> Any:
    """A client per thread, so that connections are reused and never shared."""
    import httpx

    if not hasattr(_clients, "http"):
        # Proxies are for the world outside; what is probed here is a service of ours.
        _clients.http = httpx.Client(trust_env=False)
    return _clients.http


def _model_url(endpoint: Endpoint, model: str, version: int | None) -> str:
    return f"{endpoint.url}/v2/models/{model}" + (f"/versions/{version}" if version else "")


def _tensors(fields: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """(name, Triton's type, numpy array) of each field."""
    import numpy as np

    from kfp_trtllm.core.serving.schema import INPUTS

    dtypes: dict[str, Any] = {
        "STRING": np.object_,
        "INT32": np.int32,
        "INT64": np.int64,
        "FP32": np.float32,
        "BOOL": np.bool_,
    }
    kinds = {field.name: field.datatype for field in INPUTS}
    found = []
    for name, value in fields.items():
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        kind = kinds[name]
        if kind == "STRING":
            values = [str(entry).encode() for entry in values]
        found.append((name, "BYTES" if kind == "STRING" else kind, np.array(values, dtypes[kind])))
    return found


def _plain(data: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in data.tolist()]


def _scalar(data: Any) -> Any:
    value = data.ravel()[0]
    return (
        value.decode(errors="replace")
        if isinstance(value, bytes)
        else value.item()
        if hasattr(value, "item")
        else value
    )


def _refusal(status: int, body: bytes) -> str:
    try:
        # Triton words the refusal of a stream as its first event.
        text = str(json.loads(body.strip().removeprefix(b"data:"))["error"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return f"HTTP {status}: {' '.join(text.split()) or 'no words'}"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__
