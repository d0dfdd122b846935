"""Compiled pipelines as users meet them: found by name, their parameters read, values taken from texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_trtllm.errors import InvalidSpec, unknown

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A pipeline's parameter.

    Attributes:
        name: Its name.
        kind: KFP's type, for example "NUMBER_INTEGER".
        default: None where there is none.
        description: For people.
    """

    name: str
    kind: str
    default: Any
    description: str


def folder() -> Path:
    """Where compiled pipelines lie: in the installed package, or in the clone that it was installed from."""
    packed = _PACKAGE / "_compiled"
    return packed if packed.exists() else _PACKAGE.parents[1] / "compiled"


def find(name: str) -> Path:
    """The YAML of a pipeline, by its name ("release_llm_cpu") or its path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InvalidSpec(f"there is no file {name}.")
        return path
    known = {entry.stem: entry for entry in folder().glob("*.yaml")}
    if name not in known:
        raise InvalidSpec(unknown("a pipeline", name, known))
    return known[name]


def parameters(pipeline: Path) -> dict[str, Parameter]:
    """The parameters of a compiled pipeline, in its order."""
    document = load_yaml(pipeline)
    try:
        declared = document["root"].get("inputDefinitions", {}).get("parameters", {})
    except (KeyError, TypeError, AttributeError):
        raise InvalidSpec(f"{pipeline} is not a compiled pipeline.") from None
    return {
        name: Parameter(
            name=name,
            kind=entry["parameterType"],
            default=entry.get("defaultValue"),
            description=entry.get("description", ""),
        )
        for name, entry in declared.items()
    }


def load_yaml(path: Path) -> Any:
    """The first document of a YAML file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with path.open(encoding="utf-8") as source:
            return next(iter(yaml.load_all(source, Loader=loader)), None)
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InvalidSpec(f"can't read {path}: {error.strerror}.") from None


def values(declared: Mapping[str, Parameter], files: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """What a run gets: values from files, then those given as text; unknown names are refused, missing ones named."""
    for name in (*files, *given):
        if name not in declared:
            raise InvalidSpec(unknown("a parameter of this pipeline", name, declared))
    found = {name: _typed(declared[name], value) for name, value in files.items()}
    found |= {name: _parsed(declared[name], text) for name, text in given.items()}
    missing = [name for name, entry in declared.items() if entry.default is None and name not in found]
    if missing:
        raise InvalidSpec(f"{missing[0]} has no default and must be given: -p {missing[0]}=…")
    return found


def _parsed(parameter: Parameter, text: str) -> Any:
    kind = parameter.kind
    try:
        if kind == "STRING":
            return text
        if kind == "BOOLEAN":
            return {"true": True, "false": False}[text.lower()]
        if kind == "NUMBER_INTEGER":
            return int(text)
        if kind == "NUMBER_DOUBLE":
            return float(text)
        if kind == "LIST" and not text.lstrip().startswith("["):
            return [_scalar(part.strip()) for part in text.split(",") if part.strip()]
        return _typed(parameter, json.loads(text))
    except (ValueError, KeyError):
        raise InvalidSpec(f"{parameter.name} must be {_WORDS[kind]}, but got {text!r}.") from None


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _typed(parameter: Parameter, value: Any) -> Any:
    kinds: dict[str, Any] = {
        "STRING": str,
        "BOOLEAN": bool,
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "LIST": list,
        "STRUCT": dict,
    }
    wanted = kinds[parameter.kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InvalidSpec(f"{parameter.name} must be {_WORDS[parameter.kind]}, but got {value!r}.")
    return value


_WORDS = {
    "STRING": "a text",
    "BOOLEAN": "true or false",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "LIST": "a list (a,b,c or JSON)",
    "STRUCT": "a JSON object",
}
