"""What an image's build asks about its base; runs in the base's own Python, so it imports nothing but the standard library.

    python3 base.py check NAME[==VERSION]...          stops the build when the base is not what our code was written for
    python3 base.py constraints LOCK REQUIREMENTS     prints constraints for pip

The constraints keep the base's packages as they are, and give the rest the versions of requirements.lock. What
REQUIREMENTS pins itself has no constraint: there, and nowhere else, an image differs from its base.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Debian gives its own tools versions such as 1.7build1, which pip refuses even to read.
_VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9]+([._-][a-z0-9]+)*)?", re.IGNORECASE
)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*==\s*([^\s;#]+)")


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Versions of the running interpreter's packages, by `normal` name; where there are two, the one it imports."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a broken installation has none
            found.setdefault(normal(name), distribution.version)
    return found


def pins(text: str) -> dict[str, str]:
    """The packages that a requirements file fixes to one version, by `normal` name."""
    matches = (_PIN.match(line.strip()) for line in text.splitlines())
    return {normal(match[1]): match[2] for match in matches if match}


def constraints(base: Mapping[str, str], lock: str, requirements: str) -> list[str]:
    """Lines for pip's --constraint.

    Args:
        base: What is installed, by `normal` name.
        lock: Text of requirements.lock.
        requirements: Text of the image's requirements.txt.
    """
    own = pins(requirements)
    wanted = {**pins(lock), **{name: version for name, version in base.items() if _VERSION.fullmatch(version)}}
    return [f"{name}=={version}" for name, version in sorted(wanted.items()) if name not in own]


def check(base: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """A line for each thing that the base lacks or has in another version; a build's own suffix (+cu130) may differ."""
    faults = []
    for item in wanted:
        name, _, version = item.partition("==")
        has = base.get(normal(name), "")
        if not has:
            faults.append(f"the base must have {name}, but has none.")
        elif version and has.partition("+")[0] != version:
            faults.append(f"the base must have {name} {version}, but has {has}.")
    return faults


def main(arguments: Sequence[str]) -> int:
    """Runs one of the two commands; the status is for the build."""
    base = {**installed(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    if len(arguments) > 1 and arguments[0] == "check":
        faults = check(base, arguments[1:])
        print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
        return 1 if faults else 0
    if len(arguments) == 3 and arguments[0] == "constraints":
        del base["python"]
        lock, requirements = (Path(path).read_text(encoding="utf-8") for path in arguments[1:])
        print("\n".join(constraints(base, lock, requirements)))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
