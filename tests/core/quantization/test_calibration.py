from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from kfp_trtllm.core.quantization import Calibration
from kfp_trtllm.core.quantization.quantize import encode, make_batches
from kfp_trtllm.errors import InvalidSpec


def test_the_set_that_we_ship_has_prose_code_and_chats() -> None:
    texts = Calibration().texts()
    chats = [text for text in texts if not isinstance(text, str)]
    plain = [text for text in texts if isinstance(text, str)]
    assert len(texts) == 128 and len(chats) == 42
    assert len({str(text) for text in texts}) == 128
    assert any(text.startswith("def ") for text in plain)
    assert {turn["role"] for chat in chats for turn in chat} == {"system", "user", "assistant"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "calibration_size must be at least 1, but got 0."),
        ({"max_seq_length": 4}, "calibration_max_seq_length must be at least 8, but got 4."),
        ({"batch_size": 0}, "calibration_batch_size must be at least 1, but got 0."),
        ({"seed": -1}, "calibration_seed must be at least 0, but got -1."),
        ({"dataset": "/data/texts"}, "calibration_dataset must be empty, a .jsonl or .txt file, or the name of a data"),
        ({"dataset": "../up"}, "but got '../up'."),
    ],
)
def test_what_can_not_be_calibrated_with_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Calibration(**wrong)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_a_hub_name_is_no_file() -> None:
    assert Calibration(dataset="cnn_dailymail").file is None
    assert Calibration(dataset="abisee/cnn_dailymail").file is None
    assert Calibration(dataset="/data/texts.txt").file == Path("/data/texts.txt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', "on each line, but line 2 is '{\"text\": '."),
        ("a.jsonl", b'["one"]\n', "but line 1 is"),
        ("a.jsonl", b'{"title": "one"}\n', "but line 1 is"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}\n', "but line 1 is"),
        ("a.jsonl", b'{"text": "  "}\n', "but line 1 is"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "must be UTF-8, but has a wrong byte at 13."),
        ("a.jsonl", b"\n\n", "must hold at least one text, but is empty."),
        ("a.txt", b" \n\n \n", "must hold at least one text, but is empty."),
    ],
)
def test_a_damaged_file_is_told_in_a_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidSpec) as caught:
        Calibration(dataset=str(tmp_path / name)).texts()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"can't read the calibration file .*gone\.txt: No such file"):
        Calibration(dataset=str(tmp_path / "gone.txt")).digest()


def test_a_text_file_has_its_paragraphs_as_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n  \nthree\n")
    assert Calibration(dataset=str(tmp_path / "a.txt")).texts() == ["one\ntwo", "three"]


def test_the_seed_chooses_among_more_texts_than_wanted() -> None:
    first, again, other = (Calibration(size=16, seed=seed).texts() for seed in (1, 1, 2))
    assert len(first) == 16 and first == again and first != other


def test_the_digest_follows_the_content_and_each_setting(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "c.txt").write_text("two")
    a, b, c = (Calibration(dataset=str(tmp_path / f"{name}.txt")) for name in "abc")
    assert a.digest() == b.digest() != c.digest()
    changes = ({"size": 9}, {"max_seq_length": 9}, {"batch_size": 9}, {"seed": 9}, {"dataset": "some/set"})
    digests = {dataclasses.replace(Calibration(), **change).digest() for change in changes}
    assert len(digests | {Calibration().digest()}) == 6


def test_batches_have_no_padding_and_lose_little() -> None:
    rows = [list(range(length)) for length in (9, 3, 8, 4, 5)]
    assert [[len(row) for row in batch] for batch in make_batches(rows, 2)] == [[3, 3], [5, 5], [9]]


def test_chats_go_through_the_chat_template_and_around_one_that_refuses_a_system(models: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    asked = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good morning"}]
    assert tokenizer.decode(encode(asked, tokenizer)) == "<s>user: hello</s><s>assistant: good morning</s>"
    # Its template raises an exception for a system.
    led = encode([{"role": "system", "content": "be kind"}, *asked], tokenizer)
    assert tokenizer.decode(led) == "<s>user: be kind\n\nhello</s><s>assistant: good morning</s>"
    tokenizer.chat_template = None
    assert "hello\ngood morning" in tokenizer.decode(encode(asked, tokenizer))
