"""Writes the component tables of the READMEs from the components' signatures; with --check only compares."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
READMES = (ROOT / "README.md", ROOT / "components" / "README.md")
_BLOCK = re.compile(r"(<!-- components -->\n).*?(<!-- /components -->)", re.DOTALL)


def table() -> str:
    """A Markdown table of all components."""
    from kfp_trtllm import components

    rows = ["| component | what it does | takes | leaves |", "|---|---|---|---|"]
    for name in components.__all__:
        component: Any = getattr(components, name)
        spec = component.component_spec
        takes = [key for key, value in (spec.inputs or {}).items() if value.type.startswith("system.")]
        leaves = list(spec.outputs or {})
        summary = component.description.splitlines()[0]
        rows.append(f"| `{name}` | {summary} | {', '.join(takes)} | {', '.join(leaves)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Returns 1 when --check finds a table that is not what the signatures say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    fresh, stale = table(), []
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        wanted = _BLOCK.sub(lambda found: found[1] + fresh + found[2], text)
        if wanted != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(wanted, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(map(str, stale))}: run `make compile`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
