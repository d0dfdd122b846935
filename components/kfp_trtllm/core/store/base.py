"""What a store must do: keep files by their SHA-256, name folders by manifests, find finished work by keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kfp_trtllm.core.manifest import File, Manifest

SCHEMA = 1  # of the store's layout, written to store.json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of `ls`: a manifest and where the index names it.

    Attributes:
        digest: Of the manifest.
        manifest: What it says.
        keys: "<kind>/<key>" of the index entries that lead to it.
        used: Seconds since the epoch when it was last written or looked up.
    """

    digest: str
    manifest: Manifest
    keys: tuple[str, ...]
    used: float


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that `verify` found.

    Attributes:
        what: "missing", "truncated", "damaged" or "unreadable".
        object: Path in the store, for example "blobs/sha256/ab/ab12…".
        needed_by: Digests of the manifests that need it.
    """

    what: str
    object: str
    needed_by: tuple[str, ...]


class Store(Protocol):
    """Where bytes live. Writes are atomic: a reader never sees half of anything, whenever a writer is killed."""

    url: str

    def put_folder(
        self,
        folder: Path,
        *,
        kind: str,
        facts: Mapping[str, Any],
        parents: tuple[str, ...] = (),
        known: Mapping[str, File] | None = None,
    ) -> Manifest:
        """Takes a folder's files in and publishes its manifest.

        Args:
            folder: In a workspace of this store; its files must not be written afterwards.
            kind: As in Manifest.
            facts: As in Manifest.
            parents: As in Manifest.
            known: Files, by path in the folder, that came from this store: they are not read again.
        """

    def put_manifest(self, manifest: Manifest) -> None:
        """Publishes a manifest whose files the store has; StoreError when it lacks one."""

    def get(self, digest: str) -> Manifest:
        """The manifest of that digest, all of its files present; StoreError with the remedy otherwise."""

    def folder(self, manifest: Manifest) -> AbstractContextManager[Path]:
        """The manifest's files as a folder to read, removed afterwards. On the same file system it costs no bytes."""

    def materialize(self, manifest: Manifest, folder: Path) -> None:
        """The manifest's files as a lasting, read-only folder that must not exist yet."""

    def lookup(self, kind: str, key: str) -> Manifest | None:
        """Finished work by its key; None when there is none, or when its bytes are gone or its manifest damaged."""

    def publish(self, kind: str, key: str, manifest: Manifest) -> None:
        """Names a manifest as the finished work of a key."""

    def get_document(self, kind: str, key: str) -> Any:
        """A small JSON value by its key, None when there is none."""

    def put_document(self, kind: str, key: str, value: Any) -> None:
        """Keeps a small JSON value under a key."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Only one holder at a time, over all processes; freed when the holder dies."""

    def workspace(self, name: str, *, keep: bool = False) -> AbstractContextManager[Path]:
        """An own folder to work in, exclusively, on the store's file system where it has one.

        Args:
            name: Names the work; the same name waits for its other user.
            keep: Whether to hand over what an earlier, killed attempt left (to resume); else it starts empty.
        """

    def ls(self) -> Iterator[Entry]:
        """Every manifest."""

    def verify(self) -> Iterator[Fault]:
        """Reads every byte and tells what is missing or damaged."""

    def gc(self, *, live: frozenset[str], older_than_seconds: float, delete: bool) -> tuple[int, int]:
        """Finds (and with `delete` removes) what nothing needs; returns (objects, bytes).

        Args:
            live: Manifests to keep whatever their age, with all their parents.
            older_than_seconds: Other manifests are kept when they were used more recently.
            delete: False only counts.
        """
