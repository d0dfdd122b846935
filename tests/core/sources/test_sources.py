from __future__ import annotations

import builtins
import os
import socket
from pathlib import Path

import pytest
from kfp_trtllm.core import sources
from kfp_trtllm.core.sources.files import select
from kfp_trtllm.core.sources.hf import HubSource
from kfp_trtllm.errors import InvalidSpec, SourceError


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "source must be a URL such as"),
        ("meta-llama/Llama-3.1-8B", "source must be a URL such as"),
        ("hg://acme/tiny", r"source's scheme must be one of file, hf, sample, but got 'hg'\. Did you mean 'hf'\?"),
        ("hf://", "source must name a model after hf://"),
        ("sample://smollm", r"sample must be one of smollm2-135m, but got 'smollm'\. Did you mean 'smollm2-135m'\?"),
        ("file://models/llama", r"source must be file:///absolute/path, file://~/… or file://\./…"),
    ],
)
def test_a_wrong_url_is_answered_with_what_would_do(url: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        sources.parse(url)


def test_a_password_typed_into_a_url_is_not_repeated() -> None:
    with pytest.raises(InvalidSpec) as caught:
        sources.parse("user:hf_abcdefghijkl@acme")
    assert "hf_abc" not in str(caught.value)


@pytest.mark.parametrize("url", ["hf://acme/tiny@v1", "file:///nowhere/model", "sample://smollm2-135m"])
def test_parsing_reads_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.parse(url)  # imports

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"I/O: {arguments}")

    for module, name in ((builtins, "open"), (os, "stat"), (os, "scandir"), (socket, "socket")):
        monkeypatch.setattr(module, name, refuse)
    sources.parse(url)


def test_the_parts_of_a_hub_url() -> None:
    assert sources.parse("hf://acme/tiny") == HubSource(repository="acme/tiny", revision="main")
    assert sources.parse("hf://acme/tiny@refs/pr/1") == HubSource(repository="acme/tiny", revision="refs/pr/1")
    chosen = HubSource(repository="acme/tiny-GGUF", gguf="tiny.Q4_K_M.gguf", revision="v1.0")
    assert sources.parse("hf://acme/tiny-GGUF/tiny.Q4_K_M.gguf@v1.0") == chosen


def test_the_sample_is_resolved_without_a_network() -> None:
    resolved = sources.parse("sample://smollm2-135m").resolve()
    assert resolved.source == "sample://smollm2-135m"
    assert resolved.revision == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_the_sample_has_one_revision(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has the revision sha256:b179"):
        sources.parse("sample://smollm2-135m").fetch("sha256:0", tmp_path)


def test_weights_are_chosen_as_transformers_does() -> None:
    names = [
        "model.safetensors",
        "model.fp16.safetensors",
        "tiny.gguf",
        "pytorch_model.bin",
        "config.json",
        "tf_model.h5",
    ]
    selection = select(names, where="it")
    assert (selection.form, selection.names) == ("safetensors", ("config.json", "model.safetensors"))
    selection = select(["tiny.gguf", "pytorch_model.bin", "config.json"], where="it")
    assert (selection.form, selection.names) == ("gguf", ("tiny.gguf",))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "it has no weights that can be used .* it has no files"),
        (["README.md", "sub/model.safetensors"], "it has no weights that can be used .* it has README.md"),
        (["consolidated.safetensors"], "it has consolidated.safetensors"),
        (["adapter_model.safetensors", "adapter_config.json"], "it is an adapter"),
        (["model-00001-of-00003.safetensors"], "it lacks 2 of 3 shards: model-00002-of-00003.safetensors"),
        (["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"], "it has shards of 2 sets"),
    ],
)
def test_what_can_not_be_used_is_told_by_name(names: list[str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        select(names, where="it")
