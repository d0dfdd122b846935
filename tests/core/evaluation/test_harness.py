import json
import math

import pytest
from kfp_trtllm.core.backends.base import Generated
from kfp_trtllm.core.evaluation.harness import evaluate
from kfp_trtllm.core.evaluation.reference import TransformersModel
from kfp_trtllm.core.evaluation.results import Evaluation
from kfp_trtllm.core.evaluation.tasks import FOLDER
from kfp_trtllm.errors import BuildFailed, InvalidSpec, StoreError

MULTIPLE_CHOICE = ("kfp_facts", "kfp_grammar", "kfp_sequences")


def right_answers():
    """(prompt, right text) of every item of ours."""
    for path in FOLDER.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            texts = item["choices"][item["answer"] : item["answer"] + 1] if "choices" in item else item["targets"]
            yield item.get("prompt", ""), texts[0]


class Oracle:
    """Knows every right answer; says them, or everything else. Tokens are characters, 0 is the empty context."""

    max_seq_len = 2000
    max_batch_size = 4
    prefix_token = 0

    def __init__(self, *, honest=True, worst=-100.0, chat=True):
        self._honest, self._worst, self._chat = honest, worst, chat
        self._right = {(prompt, text) for prompt, text in right_answers()}
        self.prompts = []

    def encode(self, text):
        return [ord(letter) for letter in text]

    def render_chat(self, turns):
        if not self._chat:
            raise InvalidSpec("no chat template.")
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"

    def loglikelihood(self, pairs):
        answers = []
        for context, continuation in pairs:
            prompt = "".join(map(chr, context)).strip("\0")
            text = "".join(map(chr, continuation)).strip()
            right = ((prompt, text) in self._right) is self._honest
            answers.append((-1.0, True) if right else (self._worst, False))
        return answers

    def generate(self, prompts, sampling):
        assert len(prompts) <= self.max_batch_size
        self.prompts += prompts
        answers = []
        for prompt in prompts:
            question = prompt.rsplit("Question: ")[-1].removesuffix("\nAnswer:")
            question = question.removeprefix("<user>").removesuffix("<assistant>")
            said = next(text for asked, text in self._right if asked == question) if self._honest else "nothing"
            answers.append(Generated(text=f"It is {said}.", finish_reason="stop", input_tokens=1, output_tokens=1))
        return answers

    def close(self):
        pass


def test_who_is_always_right_has_every_item_and_who_is_always_wrong_has_none():
    seen = []
    best = evaluate(Oracle(), tasks=["kfp_core"], on_progress=lambda done, total: seen.append((done, total)))
    worst = evaluate(Oracle(honest=False), tasks=["kfp_core"])
    assert best.score == 1.0
    assert worst.score == 0.0
    assert {task.task: task.score for task in best.tasks} == {task.task: 1.0 for task in worst.tasks}
    assert [(item.task, item.key) for item in best.items] == [(item.task, item.key) for item in worst.items]
    assert seen[-1] == (len(best.items), len(best.items))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    first = best.items[0]
    assert first.target.lower() in first.answer.lower()


def test_chat_turns_are_asked_where_there_is_a_template():
    with_template, without = Oracle(), Oracle(chat=False)
    assert evaluate(with_template, tasks=["kfp_chat"], limit=2).score == 1.0
    assert evaluate(without, tasks=["kfp_chat"], limit=2).score == 1.0
    assert all(prompt.startswith("<user>") for prompt in with_template.prompts)
    assert not any(prompt.startswith("<user>") for prompt in without.prompts)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_an_engine_without_finite_loglikelihoods_has_nothing_right(broken):
    done = evaluate(Oracle(worst=broken), tasks=list(MULTIPLE_CHOICE), limit=10)
    assert done.score == 0.0
    assert done.items[0].answer == "(no finite log-likelihood)"


def test_the_limit_takes_items_from_the_beginning():
    whole = evaluate(Oracle(), tasks=["kfp_facts"])
    part = evaluate(Oracle(), tasks=["kfp_facts"], limit=7)
    assert [item.key for item in part.items] == [item.key for item in whole.items[:7]]
    assert evaluate(Oracle(), tasks=["kfp_facts"], limit=0).items == whole.items


def test_an_evaluation_survives_its_file(tmp_path):
    done = evaluate(Oracle(), tasks=["kfp_sequences"], limit=3)
    done.write(tmp_path / "new" / "evaluation.json")
    assert Evaluation.read(tmp_path / "new" / "evaluation.json") == done
    with pytest.raises(StoreError, match="is not an evaluation"):
        Evaluation.from_json("[]")
    with pytest.raises(StoreError, match="can't read"):
        Evaluation.read(tmp_path / "none.json")


def test_unknown_tasks_are_named_with_the_nearest():
    with pytest.raises(InvalidSpec, match="Did you mean 'kfp_facts'"):
        evaluate(Oracle(), tasks=["kfp_fact"])
    with pytest.raises(InvalidSpec, match="must not be empty"):
        evaluate(Oracle(), tasks=[])


@pytest.mark.slow
def test_unknown_tasks_of_the_harness_are_named_with_the_nearest():
    with pytest.raises(InvalidSpec, match=r"but got 'hellaswagg'. Did you mean 'hellaswag'"):
        evaluate(Oracle(), tasks=["hellaswagg"])


TASK = """
task: mine
output_type: {kind}
custom_dataset: !function data.{data}
test_split: test
doc_to_text: "{text}"
doc_to_target: "{{{{text}}}}"
num_fewshot: 0
"""
DATA = """
from datasets import Dataset

def texts(**_):
    return {"test": Dataset.from_dict({"text": ["The dogs are barking. " * 40, "one, two"]})}

def offline(**_):
    raise ConnectionError("Couldn't reach the hub\\nwith more lines")
"""


def own_task(folder, **values):
    (folder / "data.py").write_text(DATA)
    (folder / "mine.yaml").write_text(TASK.format(**{"text": "", "data": "texts", **values}))
    return str(folder / "mine.yaml")


def test_a_users_file_of_texts_is_scored_by_the_probability_of_a_byte(tmp_path, tiny_checkpoint):
    model = TransformersModel(tiny_checkpoint, device="cpu")
    path = own_task(tmp_path, kind="loglikelihood_rolling")
    model.max_seq_len = 512
    whole = evaluate(model, tasks=[path])
    model.max_seq_len = 20  # now the text is scored in windows
    windows = evaluate(model, tasks=[path])
    assert [task.metric for task in whole.tasks] == ["byte_likelihood"]
    tokens = model.encode("one, two")
    (expected, _), *_ = model.loglikelihood([([model.prefix_token], tokens)])
    assert whole.items[1].score == pytest.approx(math.exp(expected / len("one, two")), rel=1e-4)
    assert windows.items[1].score == pytest.approx(whole.items[1].score, rel=1e-4)
    assert 0 < windows.items[0].score < 1


def test_data_that_cannot_be_had_is_said_in_one_line(tmp_path):
    path = own_task(tmp_path, kind="generate_until", data="offline")
    with pytest.raises(
        BuildFailed, match=r"can't be had \(Couldn't reach the hub\).*kfp_core needs no network"
    ) as seen:
        evaluate(Oracle(), tasks=[path])
    assert "\n" not in str(seen.value)


def test_the_tiny_model_goes_all_the_way(tiny_checkpoint, capfd):
    done = evaluate(TransformersModel(tiny_checkpoint, device="cpu"), tasks=["kfp_core"], limit=4)
    assert len(done.items) == 20
    assert all(item.score in (0.0, 1.0) for item in done.items)
    assert capfd.readouterr().err == ""
