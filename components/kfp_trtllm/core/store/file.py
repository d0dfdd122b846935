"""A store in a folder: a laptop's disk or a mounted claim.

store.json                     the layout's schema
blobs/sha256/ab/abcdef…        files, read-only, each once
manifests/sha256/abcdef….json  folders
index/<kind>/<key>             finished work: JSON, often {"manifest": digest}
locks/                         flock()ed by their users; a dead process holds none
work/<name>/                   workspaces, and folders that are being read
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp_trtllm.core.links import link
from kfp_trtllm.core.manifest import File, Manifest
from kfp_trtllm.core.step import note
from kfp_trtllm.core.store.base import SCHEMA, Entry, Fault
from kfp_trtllm.errors import StoreError

_HASH_THREADS = 4
_SAFE = re.compile(r"[A-Za-z0-9._-]{1,200}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def hash_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def walk(folder: Path) -> list[Path]:
    """Regular files below a folder, sorted by name; StoreError for anything that is neither file nor folder."""
    files = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            files.append(path)
        elif not stat.S_ISDIR(mode):
            raise StoreError(
                f"{path.relative_to(folder)} is neither a file nor a folder: a store takes nothing else in."
            )
    return files


class FileStore:
    """See the module. Safe for many processes at once, killed at any moment."""

    def __init__(self, root: str) -> None:
        """Opens the store at a path, making it when it doesn't exist.

        Args:
            root: Absolute path; a leading ~ is the user's home.

        Raises:
            StoreError: It can't be made or written, or a newer version wrote it.
        """
        self.root = Path(root).expanduser()
        self.url = f"file://{self.root}"
        with self._io():
            self.root.mkdir(parents=True, exist_ok=True)
            marker = self.root / "store.json"
            # Another process may be making the store at this moment: look for its marker last.
            strangers = [e for e in self.root.iterdir() if not e.name.startswith(".") and e.name != "lost+found"]
            if not marker.exists():
                if strangers:
                    raise StoreError(f"{self.root} is neither empty nor a store: choose another folder.")
                self._write_json(marker, {"schema": SCHEMA})
            try:
                schema = int(json.loads(marker.read_text())["schema"])
            except (ValueError, KeyError, TypeError):
                raise StoreError(f'{marker} is damaged: it must hold {{"schema": {SCHEMA}}}.') from None
            if schema > SCHEMA:
                raise StoreError(
                    f"the store {self.root} has schema {schema}, but this version knows up to {SCHEMA}: upgrade kfp-trtllm."
                )
            for name in ("blobs/sha256", "manifests/sha256", "index", "locks", "work"):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    # Writing

    def put_folder(
        self,
        folder: Path,
        *,
        kind: str,
        facts: Mapping[str, Any],
        parents: tuple[str, ...] = (),
        known: Mapping[str, File] | None = None,
    ) -> Manifest:
        """See `Store.put_folder`. The files become read-only and share their inodes with the blobs."""
        known = known or {}
        with self._io(), self._shared():
            names = {path.relative_to(folder).as_posix(): path for path in walk(folder)}
            if not names:
                raise StoreError(f"there is nothing to store: {folder} is empty.")
            fresh = {name: path for name, path in names.items() if name not in known}
            with ThreadPoolExecutor(_HASH_THREADS) as pool:
                files = list(pool.map(lambda item: self._put_file(item[1], item[0]), fresh.items()))
            files += [dataclasses.replace(known[name], path=name) for name in names if name in known]
            files.sort(key=lambda file: file.path)
            manifest = Manifest(kind=kind, files=tuple(files), facts=facts, parents=parents)
            self._require_blobs(manifest)
            self._write_manifest(manifest)
        return manifest

    def put_manifest(self, manifest: Manifest) -> None:
        """See `Store.put_manifest`."""
        with self._io(), self._shared():
            self._require_blobs(manifest)
            self._write_manifest(manifest)

    def _put_file(self, path: Path, name: str) -> File:
        digest, info = hash_file(path), path.stat()
        size = info.st_size
        if not self._has(digest, size):
            if info.st_nlink > 1:  # a link to something, perhaps the user's: never chmod that
                copy = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
                shutil.copyfile(path, copy)
                os.replace(copy, path)
            with path.open("rb") as source:
                os.fsync(source.fileno())
            blob = self._blob(digest)
            blob.parent.mkdir(exist_ok=True)
            path.chmod(0o444)
            # Link under another name, then rename: a reader never sees a blob that is not whole, and a
            # truncated one that lies there is replaced.
            fresh = self.root / "work" / f".{uuid.uuid4().hex}"
            link(path, fresh)
            os.replace(fresh, blob)
        return File(path=name, size=size, sha256=digest)

    def _write_manifest(self, manifest: Manifest) -> None:
        target = self._manifest_path(manifest.digest)
        if not target.exists():
            self._write(target, manifest.to_json())

    def publish(self, kind: str, key: str, manifest: Manifest) -> None:
        """See `Store.publish`."""
        self.put_manifest(manifest)
        self.put_document(kind, key, {"manifest": manifest.digest})

    def put_document(self, kind: str, key: str, value: Any) -> None:
        """See `Store.put_document`."""
        with self._io():
            path = self._index(kind, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_json(path, value)

    # Reading

    def get(self, digest: str) -> Manifest:
        """See `Store.get`."""
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"a manifest's digest must be sha256: and 64 hexadecimal digits, but got {digest!r}.")
        path = self._manifest_path(digest)
        if not path.exists():
            raise StoreError(f"the store {self.url} has no {digest}: was it made in another store, or collected?")
        manifest = Manifest.read(path)
        if manifest.digest != digest:
            raise StoreError(f"the manifest {digest} in {self.url} is damaged: delete {path} and run again.")
        self._require_blobs(manifest)
        return manifest

    def lookup(self, kind: str, key: str) -> Manifest | None:
        """See `Store.lookup`."""
        document = self.get_document(kind, key)
        if not isinstance(document, dict) or "manifest" not in document:
            return None
        try:
            manifest = self.get(str(document["manifest"]))
        except StoreError:
            return None  # to be made anew
        os.utime(self._manifest_path(manifest.digest))
        return manifest

    def get_document(self, kind: str, key: str) -> Any:
        """See `Store.get_document`."""
        try:
            text = self._index(kind, key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return json.loads(text)
        except ValueError:
            return None

    @contextmanager
    def folder(self, manifest: Manifest) -> Iterator[Path]:
        """See `Store.folder`."""
        with self.workspace(f"read-{uuid.uuid4().hex}") as work:
            self.materialize(manifest, work / "files")
            yield work / "files"

    def materialize(self, manifest: Manifest, folder: Path) -> None:
        """See `Store.materialize`: hard links; copies only where the folder is on another file system."""
        with self._io(), self._shared():
            self._require_blobs(manifest)
            building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
            try:
                for file in manifest.files:
                    target = building / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    link(self._blob(file.sha256), target)
                os.rename(building, folder)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise

    # Work

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Store.lock`."""
        with self._io():
            handle = os.open(self._lock_path(name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"waiting for another run that works on {name}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def workspace(self, name: str, *, keep: bool = False) -> Iterator[Path]:
        """See `Store.workspace`. What a killed user leaves is handed on or removed by the next user, or by `gc`."""
        path = self.root / "work" / self._safe(name)
        with self.lock(f"work-{name}"):
            if path.exists() and not keep:
                shutil.rmtree(path)
            with self._io():
                path.mkdir(exist_ok=True)
            with self._io():
                done = False
                try:
                    yield path
                    done = True
                finally:
                    if done or not keep:
                        shutil.rmtree(path, ignore_errors=True)
            if name.startswith("read-"):  # nobody else waits for a name that is used once
                self._lock_path(f"work-{name}").unlink(missing_ok=True)

    # Upkeep

    def ls(self) -> Iterator[Entry]:
        """See `Store.ls`."""
        keys: dict[str, list[str]] = {}
        for path in sorted((self.root / "index").glob("*/*")):
            document = self.get_document(path.parent.name, path.name)
            if isinstance(document, dict) and "manifest" in document:
                keys.setdefault(str(document["manifest"]), []).append(f"{path.parent.name}/{path.name}")
        for path in sorted((self.root / "manifests/sha256").glob("*.json")):
            digest = f"sha256:{path.stem}"
            try:
                manifest = Manifest.read(path)
            except StoreError:
                continue  # `verify` tells
            used = path.stat().st_mtime
            yield Entry(digest=digest, manifest=manifest, keys=tuple(keys.get(digest, ())), used=used)

    def verify(self) -> Iterator[Fault]:
        """See `Store.verify`."""
        needed: dict[str, tuple[int, list[str]]] = {}
        for path in sorted((self.root / "manifests/sha256").glob("*.json")):
            digest = f"sha256:{path.stem}"
            try:
                manifest = Manifest.read(path)
            except StoreError:
                yield Fault(what="unreadable", object=self._name(path), needed_by=())
                continue
            if manifest.digest != digest:
                yield Fault(what="damaged", object=self._name(path), needed_by=())
            for file in manifest.files:
                needed.setdefault(file.sha256, (file.size, []))[1].append(digest)
        for path in (self.root / "blobs/sha256").glob("*/*"):
            needed.setdefault(path.name, (path.stat().st_size, []))
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            faults = pool.map(lambda item: self._check_blob(item[0], item[1][0]), sorted(needed.items()))
            for (digest, (_, manifests)), what in zip(sorted(needed.items()), faults, strict=True):
                if what:
                    users = tuple(sorted(set(manifests)))
                    yield Fault(what=what, object=self._name(self._blob(digest)), needed_by=users)

    def _check_blob(self, digest: str, size: int) -> str:
        blob = self._blob(digest)
        try:
            found = blob.stat().st_size
            if found != size:
                return "truncated" if found < size else "damaged"
            return "" if hash_file(blob) == digest else "damaged"
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "unreadable"

    def gc(self, *, live: frozenset[str], older_than_seconds: float, delete: bool) -> tuple[int, int]:
        """See `Store.gc`. Writers and readers wait while it runs, and it waits for them."""
        with self._io(), self._exclusive():
            entries = {entry.digest: entry for entry in self.ls()}
            limit = time.time() - older_than_seconds
            kept = {digest for digest, entry in entries.items() if digest in live or entry.used > limit}
            queue = list(kept)
            while queue:
                for parent in entries[queue.pop()].manifest.parents:
                    if parent in entries and parent not in kept:
                        kept.add(parent)
                        queue.append(parent)
            blobs = {file.sha256 for digest in kept for file in entries[digest].manifest.files}
            doomed = [self._manifest_path(digest) for digest in entries if digest not in kept]
            doomed += [self.root / "index" / key for d, entry in entries.items() if d not in kept for key in entry.keys]
            doomed += [path for path in (self.root / "blobs/sha256").glob("*/*") if path.name not in blobs]
            doomed += [path for path in (self.root / "work").iterdir() if self._abandoned(path, limit)]
            size = 0
            for path in doomed:
                for file in [path] if path.is_file() else walk(path):
                    info = file.lstat()
                    size += info.st_size if file.parent.parent.parent.name == "blobs" or info.st_nlink == 1 else 0
                if delete and path.is_dir():
                    shutil.rmtree(path)
                elif delete:
                    path.unlink(missing_ok=True)
        return len(doomed), size

    def _abandoned(self, path: Path, limit: float) -> bool:
        """Whether nobody works in a workspace, and nobody would resume it any more."""
        lock = self._lock_path(f"work-{path.name}")
        if not lock.exists():
            return True
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return path.name.startswith(("read-", ".")) or path.stat().st_mtime < limit

    # Names and guards

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs/sha256" / digest[:2] / digest

    def _has(self, digest: str, size: int) -> bool:
        try:
            return self._blob(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def _manifest_path(self, digest: str) -> Path:
        return self.root / "manifests/sha256" / f"{digest.removeprefix('sha256:')}.json"

    def _index(self, kind: str, key: str) -> Path:
        return self.root / "index" / self._safe(kind) / self._safe(key)

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / self._safe(name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @staticmethod
    def _safe(name: str) -> str:
        if not _SAFE.fullmatch(name) or name.startswith("."):
            raise StoreError(f"a store's name must be made of letters, digits, '.', '_' and '-', but got {name!r}.")
        return name

    def _require_blobs(self, manifest: Manifest) -> None:
        for file in manifest.files:
            if not self._has(file.sha256, file.size):
                raise StoreError(
                    f"the store {self.url} no longer holds {file.path} of a {manifest.kind} "
                    f"(sha256:{file.sha256[:12]}…): it was collected or damaged. Run again with KFP's cache off for this run, and it is made anew."
                )

    def _write_json(self, path: Path, value: Any) -> None:
        self._write(path, json.dumps(value, sort_keys=True, indent=1) + "\n")

    def _write(self, path: Path, text: str) -> None:
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with fresh.open("w", encoding="utf-8") as sink:
                sink.write(text)
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._guard(fcntl.LOCK_SH):
            yield

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._guard(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _guard(self, how: int) -> Iterator[None]:
        """Between `gc` and everybody else: a blob is never collected between its writing and its manifest's."""
        handle = os.open(self.root / "locks" / ".gc", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _io(self) -> Iterator[None]:
        """Operating-system errors in the store's words."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                free = shutil.disk_usage(self.root).free if self.root.exists() else 0
                raise StoreError(
                    f"no space left in the store {self.root} ({free / 1e9:.2f} GB free): "
                    "free some, or run `kfp-trtllm store gc`."
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
                where = error.filename or self.root
                raise StoreError(f"can't use the store {self.root}: {error.strerror} ({where}).") from error
            raise
