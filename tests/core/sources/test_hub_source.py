from __future__ import annotations

import io
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoint
from hub_server import Hub, serve
from kfp_trtllm.core import sources
from kfp_trtllm.core.checkpoint import inspect, read_headers
from kfp_trtllm.core.sources import hf
from kfp_trtllm.errors import InvalidSpec, SourceError

TOKEN = "hf_" + "s3cr3t" * 5


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve(Hub()) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(hf, "_pause", lambda failures: 0.01)
        yield running


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fetch(folder: Path, url: str = "hf://acme/tiny", **options: bool) -> sources.Fetched:
    source = sources.parse(url)
    return source.fetch(source.resolve().revision, folder, **options)


def test_a_model_is_resolved_and_fetched_with_nothing_that_is_not_needed(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit(tiny_checkpoint.files())
    source = sources.parse("hf://acme/tiny@main")
    resolved = source.resolve()
    assert resolved == sources.Resolved(source="hf://acme/tiny", revision=commit)
    seen: list[tuple[int, int]] = []
    fetched = source.fetch(resolved.revision, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert fetched == sources.Fetched(license="apache-2.0", name="tiny")
    assert names(tmp_path) == tiny_checkpoint.NEEDED
    for name in tiny_checkpoint.NEEDED:
        assert (tmp_path / name).read_bytes() == tiny_checkpoint.files()[name]
    total = sum(len(tiny_checkpoint.files()[name]) for name in tiny_checkpoint.NEEDED)
    assert seen[0] == (0, total) and seen[-1] == (total, total)
    assert all(before[0] <= after[0] for before, after in itertools.pairwise(seen))
    facts = inspect(tmp_path, source=resolved.source, revision=resolved.revision, name="tiny", license="")
    assert facts.parameters == 64 * 512 + 512


def test_a_branch_that_moves_after_it_was_resolved_does_not_matter(hub: Hub, tmp_path: Path) -> None:
    before, after = tiny_checkpoint.files(seed=1), tiny_checkpoint.files(seed=2)
    hub.commit(before)
    source = sources.parse("hf://acme/tiny")
    revision = source.resolve().revision
    hub.commit(after)
    source.fetch(revision, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before["model.safetensors"]


def test_a_tag_is_resolved(hub: Hub) -> None:
    tagged = hub.commit(tiny_checkpoint.files(1), branch="v1.0")
    hub.commit(tiny_checkpoint.files(2))
    assert sources.parse("hf://acme/tiny@v1.0").resolve().revision == tagged


def test_a_connection_that_is_cut_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.cut["model.safetensors"] = [20_000, 10_000]
    fetch(tmp_path)
    ranges = [headers.get("range") for headers in hub.asked_for("model.safetensors")]
    assert ranges == [None, "bytes=20000-", "bytes=30000-"]
    assert (tmp_path / "model.safetensors").read_bytes() == tiny_checkpoint.weights()


def test_a_killed_attempt_is_continued_by_the_next(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.cut["model.safetensors"] = [40_000] + [0] * hf._ATTEMPTS
    with pytest.raises(SourceError, match="the next attempt goes on from here"):
        fetch(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    hub.cut.clear()
    hub.requests.clear()
    fetch(tmp_path)
    assert [headers.get("range") for headers in hub.asked_for("model.safetensors")] == ["bytes=40000-"]
    assert (tmp_path / "model.safetensors").read_bytes() == tiny_checkpoint.weights()
    assert names(tmp_path) == tiny_checkpoint.NEEDED


def test_what_was_fetched_whole_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    fetch(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b'{"version": "9.9"}')
    (tmp_path / "of-another-model.safetensors").write_bytes(b"left")
    hub.requests.clear()
    fetch(tmp_path)
    assert [path for method, path, _ in hub.requests if "/resolve/" in path] == [
        f"/acme/tiny/resolve/{hub.branches['main']}/tokenizer.json"
    ]
    assert names(tmp_path) == tiny_checkpoint.NEEDED


def test_a_part_of_another_revision_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files(1))
    hub.cut["model.safetensors"] = [40_000] + [0] * hf._ATTEMPTS
    with pytest.raises(SourceError):
        fetch(tmp_path)
    hub.cut.clear()
    hub.requests.clear()
    hub.commit(tiny_checkpoint.files(2))
    fetch(tmp_path)
    assert [headers.get("range") for headers in hub.asked_for("model.safetensors")] == [None]
    assert (tmp_path / "model.safetensors").read_bytes() == tiny_checkpoint.weights(2)


def test_a_server_without_ranges_starts_over_and_the_file_is_right(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.ranges = False
    hub.cut["model.safetensors"] = [50_000]
    fetch(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == tiny_checkpoint.weights()


@pytest.mark.parametrize(
    ("name", "algorithm"), [("model.safetensors", "SHA-256"), ("tokenizer.json", "git blob SHA-1")]
)
def test_damaged_bytes_are_named_and_removed(hub: Hub, tmp_path: Path, name: str, algorithm: str) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.corrupt.add(name)
    with pytest.raises(SourceError, match=f"{name} of hf://acme/tiny must have the {algorithm}"):
        fetch(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(name)]
    hub.corrupt.clear()
    fetch(tmp_path)
    assert (tmp_path / name).read_bytes() == tiny_checkpoint.files()[name]


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.busy = 3
    fetch(tmp_path)
    hub.busy = 100
    with pytest.raises(SourceError, match=r"hf://acme/tiny can't be had now: the hub answered 503\."):
        sources.parse("hf://acme/tiny").resolve()


def test_a_gated_model_tells_where_to_accept_its_license(hub: Hub, tmp_path: Path) -> None:
    hub.commit(tiny_checkpoint.files())
    hub.gated = True
    with pytest.raises(SourceError) as caught:
        fetch(tmp_path)
    assert str(caught.value) == (
        f"hf://acme/tiny is gated, and HF_TOKEN is not set: accept its license at {hub.url}/acme/tiny, "
        "then set HF_TOKEN to a token of that account."
    )


def test_the_token_goes_to_the_hub_only_and_shows_up_nowhere(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    sink = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(sink))
    hub.commit(tiny_checkpoint.files())
    hub.gated, hub.token = True, TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetched = fetch(tmp_path)
    assert all(
        (headers.get("authorization") == f"Bearer {TOKEN}") is not path.startswith("/storage/")
        for _, path, headers in hub.requests
    )
    hub.token = "hf_another"
    with pytest.raises(SourceError) as caught:
        sources.parse("hf://acme/tiny").resolve()
    assert str(caught.value) == f"{hub.url} refuses HF_TOKEN: it is wrong or has expired."
    out, err = capfd.readouterr()
    everywhere = [out, err, caplog.text, sink.getvalue(), repr(fetched), str(caught.value), repr(caught.value)]
    everywhere += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in everywhere if TOKEN in text]
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_model_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(SourceError, match=r"hf://acme/huge does not exist at .*, or a private model needs HF_TOKEN"):
        sources.parse("hf://acme/huge").resolve()


def test_a_revision_that_does_not_exist(hub: Hub) -> None:
    hub.commit(tiny_checkpoint.files())
    with pytest.raises(SourceError, match=r"^hf://acme/tiny has no revision 'v9'\.$"):
        sources.parse("hf://acme/tiny@v9").resolve()


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"hf://acme/tiny can't be reached at http://127\.0\.0\.1:9 \(ConnectError"):
        sources.parse("hf://acme/tiny").resolve()


def test_offline_is_said_in_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="because HF_HUB_OFFLINE is set"):
        sources.parse("hf://acme/tiny").resolve()
    assert not hub.requests


def test_shards_come_with_their_index(hub: Hub, tmp_path: Path) -> None:
    whole = tiny_checkpoint.files()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    del whole["model.safetensors"]
    whole |= {first: tiny_checkpoint.weights(1), second: tiny_checkpoint.weights(2)}
    whole["consolidated.safetensors"] = b"the same weights under the names of another framework"
    whole["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": first, "b": second}}).encode()
    hub.commit(whole)
    fetch(tmp_path)
    assert names(tmp_path)[2:5] == [first, second, "model.safetensors.index.json"]
    assert "consolidated.safetensors" not in names(tmp_path)
    del whole[second]
    hub.commit(whole)
    with pytest.raises(SourceError, match=f"hf://acme/tiny lacks 1 of 2 shards: {second}"):
        fetch(tmp_path)


def test_pickles_are_refused_unless_asked_for(hub: Hub, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    shared = torch.arange(32, dtype=torch.float32).reshape(4, 8)
    state = {"embed.weight": shared, "head.weight": shared, "turned.weight": shared.T, "row.weight": shared[1]}
    pickled = io.BytesIO()
    torch.save(state, pickled)
    files = {name: content for name, content in tiny_checkpoint.files().items() if name != "model.safetensors"}
    hub.commit(files | {"pytorch_model.bin": pickled.getvalue()})
    with pytest.raises(SourceError, match=r"pickles only \(pytorch_model\.bin\).*convert.*allow_pickle"):
        fetch(tmp_path)
    fetch(tmp_path, allow_pickle=True)
    assert names(tmp_path) == tiny_checkpoint.NEEDED
    assert {tensor.name: tensor.shape for tensor in read_headers(tmp_path)} == {
        name: tuple(value.shape) for name, value in state.items()
    }


def test_a_pickle_that_runs_code_is_not_run(hub: Hub, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> object:
            return (Path.touch, (trace,))

    pickled = io.BytesIO()
    torch.save({"weight": Evil()}, pickled)
    files = {name: content for name, content in tiny_checkpoint.files().items() if name != "model.safetensors"}
    hub.commit(files | {"pytorch_model.bin": pickled.getvalue()})
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(SourceError, match="the pickles can't be converted"):
        fetch(work, allow_pickle=True)
    assert not trace.exists()


def test_several_gguf_files_need_a_choice(hub: Hub, tmp_path: Path) -> None:
    hub.commit({"tiny.Q4_0.gguf": b"GGUF", "tiny.Q8_0.gguf": b"GGUF", "README.md": b"#"})
    with pytest.raises(SourceError, match=r"2 GGUF files, so name one: tiny\.Q4_0\.gguf, tiny\.Q8_0\.gguf"):
        fetch(tmp_path)
    with pytest.raises(SourceError, match=r"has no file other\.gguf; it has tiny\.Q4_0\.gguf, tiny\.Q8_0\.gguf"):
        fetch(tmp_path, "hf://acme/tiny/other.gguf")
    assert sources.parse("hf://acme/tiny/tiny.Q4_0.gguf").resolve().source == "hf://acme/tiny/tiny.Q4_0.gguf"


@pytest.mark.slow
def test_a_damaged_gguf_file_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.commit({"tiny.gguf": b"GGUF but no more than that"})
    with pytest.raises(SourceError, match=r"tiny\.gguf can't be converted|exited with status 1"):
        fetch(tmp_path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hf://gpt2", "has no organization"),
        ("hf://gpt2@main", "has no organization"),
        ("hf://acme/tiny@", "source must be hf://org/name"),
        ("hf://acme/../secret", "source must be hf://org/name"),
        ("hf://acme/tiny/config.json", "source must be hf://org/name"),
        (f"hf://{TOKEN}@acme/tiny", "a token belongs into the variable HF_TOKEN"),
        (f"hf://me:{TOKEN}@acme/tiny", "a token belongs into the variable HF_TOKEN"),
    ],
)
def test_urls_that_are_no_model(url: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words) as caught:
        sources.parse(url)
    assert TOKEN not in str(caught.value)
