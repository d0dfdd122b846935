from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_checkpoint
from kfp_trtllm.core import sources
from kfp_trtllm.core.sources import files as source_files
from kfp_trtllm.errors import SourceError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's folder."""
    folder = tmp_path / "tiny"
    for name, content in tiny_checkpoint.files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_folder_is_copied_and_never_linked(model: Path, work: Path) -> None:
    source = sources.parse(f"file://{model}")
    resolved = source.resolve()
    assert resolved.source == f"file://{model}"
    seen: list[tuple[int, int]] = []
    fetched = source.fetch(resolved.revision, work, on_progress=lambda done, total: seen.append((done, total)))
    assert fetched == sources.Fetched(license="apache-2.0", name="tiny")
    assert names(work) == tiny_checkpoint.NEEDED
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1]
    for name in tiny_checkpoint.NEEDED:
        assert (work / name).read_bytes() == (model / name).read_bytes()
        assert (work / name).stat().st_ino != (model / name).stat().st_ino
        assert not (work / name).is_symlink()


def test_the_revision_depends_on_what_is_needed_and_on_nothing_else(model: Path, tmp_path: Path) -> None:
    source = sources.parse(f"file://{model}")
    revision = source.resolve().revision
    (model / "README.md").write_text("# another")
    (model / "notes.txt").write_text("another")
    os.utime(model / "config.json", (1, 1))
    model.rename(tmp_path / "moved")
    assert sources.parse(f"file://{tmp_path}/moved").resolve().revision == revision
    (tmp_path / "moved/tokenizer.json").write_text("{}")
    assert sources.parse(f"file://{tmp_path}/moved").resolve().revision != revision


def test_a_folder_that_changes_after_it_was_resolved_is_refused(model: Path, work: Path) -> None:
    source = sources.parse(f"file://{model}")
    revision = source.resolve().revision
    (model / "tokenizer.json").write_text('{"version": "2.0"}')
    with pytest.raises(SourceError, match=f"has changed: it was resolved to {revision}, but now is sha256:"):
        source.fetch(revision, work)


def test_what_an_earlier_attempt_left_is_used_or_replaced(
    model: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.parse(f"file://{model}")
    revision = source.resolve().revision
    (work / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    (work / "tokenizer.json.part").write_text("half")
    (work / "another.safetensors").write_text("of another revision")
    copied: list[str] = []
    copy = source_files.copy
    monkeypatch.setattr(
        "kfp_trtllm.core.sources.file.copy", lambda a, b, on_bytes: (copied.append(a.name), copy(a, b, on_bytes))
    )
    source.fetch(revision, work)
    assert sorted(copied) == [name for name in tiny_checkpoint.NEEDED if name != "model.safetensors"]
    (work / "model.safetensors").write_bytes(tiny_checkpoint.weights(seed=7))  # as large, but not the same
    source.fetch(revision, work)
    assert (work / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert names(work) == tiny_checkpoint.NEEDED


def test_links_of_a_hub_cache_are_followed(model: Path, work: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in tiny_checkpoint.NEEDED:
        (snapshot / name).symlink_to(model / name)
    source = sources.parse(f"file://{snapshot}")
    assert source.resolve().revision == sources.parse(f"file://{model}").resolve().revision
    source.fetch(source.resolve().revision, work)
    assert not any(path.is_symlink() for path in work.iterdir())
    (model / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer\.json is a link to .*, which does not exist"):
        source.resolve()


def test_a_file_system_that_can_not_copy_in_the_kernel(
    model: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source = sources.parse(f"file://{model}")
    source.fetch(source.resolve().revision, work)
    assert (work / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_paths_below_home_and_below_the_working_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    monkeypatch.chdir(model)
    wanted = sources.parse(f"file://{model}").resolve()
    for url in ("file://~/tiny", "file://.", "file://./", "file://../tiny", f"file://{model}/"):
        assert sources.parse(url).resolve() == wanted


def test_the_work_folder_must_lie_apart(model: Path, tmp_path: Path) -> None:
    source = sources.parse(f"file://{model}")
    before = names(model)
    for folder in (model, tmp_path, model / "onnx"):
        with pytest.raises(SourceError, match="the work folder must lie apart from the source"):
            source.fetch("sha256:0", folder)
    assert names(model) == before


def test_what_is_not_there_or_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.txt").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank/model.safetensors").touch()
    for name, words in (
        ("missing", "missing does not exist"),
        ("empty", "has no weights that can be used .* it has no files"),
        ("model.txt", "must be a folder or a .gguf file"),
        ("loop", "can't read file:.*loop"),
        ("blank", "model.safetensors is empty"),
    ):
        with pytest.raises(SourceError, match=words):
            sources.parse(f"file://{tmp_path}/{name}").resolve()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_one_line(model: Path) -> None:
    (model / "model.safetensors").chmod(0)
    with pytest.raises(SourceError, match=r"can't read .*model\.safetensors: Permission denied"):
        sources.parse(f"file://{model}").resolve()
