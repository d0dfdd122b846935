"""A small hub on the wire: the endpoints that a download uses, over real HTTP, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 10_000  # bytes; from here on a file is in LFS and served by the storage host


@dataclass
class Hub:
    """What the hub has, how it misbehaves, and what it was asked."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, object] = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: bool = False
    token: str = ""
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes after which each connection ends
    corrupt: set[str] = field(default_factory=set)
    busy: int = 0  # answers with 503 before the next good one
    ranges: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds a commit and moves the branch to it."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def asked_for(self, name: str) -> list[dict[str, str]]:
        """Headers of the requests that asked for the bytes of a file (at the storage host, if it is large)."""
        found = [(path, headers) for method, path, headers in self.requests if method == "GET" and path.endswith(name)]
        stored = [headers for path, headers in found if path.startswith("/storage/")]
        return stored or [headers for _, headers in found]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs the hub; its storage has another host name, as the real one's has."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
            if hub.busy:
                hub.busy -= 1
                self.answer(503)
            elif path.startswith("/storage/"):
                self.content(*path.removeprefix("/storage/").split("/", 1))
            elif hub.token and self.headers.get("Authorization") not in (None, f"Bearer {hub.token}"):
                self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
            elif path.startswith("/api/models/acme/tiny"):
                self.info(path.removeprefix("/api/models/acme/tiny").removeprefix("/revision/") or "main")
            elif path.startswith("/acme/tiny/resolve/"):
                self.resolve(*path.removeprefix("/acme/tiny/resolve/").split("/", 1))
            else:
                self.answer(401 if not self.headers.get("Authorization") else 404, X_Error_Code="RepoNotFound")

        def info(self, revision: str) -> None:
            sha = hub.branches.get(revision, revision)
            if sha not in hub.commits:
                self.answer(404, X_Error_Code="RevisionNotFound")
                return
            siblings = []
            for name, content in hub.commits[sha].items():
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
                if len(content) >= LARGE:
                    entry["lfs"] = {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 1,
                    }
                siblings.append(entry if "blobs" in urlsplit(self.path).query else {"rfilename": name})
            body = {"id": "acme/tiny", "sha": sha, "siblings": siblings, "tags": ["license:mit"], "cardData": hub.card}
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

        def resolve(self, sha: str, name: str) -> None:
            if hub.gated and self.headers.get("Authorization") is None:
                self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access to model acme/tiny is restricted.")
            elif name not in hub.commits.get(sha, {}):
                self.answer(404, X_Error_Code="EntryNotFound")
            elif len(hub.commits[sha][name]) >= LARGE:
                self.answer(302, Location=f"{hub.storage_url}/storage/{sha}/{name}", X_Repo_Commit=sha)
            else:
                self.content(sha, name)

        def content(self, sha: str, name: str) -> None:
            body = hub.commits[sha][name]
            if name in hub.corrupt:
                body = bytes([body[0] ^ 1]) + body[1:]
            begin = 0
            wanted = self.headers.get("Range")
            if wanted and hub.ranges:
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            if hub.cut.get(name):
                self.wfile.write(body[begin : begin + hub.cut[name].pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(body[begin:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.storage_url = f"http://localhost:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
