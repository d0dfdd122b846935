"""Our `TextModel` as lm-evaluation-harness's `LM`.

Imports the harness, which takes a second: import this module inside functions only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kfp_trtllm.core.backends.base import Sampling, TextModel
from kfp_trtllm.errors import BuildFailed

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_PAIRS_AT_ONCE = 128  # enough for a model to make good batches of, few enough for a bar that moves

Tokens = list[int]


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Answers the harness's requests with a `TextModel`.

    Splitting a text into context and continuation is the harness's own code, so scores agree with those that its
    other models get. Requests go to the model sorted by length, choices of one question side by side.
    """

    def __init__(self, model: TextModel, on_done: Callable[[float], None]) -> None:
        """Wraps a model.

        Args:
            model: Answers.
            on_done: Called with a number of items, or a fraction, each time that much was answered.
        """
        super().__init__()
        self._model, self._on_done = model, on_done
        self._shares: dict[int, float] = {}

    @property
    def eot_token_id(self) -> int:
        """Stands for an empty context."""
        return self._model.prefix_token

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's request cache, which is not used."""
        return type(self._model).__name__

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Tokens:
        """Tokens of a text, never with special tokens added, as the harness wants by default."""
        return self._model.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt for chat turns; where the last turn is the beginning of an answer, it ends with it."""
        if add_generation_prompt:
            return self._model.render_chat(chat_history)
        return self._model.render_chat(chat_history[:-1]) + chat_history[-1]["content"]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """See `LM`."""
        self._share(requests)
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], Tokens, Tokens]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """See `LM`: windows as long as the model takes, each token predicted once."""
        windows: list[tuple[Tokens, Tokens]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            tokens = self._model.encode(request.args[0])
            # A window of n inputs predicts n tokens: with the last of them it is one longer than its inputs.
            rolling = get_rolling_token_windows(tokens, self._model.prefix_token, self._model.max_seq_len - 1, 1)
            for pair in rolling:
                windows.append(make_disjoint_window(pair))
                owners.append(owner)
        parts = Counter(owners)
        self._shares = {index: 1 / parts[owner] for index, owner in enumerate(owners)}
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._score(windows), strict=True):
            totals[owner] += score
        return totals

    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, bool]]:
        fitted = [self._fit(context, continuation) for context, continuation in pairs]
        order = sorted(range(len(fitted)), key=lambda i: (sum(map(len, fitted[i])), fitted[i]))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(fitted)
        for start in range(0, len(order), _PAIRS_AT_ONCE):
            chunk = order[start : start + _PAIRS_AT_ONCE]
            scored = self._model.loglikelihood([fitted[index] for index in chunk])
            for index, answer in zip(chunk, scored, strict=True):
                answers[index] = answer
            self._on_done(sum(self._shares.get(index, 0.0) for index in chunk))
        return answers

    def _fit(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens]:
        """Drops the context's beginning where both are longer than the model takes."""
        room = self._model.max_seq_len - len(continuation)
        if room < 1:
            raise BuildFailed(
                f"the model takes {self._model.max_seq_len} tokens, but a task has an answer of {len(continuation)}."
            )
        return context[-room:], continuation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """See `LM`; requests with the same settings run together, up to the model's batch size."""
        self._share(requests)
        groups: dict[Sampling, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_sampling(request.args[1]), []).append(index)
        answers = [""] * len(requests)
        for sampling, members in groups.items():
            members.sort(key=lambda index: len(requests[index].args[0]))
            size = max(1, self._model.max_batch_size)
            for start in range(0, len(members), size):
                chunk = members[start : start + size]
                prompts = [self._shorten(requests[index].args[0], sampling.max_tokens) for index in chunk]
                for index, answer in zip(chunk, self._model.generate(prompts, sampling), strict=True):
                    answers[index] = _before(answer.text, sampling.stop)
                self._on_done(sum(self._shares[index] for index in chunk))
        return answers

    def _shorten(self, prompt: str, answer: int) -> str:
        """Drops the prompt's beginning until it and its answer fit into the model."""
        room = self._model.max_seq_len - answer
        if room < 1:
            raise BuildFailed(
                f"the model takes {self._model.max_seq_len} tokens, but a task wants answers of {answer}."
            )
        while (length := len(self._model.encode(prompt))) > room:
            prompt = prompt[max(1, len(prompt) * (length - room) // length) :]
        return prompt

    def _share(self, requests: Sequence[Instance]) -> None:
        """An item may have several requests (its choices): each is an equal part of it."""
        parts = Counter((request.task_name, request.doc_id) for request in requests)
        self._shares = {i: 1 / parts[(request.task_name, request.doc_id)] for i, request in enumerate(requests)}


def _sampling(asked: Mapping[str, Any]) -> Sampling:
    """Sampling as a task's generation_kwargs ask for it, which come in transformers' words."""
    until = asked.get("until") or ()
    sampled = bool(asked.get("do_sample", False))
    return Sampling(
        max_tokens=int(asked.get("max_gen_toks") or asked.get("max_new_tokens") or 256),
        temperature=float(asked.get("temperature", 1.0)) if sampled else 0.0,
        top_k=int(asked.get("top_k", 0)) if sampled else 0,
        top_p=float(asked.get("top_p", 1.0)) if sampled else 1.0,
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


def _before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop text; backends differ in whether they leave it in."""
    for word in stop:
        text = text.split(word)[0] if word else text
    return text
