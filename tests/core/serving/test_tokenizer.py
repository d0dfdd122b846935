from __future__ import annotations

import random
from pathlib import Path

import pytest
from kfp_trtllm.core.serving.schema import RequestError
from kfp_trtllm.core.serving.tokenizer import Detokenizer, Stops, Tokenizer
from tiny_model import TEXTS


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer(tokenizer_folder)


def pieces(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("text", [*TEXTS, "🙂", "a🙂b", "日本語🚀🚀 ok", "  two  spaces \n\n\tand a tab"])
def test_pieces_are_the_text_and_never_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, special=False)
    said = pieces(tokenizer, tokens)
    assert "".join(said) == text
    assert not any("\ufffd" in piece for piece in said)


def test_an_emoji_is_many_tokens_and_comes_with_the_last_one(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🦜", special=False)
    assert len(tokens) > 1
    assert pieces(tokenizer, tokens) == [*[""] * (len(tokens) - 1), "🦜", ""]


def test_bytes_that_never_become_a_character_are_left_out_at_the_end(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ok🦜", special=False)[:-1]
    assert "".join(pieces(tokenizer, tokens)) == "ok"


def test_random_tokens_make_the_text_that_they_make_together(tokenizer: Tokenizer) -> None:
    for seed in range(20):
        tokens = random.Random(seed).choices(range(2, 500), k=60)
        assert "".join(pieces(tokenizer, tokens)).rstrip("\ufffd") == tokenizer.decode(tokens).rstrip("\ufffd")


def test_a_truncation_that_the_checkpoint_carries_does_not_cut_prompts(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("word " * 50, special=False)) > 50


def test_special_tokens_are_added_on_demand_and_named(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("x", special=True) == [0, *tokenizer.encode("x", special=False)]
    assert (tokenizer.id_of("bos_token"), tokenizer.id_of("eos_token"), tokenizer.id_of("pad_token")) == (0, 1, None)


def test_the_chat_template_renders_as_transformers_renders_it(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    turns = [{"role": "user", "content": "Hello, <b>you</b>"}, {"role": "assistant", "content": "Hi"}]
    reference = AutoTokenizer.from_pretrained(tokenizer_folder)
    expected = reference.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert tokenizer.render(turns) == expected


def test_a_template_that_refuses_is_an_error_of_the_request(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="refuses the request: roles must be user or assistant"):
        tokenizer.render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% for x in range(999999999) %}{% endfor %}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_can_not_leave_the_sandbox(tokenizer_folder: Path, tmp_path: Path, template: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(RequestError):
        Tokenizer(tmp_path).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}",
                 "{% for m in messages %}{% generation %}x{% endgeneration %}{% break %}{% endfor %}",
                 "{{ ('<' | tojson)[1:0] }}{{ strftime_now('')[1:0] }}x"],
)  # fmt: skip
def test_what_templates_use_besides_plain_jinja_works(tokenizer_folder: Path, tmp_path: Path, template: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
    (tmp_path / "chat_template.jinja").write_text(template)
    assert Tokenizer(tmp_path).render([{"role": "user", "content": "y"}] * 2) == "x"


def test_without_a_template_chat_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer(tmp_path)
    assert not tokenizer.has_chat_template
    with pytest.raises(RequestError, match="apply_chat_template must be false"):
        tokenizer.render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("stops", "said", "expected", "found"),
    [
        (["END"], ["abcEND", "more"], "abc", True),
        (["END"], ["abc E", "N", "D more"], "abc ", True),
        (["END"], ["abc E", "N", "d more"], "abc ENd more", False),
        (["aab"], ["a", "a", "a", "b", "x"], "a", True),
        (["xyz", "yz"], ["xx", "y", "z"], "x", True),
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb", True),
        (["END"], ["abcEN"], "abcEN", False),
        ([], ["a", "b"], "ab", False),
    ],
)
def test_stop_texts_are_found_across_pieces_and_kept_back(
    stops: list[str], said: list[str], expected: str, found: bool
) -> None:
    finder, text, stopped = Stops(stops), "", False
    for piece in said:
        out, stopped = finder.feed(piece)
        text += out
        assert expected.startswith(text), "text went out that may belong to a stop text"
        if stopped:
            break
    if not stopped:
        text += finder.flush()
    assert (text, stopped) == (expected, found)
