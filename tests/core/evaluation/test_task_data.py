"""Our tasks' items: each task file enters these tests by existing."""

import itertools
import json

import pytest
import yaml
from kfp_trtllm.core.evaluation.tasks import FOLDER, check_own, own_tasks
from kfp_trtllm.core.evaluation.tasks.functions import says
from kfp_trtllm.errors import InvalidSpec

DATA = sorted(FOLDER.glob("*.jsonl"))


def items(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def config(path):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)


def test_each_task_has_its_items_and_the_group_has_all_tasks():
    tasks = {path.stem for path in DATA}
    group = config(FOLDER / "kfp_core.yaml")
    assert set(group["task"]) == tasks
    assert set(own_tasks()) == tasks | {"kfp_core"}
    for name in tasks:
        task = config(FOLDER / f"{name}.yaml")
        assert (task["task"], task["dataset_kwargs"]["data_file"]) == (name, f"{name}.jsonl")


def test_the_readme_counts_the_items():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    counts = {path.stem: len(items(path)) for path in DATA}
    for name, count in {**counts, "kfp_core": sum(counts.values())}.items():
        assert f"| `{name}` | {count} |" in readme


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_items_are_sound(path):
    rows = items(path)
    assert len({json.dumps([row.get("prompt"), sorted(row.get("choices", []))]) for row in rows}) == len(rows)
    for row in rows:
        texts = row.get("choices") or row["targets"]
        assert all(text and text == text.strip() for text in texts), row
        assert len(set(texts)) == len(texts), row
        if "choices" in row:
            assert 0 <= row["answer"] < len(row["choices"]), row
            assert len(row["choices"]) == (4 if "prompt" in row else 2), row


@pytest.mark.parametrize("path", [p for p in DATA if "choices" in items(p)[0]], ids=lambda path: path.stem)
def test_no_place_is_right_too_often(path):
    rows = items(path)
    places = [row["answer"] for row in rows]
    fair = len(rows) / len(rows[0]["choices"])
    assert all(0.6 * fair < places.count(place) < 1.4 * fair for place in range(len(rows[0]["choices"])))


def test_number_sequences_are_right():
    for row in items(FOLDER / "kfp_sequences.jsonl"):
        parts = row["prompt"].rstrip(",").split(", ")
        if not all(part.isdigit() for part in parts):
            continue
        numbers, following = [int(part) for part in parts], int(row["choices"][row["answer"]])
        steps = {b - a for a, b in itertools.pairwise(numbers)}
        expected = numbers[-1] + steps.pop() if len(steps) == 1 else numbers[-1] * numbers[1] // numbers[0]
        assert following == expected, row


def test_an_answer_counts_when_it_says_a_target_as_a_word():
    item = {"targets": ["seven", "7"]}
    assert says(item, ["There are Seven days."]) == {"acc": 1.0}
    assert says(item, ["7"]) == {"acc": 1.0}
    assert says(item, ["seventeen, 27"]) == {"acc": 0.0}


def test_names():
    assert check_own("kfp_core")
    assert not check_own("hellaswag")
    with pytest.raises(InvalidSpec, match=r"kfp_grammar.*but got 'kfp_gramar'.*Did you mean 'kfp_grammar'"):
        check_own("kfp_gramar")
