"""HTTP to this machine. No proxy settings apply, no library is loaded, nothing is retried."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

ADDRESS = "127.0.0.1"
_CHOOSING_SECONDS = 30.0  # longer than a gateway takes to start


@dataclass(frozen=True)
class Answer:
    """A response, read to its end.

    Attributes:
        status: HTTP status.
        headers: By lower-case name.
        body: As text.
    """

    status: int
    headers: Mapping[str, str]
    body: str


def call(
    port: int,
    method: str,
    path: str,
    *,
    document: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
) -> Answer:
    """Sends one request.

    Args:
        port: Of the server on the loopback address.
        method: For example "GET".
        path: With a leading slash.
        document: Sent as JSON unless None.
        headers: Sent as well.
        timeout: Seconds that the server may be silent.

    Raises:
        OSError: Nobody listens there, or what answers does not speak HTTP.
    """
    body = None if document is None else json.dumps(document)
    sent = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        text = response.read().decode("utf-8", errors="replace")
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)
    except http.client.HTTPException as error:
        raise OSError(f"port {port} does not speak HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


def answers(port: int, path: str, *, timeout: float = 2.0) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return call(port, "GET", path, timeout=timeout).status == 200
    except OSError:
        return False


def is_free(port: int) -> bool:
    """Whether nobody listens on a port, neither on the loopback address nor on all addresses."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else sockets in TIME_WAIT count as listeners
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError):
            return False
    return True


@contextmanager
def choosing_ports() -> Iterator[None]:
    """Only one process of this machine at a time chooses a port and starts a server on it.

    Caddy lets others listen on its port: two that start at once on a port which both found free would share it, and
    answer for each other. The lock is a name, not a file, so it is free again whenever its holder dies.
    """
    deadline = time.monotonic() + _CHOOSING_SECONDS
    with socket.socket(socket.AF_UNIX) as holder:
        while True:
            try:
                holder.bind("\0kfp-trtllm-ports")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    break  # no such names here, or somebody hangs: better a small chance of a clash than no gateway
                time.sleep(0.02)
        yield


def free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Distinct ports that the kernel says are free now.

    Args:
        count: How many.
        taken: Ports not to be given: promised to servers that don't listen yet.
    """
    ports: list[int] = []
    with ExitStack() as held:  # every probe stays bound until all are found, so that no port is given twice
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            probe.bind((ADDRESS, 0))
            port = probe.getsockname()[1]
            if port not in taken:
                ports.append(port)
    return ports
