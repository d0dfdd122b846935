from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp_trtllm.core import checkpoint
from kfp_trtllm.core.backends.base import Tensor
from kfp_trtllm.errors import SourceError
from safetensors.numpy import save, save_file

SHAPES = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.norm.weight": (8,),
}


def arrays(dtype: Any = np.float16, **more: tuple[int, ...]) -> dict[str, Any]:
    return {name: np.zeros(shape, dtype) for name, shape in (SHAPES | more).items()}


def write(folder: Path, tensors: dict[str, Any] | None = None, tokenizer: bool = True, **config: Any) -> Path:
    """A checkpoint with a configuration that lacks nothing, changed by keywords."""
    document = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048} | config
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in document.items() if value is not None})
    )
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    save_file(tensors or arrays(), folder / "model.safetensors")
    return folder


def facts(folder: Path) -> Any:
    return checkpoint.inspect(folder, source="file:///m", revision="sha256:0", name="tiny", license="mit")


def test_headers_are_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    write(tmp_path)
    assert checkpoint.read_headers(tmp_path) == [
        Tensor(name=n, dtype="F16", shape=s) for n, s in sorted(SHAPES.items())
    ]


def test_facts_of_a_checkpoint(tmp_path: Path) -> None:
    found = facts(write(tmp_path))
    assert (found.source, found.revision, found.name, found.license) == ("file:///m", "sha256:0", "tiny", "mit")
    assert (found.architecture, found.model_type, found.dtype) == ("LlamaForCausalLM", "llama", "F16")
    assert found.parameters == 32 * 8 + 16 * 8 + 8
    assert found.max_position_embeddings == 2048
    assert not found.chat_template


def test_the_dtype_is_that_of_most_weights_not_of_most_tensors(tmp_path: Path) -> None:
    tensors = arrays(np.float32) | {"big.weight": np.zeros((100, 100), np.float16)}
    assert facts(write(tmp_path, tensors)).dtype == "F16"


def test_a_tied_head_that_is_stored_all_the_same_counts_once(tmp_path: Path) -> None:
    tensors = arrays() | {"lm_head.weight": np.zeros((32, 8), np.float16)}
    once = sum(array.size for array in arrays().values())
    assert facts(write(tmp_path, tensors, tie_word_embeddings=True)).parameters == once
    assert facts(write(tmp_path, tensors, tie_word_embeddings=False)).parameters == once + 32 * 8


def test_values_of_a_nested_text_config(tmp_path: Path) -> None:
    nested = {"max_position_embeddings": 4096, "tie_word_embeddings": True}
    assert facts(write(tmp_path, max_position_embeddings=None, text_config=nested)).max_position_embeddings == 4096
    assert facts(write(tmp_path, max_position_embeddings=None, n_positions=1024)).max_position_embeddings == 1024


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", "{{ messages }}"),
        ("chat_template.json", '{"chat_template": "{{ messages }}"}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default", "template": "{{ messages }}"}]}'),
    ],
)
def test_a_chat_template_is_found_wherever_it_is(tmp_path: Path, name: str, text: str) -> None:
    (write(tmp_path) / name).write_text(text)
    assert facts(tmp_path).chat_template


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no config\.json"):
        facts(tmp_path)
    with pytest.raises(SourceError, match=r"tiny has no tokenizer\.json.*AutoTokenizer"):
        facts(write(tmp_path, tokenizer=False))
    with pytest.raises(SourceError, match="must have `architectures`"):
        facts(write(tmp_path, architectures=None))
    with pytest.raises(SourceError, match="must have max_position_embeddings"):
        facts(write(tmp_path, max_position_embeddings=None))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json is not JSON"):
        facts(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pickles only \(pytorch_model\.bin\)"):
        checkpoint.read_headers(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(SourceError, match="has no weights in safetensors"):
        checkpoint.read_headers(tmp_path)


def test_a_file_that_is_cut_off_or_damaged_is_named_with_both_sizes(tmp_path: Path) -> None:
    whole = save(arrays())
    target = tmp_path / "model.safetensors"
    header = struct.unpack("<Q", whole[:8])[0]
    lying = whole.replace(b'"shape":[32,8]', b'"shape":[32,9]')
    for content, words in (
        (whole[:-1], f"is cut off: it must have {len(whole):,} bytes, but has {len(whole) - 1:,}"),
        (whole + b"\0", f"has bytes too many: it must have {len(whole):,} bytes, but has {len(whole) + 1:,}"),
        (whole[:100], f"is cut off: its header ends at {8 + header:,} bytes, but it has 100"),
        (b"", "is no safetensors file: it has 0 bytes"),
        (b"<html><body>Sign in to the captive portal</body>", "is no safetensors file: its header can't have"),
        (whole[:8] + b"x" * (len(whole) - 8), "has a damaged header"),
        (lying, r"has a damaged header: model.embed_tokens.weight can't lie at bytes"),
        (struct.pack("<Q", 2) + b"[]", "has a damaged header"),
    ):
        target.write_bytes(content)
        with pytest.raises(SourceError, match=f"model.safetensors {words}"):
            checkpoint.read_headers(tmp_path)


def shards(folder: Path, index: dict[str, str] | None) -> Path:
    for number, (name, array) in enumerate(arrays().items(), 1):
        save_file({name: array}, folder / f"model-{number:05}-of-00003.safetensors")
    if index is not None:
        (folder / checkpoint.INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_and_their_index(tmp_path: Path) -> None:
    index = {name: f"model-{number:05}-of-00003.safetensors" for number, name in enumerate(SHAPES, 1)}
    assert [tensor.name for tensor in checkpoint.read_headers(shards(tmp_path, index))] == sorted(SHAPES)
    with pytest.raises(SourceError, match="names 1 tensors that no file has, such as ghost"):
        checkpoint.read_headers(shards(tmp_path, index | {"ghost": "model-00001-of-00003.safetensors"}))
    with pytest.raises(SourceError, match="must name safetensors files of its own folder"):
        checkpoint.read_headers(shards(tmp_path, {"a": "../../etc/model.safetensors"}))
    shards(tmp_path, index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(SourceError, match=r"lacks 1 of 3 shards: model-00002-of-00003\.safetensors"):
        checkpoint.read_headers(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    assert len(checkpoint.read_headers(shards(tmp_path, None))) == 3
    save_file(arrays(), tmp_path / "model-00003-of-00003.safetensors")
    with pytest.raises(SourceError, match="in two files"):
        checkpoint.read_headers(tmp_path)


def write_gguf(path: Path) -> None:
    """A Qwen2 of two layers in F16, with biases and a head of its own, and a byte level tokenizer."""
    import gguf

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|endoftext|>", "Ġ", *letters, "ab"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)

    def add(name: str, *shape: int, kind: Any = np.float16) -> None:
        writer.add_tensor(name, random.normal(size=shape, scale=0.1).astype(kind))

    add("token_embd.weight", len(tokens), 32)
    add("output.weight", len(tokens), 32)
    add("output_norm.weight", 32, kind=np.float32)
    for layer in range(2):
        block = f"blk.{layer}"
        for name, rows in (("attn_q", 32), ("attn_k", 16), ("attn_v", 16)):
            add(f"{block}.{name}.weight", rows, 32)
            add(f"{block}.{name}.bias", rows, kind=np.float32)
        add(f"{block}.attn_output.weight", 32, 32)
        add(f"{block}.ffn_gate.weight", 64, 32)
        add(f"{block}.ffn_up.weight", 64, 32)
        add(f"{block}.ffn_down.weight", 32, 64)
        for name in ("attn_norm", "ffn_norm"):
            add(f"{block}.{name}.weight", 32, kind=np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_a_gguf_file_becomes_what_transformers_loads_from_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "of another model"}')
    output = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    license = checkpoint.convert_gguf(
        tmp_path / "tiny.gguf", output, log=tmp_path / "log", on_progress=lambda *both: seen.append(both)
    )
    assert license == "mit"
    assert seen[-1][0] == seen[-1][1] > 0
    assert {path.stat().st_mode & 0o777 for path in output.iterdir()} == {0o644}
    found = facts(output)
    assert (found.architecture, found.dtype, found.max_position_embeddings) == ("Qwen2ForCausalLM", "F16", 128)
    assert not found.chat_template
    ours = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    for name, value in ours.state_dict().items():
        # F32 norms are rounded to the file's F16.
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-4, msg=name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    assert tokenizer.decode(tokenizer("abc cab").input_ids) == "abc cab"


@pytest.mark.slow
def test_a_gguf_file_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:200], b"not a GGUF file at all"):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(SourceError, match=r"bad\.gguf can't be converted: ") as caught:
            checkpoint.convert_gguf(tmp_path / "bad.gguf", tmp_path / "out", log=tmp_path / "log")
        assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "out").exists()
