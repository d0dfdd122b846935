"""The model that Triton's Python backend runs: `from serving.triton import TritonPythonModel` in model.py.

Responses go out through response senders, in the decoupled mode and in the other one, so `execute` returns at once
and all requests meet in the engine. Neither prompts nor answers are logged.

A client that goes away ends its request where Triton notices: on gRPC, and on HTTP while a stream is read. Triton 2.51
does not look whether the client of /generate or /infer is still there, so such a request runs to its max_tokens.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .engine import SETTINGS, EngineFailed, Handle, Settings
from .schema import INPUTS, OUTPUTS, Request, RequestError, check_names
from .service import Piece, Service

_POLL_SECONDS = 0.05  # how often each request is asked whether its client has gone
_DRAIN_SECONDS = 20.0  # for requests under way when Triton unloads the model
_DTYPES = {"STRING": np.object_, "INT32": np.int32}


class TritonPythonModel:
    """Triton's interface: initialize, execute, finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine beside model.py; what it raises, Triton shows as the reason why the model is not ready."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._decoupled = bool(
            json.loads(args["model_config"]).get("model_transaction_policy", {}).get("decoupled", False)
        )
        self._name = f"{args['model_name']} version {args['model_version']}"
        self._service = Service(folder / "engine", Settings.read(folder / SETTINGS))
        self._responder = Responder(self._name, self._service)

    def execute(self, requests: list[Any]) -> None:
        """Takes requests; their answers come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                check_names(json.loads(request.parameters() or "{}"))
                fields = Request(**_read(request))
                if fields.stream and not self._decoupled:
                    raise RequestError("stream must be false: this model was packaged with decoupled false.")
                self._responder.take(fields, sender)
            except RequestError as error:
                _send_error(sender, str(error), pb_utils.TritonError.INVALID_ARG)
            except EngineFailed as error:
                _send_error(sender, str(error), pb_utils.TritonError.UNAVAILABLE)
            except Exception as error:  # one odd request must not end the others
                _send_error(sender, f"the request can't be read ({type(error).__name__}).")

    def is_ready(self) -> bool:
        """Whether the engine still takes requests. Tritons from 2026 on ask; for older ones its refusals must speak."""
        return not self._service.engine.failure

    def finalize(self) -> None:
        """Gives requests under way time to end, then ends all threads."""
        self._service.close(_DRAIN_SECONDS)
        self._responder.close()
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self._service.engine.counters().items()))
        pb_utils.Logger.log_info(f"{self._name} unloaded: {counts}")


class Responder:
    """Sends pieces on a thread of its own, so that the engine's next step does not wait for Triton.

    The same thread asks Triton whether clients have gone, and cancels their requests.
    """

    def __init__(self, name: str, service: Service) -> None:
        self._name = name
        self._service = service
        self._pieces: queue.SimpleQueue[tuple[int, Piece | None] | None] = queue.SimpleQueue()
        self._senders: dict[int, Any] = {}
        self._handles: dict[int, Handle] = {}
        self._lock = threading.Lock()
        self._keys = itertools.count()
        self._thread = threading.Thread(target=self._loop, name="responder", daemon=True)
        self._thread.start()

    def take(self, request: Request, sender: Any) -> None:
        """Submits a request whose answer goes to a sender."""
        key = next(self._keys)
        with self._lock:
            self._senders[key] = sender
        try:
            handle = self._service.submit(request, lambda piece: self._pieces.put((key, piece)))
        except BaseException:
            with self._lock:
                del self._senders[key]
            raise
        with self._lock:
            if key in self._senders:  # else the answer is out already
                self._handles[key] = handle
        self._pieces.put((key, None))  # wakes the thread, which from now on asks whether the client has gone

    def close(self) -> None:
        """Sends what is left and ends the thread."""
        self._pieces.put(None)
        self._thread.join()

    def _loop(self) -> None:
        polled = time.monotonic()
        while True:
            try:
                item = self._pieces.get(timeout=_POLL_SECONDS if self._senders else None)
            except queue.Empty:
                pass
            else:
                if item is None:
                    return
                key, piece = item
                if piece is not None:
                    self._send(key, piece)
            if time.monotonic() - polled >= _POLL_SECONDS:
                self._drop_gone()
                polled = time.monotonic()

    def _send(self, key: int, piece: Piece) -> None:
        with self._lock:
            sender, handle = self._senders[key], self._handles.get(key)
            if piece.last:
                del self._senders[key]
                self._handles.pop(key, None)
        try:
            if piece.error:
                pb_utils.Logger.log_error(f"{self._name}: {piece.error}")
                _send_error(sender, piece.error)
            else:
                flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if piece.last else 0
                sender.send(_response(piece), flags=flags)
        except Exception as error:
            # A response that Triton no longer takes ends that request, and nothing else.
            if handle is not None:
                handle.cancel()
            pb_utils.Logger.log_warn(f"{self._name}: a response could not be sent ({type(error).__name__}).")

    def _drop_gone(self) -> None:
        with self._lock:
            under_way = [(self._senders[key], handle) for key, handle in self._handles.items()]
        for sender, handle in under_way:
            if sender.is_cancelled():
                handle.cancel()


def _read(request: Any) -> dict[str, Any]:
    """The request's fields, in Python's types; those that it leaves out are not there."""
    fields: dict[str, Any] = {}
    for field in INPUTS:
        tensor = pb_utils.get_input_tensor_by_name(request, field.name)
        if tensor is None:
            continue
        values = tensor.as_numpy().ravel().tolist()
        if field.datatype == "STRING":
            try:
                values = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
            except UnicodeDecodeError:
                raise RequestError(f"{field.name} must be UTF-8.") from None
        if field.many:
            fields[field.name] = tuple(values)
        elif len(values) == 1:
            fields[field.name] = values[0]
        else:
            raise RequestError(f"{field.name} must be one value, but got {len(values)}.")
    return fields


def _response(piece: Piece) -> Any:
    values = {
        "text_output": piece.text.encode(),
        "finish_reason": piece.finish_reason.encode(),
        "input_tokens": piece.input_tokens,
        "output_tokens": piece.output_tokens,
    }
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(field.name, np.array([values[field.name]], _DTYPES[field.datatype])) for field in OUTPUTS]
    )


def _send_error(sender: Any, message: str, code: Any = None) -> None:
    error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL if code is None else code)
    sender.send(
        pb_utils.InferenceResponse(error=error),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )
