import itertools

import pytest
from kfp_trtllm.core.backends.base import Sampling
from kfp_trtllm.core.evaluation import reference
from kfp_trtllm.core.evaluation.reference import TransformersModel
from kfp_trtllm.errors import BuildFailed, InvalidSpec

PAIRS = [
    ([5, 9, 20], [7]),
    ([5, 9, 20], [8]),
    ([5, 9, 20], [7, 30, 2]),
    ([5, 9, 20, 7, 30], [2]),
    ([40], [41, 42]),
    (list(range(10, 60)), [3, 4]),
    ([5], [9, 20, 7]),
]


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return TransformersModel(tiny_checkpoint, device="cpu", max_batch_size=3)


def naive(model, context, continuation):
    import torch

    with torch.no_grad():
        logits = model._model(torch.tensor([[*context, *continuation]])).logits[0].double().log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(logits[p, t]) for p, t in zip(places, continuation, strict=True))
    return total, all(int(logits[p].argmax()) == t for p, t in zip(places, continuation, strict=True))


def test_loglikelihoods_are_those_of_one_plain_forward_pass_each(model):
    for (total, greedy), pair in zip(model.loglikelihood(PAIRS), PAIRS, strict=True):
        expected, likeliest = naive(model, *pair)
        assert total == pytest.approx(expected, abs=1e-4)
        assert greedy is likeliest


def test_batches_do_not_change_answers(model, monkeypatch):
    together = model.loglikelihood(PAIRS)
    monkeypatch.setattr(reference, "_TOKENS_PER_FORWARD", 1)
    alone = model.loglikelihood(PAIRS[::-1])[::-1]
    assert [total for total, _ in together] == pytest.approx([total for total, _ in alone], abs=1e-4)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]


def test_greedy_is_true_for_what_greedy_says(model):
    prompt = "The capital"
    context = model.encode(prompt)
    said = []
    for _ in range(3):
        best = max(range(model._model.config.vocab_size), key=lambda t: naive(model, [*context, *said], [t])[0])
        said.append(best)
    assert model.loglikelihood([(context, said)])[0][1]


def test_rows_that_begin_other_rows_cost_nothing():
    rows = {(1,), (1, 2), (1, 2, 3), (1, 3), (2,)}
    hosts = reference._hosts(rows)
    assert set(hosts.values()) == {(1, 2, 3), (1, 3), (2,)}
    assert all(host[: len(row)] == row for row, host in hosts.items())


def test_nothing_to_say_has_probability_one_and_an_empty_context_is_the_prefix(model):
    assert model.loglikelihood([([4, 5], [])]) == [(0.0, True)]
    assert model.loglikelihood([([], [7])]) == model.loglikelihood([([model.prefix_token], [7])])


def test_generation_does_not_depend_on_the_batch(model):
    prompts = ["one, two,", "The dogs are barking at the", "7", "The capital of France is"]
    together = model.generate(prompts, Sampling(max_tokens=6))
    alone = [model.generate([prompt], Sampling(max_tokens=6))[0] for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    for prompt, answer in zip(prompts, together, strict=True):
        assert answer.input_tokens == len(model.encode(prompt))
        assert len(answer.token_seconds) == answer.output_tokens <= 6
        assert all(later > earlier for earlier, later in itertools.pairwise(answer.token_seconds))


def test_a_stop_text_ends_an_answer_and_is_left_out(model):
    whole = model.generate(["one, two,"], Sampling(max_tokens=12))[0]
    word = whole.text[2:4]
    short = model.generate(["one, two,"], Sampling(max_tokens=12, stop=(word,)))[0]
    assert short.text == whole.text.split(word)[0]
    assert short.finish_reason == "stop"
    assert short.output_tokens < whole.output_tokens


def test_chat(model):
    assert model.render_chat([{"role": "user", "content": "Hello"}]) == "[user] Hello\n[assistant]"
    model._tokenizer.chat_template, kept = None, model._tokenizer.chat_template
    with pytest.raises(InvalidSpec, match="no chat template"):
        model.render_chat([{"role": "user", "content": "Hello"}])
    model._tokenizer.chat_template = kept


def test_a_folder_without_safetensors_is_refused(tmp_path, tiny_checkpoint):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(BuildFailed, match="can't load the checkpoint"):
        TransformersModel(tmp_path)
