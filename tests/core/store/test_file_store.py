"""The store on a disk: what it keeps, what it survives, and what it finds damaged."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kfp_trtllm.core.manifest import File, Manifest
from kfp_trtllm.core.store import check_url, open_store
from kfp_trtllm.core.store.file import FileStore
from kfp_trtllm.errors import InvalidSpec, StoreError


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(str(tmp_path / "store"))


def put(store: FileStore, content: dict[str, bytes], kind: str = "checkpoint", **facts: object) -> Manifest:
    with store.workspace(f"put-{os.getpid()}") as work:
        for name, data in content.items():
            (work / "out" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "out" / name).write_bytes(data)
        return store.put_folder(work / "out", kind=kind, facts=facts)


def blob(store: FileStore, file: File) -> Path:
    return store.root / "blobs/sha256" / file.sha256[:2] / file.sha256


def test_a_folder_comes_back_as_it_was_read_only_and_without_a_copy(store: FileStore, tmp_path: Path) -> None:
    manifest = put(store, {"config.json": b"{}", "sub/weights.bin": b"w" * 1000}, name="m")
    store.materialize(store.get(manifest.digest), tmp_path / "store-out")
    out = tmp_path / "store-out"
    assert (out / "config.json").read_bytes() == b"{}"
    assert (out / "sub/weights.bin").read_bytes() == b"w" * 1000
    assert (out / "sub/weights.bin").stat().st_ino == blob(store, manifest.file("sub/weights.bin")).stat().st_ino
    assert (out / "config.json").stat().st_mode & 0o222 == 0
    assert manifest.size == 1002


def test_the_same_content_is_stored_once(store: FileStore) -> None:
    first = put(store, {"a": b"same", "b": b"same"})
    second = put(store, {"c": b"same", "d": b"other"})
    assert len(list((store.root / "blobs/sha256").glob("*/*"))) == 2
    assert first.file("a").sha256 == second.file("c").sha256


def test_the_same_folder_gives_the_same_digest(store: FileStore) -> None:
    assert put(store, {"a": b"1", "b": b"2"}).digest == put(store, {"b": b"2", "a": b"1"}).digest


def test_known_files_are_not_read_again(store: FileStore, tmp_path: Path) -> None:
    base = put(store, {"weights": b"w" * 50})
    with store.workspace("repackage") as work, store.folder(base) as folder:
        (work / "out/v1").mkdir(parents=True)
        os.link(folder / "weights", work / "out/v1/weights")
        (work / "out/config").write_text("c")
        manifest = store.put_folder(
            work / "out", kind="repository", facts={}, known={"v1/weights": base.file("weights")}
        )
    assert [file.path for file in manifest.files] == ["config", "v1/weights"]
    assert manifest.file("v1/weights").sha256 == base.file("weights").sha256


def test_an_index_entry_whose_bytes_are_gone_counts_as_none(store: FileStore) -> None:
    manifest = put(store, {"a": b"1"})
    store.publish("engine", "k", manifest)
    assert store.lookup("engine", "k") == manifest
    blob(store, manifest.file("a")).unlink()
    assert store.lookup("engine", "k") is None
    with pytest.raises(StoreError, match=r"no longer holds a of a checkpoint.*made anew"):
        store.get(manifest.digest)


def test_verify_finds_a_flipped_byte_a_truncated_blob_and_a_missing_one(store: FileStore) -> None:
    manifest = put(store, {"flipped": b"abcdef", "short": b"0123456789", "gone": b"x", "fine": b"fine"})
    assert list(store.verify()) == []
    for name, data in (("flipped", b"abcdeF"), ("short", b"01234")):
        path = blob(store, manifest.file(name))
        path.chmod(0o644)
        path.write_bytes(data)
    blob(store, manifest.file("gone")).unlink()
    faults = {fault.object.rsplit("/", 1)[1]: fault for fault in store.verify()}
    assert {name: faults[manifest.file(name).sha256].what for name in ("flipped", "short", "gone")} == {
        "flipped": "damaged",
        "short": "truncated",
        "gone": "missing",
    }
    assert len(faults) == 3
    assert faults[manifest.file("gone").sha256].needed_by == (manifest.digest,)


def test_a_damaged_blob_is_replaced_by_the_next_who_brings_the_bytes(store: FileStore) -> None:
    manifest = put(store, {"a": b"0123456789"})
    path = blob(store, manifest.file("a"))
    path.chmod(0o644)
    path.write_bytes(b"01")
    put(store, {"a": b"0123456789"})
    assert list(store.verify()) == []


def test_gc_tells_first_and_keeps_what_is_live_or_young(store: FileStore) -> None:
    old, live, parent = put(store, {"a": b"old"}), put(store, {"b": b"live"}), put(store, {"c": b"parent"})
    child = Manifest(kind="engine", files=live.files, parents=(parent.digest,))
    store.put_manifest(child)
    store.publish("checkpoint", "old", old)
    for path in (store.root / "manifests/sha256").iterdir():
        os.utime(path, (1, 1))
    count, size = store.gc(live=frozenset({child.digest}), older_than_seconds=60, delete=False)
    assert store.get(old.digest) == old
    assert (count, size) == store.gc(live=frozenset({child.digest}), older_than_seconds=60, delete=True)
    assert size >= 3
    with pytest.raises(StoreError, match="was it made in another store, or collected"):
        store.get(old.digest)
    assert store.lookup("checkpoint", "old") is None
    assert store.get(child.digest) == child
    assert store.get(parent.digest) == parent


def test_gc_removes_a_dead_reader_but_not_one_at_work(store: FileStore) -> None:
    manifest = put(store, {"a": b"1"})
    dead = store.root / "work/read-dead"
    dead.mkdir()
    with store.folder(manifest) as folder:
        store.gc(live=frozenset({manifest.digest}), older_than_seconds=60, delete=True)
        assert (folder / "a").read_bytes() == b"1"
    assert not dead.exists()


def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"schema": 99}')
    with pytest.raises(StoreError, match=r"has schema 99, but this version knows up to 1: upgrade"):
        FileStore(str(tmp_path))


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is neither empty nor a store"):
        FileStore(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_manifest_of_a_newer_schema_is_refused(store: FileStore) -> None:
    manifest = put(store, {"a": b"1"})
    path = store.root / f"manifests/sha256/{manifest.digest.removeprefix('sha256:')}.json"
    document = json.loads(path.read_text()) | {"schema": 9}
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="schema 9"):
        store.get(manifest.digest)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "", "a\\..\\b"])
def test_no_manifest_leads_out_of_its_folder(path: str) -> None:
    with pytest.raises(StoreError, match="must stay inside its folder"):
        File(path=path, size=1, sha256="0" * 64)


def test_a_link_in_a_folder_is_refused(store: FileStore, tmp_path: Path) -> None:
    with store.workspace("w") as work:
        (work / "out").mkdir()
        (work / "out/secret").symlink_to("/etc/passwd")
        with pytest.raises(StoreError, match="secret is neither a file nor a folder"):
            store.put_folder(work / "out", kind="engine", facts={})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/data", "must be a URL such as file:///data/store"),
        ("fil:///data", "Did you mean 'file'"),
        ("file://", "must name a place"),
        ("file://data", "must be an absolute path"),
    ],
)
def test_wrong_urls_are_refused_in_a_line(url: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        check_url(url)


def _build(url: str, started: "multiprocessing.synchronize.Event") -> None:
    store = open_store(url)
    with store.lock("engine-k"), store.workspace("build-k") as work:
        (work / "half").write_text("half")
        started.set()
        time.sleep(60)


def test_a_killed_builder_leaves_nothing_in_the_next_ones_way(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    store = open_store(url)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_build, args=(url, started))
    process.start()
    assert started.wait(10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with store.lock("engine-k"), store.workspace("build-k") as work:
        assert list(work.iterdir()) == []


def test_a_killed_download_is_handed_on(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    with pytest.raises(KeyboardInterrupt), store.workspace("fetch-k", keep=True) as work:
        (work / "part").write_text("half")
        raise KeyboardInterrupt
    with store.workspace("fetch-k", keep=True) as work:
        assert (work / "part").read_text() == "half"
    assert not (tmp_path / "store/work/fetch-k").exists()


_ONE_OF_TWO = """
import sys, time
from pathlib import Path
from kfp_trtllm.core.store import open_store
store, log = open_store(sys.argv[1]), Path(sys.argv[2])
with store.lock("engine-k"):
    if store.lookup("engine", "k") is None:
        with store.workspace("build-k") as work:
            (work / "out").mkdir()
            (work / "out/engine").write_text("built")
            time.sleep(0.3)
            with log.open("a") as sink:
                sink.write("built\\n")
            store.publish("engine", "k", store.put_folder(work / "out", kind="engine", facts={}))
"""


def test_two_runs_on_one_store_build_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _ONE_OF_TWO, f"file://{tmp_path}/store", str(tmp_path / "log")]
    runs = [subprocess.Popen(arguments) for _ in range(3)]
    assert [run.wait(30) for run in runs] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_full_disk_is_said_in_a_line(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mounted)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        store = FileStore(str(mounted / "store"))
        before = put(store, {"small": b"fits"})
        with pytest.raises(StoreError, match=r"no space left in the store .* \(0\.00 GB free\).*store gc"):
            put(store, {"big": b"x" * 1_000_000})
        assert list(store.verify()) == []
        assert store.get(before.digest) == before
        assert not list((store.root / "work").iterdir())
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
