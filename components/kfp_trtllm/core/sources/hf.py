"""hf://org/name[/file.gguf][@revision]: a model on the Hugging Face hub, or on what HF_ENDPOINT names.

The library huggingface_hub asks for metadata; the bytes are fetched here, because its own download starts a file over when
it was interrupted (since 2.x it writes to a name of its own each time, and removes it when it fails).
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kfp_trtllm.core.checkpoint import convert_gguf, convert_pickles
from kfp_trtllm.core.sources.base import Fetched, OnProgress, Resolved, redact, silent
from kfp_trtllm.core.sources.files import CHUNK, Selection, Tally, adopt, need_space, prune, scratch, select
from kfp_trtllm.errors import InvalidSpec, SourceError

if TYPE_CHECKING:
    import httpx

_LOCATION = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<gguf>[^/@]+\.gguf))?(@(?P<revision>[\w./+-]+))?"
)
_THREADS = 8
_ATTEMPTS = 5  # in a row, without a byte of progress
_TIMEOUT = 30.0  # seconds without an answer or a byte
_BUSY = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A model repository on a hub.

    Attributes:
        repository: "org/name".
        gguf: The GGUF file to take where there are several, else "".
        revision: A branch, a tag or a commit.
    """

    repository: str
    gguf: str = ""
    revision: str = "main"

    @classmethod
    def parse(cls, location: str) -> Self:
        """Takes "org/name", then a GGUF file if there are several, then "@" and a revision if it isn't main."""
        form = "source must be hf://org/name or hf://org/name@revision"
        found = _LOCATION.fullmatch(location)
        if found and ".." not in location and "--" not in found["repository"]:
            return cls(repository=found["repository"], gguf=found["gguf"] or "", revision=found["revision"] or "main")
        given = redact(f"hf://{location}")
        if given != f"hf://{location}" or ":" in location:
            raise InvalidSpec(
                f"{form}, but got {given!r}: a token belongs into the variable HF_TOKEN, never into a URL."
            )
        if re.fullmatch(r"[\w.-]+(@[\w./+-]*)?", location):
            raise InvalidSpec(
                f"{form}, but got {given!r}, which has no organization (gpt2 is openai-community/gpt2 now)."
            )
        raise InvalidSpec(f"{form}, but got {given!r}.")

    def resolve(self, *, on_progress: OnProgress = silent) -> Resolved:
        """Asks the hub for the commit."""
        info = self._info(self.revision, files=False)
        source = f"hf://{self.repository}" + (f"/{self.gguf}" if self.gguf else "")
        return Resolved(source=source, revision=str(info.sha))

    def fetch(
        self, revision: str, folder: Path, *, on_progress: OnProgress = silent, allow_pickle: bool = False
    ) -> Fetched:
        """Downloads several files at once, goes on where a killed attempt stopped, and verifies each file."""
        info = self._info(revision, files=True)
        files = {file.name: file for file in map(_File.of, info.siblings or ())}
        selection = select(files, where=self._where, gguf=self.gguf, allow_pickle=allow_pickle)
        wanted = [files[name] for name in selection.names]
        download = sum(file.size for file in wanted)
        converted = 0 if selection.form == "safetensors" else sum(files[name].size for name in selection.weights)
        tally = Tally(download + converted, on_progress)
        with scratch(folder) as work:
            target = folder if selection.form == "safetensors" else work / "files"
            target.mkdir(exist_ok=True)
            prune(target, selection.names)
            self._download(wanted, info.sha, target, work, tally)
            if selection.form != "safetensors":
                _convert(selection, target, folder, work, tally, download)
        return Fetched(license=_license(info), name=self.gguf.removesuffix(".gguf") or self.repository.split("/")[1])

    @property
    def _where(self) -> str:
        return f"hf://{self.repository}"

    def _info(self, revision: str, *, files: bool) -> Any:
        """The repository's metadata at a revision; with `files`, the size and digest of each file too."""
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise SourceError(
                f"{self._where} can't be reached, because HF_HUB_OFFLINE is set: unset it, or use file://…."
            )
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from huggingface_hub import HfApi

        # False, not None: None would look for a token in the user's files too.
        api = HfApi(endpoint=_endpoint(), token=_token() or False)

        def ask() -> Any:
            with self._explained(revision):
                return api.model_info(self.repository, revision=revision, files_metadata=files, timeout=_TIMEOUT)

        return _patiently(ask)

    def _download(self, files: list[_File], commit: str, target: Path, work: Path, tally: Tally) -> None:
        """All files into `target`; the first failure stops the others, whose parts are kept."""
        import httpx

        parts = {file.part for file in files}
        for part in work.glob("*.part"):
            if part.name not in parts:
                part.unlink()  # of another revision
        have = sum(part.stat().st_size for part in work.glob("*.part"))
        have += sum((target / file.name).stat().st_size for file in files if (target / file.name).is_file())
        need_space(target, max(0, sum(file.size for file in files) - have))
        stop = threading.Event()
        headers = {"Authorization": f"Bearer {_token()}"} if _token() else {}
        # httpx drops the Authorization header when the hub redirects to its storage on another host.
        with (
            httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True) as client,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            jobs = [
                pool.submit(self._download_one, client, file, commit, target / file.name, work, tally, stop)
                for file in sorted(files, key=lambda file: -file.size)
            ]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _download_one(
        self,
        client: httpx.Client,
        file: _File,
        commit: str,
        target: Path,
        work: Path,
        tally: Tally,
        stop: threading.Event,
    ) -> None:
        """One file, from where an earlier attempt stopped, under its name when it is verified."""
        if target.is_file() and target.stat().st_size == file.size and _digest(file, target, tally) == file.digest:
            return
        target.unlink(missing_ok=True)
        part = work / file.part
        part.touch()
        if part.stat().st_size > file.size:
            part.unlink()
            part.touch()
        hasher = file.hasher()
        with _writable(part), part.open("r+b") as sink:
            while chunk := sink.read(CHUNK):
                hasher.update(chunk)
                tally.add(len(chunk))
            url = f"{_endpoint()}/{self.repository}/resolve/{commit}/{file.name}"
            failures = 0
            while (begin := sink.tell()) < file.size:
                try:
                    for chunk in self._stream(client, url, file.name, commit, begin, file.size):
                        if stop.is_set():
                            return
                        sink.write(chunk)
                        hasher.update(chunk)
                        tally.add(len(chunk))
                except _Busy as error:
                    failures = 1 if sink.tell() > begin else failures + 1
                    if failures == _ATTEMPTS or stop.is_set():
                        raise SourceError(
                            f"{error} It was tried {failures} times; the next attempt goes on from here."
                        ) from None
                    stop.wait(_pause(failures))
                sink.flush()
        if (found := hasher.hexdigest()) != file.digest:
            part.unlink()
            raise SourceError(
                f"{file.name} of {self._where} must have the {file.algorithm} {file.digest}, but has {found}: "
                "the damaged file was removed, so the next attempt fetches it again."
            )
        part.rename(target)

    def _stream(self, client: httpx.Client, url: str, name: str, commit: str, begin: int, size: int) -> Iterator[bytes]:
        """The bytes of a file from `begin` on."""
        # identity: a compressed answer would have other bytes, and no ranges.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
        left = size - begin
        with self._explained(commit, name), client.stream("GET", url, headers=headers) as response:
            response.raise_for_status()
            skip = begin if response.status_code == 200 else 0  # a server without ranges starts over
            for chunk in response.iter_raw():  # as they come: a chunk being filled would be lost in a cut
                useful = chunk[skip:][:left]
                skip = max(0, skip - len(chunk))
                left -= len(useful)
                if useful:
                    yield useful
        if left:
            raise _Busy(f"{self._where} ended {name} {left:,} bytes too early.")

    @contextmanager
    def _explained(self, revision: str, file: str = "") -> Iterator[None]:
        """Turns what the libraries raise into one line for a user; never shows headers, for they hold the token."""
        try:
            yield
        except (SourceError, _Busy):
            raise
        except Exception as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", 0)
            code = response.headers.get("X-Error-Code", "") if response is not None else ""
            message = response.headers.get("X-Error-Message", "") if response is not None else ""
            what = f"{file} of {self._where}" if file else self._where
            if status in _BUSY:
                raise _Busy(f"{what} can't be had now: the hub answered {status}.") from None
            if status:
                raise SourceError(self._refusal(status, code, message, revision, what)) from None
            if type(error).__module__.startswith(("httpx", "httpcore")):
                raise _Busy(
                    f"{what} can't be reached at {_endpoint()} ({type(error).__name__}: {redact(str(error))})."
                ) from None
            said = redact(str(error)).partition("\n")[0]
            raise SourceError(f"{what} can't be had ({type(error).__name__}: {said}).") from None

    def _refusal(self, status: int, code: str, message: str, revision: str, what: str) -> str:
        """What a status means here, and what to do."""
        token = "HF_TOKEN is set, but its account may not" if _token() else "HF_TOKEN is not set"
        if code == "GatedRepo":
            return (
                f"{self._where} is gated, and {token}: accept its license at {_endpoint()}/{self.repository}, "
                "then set HF_TOKEN to a token of that account."
            )
        if code == "RevisionNotFound":
            return f"{self._where} has no revision {revision!r}."
        if code == "EntryNotFound":
            return f"{what} does not exist at revision {revision}."
        if status == 401 and "credentials" in message.lower():
            return f"{_endpoint()} refuses HF_TOKEN: it is wrong or has expired."
        if status in (401, 404):
            private = "a private model needs HF_TOKEN" if not _token() else "the account of HF_TOKEN may not see it"
            return f"{what} does not exist at {_endpoint()}, or {private}: check the name."
        if status == 403:
            return f"{what} is forbidden ({token}): see {_endpoint()}/{self.repository}."
        return f"{what} can't be had: the hub answered {status}."


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file of a repository, with the digest that the hub knows: SHA-256 for large ones, git's SHA-1 for others."""

    name: str
    size: int
    digest: str
    algorithm: str

    @classmethod
    def of(cls, sibling: Any) -> _File:
        if sibling.lfs is not None:
            return cls(name=sibling.rfilename, size=sibling.lfs.size, digest=sibling.lfs.sha256, algorithm="SHA-256")
        return cls(
            name=sibling.rfilename, size=sibling.size or 0, digest=sibling.blob_id or "", algorithm="git blob SHA-1"
        )

    @property
    def part(self) -> str:
        """Name while it is not whole; has the digest, so that it is only ever continued with bytes of the same file."""
        return f"{self.name}.{self.digest[:16]}.part"

    def hasher(self) -> Any:
        if self.algorithm == "SHA-256":
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


class _Busy(SourceError):
    """Something that may go better in a while."""


@contextmanager
def _writable(part: Path) -> Iterator[None]:
    """A full disk is one line, too."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"can't write {part}: {error.strerror}.") from None


def _digest(file: _File, path: Path, tally: Tally) -> str:
    """Digest of a file that an earlier attempt finished; counts it only when it is right."""
    hasher = file.hasher()
    with path.open("rb", buffering=0) as content:
        while chunk := content.read(CHUNK):
            hasher.update(chunk)
    found = str(hasher.hexdigest())
    if found == file.digest:
        tally.add(file.size)
    return found


def _convert(selection: Selection, files: Path, folder: Path, work: Path, tally: Tally, before: int) -> None:
    """Makes safetensors of what was downloaded."""
    converted = work / "converted"
    weights = [files / name for name in selection.weights]
    span = tally.total - before

    def follow(done: int, total: int) -> None:
        tally.set(before + span * done // max(total, 1))

    if selection.form == "gguf":
        convert_gguf(weights[0], converted, log=work / "convert.log", on_progress=follow)
    else:
        convert_pickles(weights, converted, log=work / "convert.log", on_progress=follow)
    for name in selection.besides:
        (files / name).replace(converted / name)
    adopt(converted, folder)


def _license(info: Any) -> str:
    """The model card's license, else the hub's tag, else ""."""
    card = getattr(info, "card_data", None)
    found = (card.get("license") if card else None) or next(
        (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")), ""
    )
    if found == "other" and card:
        found = card.get("license_name") or found
    return ", ".join(found) if isinstance(found, list) else str(found)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _token() -> str:
    return os.environ.get("HF_TOKEN", "").strip()


def _pause(failures: int) -> float:
    """Seconds to wait after failures in a row."""
    return min(0.5 * 2.0**failures, 15.0)


def _patiently(ask: Callable[[], T]) -> T:
    """Tries again while the hub is busy."""
    for failures in range(1, _ATTEMPTS):
        try:
            return ask()
        except _Busy:
            time.sleep(_pause(failures))
    return ask()
