import json

import pytest
from kfp_trtllm.core.evaluation.compare import compare
from kfp_trtllm.core.evaluation.results import Evaluation, Item, TaskResult, mean
from kfp_trtllm.errors import InvalidSpec


def evaluation(metric="acc", **tasks):
    """An evaluation of tasks given as lists of scores."""
    items = tuple(
        Item(task=task, key=f"{i}:x", score=float(score), prompt=f"{task} {i}", answer=str(score), target="1")
        for task, scores in sorted(tasks.items())
        for i, score in enumerate(scores)
    )
    results = tuple(
        TaskResult(task=task, metric=metric, n=len(scores), score=mean(map(float, scores)))
        for task, scores in sorted(tasks.items())
    )
    return Evaluation(tasks=results, items=items)


def test_the_same_answers_pass_when_there_are_enough():
    many, few = evaluation(a=[1, 0] * 200), evaluation(a=[1, 0] * 5)
    assert compare(many, many, margin=0.05).verdict == "passed"
    done = compare(few, few, margin=0.05)
    assert done.verdict == "failed"
    assert "Use more items or a larger margin." in done.reason
    assert "not shown to be worse" in done.reason


def test_what_was_lost_is_said():
    reference = evaluation(a=[1] * 200)
    done = compare(reference, evaluation(a=[0] * 60 + [1] * 140), margin=0.05)
    assert done.verdict == "failed"
    assert "above the tolerated 5.0%" in done.reason
    close = compare(reference, evaluation(a=[0] * 10 + [1] * 190), margin=0.05)
    assert close.verdict == "failed"
    assert "shown to be worse (at 95% confidence by" in close.reason


def test_the_verdict_is_on_all_items_with_equal_weight():
    reference = evaluation(big=[1] * 400, small=[1] * 10)
    candidate = evaluation(big=[1] * 400, small=[0] * 4 + [1] * 6)
    done = compare(reference, candidate, margin=0.05)
    assert done.verdict == "passed"
    assert done.overall.comparison.difference == pytest.approx(-4 / 410)
    assert [task.comparison.passed for task in done.tasks] == [True, False]


def test_pairs_are_found_by_key_not_by_place():
    reference = evaluation(a=[1, 0, 1])
    shuffled = Evaluation(tasks=reference.tasks, items=reference.items[::-1])
    assert all(r.key == c.key for r, c in compare(reference, shuffled).pairs)


def test_the_report_is_json_with_examples_of_every_task():
    reference = evaluation(a=[1] * 30, b=[1] * 30)
    candidate = evaluation(a=[0] * 29 + [1], b=[0] * 2 + [1] * 28)
    report = compare(reference, candidate).report(model="m", candidate="int4")
    assert json.loads(json.dumps(report)) == report
    assert (report["model"], report["reference"], report["candidate"]) == ("m", "checkpoint", "int4")
    assert [row["task"] for row in report["tasks"]] == ["a", "b"]
    assert report["overall"]["n"] == 60
    assert len(report["examples"]) == 20
    assert [example["task"] for example in report["examples"][:4]] == ["a", "b", "a", "b"]
    assert report["examples"][0]["reference_ok"] and not report["examples"][0]["candidate_ok"]


def test_different_items_are_refused():
    with pytest.raises(
        InvalidSpec, match=r"the same items, but of 3 and 2 items 1 are only in the reference's.*2:x of a"
    ):
        compare(evaluation(a=[1, 1, 1]), evaluation(a=[1, 1]))
    with pytest.raises(InvalidSpec, match="at least 1"):
        compare(evaluation(), evaluation())
    with pytest.raises(InvalidSpec, match="the same metric for a"):
        compare(evaluation(a=[1]), evaluation(metric="acc_norm", a=[1]))
