import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.doctor.retries import Shrunk, shrink
from kfp_trtllm.errors import InvalidSpec


def steps(batch: int, tokens: int, **floors: int) -> list[tuple[int, int]]:
    """Everything that is tried after limits which did not fit."""
    tried = []
    while (shrunk := shrink(batch, tokens, **floors)) is not None:
        batch, tokens = shrunk.max_batch_size, shrunk.max_num_tokens
        tried.append((batch, tokens))
    return tried


def test_tokens_are_halved_down_to_their_floor_and_then_requests() -> None:
    assert steps(8, 8192, floor_tokens=2048) == [(8, 4096), (8, 2048), (4, 2048), (2, 2048), (1, 2048)]


def test_tokens_stay_at_least_the_requests_at_once() -> None:
    assert steps(256, 1024, floor_tokens=100, floor_batch=64) == [
        (256, 512),
        (256, 256),
        (128, 256),
        (128, 128),
        (64, 128),
        (64, 100),
    ]


def test_a_floor_that_halving_would_pass_is_reached_exactly() -> None:
    assert shrink(8, 5000, floor_tokens=4096) == Shrunk(max_batch_size=8, max_num_tokens=4096)
    assert shrink(8, 4096, floor_tokens=4096, floor_batch=6) == Shrunk(max_batch_size=6, max_num_tokens=4096)


def test_at_the_floors_there_is_nothing_smaller() -> None:
    assert shrink(1, 2048, floor_tokens=2048) is None
    assert shrink(4, 1024, floor_tokens=2048, floor_batch=4) is None


sizes = st.integers(1, 1 << 20)


@given(sizes, sizes, sizes, sizes)
def test_it_ends_shrinks_each_time_and_never_goes_below_a_floor(
    batch: int, tokens: int, floor_tokens: int, floor_batch: int
) -> None:
    before = (batch, tokens)
    tried = steps(batch, tokens, floor_tokens=floor_tokens, floor_batch=floor_batch)
    assert len(tried) <= 2 * (batch.bit_length() + tokens.bit_length())
    for after in tried:
        assert after != before
        assert after[0] <= before[0]
        assert after[1] <= before[1]
        assert after[0] == before[0] or after[0] >= floor_batch
        assert after[1] == before[1] or after[1] >= max(floor_tokens, after[0])
        before = after


@given(sizes, sizes, sizes, sizes)
def test_it_gives_up_only_at_the_floors(batch: int, tokens: int, floor_tokens: int, floor_batch: int) -> None:
    *_, (batch, tokens) = [
        (batch, tokens),
        *steps(batch, tokens, floor_tokens=floor_tokens, floor_batch=floor_batch),
    ]
    assert batch <= floor_batch
    assert tokens <= max(floor_tokens, batch)


@pytest.mark.parametrize("name", ["max_batch_size", "max_num_tokens", "floor_tokens", "floor_batch"])
def test_limits_below_one_are_refused(name: str) -> None:
    limits = {"max_batch_size": 8, "max_num_tokens": 8192, "floor_tokens": 1024, "floor_batch": 1} | {name: 0}
    with pytest.raises(InvalidSpec, match=f"{name} must be at least 1, but got 0"):
        shrink(**limits)
