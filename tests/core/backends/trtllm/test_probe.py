from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.trtllm import commands, families
from kfp_trtllm.core.backends.trtllm.commands.argument import Argument
from kfp_trtllm.core.backends.trtllm.probe import Report, Shown, compare, parse_help, probe, run_help
from kfp_trtllm.errors import InvalidSpec

VERSION = "1.2.1"
LONG = "Tells at some length what it is for, so that lines are wrapped; not to be taken for --other, as some would."


def argparse_program(rows: Iterable[Argument], extra: str = "") -> str:
    """A program with the rows' arguments, written as NVIDIA writes them: plugins have choices, flags store_true."""
    lines = ["import argparse", "from enum import Enum", f"help = {LONG!r}"]
    lines.append('Kind = Enum("Kind", {n: n for n in ("jax", "keras", "torch", "hf")}, type=str)')
    lines.append("parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)")
    for row in rows:
        if row.kind == "fixed":
            continue
        options: dict[str, Any] = {"default": row.default}
        if row.kind == "flag":
            options |= {"action": "store_true"}
        elif row.kind == "switch":
            options |= {"default": "enable" if row.default else "disable", "choices": ["enable", "disable"]}
        elif row.kind in ("int", "float"):
            options |= {"type": "@" + row.kind}
            options |= {"choices": list(row.choices)} if len(row.choices) > 1 else {}
        elif row.kind == "texts":
            options |= {"nargs": "+"}
        elif row.name == "ckpt_type":
            options |= {"type": "@Kind", "choices": "@list(Kind)", "default": "@argparse.SUPPRESS"}
        elif row.name == "weight_only_precision":
            options |= {"nargs": "?", "const": row.default, "choices": list(row.choices)}
        elif row.name == "kv_cache_dtype":
            options |= {"choices": [*row.choices, None]}
        elif row.choices:
            options |= {"choices": list(row.choices)}
        words = ", ".join(f"{k}={v[1:] if isinstance(v, str) and v[0] == '@' else repr(v)}" for k, v in options.items())
        lines.append(f"parser.add_argument({', '.join(map(repr, row.spellings))}, {words}, help=help)")
    return "\n".join([*lines, extra, "parser.parse_args()"])


def click_options(rows: Iterable[Argument], decorator: str = "click.option", **changes: Any) -> list[str]:
    lines = []
    for row in rows:
        if row.kind == "positional":
            lines.append(f"@click.argument({row.name!r})")
            continue
        options: dict[str, Any] = {"default": row.default, "help": "@help"}
        if row.kind == "flag":
            options |= {"is_flag": True}
        elif row.kind == "repeated":
            options |= {"multiple": True}
        elif row.kind in ("int", "float", "bool"):
            options |= {"type": "@" + row.kind}
        elif row.choices:
            options |= {"type": f"@click.Choice({list(row.choices)!r})"}
        if row.required:
            options |= {"required": True}
            del options["default"]
        words = ", ".join(f"{k}={v[1:] if isinstance(v, str) and v[0] == '@' else repr(v)}" for k, v in options.items())
        lines.append(f"@{decorator}({', '.join(map(repr, row.spellings))}, {words})")
    return lines


def known(tool: str, family: str | None = None, *, group: bool = False) -> list[Argument]:
    size = len(commands.TOOLS[tool].group)
    rows = commands.rows(tool, family)
    return [row for row in (rows[:size] if group else rows[size:]) if row.known(VERSION)]


def serve_program(rows: Iterable[Argument], extra: str = "") -> str:
    """Like trtllm-serve: `serve` is what it takes a word for that is no subcommand."""
    return "\n".join(
        [
            "import click",
            f"help = {LONG!r}",
            '@click.command("serve")',
            *click_options(rows),
            extra,
            "def serve(**options): pass",
            '@click.command("disaggregated")',
            "def disaggregated(): pass",
            'click.Group(commands={"serve": serve, "disaggregated": disaggregated})()',
        ]
    )


def bench_program(extra: str = "") -> str:
    """Like trtllm-bench: its defaults are shown, its options in groups, and its group makes a workspace."""
    lines = [
        "import click, pathlib",
        "from click_option_group import optgroup",
        f"help = {LONG!r}",
        '@click.group(context_settings={"show_default": True})',
        *click_options(known("bench build", group=True)),
        "def main(workspace, **options): (pathlib.Path(workspace) / 'made').touch()",
    ]
    for command in ("build", "latency", "throughput"):
        lines += [
            f"@main.command({command!r})",
            '@optgroup.group("Engine run configuration.", help="Runtime settings.")',
            *click_options(known(f"bench {command}"), "optgroup.option"),
            extra,
            f"def {command}(**options): pass",
        ]
    return "\n".join([*lines, "main()"])


def eval_program() -> str:
    return "\n".join(
        [
            "import click",
            f"help = {LONG!r}",
            "@click.group()",
            *click_options(known("eval mmlu", group=True)),
            "def main(**options): raise SystemExit('the model is loaded')",
            "@main.command()",
            "def mmlu(): pass",
            "main()",
        ]
    )


class Machine:
    """A folder on PATH and a folder of examples, with stand-ins made from the tables."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.examples = folder / "examples"
        self.bin.mkdir()
        (self.bin / "python3").symlink_to(sys.executable)

    def tool(self, name: str, program: str) -> None:
        (self.bin / name).write_text(f"#!{sys.executable}\n{program}\n")
        (self.bin / name).chmod(0o755)

    def script(self, path: str, program: str) -> None:
        (self.examples / path).parent.mkdir(parents=True, exist_ok=True)
        (self.examples / path).write_text(program)

    def probe(self, *tools: str, version: str = VERSION) -> list[Report]:
        return probe(tools or None, version=version, examples=str(self.examples))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(found.bin))
    return found


def test_tools_that_are_what_the_tables_say_are_the_same(machine: Machine) -> None:
    machine.tool("trtllm-build", argparse_program(known("build")))
    machine.tool("trtllm-serve", serve_program(known("serve")))
    machine.tool("trtllm-bench", bench_program())
    machine.tool("trtllm-eval", eval_program())
    machine.script("quantization/quantize.py", argparse_program(known("quantize")))
    for family in families.FAMILIES:
        machine.script(families.convert_script(family, VERSION), argparse_program(known("convert_checkpoint", family)))
    reports = machine.probe()
    assert {report.tool: report.state for report in reports} == {
        "trtllm-bench": "same",
        "bench build": "same",
        "bench latency": "same",
        "bench throughput": "same",
        "build": "same",
        **{f"convert_checkpoint {family}": "same" for family in ("gemma", "gpt", "llama", "phi", "qwen")},
        "trtllm-eval": "same",
        **{f"eval {task}": "skipped" for task in commands.EVAL_TASKS},
        "quantize": "same",
        "serve": "same",
    }
    assert {report.differences for report in reports if report.state == "same"} == {()}


def changed(rows: list[Argument], **changes: dict[str, Any] | None) -> list[Argument]:
    """Rows with fields replaced by name; None drops one."""
    return [replace(row, **(changes.get(row.name) or {})) for row in rows if changes.get(row.name, {}) is not None]


def test_every_difference_of_an_argparse_tool_is_told(machine: Machine) -> None:
    rows = changed(
        known("build"),
        dry_run=None,
        max_batch_size={"default": 4096},
        use_fused_mlp={"default": False},
        gemm_plugin={"choices": ("auto", "float16", "float32", "bfloat16", "int32", "fp8", "mxfp8", "disable")},
        max_seq_len={"flag": "--max_decoder_seq_len", "aliases": ()},
    )
    extra = "parser.add_argument('--tp_size', type=int); parser.add_argument('--auto_parallel', '-ap', type=int)"
    machine.tool("trtllm-build", argparse_program(rows, extra))
    (report,) = machine.probe("build")
    assert (report.tool, report.state) == ("build", "different")
    assert report.differences == (
        "--max_batch_size of trtllm-build is 4096 by default, not 2048.",
        "trtllm-build spells --max_seq_len --max_decoder_seq_len.",
        "trtllm-build has no --dry_run, which the table has.",
        "--gemm_plugin of trtllm-build also takes mxfp8.",
        "--gemm_plugin of trtllm-build does not take nvfp4.",
        "--use_fused_mlp of trtllm-build is disable by default, not enable.",
        "trtllm-build has --tp_size, which the table has only before 0.12.",
        "trtllm-build has --auto_parallel, -ap, which the table has not.",
    )


def test_every_difference_of_a_click_tool_is_told(machine: Machine) -> None:
    rows = changed(
        known("serve"),
        revision=None,
        backend={"choices": ("pytorch", "_autodeploy")},
        tp_size={"flag": "--tensor_parallel_size", "aliases": ()},
    )
    extra = (
        "@click.option('--port_range', type=int)\n@click.option('--telemetry/--no-telemetry', default=True)\n"
        "@click.option('--max_queue', type=int, default=9, show_default=True)"
    )
    machine.tool("trtllm-serve", serve_program(rows, extra))
    (report,) = machine.probe("serve")
    assert report.differences == (
        "--backend of trtllm-serve does not take tensorrt.",
        "trtllm-serve spells --tp_size --tensor_parallel_size.",
        "trtllm-serve has no --revision, which the table has.",
        "trtllm-serve has --port_range, which the table has not.",
        "trtllm-serve has --telemetry, --no-telemetry, which the table has not.",
        "trtllm-serve has --max_queue, which the table has not.",
    )


def test_defaults_that_click_shows_are_compared(machine: Machine) -> None:
    machine.tool("trtllm-bench", bench_program().replace("'--warmup', default=2", "'--warmup', default=20"))
    group, latency = machine.probe("bench latency")
    assert (group.tool, group.state) == ("trtllm-bench", "same")
    assert latency.differences == ("--warmup of trtllm-bench latency is 20 by default, not 2.",)


def test_choices_that_only_some_versions_have_are_no_difference(machine: Machine) -> None:
    for choices in (("nvfp4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo", "full_prec"), None):
        rows = changed(known("quantize"), **({"qformat": {"choices": choices}} if choices else {}))
        machine.script("quantization/quantize.py", argparse_program(rows))
        assert machine.probe("quantize")[0].state == "same"


def test_a_family_is_compared_with_its_own_table(machine: Machine) -> None:
    machine.script("models/core/gemma/convert_checkpoint.py", argparse_program(known("convert_checkpoint", "llama")))
    found = {report.tool: report for report in machine.probe("convert_checkpoint")}
    gemma = found["convert_checkpoint gemma"]
    assert "convert_checkpoint.py has no --world-size, which the table has." in gemma.differences
    assert "convert_checkpoint.py has --tp_size, which the table has not." in gemma.differences
    assert found["convert_checkpoint llama"].state == "absent"


def test_what_is_not_there_is_told_and_not_run(machine: Machine) -> None:
    script = machine.examples / "quantization/quantize.py"
    assert machine.probe("build", "quantize") == [
        Report(tool="build", state="absent", differences=("trtllm-build is not on this machine.",)),
        Report(tool="quantize", state="absent", differences=(f"{script} is not on this machine.",)),
    ]


def test_a_tool_that_shows_no_help_has_failed_with_its_last_words(machine: Machine) -> None:
    machine.tool("trtllm-build", "print('noise')\nimport tensorrt_llm_of_nowhere")
    (report,) = machine.probe("build")
    assert report.state == "failed"
    assert "trtllm-build --help exited with status 1:" in report.differences[0]
    assert "ModuleNotFoundError: No module named 'tensorrt_llm_of_nowhere'" in report.differences[0]


def test_tools_that_a_version_lacks_are_not_asked_for(machine: Machine) -> None:
    tools = {report.tool for report in machine.probe(version="1.3.0rc24")}
    assert {"serve", "trtllm-bench", "bench throughput", "trtllm-eval"} <= tools
    assert not {tool for tool in tools if tool.startswith(("build", "bench build", "convert", "quantize"))}


def test_scripts_whose_place_is_not_known_are_skipped_with_the_reason(machine: Machine) -> None:
    reports = machine.probe("convert_checkpoint", version="0.21.0")
    assert {report.state for report in reports} == {"skipped"}
    assert "where the scripts' place is not known" in reports[0].differences[0]


def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="Did you mean 'build'"):
        probe(["bulid"], version=VERSION)


def test_the_text_of_a_tool_is_compared_without_what_it_logs(machine: Machine) -> None:
    log = "import sys; print('[TensorRT-LLM] TensorRT-LLM version: 1.2.1'); print('  --warning', file=sys.stderr)\n"
    machine.tool("trtllm-build", log + argparse_program(known("build")))
    assert machine.probe("build")[0].state == "same"


def test_a_command_that_cannot_be_started_has_a_status_and_a_reason() -> None:
    assert run_help(["/nonexistent/tool", "--help"]) == (
        127,
        "can't start /nonexistent/tool: No such file or directory",
    )


def test_help_of_argparse_is_read_as_it_is_laid_out_in_narrow_columns() -> None:
    text = """
        usage: tool [-h] [--size SIZE]

        options:
          -h, --help            show this help message and exit
          --size SIZE, -s SIZE  What it
                                --holds (default:
                                2048)
          --kind {one,two,None}
                                (default: None)
          --precision [{int8,int4}]
          --dirs DIRS [DIRS ...]
          --quiet

        Plugins:
          --plugin {auto,disable}
                                Of (some) use. (default: auto)
        """
    assert parse_help(textwrap.dedent(text)) == [
        Shown(flags=("--size", "-s"), default="2048"),
        Shown(flags=("--kind",), choices=("one", "two"), default="None"),
        Shown(flags=("--precision",), choices=("int8", "int4")),
        Shown(flags=("--dirs",)),
        Shown(flags=("--quiet",)),
        Shown(flags=("--plugin",), choices=("auto", "disable"), default="auto"),
    ]


def test_help_of_click_is_read_with_groups_ranges_and_what_is_required() -> None:
    text = """
        Usage: tool [OPTIONS] MODEL

          Does --nothing.

        Options:
          -m, --model TEXT                The model.  [required]
          Engine:                         Settings.
            --backend [pytorch|trt]       The backend.  [default: pytorch]
            --length INTEGER RANGE        At most.  [default: 9; x>=1]
            --on / --off                  Whether.
          --help                          Show this message and exit.
        """
    assert parse_help(textwrap.dedent(text)) == [
        Shown(flags=("-m", "--model")),
        Shown(flags=("--backend",), choices=("pytorch", "trt"), default="pytorch"),
        Shown(flags=("--length",), default="9"),
        Shown(flags=("--on", "--off")),
    ]


def test_a_text_without_options_lacks_all_of_them() -> None:
    differences = compare("quantize", VERSION, "Segmentation fault")
    assert len(differences) == len(known("quantize"))
    assert differences[0] == "quantize.py has no --model_dir, which the table has."
