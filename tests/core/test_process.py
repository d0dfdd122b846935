from __future__ import annotations

import time
from pathlib import Path

import pytest
from kfp_trtllm.core.process import born, run_tool
from kfp_trtllm.errors import BuildFailed


def test_output_comes_back_whole_and_line_by_line(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "echo one; printf 'two\\rthree'; echo four >&2; printf five"
    output = run_tool(["sh", "-c", script], log=tmp_path / "log", on_line=lines.append)
    assert output == (tmp_path / "log").read_bytes().decode() == "one\ntwo\rthreefour\nfive"
    assert lines == ["one", "two", "threefour", "five"]


def test_a_failure_names_the_command_its_status_and_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as caught:
        run_tool(["sh", "-c", "echo the reason; exit 3"], log=tmp_path / "log")
    assert str(caught.value) == "sh -c 'echo the reason; exit 3' exited with status 3.\nThe end of its log:\nthe reason"
    assert caught.value.diagnosis is None


def test_a_known_failure_comes_with_its_cause(tmp_path: Path) -> None:
    text = "RuntimeError: Unsupported model architecture: FooForCausalLM"
    with pytest.raises(BuildFailed) as caught:
        run_tool(["sh", "-c", f"echo '{text}'; exit 1"], log=tmp_path / "log")
    assert caught.value.diagnosis.kind == "unsupported_model"
    assert caught.value.diagnosis.cause in str(caught.value)


def test_a_tool_that_can_not_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"can't start /nowhere/tool: No such file or directory\."):
        run_tool(["/nowhere/tool"], log=tmp_path / "log")


@pytest.mark.parametrize("status", [0, 3])
def test_children_that_a_tool_leaves_behind_neither_keep_us_waiting_nor_live_on(tmp_path: Path, status: int) -> None:
    script = f"sleep 60 & echo $!; exit {status}"
    began = time.monotonic()
    try:
        output = run_tool(["sh", "-c", script], log=tmp_path / "log")
    except BuildFailed:
        output = (tmp_path / "log").read_text()
    assert time.monotonic() - began < 10
    child = int(output.split()[0])
    until = time.monotonic() + 5
    while born(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not born(child)


def test_an_interrupted_tool_is_ended_with_its_children(tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt  # as a signal's handler does

    with pytest.raises(KeyboardInterrupt):
        run_tool(["sh", "-c", "sleep 60 & echo $!; wait"], log=tmp_path / "log", on_line=stop)
    until = time.monotonic() + 5
    while born(seen[0]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not born(seen[0])
