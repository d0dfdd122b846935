"""lm-evaluation-harness as the engine that asks and scores; the tasks are ours, its own, or a user's files."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_trtllm.core.backends.base import TextModel
from kfp_trtllm.core.evaluation.results import Evaluation, Item, TaskResult, mean
from kfp_trtllm.core.evaluation.tasks import FOLDER, check_own, own_tasks
from kfp_trtllm.errors import BuildFailed, InvalidSpec, KfpTrtllmError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

# The first of these that a task has is its items' score. Tasks whose choices differ in length define acc_norm.
_METRICS = ("acc_norm", "acc", "exact_match")
_ROLLING = "byte_likelihood"
_SHOWN = 2000  # characters of a prompt, a target or an answer that are kept


def evaluate(
    model: TextModel,
    *,
    tasks: Sequence[str],
    limit: int | None = None,
    seed: int = 0,
    num_fewshot: int | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> Evaluation:
    """Asks a model the items of tasks, and scores its answers.

    Items get scores between 0 and 1, so that tasks can be pooled: acc_norm, acc or exact_match, else the first metric of
    the task for which more is better. Perplexity tasks score exp(log-likelihood / bytes), the geometric mean of the
    probabilities of a text's bytes. A model that gives no finite log-likelihood for an item has 0 for it.

    Args:
        model: What to ask.
        tasks: Names of tasks, groups or tags of ours or the harness's, or paths of YAML files. Only ours are sure to
            work without a network.
        limit: Items per task at most, from the beginning; None or 0 takes all.
        seed: Of the tasks' own sampling (examples, shuffled choices). The same seed asks the same questions.
        num_fewshot: Examples before each item; None leaves it to each task, and tasks that fix it at 0 keep 0.
        on_progress: Called with (items done, items in all).

    Raises:
        InvalidSpec: A task does not exist, needs code or images to run, or has no score for single items.
        BuildFailed: A task's data can't be had, or the model can't take the items.
    """
    began = time.monotonic()
    with _quiet():
        import numpy

        random.seed(seed)  # tasks that shuffle their choices do it with the global generator
        numpy.random.seed(seed)
        loaded = _load(tasks)
        for task in loaded.values():
            _configure(task, seed, num_fewshot)
        total = sum(min(limit or math.inf, len(task.eval_docs)) for task in loaded.values())
        bar = _Bar(total, on_progress)
        samples, metrics = _run(model, loaded, limit, bar.advance)
    scored = {name: _scored(loaded[name], samples[name]) for name in sorted(loaded)}
    return Evaluation(
        tasks=tuple(
            TaskResult(
                task=name,
                metric=metric,
                n=len(items),
                score=mean(item.score for item in items),
                metrics=metrics[name],
            )
            for name, (metric, items) in scored.items()
        ),
        items=tuple(item for _, items in scored.values() for item in items),
        limit=limit or None,
        seed=seed,
        seconds=time.monotonic() - began,
    )


def _load(names: Sequence[str]) -> dict[str, Task]:
    """The tasks behind names, groups opened."""
    if not names:
        raise InvalidSpec("tasks must not be empty.")
    files = {name for name in names if name.endswith((".yaml", ".yml")) and Path(name).is_file()}
    others = [name for name in names if name not in files and not check_own(name)]
    groups = [name for name in files if _is_group(name)]
    from lm_eval.tasks import TaskManager

    # The harness has 15,000 task files, and reads every one of them to know its names: seconds that only those pay
    # who ask for one.
    manager = TaskManager(include_path=str(FOLDER), include_defaults=bool(others or groups))
    loaded: dict[str, Task] = {}
    for name in names:
        if name not in files and name not in manager.all_tasks:
            raise InvalidSpec(_unknown(name, manager))
        loaded.update(_load_one(manager, name))
    for name, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InvalidSpec(f"the task {name} runs code that the model wrote, which is not supported.")
        if getattr(task, "MULTIMODAL", False):
            raise InvalidSpec(f"the task {name} shows images or plays sounds, which is not supported.")
    return loaded


def _is_group(path: str) -> bool:
    """Whether a task file only gathers other tasks, which may be the harness's."""
    return any(line.startswith("group:") for line in Path(path).read_text(encoding="utf-8").splitlines())


def _load_one(manager: TaskManager, name: str) -> dict[str, Task]:
    try:
        tasks: dict[str, Task] = manager.load([name])["tasks"]
        return tasks
    except (OSError, EOFError) as error:  # datasets and the hub's client say ConnectionError, FileNotFoundError, …
        raise BuildFailed(
            f"the data of the task {name} can't be had ({_first_line(error)}): most tasks download theirs from the "
            f"Hugging Face hub; kfp_core needs no network."
        ) from error
    except Exception as error:  # a task file is code: whatever it does wrong, its author mends
        raise InvalidSpec(f"the task {name} can't be loaded: {type(error).__name__}: {_first_line(error)}") from error


def _unknown(name: str, manager: TaskManager) -> str:
    """Words for a task that does not exist. Ours are listed; the harness's are too many."""
    import difflib

    near = difflib.get_close_matches(name, [*own_tasks(), *manager.all_tasks], n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"a task must be one of ours ({', '.join(own_tasks())}), one of lm-evaluation-harness, or a YAML file, "
        f"but got {name!r}.{hint}"
    )


def _configure(task: Task, seed: int, num_fewshot: int | None) -> None:
    own = task.get_config("num_fewshot")
    if own != 0 and num_fewshot is not None:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _run(
    model: TextModel, tasks: Mapping[str, Task], limit: int | None, on_done: Callable[[float], None]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, float]]]:
    """The harness's samples and metrics by task, in two runs: tasks that want chat turns, and the others."""
    from lm_eval.evaluator import evaluate as run

    from kfp_trtllm.core.evaluation.adapter import HarnessModel

    chats = {name for name, task in tasks.items() if (task.get_config("metadata") or {}).get("chat")}
    if chats and not _has_chat(model):
        chats = set()
    samples: dict[str, list[dict[str, Any]]] = {}
    metrics: dict[str, dict[str, float]] = {}
    for chat in (False, True):
        chosen = {name: task for name, task in tasks.items() if (name in chats) is chat}
        if not chosen:
            continue
        done = run(
            lm=HarnessModel(model, on_done),
            task_dict={"tasks": chosen},
            limit=limit or None,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
        assert done is not None
        for name in chosen:
            samples[name] = done["samples"][name]
            metrics[name] = {
                key.removesuffix(",none"): float(value)
                for key, value in done["results"][name].items()
                if isinstance(value, int | float) and "stderr" not in key and math.isfinite(value) and "," in key
            }
    return samples, metrics


def _has_chat(model: TextModel) -> bool:
    try:
        return bool(model.render_chat([{"role": "user", "content": "Hello"}]))
    except KfpTrtllmError:
        return False


def _scored(task: Task, samples: Sequence[Mapping[str, Any]]) -> tuple[str, list[Item]]:
    """The metric's name and the items. Where a task filters answers in several ways, its first way counts."""
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    metric = _ROLLING if task.OUTPUT_TYPE == "loglikelihood_rolling" else _metric(task, samples[0])
    items = []
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        prompt, answer, target = _shown(task, sample, metric)
        items.append(
            Item(
                task=task.task_name,
                key=f"{sample['doc_id']}:{sample['doc_hash'][:16]}",
                score=_score(task, sample, metric),
                prompt=prompt[-_SHOWN:],
                answer=answer[:_SHOWN],
                target=target[:_SHOWN],
            )
        )
    return metric, items


def _metric(task: Task, sample: Mapping[str, Any]) -> str:
    better = task.higher_is_better()
    mine = [str(name) for name in sample["metrics"] if better.get(name) and isinstance(sample[name], int | float)]
    if mine:
        return next((name for name in _METRICS if name in mine), mine[0])
    raise InvalidSpec(
        f"the task {task.task_name} gives no score to single items (it has {', '.join(sample['metrics'])}), "
        "so two models' answers can't be paired."
    )


def _score(task: Task, sample: Mapping[str, Any], metric: str) -> float:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        likelihood = sample["filtered_resps"][0]
        size = max(1, len(str(sample["arguments"][0][0]).encode()))
        return math.exp(min(0.0, likelihood) / size) if math.isfinite(likelihood) else 0.0
    if task.OUTPUT_TYPE in ("loglikelihood", "multiple_choice"):
        # A broken engine says NaN; the harness would take it for the likeliest, and by chance for right.
        if not all(math.isfinite(likelihood) for likelihood, _ in sample["filtered_resps"]):
            return 0.0
    score = float(sample[metric])
    if not 0 <= score <= 1:
        raise InvalidSpec(
            f"items must have scores from 0 to 1, but the task {task.task_name} gave {score:g} for {metric}."
        )
    return score


def _shown(task: Task, sample: Mapping[str, Any], metric: str) -> tuple[str, str, str]:
    """Prompt, answer and target as a person wants to see them."""
    arguments, responses, target = sample["arguments"], sample["filtered_resps"], sample["target"]
    prompt = str(arguments[0][0])
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", "", prompt
    if task.OUTPUT_TYPE == "loglikelihood":
        wanted = str(arguments[0][1]).strip()
        return prompt, wanted if responses[0][1] else "(something else)", wanted
    if task.OUTPUT_TYPE == "multiple_choice":
        return _choice(task, sample, metric)
    return prompt, str(responses[0]).strip(), ", ".join(map(str, target)) if isinstance(target, list) else str(target)


def _choice(task: Task, sample: Mapping[str, Any], metric: str) -> tuple[str, str, str]:
    arguments, responses, target = sample["arguments"], sample["filtered_resps"], sample["target"]
    choices = [str(continuation).strip() for _, continuation in arguments]
    prompt = str(arguments[0][0])
    if len(set(choices)) == 1 and len(choices) > 1:  # some tasks vary what comes before one and the same ending
        choices, prompt, target = [str(context) for context, _ in arguments], "", task.doc_to_text(sample["doc"])
    likelihoods = [likelihood for likelihood, _ in responses]
    if metric == "acc_norm":
        likelihoods = [x / max(1, len(choice)) for x, choice in zip(likelihoods, choices, strict=False)]
    if not all(math.isfinite(likelihood) for likelihood in likelihoods):
        return prompt, "(no finite log-likelihood)", _target(target, choices)
    return prompt, choices[likelihoods.index(max(likelihoods))], _target(target, choices)


def _target(target: Any, choices: Sequence[str]) -> str:
    targets = target if isinstance(target, list) else [target]
    return ", ".join(choices[t] if isinstance(t, int) and 0 <= t < len(choices) else str(t) for t in targets)


class _Bar:
    """Adds up items done, to whole ones."""

    def __init__(self, total: float, on_progress: Callable[[float, float], None] | None) -> None:
        self._total, self._done, self._on_progress = total, 0.0, on_progress

    def advance(self, items: float) -> None:
        self._done += items
        if self._on_progress:
            self._on_progress(min(self._total, round(self._done)), self._total)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the harness's and datasets' bars and log lines from a step's log; what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub", "fsspec", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # tqdm takes no switch here: it writes to whatever standard error is when a bar begins.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
