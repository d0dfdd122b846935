import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.doctor.signs import find, has, plain


def lines(log: str, sign: str) -> list[str]:
    return [line.text for line in find(plain(log), sign)]


@pytest.mark.parametrize(
    ("line", "sign", "found"),
    [
        ("Error: no GPU", "no GPU", True),
        ("Error: no gpu", "no GPU", False),
        ("MPI size 1 != TP size 2 * PP size 1", "MPI size … != TP size … * PP size", True),
        ("TP size 2 * PP size 1, MPI size 1", "MPI size … != TP size", False),
        ("backend '${triton_backend}'", "backend '${", True),
        ("Killed", "^Killed$", True),
        ("  Killed ", "^Killed$", True),
        ("Killed by hand", "^Killed$", False),
        ("3 tests were Killed", "^Killed$", False),
        ("aXa", "a…a", True),
        ("aba", "ab…ba", False),  # pieces don't overlap
    ],
)
def test_a_line_has_a_sign_when_all_its_pieces_are_there_in_order(line: str, sign: str, found: bool) -> None:
    assert has(line, sign) is found
    assert lines(line, sign) == ([line] if found else [])


def test_a_sign_does_not_reach_over_lines() -> None:
    assert lines("CUDA runtime error in f()\n: out of memory", "CUDA runtime error in …: out of memory") == []


def test_lines_of_progress_bars_and_colors_are_read_as_a_person_sees_them() -> None:
    log = "10%\r20%\r\x1b[31mCUDA \x1b[0mout of memory\r\n30%"
    assert lines(log, "CUDA out") == []  # the color stands inside the message's rarest piece
    assert lines(log, "out of memory") == ["CUDA out of memory"]


def test_the_column_says_where_the_message_begins() -> None:
    (line,) = find("one\ntwo three\n", "three")
    assert (line.begin, line.end, line.text[line.column :]) == (4, 13, "three")


def test_of_a_line_without_end_a_part_is_looked_at() -> None:
    log = "x" * 100_000 + "no GPU" + "y" * 100_000
    (line,) = find(log, "no GPU")
    assert len(line.text) < 10_000
    assert line.text[line.column :].startswith("no GPU")


@given(st.lists(st.sampled_from(["no GPU", "no GPU here", "a GPU", "", "no …"])))
def test_every_line_is_found_once_and_in_order(log: list[str]) -> None:
    assert lines("\n".join(log), "no GPU") == [line for line in log if "no GPU" in line]
