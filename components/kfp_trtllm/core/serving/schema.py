"""The request that every backend takes, its defaults and its rules."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

MAX_STOPS = 16
MAX_STOP_LENGTH = 256  # characters
DEFAULT_MAX_TOKENS = 16


class RequestError(ValueError):
    """A request breaks a rule; one line that names the field, the rule and the value."""


@dataclass(frozen=True)
class Field:
    """A tensor of the model, as Triton's configuration describes it.

    Attributes:
        name: Name of the tensor, and of the JSON key in /generate.
        datatype: Triton's name of the type, without "TYPE_".
        many: Whether it holds any number of elements rather than one.
        optional: Whether a request may leave it out.
    """

    name: str
    datatype: str
    many: bool = False
    optional: bool = True


INPUTS = (
    Field("text_input", "STRING", optional=False),
    Field("max_tokens", "INT32"),
    Field("temperature", "FP32"),
    Field("top_k", "INT32"),
    Field("top_p", "FP32"),
    Field("seed", "INT64"),
    Field("stop", "STRING", many=True),
    Field("stream", "BOOL"),
    Field("apply_chat_template", "BOOL"),
)

OUTPUTS = (
    Field("text_output", "STRING"),
    Field("finish_reason", "STRING"),
    Field("input_tokens", "INT32"),
    Field("output_tokens", "INT32"),
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, checked as far as that needs no tokenizer.

    Attributes:
        text_input: The prompt, or one user turn with `apply_chat_template`.
        max_tokens: Longest answer in tokens; None for 16, or less where the prompt leaves less room.
        temperature: 0 (the default) always takes the likeliest token; above 0 tokens are drawn.
        top_k: Draw among that many likeliest tokens; 0 for all.
        top_p: Draw among the likeliest tokens that have this probability together; 1 for all.
        seed: Same request, same seed, same answer, whatever else the engine runs; but for near ties on a quantized
            engine, whose last bits depend on the batch.
        stop: Texts that end the answer; they are no part of it.
        stream: One response per piece of text rather than one in all.
        apply_chat_template: Render the prompt as the user's turn, by the model's own chat template.

    Raises:
        RequestError: A value breaks a rule.
    """

    text_input: str
    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    apply_chat_template: bool = False

    def __post_init__(self) -> None:
        if not self.text_input:
            raise RequestError("text_input must not be empty.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, but got {self.max_tokens}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature must be at least 0, but got {self.temperature:g}.")
        if self.top_k < 0:
            raise RequestError(f"top_k must be at least 0 (0 for all tokens), but got {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must be above 0 and at most 1, but got {self.top_p:g}.")
        if self.seed < 0:
            raise RequestError(f"seed must be at least 0, but got {self.seed}.")
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"stop must have at most {MAX_STOPS} texts, but got {len(self.stop)}.")
        for text in self.stop:
            if not 0 < len(text) <= MAX_STOP_LENGTH:
                raise RequestError(f"each stop text must have 1 to {MAX_STOP_LENGTH} characters, but got {len(text)}.")


def room(request: Request, input_tokens: int, max_input_len: int, max_seq_len: int) -> int:
    """The number of tokens that the answer may have.

    Args:
        request: The request.
        input_tokens: Tokens of its prompt.
        max_input_len: The engine's longest prompt.
        max_seq_len: The engine's longest prompt plus answer.

    Raises:
        RequestError: The prompt is empty or too long, or `max_tokens` asks for more than there is room for.
    """
    if input_tokens < 1:
        raise RequestError("text_input must have at least 1 token, but got 0.")
    if input_tokens > max_input_len:
        raise RequestError(f"text_input must have at most {max_input_len} tokens, but got {input_tokens}.")
    left = max_seq_len - input_tokens
    if left < 1:
        raise RequestError(
            f"text_input must leave room for an answer within {max_seq_len} tokens, but got {input_tokens}."
        )
    if request.max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, left)
    if request.max_tokens > left:
        raise RequestError(
            f"max_tokens must be at most {left} behind a prompt of {input_tokens} tokens "
            f"({max_seq_len} in all), but got {request.max_tokens}."
        )
    return request.max_tokens


def check_names(names: Iterable[str]) -> None:
    """RequestError for a name that looks like a misspelled field: Triton passes what it doesn't know as parameters.

    Names that look like no field are left alone, since proxies and clients add parameters of their own.
    """
    known = [field.name for field in INPUTS]
    for name in names:
        if name not in known and (close := difflib.get_close_matches(name, known, n=1, cutoff=0.75)):
            raise RequestError(f"{name!r} is no field of the request. Did you mean {close[0]!r}?")
