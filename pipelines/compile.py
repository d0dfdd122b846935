"""Compiles every pipeline and component into compiled/; with --check compares and writes nothing."""

import argparse
import ast
import difflib
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMPILED = ROOT / "compiled"
_DEFAULT = re.compile(r"^(#    \w+: \w+ \[Default: )([\[{].*)\]$", re.MULTILINE)


def compile_all(folder: Path) -> None:
    """Writes `<pipeline><platform's suffix>.yaml` for each pipeline and platform, and `components/<component>.yaml`."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    from kfp import compiler
    from kfp_trtllm import components

    from pipelines.build_llm import build_llm
    from pipelines.deploy_llm import deploy_llm
    from pipelines.platforms import PLATFORMS
    from pipelines.release_llm import release_llm

    (folder / "components").mkdir(parents=True, exist_ok=True)
    for pipeline in (build_llm, deploy_llm, release_llm):
        for platform in PLATFORMS:
            name = f"{pipeline.__name__}{platform.suffix}.yaml"
            compiler.Compiler().compile(pipeline(platform), str(folder / name))
    for name in components.__all__:
        compiler.Compiler().compile(getattr(components, name), str(folder / "components" / f"{name}.yaml"))
    for path in folder.rglob("*.yaml"):
        path.write_text(_DEFAULT.sub(_sorted, path.read_text(encoding="utf-8")), encoding="utf-8")


def _sorted(found: re.Match[str]) -> str:
    """A default in the comment at a file's head, its keys in order: KFP takes them as protobuf's hash table has them."""
    return f"{found[1]}{_in_order(ast.literal_eval(found[2]))!r}]"


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(entry) for entry in value] if isinstance(value, list) else value


def difference(wanted: Path, found: Path) -> str:
    """A unified diff of all files in two folders; empty when they are the same."""
    names = sorted({path.relative_to(folder) for folder in (wanted, found) for path in folder.rglob("*.yaml")})
    lines: list[str] = []
    for name in names:
        texts = [(folder / name).read_text() if (folder / name).exists() else "" for folder in (found, wanted)]
        lines += difflib.unified_diff(
            texts[0].splitlines(),
            texts[1].splitlines(),
            f"compiled/{name}",
            f"compiled/{name} (from the source)",
            lineterm="",
        )
    return "\n".join(lines)


def main() -> int:
    """Returns 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 when compiled/ is stale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        compile_all(fresh)
        if options.check:
            found = difference(fresh, COMPILED)
            print(found or "compiled/ is up to date")
            if found:
                print("\ncompiled/ is stale: run `make compile` and commit what it writes", file=sys.stderr)
            return 1 if found else 0
        wanted = {path.relative_to(fresh) for path in fresh.rglob("*.yaml")}
        for stale in COMPILED.rglob("*.yaml"):
            if stale.relative_to(COMPILED) not in wanted:
                stale.unlink()
        for name in sorted(wanted):
            (COMPILED / name).parent.mkdir(parents=True, exist_ok=True)
            (COMPILED / name).write_bytes((fresh / name).read_bytes())
        print(f"wrote {len(wanted)} files to compiled/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
