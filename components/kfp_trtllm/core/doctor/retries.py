"""What to make smaller before a build that ran out of memory is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import rules


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """Smaller limits of an engine.

    Attributes:
        max_batch_size: Requests at once.
        max_num_tokens: Tokens of all requests that one step computes.
    """

    max_batch_size: int
    max_num_tokens: int


def shrink(max_batch_size: int, max_num_tokens: int, *, floor_tokens: int, floor_batch: int = 1) -> Shrunk | None:
    """The next smaller limits to build with, or None when there are none.

    What a build allocates grows with the tokens of a step, so these are halved first: it costs speed on long prompts,
    but no client notices. Requests at once come next. Tokens never fall below the requests at once, for each of them
    has one token in a step.

    Args:
        max_batch_size: Requests at once in the build that failed.
        max_num_tokens: Tokens of a step in the build that failed.
        floor_tokens: The least tokens of a step: give the longest prompt that is promised (max_input_len), for
            without chunked context a prompt is computed in one step, and a longer one would be refused. With chunked
            context one block of the KV cache (tokens_per_block) will do.
        floor_batch: The least requests at once that are of use.

    Returns:
        Limits of which one is smaller than before and none is larger. None at the floors: what is left is a larger
        tp_size or GPU, and the caller says which.
    """
    rules.at_least("max_batch_size", max_batch_size, 1)
    rules.at_least("max_num_tokens", max_num_tokens, 1)
    rules.at_least("floor_batch", floor_batch, 1)
    rules.at_least("floor_tokens", floor_tokens, 1)
    tokens = max(max_num_tokens // 2, floor_tokens, max_batch_size)
    if tokens < max_num_tokens:
        return Shrunk(max_batch_size=max_batch_size, max_num_tokens=tokens)
    batch = max(max_batch_size // 2, floor_batch)
    if batch < max_batch_size:
        return Shrunk(max_batch_size=batch, max_num_tokens=max_num_tokens)
    return None
