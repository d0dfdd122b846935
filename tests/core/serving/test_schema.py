from __future__ import annotations

import pytest
from kfp_trtllm.core.serving.schema import INPUTS, Request, RequestError, check_names, room


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_input": ""}, "text_input must not be empty."),
        ({"max_tokens": 0}, "max_tokens must be at least 1, but got 0."),
        ({"temperature": -0.5}, "temperature must be at least 0, but got -0.5."),
        ({"temperature": float("nan")}, "temperature must be at least 0, but got nan."),
        ({"top_k": -1}, "top_k must be at least 0 (0 for all tokens), but got -1."),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, but got 0."),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, but got 1.5."),
        ({"seed": -1}, "seed must be at least 0, but got -1."),
        ({"stop": ("a",) * 17}, "stop must have at most 16 texts, but got 17."),
        ({"stop": ("",)}, "each stop text must have 1 to 256 characters, but got 0."),
    ],
)
def test_a_value_that_breaks_a_rule_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{"text_input": "x", **fields})  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("max_tokens", "input_tokens", "expected"),
    [
        (None, 10, 16),
        (None, 60, 4),
        (5, 10, 5),
        (54, 10, 54),
        (55, 10, "max_tokens must be at most 54 behind a prompt of 10 tokens (64 in all), but got 55."),
        (1, 0, "text_input must have at least 1 token, but got 0."),
        (1, 63, "text_input must have at most 62 tokens, but got 63."),
    ],
)
def test_the_answer_gets_the_room_behind_the_prompt(
    max_tokens: int | None, input_tokens: int, expected: int | str
) -> None:
    request = Request(text_input="x", max_tokens=max_tokens)
    if isinstance(expected, int):
        assert room(request, input_tokens, 62, 64) == expected
    else:
        with pytest.raises(RequestError) as caught:
            room(request, input_tokens, 62, 64)
        assert str(caught.value) == expected


def test_a_misspelled_field_is_refused_and_a_foreign_parameter_is_not() -> None:
    check_names([field.name for field in INPUTS])
    check_names(["traceparent", "id", "triton_enable_empty_final_response"])
    with pytest.raises(RequestError, match=r"'max_token' is no field of the request. Did you mean 'max_tokens'\?"):
        check_names(["max_token"])
