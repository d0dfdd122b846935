"""file://: a Hugging Face style folder, or a .gguf file, on this machine or on a mounted volume."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kfp_trtllm.core.checkpoint import convert_gguf, convert_pickles
from kfp_trtllm.core.sources.base import Fetched, OnProgress, Resolved, silent
from kfp_trtllm.core.sources.files import Selection, Tally, adopt, copy, need_space, prune, scratch, select, sha256
from kfp_trtllm.errors import InvalidSpec, SourceError

_THREADS = 4
_LICENSE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A folder or a file of the user's, which is only ever read.

    Attributes:
        path: Absolute; symbolic links on the way are followed, since the user named them.
    """

    path: Path

    @classmethod
    def parse(cls, location: str) -> Self:
        """An absolute path, one below the home folder ("~/…") or one below the working folder ("./…")."""
        first = location.split("/")[0]
        if first not in ("", "~", ".", "..") or "\0" in location:
            raise InvalidSpec(
                f"source must be file:///absolute/path, file://~/… or file://./…, but got {f'file://{location}'!r}."
            )
        return cls(path=Path(os.path.abspath(os.path.expanduser(location))))

    def resolve(self, *, on_progress: OnProgress = silent) -> Resolved:
        """Reads all files that are needed; the revision is a digest over their names and contents."""
        files = self._files(allow_pickle=True)
        tally = Tally(sum(_size(path) for path in files.values()), on_progress)
        return Resolved(source=f"file://{self.path}", revision=_revision(_digests(files, tally)))

    def fetch(
        self, revision: str, folder: Path, *, on_progress: OnProgress = silent, allow_pickle: bool = False
    ) -> Fetched:
        """Copies the folder (never links), or converts the GGUF file where it lies."""
        self._keep_apart(folder)
        selection = self._select(allow_pickle=allow_pickle)
        files = self._files(allow_pickle=allow_pickle)
        size = sum(_size(path) for path in files.values())
        tally = Tally(2 * size, on_progress)
        with scratch(folder) as work:
            if selection.form == "gguf":
                return self._fetch_gguf(revision, folder, files, tally, work)
            target = folder if selection.form == "safetensors" else work / "pickles"
            target.mkdir(exist_ok=True)
            prune(target, files)
            self._copy(revision, files, target, tally)
            if selection.form == "pickle":
                converted = work / "converted"
                convert_pickles([target / name for name in selection.weights], converted, log=work / "convert.log")
                for name in selection.besides:
                    (target / name).replace(converted / name)
                adopt(converted, folder)
        return Fetched(license=self._license(), name=self.path.name)

    def _fetch_gguf(self, revision: str, folder: Path, files: Mapping[str, Path], tally: Tally, work: Path) -> Fetched:
        ((_, gguf),) = files.items()
        self._check(revision, _revision(_digests(files, tally)))
        found = convert_gguf(
            gguf,
            work / "converted",
            log=work / "convert.log",
            on_progress=lambda done, total: tally.set(tally.total // 2 + tally.total // 2 * done // max(total, 1)),
        )
        adopt(work / "converted", folder)
        return Fetched(license=found, name=gguf.stem)

    def _copy(self, revision: str, files: Mapping[str, Path], target: Path, tally: Tally) -> None:
        """Copies what is not there yet, then hashes the copies: only they count."""
        kept = {
            name for name, path in files.items() if (target / name).is_file() and _size(target / name) == _size(path)
        }
        need_space(target, sum(_size(path) for name, path in files.items() if name not in kept))
        copies = {name: target / name for name in files}
        for again in (False, True):
            for name, path in files.items():
                if again or name not in kept:
                    _copy_one(path, copies[name], tally)
                else:
                    tally.add(_size(path))
            found = _revision(_digests(copies, tally))
            if found == revision or not kept:
                break
            # A copy that an earlier attempt left may be of another revision: take nothing for granted.
            tally.set(0)
        self._check(revision, found)

    def _check(self, revision: str, found: str) -> None:
        if found != revision:
            raise SourceError(f"file://{self.path} has changed: it was resolved to {revision}, but now is {found}.")

    def _keep_apart(self, folder: Path) -> None:
        """What is fetched must not land in the user's folder, nor remove it."""
        ours, theirs = folder.resolve(), self.path.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise SourceError(
                f"the work folder must lie apart from the source, but got {folder} for file://{self.path}."
            )

    def _select(self, *, allow_pickle: bool) -> Selection:
        where = f"file://{self.path}"
        try:
            if self.path.is_dir():
                names = [entry.name for entry in os.scandir(self.path) if not entry.is_dir()]
                return select(names, where=where, allow_pickle=allow_pickle)
            self.path.stat()
        except FileNotFoundError:
            raise SourceError(f"{where} does not exist.") from None
        except OSError as error:
            raise SourceError(f"can't read {where}: {error.strerror}.") from None
        if self.path.suffix != ".gguf":
            raise SourceError(f"{where} must be a folder or a .gguf file.")
        return Selection(form="gguf", weights=(self.path.name,), besides=())

    def _files(self, *, allow_pickle: bool) -> dict[str, Path]:
        """The files that are needed, by name."""
        names = self._select(allow_pickle=allow_pickle).names
        folder = self.path if self.path.is_dir() else self.path.parent
        files = {name: folder / name for name in names}
        for path in files.values():
            try:
                ordinary, size = path.is_file(), _size(path)
            except FileNotFoundError:
                raise SourceError(f"{path} is a link to {os.readlink(path)}, which does not exist.") from None
            except OSError as error:
                raise SourceError(f"can't read {path}: {error.strerror}.") from None
            if not ordinary:
                raise SourceError(f"{path} must be an ordinary file.")
            if not size:
                raise SourceError(f"{path} is empty.")
        return files

    def _license(self) -> str:
        """As the model card's front matter tells it; "" when there is none."""
        try:
            text = (self.path / "README.md").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        front = text.split("\n---", 1)[0] if text.startswith("---") else ""
        found = _LICENSE.search(front)
        return found[1] if found else ""


def _size(path: Path) -> int:
    return path.stat().st_size


def _copy_one(source: Path, target: Path, tally: Tally) -> None:
    try:
        copy(source, target, tally.add)
    except OSError as error:
        raise SourceError(f"can't copy {source} to {target.parent}: {error.strerror}.") from None


def _digests(files: Mapping[str, Path], tally: Tally) -> list[tuple[str, str]]:
    """Names with digests; several files are read at once."""

    def digest(item: tuple[str, Path]) -> tuple[str, str]:
        name, path = item
        try:
            return name, sha256(path, tally.add)
        except OSError as error:
            raise SourceError(f"can't read {path}: {error.strerror}.") from None

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(digest, files.items()))


def _revision(digests: Sequence[tuple[str, str]]) -> str:
    """One digest over names and contents; a GGUF file's name says nothing, so its own digest stands alone."""
    if len(digests) == 1 and digests[0][0].endswith(".gguf"):
        return f"sha256:{digests[0][1]}"
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
