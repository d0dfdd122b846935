"""Promises that every component keeps, checked on whatever folders there are."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from kfp_trtllm import _image, components
from kfp_trtllm.check_release.spec import STEPS, Release
from kfp_trtllm.core.command import attributes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "components/kfp_trtllm"
NAMES = sorted(path.parent.name for path in PACKAGE.glob("*/component.py"))


def component(name: str) -> typing.Any:
    return getattr(components, name)


def function(name: str) -> ast.FunctionDef:
    tree = ast.parse((PACKAGE / name / "component.py").read_text())
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef))


def spec_class(name: str) -> typing.Any:
    module = importlib.import_module(f"kfp_trtllm.{name}.spec")
    main = (PACKAGE / name / "__main__.py").read_text()
    return getattr(module, main.partition("main(spec.")[2].partition(",")[0])


def test_the_public_surface_is_every_component_sorted() -> None:
    assert NAMES == components.__all__


@pytest.mark.parametrize("name", NAMES)
def test_a_component_has_its_files_and_no_others(name: str) -> None:
    files = {path.name for path in (PACKAGE / name).glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "component.py", "run.py", "spec.py"}


@pytest.mark.parametrize("name", NAMES)
def test_the_function_is_named_like_the_folder_and_only_delegates(name: str) -> None:
    body = function(name)
    assert body.name == name
    statements = [node for node in body.body if not isinstance(node, ast.ImportFrom | ast.Expr)]
    assert len(statements) <= 2, ast.unparse(body)
    calls = [node.func.id for node in ast.walk(body) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert calls.count("run") == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_input_and_output_is_described(name: str) -> None:
    declared = component(name).component_spec
    for kind in (declared.inputs or {}, declared.outputs or {}):
        for parameter, value in kind.items():
            if parameter != "status":
                assert value.description, f"{name}.{parameter}"


@pytest.mark.parametrize("name", NAMES)
def test_the_image_comes_from_one_place_and_nothing_is_installed_at_start(name: str) -> None:
    container = component(name).component_spec.implementation.container
    assert container.image == _image.CPU
    assert "pip install" not in " ".join(container.command)
    assert (ROOT / "containers/cpu/Dockerfile").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_says_what_the_spec_says(name: str) -> None:
    spec, documented = spec_class(name), attributes(spec_class(name))
    declared = component(name).component_spec.inputs or {}
    skipped = {"state", "error"} if name == "close_release" else set()
    for field in dataclasses.fields(spec):
        if field.name in skipped:
            continue
        assert declared[field.name].default == default(field), field.name
        if name == "check_release":
            documented[field.name] = described(field.name) or documented[field.name]
        assert " ".join(declared[field.name].description.split()) == documented[field.name], field.name


def default(field: dataclasses.Field[typing.Any]) -> typing.Any:
    """A field's default as KFP keeps it; None for none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return None
    return list(field.default) if isinstance(field.default, tuple) else field.default


def described(parameter: str) -> str:
    """What the first step that takes a parameter says about it; "" for those that only check_release knows."""
    for step, name in STEPS.items():
        if text := attributes(getattr(importlib.import_module(f"kfp_trtllm.{step}.spec"), name)).get(parameter):
            return "" if parameter == "repository" else text
    return ""


def test_check_release_knows_every_parameter_of_every_step() -> None:
    known = {field.name: field for field in dataclasses.fields(Release)}
    made_on_the_way = {"revision", "variant", "repository", "run_id", "state", "error"}
    for step, name in STEPS.items():
        for field in dataclasses.fields(getattr(importlib.import_module(f"kfp_trtllm.{step}.spec"), name)):
            if field.name in made_on_the_way:
                continue
            assert field.name in known, f"{step}.{field.name}"
            if default(field) is not None:
                assert default(known[field.name]) == default(field), f"{step}.{field.name}"
    assert set(STEPS) == set(NAMES) - {"check_release", "require_verdict"}


@pytest.mark.parametrize("name", NAMES)
def test_components_do_not_import_each_other(name: str) -> None:
    for path in (PACKAGE / name).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kfp_trtllm."):
                owner = node.module.split(".")[1]
                assert owner == name or owner not in NAMES, f"{path}: {node.module}"


def test_core_imports_neither_a_component_nor_kfp() -> None:
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                assert module.split(".")[0] != "kfp", path
                assert module.split(".")[1:2] not in [[name] for name in NAMES] or "kfp_trtllm" not in module, path


_BLOCKED = """
import sys, importlib
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "kfp" or name.startswith("kfp."):
            raise ImportError("kfp is blocked")
sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    importlib.import_module(f"kfp_trtllm.{name}.spec")
    importlib.import_module(f"kfp_trtllm.{name}.run")
importlib.import_module("kfp_trtllm.cli")
heavy = {"torch", "transformers", "lm_eval", "onnxruntime", "numpy", "huggingface_hub"} & set(sys.modules)
assert not heavy - {"numpy"}, heavy
"""


def test_the_library_works_without_kfp_and_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _BLOCKED, *NAMES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_component_runs_by_hand_and_its_help_names_every_parameter(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"kfp_trtllm.{name}", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for field in dataclasses.fields(spec_class(name)):
        assert f"--{field.name.replace('_', '-')}" in done.stdout
    run = importlib.import_module(f"kfp_trtllm.{name}.run").run
    assert inspect.getdoc(run)


def test_require_verdict_by_hand_ends_with_the_verdicts_code() -> None:
    for verdict, code in (("passed", 0), ("rolled_back", 3), ("failed", 4), ("inconclusive", 5), ("perhaps", 2)):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kfp_trtllm.require_verdict",
                "--gate",
                "rollout",
                "--verdict",
                verdict,
                "--reason",
                "why",
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        if code in (3, 4, 5):
            assert done.stderr == f"require_verdict: rollout {verdict.replace('_', ' ')}: why\n"
