"""The command kfp-trtllm: a thin layer over the library. kfp is imported only by those commands that need it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kfp_trtllm import __version__
from kfp_trtllm.errors import InvalidSpec, KfpTrtllmError, unknown


class _Group(click.Group):
    """Ends with an error's one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KfpTrtllmError as error:
            click.echo(f"kfp-trtllm: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kfp-trtllm")
def main() -> None:
    """From a model checkpoint to a canaried Triton endpoint, as Kubeflow Pipelines components."""


def _default_store() -> str:
    from kfp_trtllm.core.home import home

    return f"file://{home() / 'store'}"


@main.command()
@click.argument("pipeline")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter of the run; may be repeated.")
@click.option("--params", "files", multiple=True, type=click.Path(dir_okay=False), help="YAML file of parameters.")
@click.option("--local", is_flag=True, help="Run on this machine, on real parts, without a cluster.")
@click.option("--if-absent", is_flag=True, help="Do nothing when the local target serves the model already.")
@click.option("-v", "--verbose", is_flag=True, help="Show the full log as it comes.")
def run(
    pipeline: str, pairs: tuple[str, ...], files: tuple[str, ...], local: bool, if_absent: bool, verbose: bool
) -> None:
    """Run a compiled PIPELINE, by its name (release_llm_cpu) or its file.

    \b
    Examples:
      kfp-trtllm run release_llm_cpu --local

      kfp-trtllm run release_llm_cpu --local -p source=file:///models/qwen -p model_name=qwen -p variants=int4,fp32
    """  # noqa: D301 (click keeps lines behind this mark as they are)
    from kfp_trtllm.core import compiled

    path = compiled.find(pipeline)
    declared = compiled.parameters(path)
    given = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidSpec(f"-p must be NAME=VALUE, but got {pair!r}.")
        given[name] = text
    from_files: dict[str, Any] = {}
    for file in files:
        document = compiled.load_yaml(Path(file))
        if not isinstance(document, dict):
            raise InvalidSpec(f"{file} must hold parameters as NAME: VALUE lines.")
        from_files |= document
    if not local:
        raise InvalidSpec(
            f"run needs --local in this version; for a cluster upload {path} in the Kubeflow Pipelines UI, "
            "or submit it with kfp.Client."
        )
    if "store" in declared and "store" not in given and "store" not in from_files:
        given["store"] = _default_store()
    chosen = compiled.values(declared, from_files, given)
    if if_absent:
        from kfp_trtllm.core import targets

        name = str(chosen.get("model_name", declared["model_name"].default))
        state = targets.get("local").state(name)
        if state.stable is not None:
            click.echo(f"{name} is served by {state.stable.name} already: nothing to do")
            return
    from kfp_trtllm.runner import run_local

    sys.exit(run_local(path, chosen, verbose=verbose))


@main.command()
@click.option("--check", is_flag=True, help="Compare only; exit status 1 when compiled/ is stale.")
def compile(check: bool) -> None:
    """Compile pipelines and components of a clone into compiled/."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pipelines" / "compile.py").exists():
        raise InvalidSpec(
            "compile works in a clone of the repository; an installed package has its YAML compiled already."
        )
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.compile", *(["--check"] if check else [])])


@main.command()
def components() -> None:
    """List the components."""
    import ast

    from rich.table import Table

    table = Table("component", "what it does", box=None, header_style="bold")
    for file in sorted(Path(__file__).parent.glob("*/component.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
        table.add_row(function.name, (ast.get_docstring(function) or "").splitlines()[0])
    _console().print(table)


@main.command()
@click.argument("log", type=click.File(errors="replace"))
@click.option("--tool", default="", help="The program that wrote it, such as trtllm-build or tritonserver.")
@click.option("--status", type=int, help="Its exit status, where you know it.")
def doctor(log: Any, tool: str, status: int | None) -> None:
    """Tell what a LOG ("-" for stdin) says went wrong, and what to change; exit status 1 when it knows nothing."""
    from kfp_trtllm.core.doctor.diagnosis import describe
    from kfp_trtllm.core.doctor.examine import examine
    from kfp_trtllm.errors import tail

    text = log.read()
    found = examine(text, status=status, tool=tool)
    if found is None:
        click.echo(f"nothing known was found; the end of the log:\n{tail(text)}", err=True)
        sys.exit(1)
    click.echo(describe(found), nl=False)


@main.command()
@click.option("--trtllm-version", help="Of the tools here; by default that of the installed tensorrt_llm.")
@click.option("--examples", help="TensorRT-LLM's folder examples/, where it is not in NVIDIA's place.")
@click.argument("tools", nargs=-1)
def probe(trtllm_version: str | None, examples: str | None, tools: tuple[str, ...]) -> None:
    """Compare TensorRT-LLM's TOOLS here with what this version knows of them; exit status 1 when they differ.

    To be run inside an image that builds: `docker run --rm IMAGE kfp-trtllm probe`.
    """
    import importlib.metadata

    from kfp_trtllm.core.backends.trtllm import commands
    from kfp_trtllm.core.backends.trtllm.probe import probe as ask

    if trtllm_version is None:
        try:
            trtllm_version = importlib.metadata.version("tensorrt_llm")
        except importlib.metadata.PackageNotFoundError:
            raise InvalidSpec(
                "tensorrt_llm is not installed here: run probe inside an image that builds, or give --trtllm-version."
            ) from None
    reports = ask(tools or None, version=trtllm_version, examples=examples or commands.examples())
    for report in reports:
        click.echo(f"{report.state:<10} {report.tool}")
        for difference in report.differences:
            click.echo(f"           {difference}")
    if all(report.state in ("absent", "skipped") for report in reports):
        raise InvalidSpec("none of TensorRT-LLM's tools is here: run probe inside an image that builds.")
    if any(report.state in ("different", "failed") for report in reports):
        sys.exit(1)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


@main.group()
def store() -> None:
    """Look at a store, check it, clean it up."""


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--store", "url", default=_default_store, show_default="this machine's", help="URL.")(command)


@store.command("ls")
@_store_option
def store_ls(url: str) -> None:
    """List what the store holds."""
    import time

    from rich.table import Table

    from kfp_trtllm.core.store import open_store

    table = Table("kind", "name", "variant", "size", "used", "digest", box=None, header_style="bold")
    entries = sorted(open_store(url).ls(), key=lambda entry: entry.used, reverse=True)
    for entry in entries:
        facts = entry.manifest.facts
        name = str(facts.get("model_name") or facts.get("name") or "")
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        size = f"{entry.manifest.size / 1e6:,.0f} MB"
        table.add_row(entry.manifest.kind, name, str(facts.get("variant", "")), size, used, entry.digest[:19])
    _console().print(table if entries else f"{url} is empty")


@store.command("verify")
@_store_option
def store_verify(url: str) -> None:
    """Read every byte and tell what is missing or damaged; exit status 1 when anything is."""
    from kfp_trtllm.core.store import open_store

    faults = 0
    for fault in open_store(url).verify():
        faults += 1
        users = ", ".join(digest[:19] for digest in fault.needed_by) or "nothing"
        click.echo(f"{fault.what}: {fault.object} (needed by {users})")
    if faults:
        click.echo(f"{faults} faults. Delete the named files and run the release again: they are made anew.", err=True)
        sys.exit(1)
    click.echo("everything is whole")


@store.command("gc")
@_store_option
@click.option("--older-than-days", default=30.0, show_default=True, help="Keep what was used since.")
@click.option("--yes", is_flag=True, help="Really delete; without it, only tell.")
def store_gc(url: str, older_than_days: float, yes: bool) -> None:
    """Remove what nothing needs any more; what the local target serves is kept."""
    from kfp_trtllm.core.store import open_store
    from kfp_trtllm.core.targets.local import LocalTarget

    live = LocalTarget().repositories_in_use()
    objects, size = open_store(url).gc(live=live, older_than_seconds=older_than_days * 86400, delete=yes)
    done = "removed" if yes else "would remove"
    click.echo(f"{done} {objects} objects, {size / 1e6:,.0f} MB" + ("" if yes else " (say --yes to do it)"))


@main.group("local")
def local_group() -> None:
    """What runs on this machine: Triton servers and their gateway."""


@local_group.command("status")
def local_status() -> None:
    """Show what runs."""
    from rich.table import Table

    from kfp_trtllm.core.targets.base import show_weights
    from kfp_trtllm.core.targets.local import LocalTarget

    rows = LocalTarget().status()
    if not rows:
        click.echo("nothing runs")
        return
    table = Table("revision", "role", "weight", "pid", "state", "gateway", box=None, header_style="bold")
    for row in rows:
        state = "ready" if row.alive else "dead"
        # The model's path would not fit a terminal, and a URL that is cut off can't be pasted.
        table.add_row(row.revision, row.role, f"{row.weight} %", str(row.pid), state, row.url.partition("/v2/")[0])
    _console().print(table)
    for row in rows:
        if row.versions:
            click.echo(f"{row.revision} by version: {show_weights(row.versions)}")


@local_group.command("versions")
@click.argument("model")
@click.argument("weights", nargs=-1, metavar="[VERSION=PERCENT]...")
def local_versions(model: str, weights: tuple[str, ...]) -> None:
    """Show how a MODEL's requests fall to its versions, or set it.

    Requests that name a version are not touched. The newest version gets everything unless weights say otherwise.

    \b
    Examples:
      kfp-trtllm local versions smollm2-135m

      kfp-trtllm local versions smollm2-135m 1=90 2=10
    """  # noqa: D301 (click keeps lines behind this mark as they are)
    from rich.table import Table

    from kfp_trtllm.core.targets.local import LocalTarget

    target = LocalTarget()
    known = {row.model for row in target.status()}
    if model not in known:
        raise InvalidSpec(unknown("MODEL", model, known) if known else "nothing runs, so there are no versions.")
    if weights:
        target.split_versions(model, _version_weights(weights))
    table = Table("version", "variant", "weight", "revision", "role", box=None, header_style="bold")
    for row in target.versions(model):
        table.add_row(str(row.version), row.variant, f"{row.weight} %", row.revision, row.role)
    _console().print(table)


def _version_weights(pairs: tuple[str, ...]) -> dict[int, int]:
    weights: dict[int, int] = {}
    for pair in pairs:
        version, _, percent = pair.partition("=")
        try:
            number, weight = int(version), int(percent)
        except ValueError:
            raise InvalidSpec(f"weights must be VERSION=PERCENT in whole numbers, but got {pair!r}.") from None
        if number in weights:
            raise InvalidSpec(f"weights must not name a version twice, but got {' '.join(pairs)!r}.")
        weights[number] = weight
    return weights


@local_group.command("logs")
@click.argument("name")
@click.option("-n", "--lines", default=40, show_default=True, help="How many of the last lines.")
def local_logs(name: str, lines: int) -> None:
    """Show the end of a revision's log; NAME is a revision or a model."""
    from kfp_trtllm.core.targets.local import LocalTarget

    target = LocalTarget()
    rows = target.status()
    found = [row.revision for row in rows if name in (row.revision, row.model)]
    if not found:
        known = [row.revision for row in rows]
        raise InvalidSpec(unknown("NAME", name, known) if known else "nothing runs, so there are no logs.")
    for revision in found:
        if len(found) > 1:
            click.echo(f"== {revision}")
        click.echo(target.log_of(revision, lines))


@local_group.command("stop")
@click.argument("model", required=False)
def local_stop(model: str | None) -> None:
    """Stop a MODEL's servers, or everything."""
    from kfp_trtllm.core.targets.local import LocalTarget

    target = LocalTarget()
    running = [row.revision for row in target.status() if model in (None, row.model)]
    target.stop(model)
    click.echo(f"stopped {', '.join(running)}" if running else "nothing ran")


if __name__ == "__main__":
    main()
