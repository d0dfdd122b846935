"""Commands of kfp-trtllm that have no test beside what they call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kfp_trtllm.cli import main

LOGS = Path(__file__).parent / "core/doctor/logs"
STANDIN = Path(__file__).parent / "local/standin"


def cli(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)


def test_doctor_tells_what_a_log_says() -> None:
    done = cli("doctor", str(LOGS / "build_oom_gpu.log"))
    assert done.exit_code == 0
    assert done.output.startswith("Diagnosis   build_oom_gpu\n")
    assert max(map(len, done.output.splitlines())) <= 80
    assert "What to do" in done.output


def test_doctor_reads_what_a_pipe_brings_and_knows_a_kill_by_its_status() -> None:
    done = cli("doctor", "--status", "137", "-", stdin="quantizing\n")
    assert done.exit_code == 0
    assert "host_oom" in done.output


def test_doctor_says_so_when_it_knows_nothing() -> None:
    done = cli("doctor", "-", stdin="all went well\n\nbye\n")
    assert done.exit_code == 1
    assert done.output == "nothing known was found; the end of the log:\nall went well\nbye\n"


def test_probe_wants_an_image_that_builds() -> None:
    done = cli("probe")
    assert done.exit_code == 2
    assert "tensorrt_llm is not installed here" in done.output
    done = cli("probe", "--trtllm-version", "1.2.1", "quantise")
    assert done.exit_code == 2
    assert "Did you mean 'quantize'?" in done.output


def test_probe_finds_what_differs_from_the_tables(tmp_path: Path) -> None:
    tool = tmp_path / "trtllm-build"
    tool.write_text((STANDIN / "bin/trtllm-build").read_text())
    tool.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(STANDIN)}
    command = [sys.executable, "-m", "kfp_trtllm.cli", "probe", "--trtllm-version", "1.2.1", "build"]
    same = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (same.returncode, same.stdout) == (0, "same       build\n")

    # Another release renames an argument.
    tool.write_text(
        tool.read_text()
        .replace("build()", "sys.argv[1:] and print(HELP) or build()")
        .replace(
            "from trtllm_tools import build",
            "import sys\nfrom trtllm_tools import build\nHELP = 'usage: trtllm-build\\n\\noptions:\\n  --max_batch INT\\n'",
        )
    )
    other = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert other.returncode == 1
    assert other.stdout.startswith("different  build\n")
    assert "trtllm-build has --max_batch, which the table has not." in other.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["doctor", "--help"], ["probe", "--help"]])
def test_help_fits_a_terminal(arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 100
