"""The compiled pipelines: up to date, and free of the faults that the compiler lets pass and a local run hides."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_trtllm import components

from pipelines import compile as compiling

ROOT = Path(__file__).resolve().parents[1]
COMPILED = sorted((ROOT / "compiled").rglob("*.yaml"))
PIPELINES = sorted((ROOT / "compiled").glob("*.yaml"))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def test_compiled_is_what_the_source_compiles_to_twice_over(tmp_path: Path) -> None:
    compiling.compile_all(tmp_path / "one")
    compiling.compile_all(tmp_path / "two")
    assert compiling.difference(tmp_path / "one", tmp_path / "two") == ""
    assert compiling.difference(tmp_path / "one", ROOT / "compiled") == ""


def test_every_pipeline_and_component_is_compiled() -> None:
    names = {str(path.relative_to(ROOT / "compiled")) for path in COMPILED}
    wanted = {f"components/{name}.yaml" for name in components.__all__}
    wanted |= {f"{name}_cpu.yaml" for name in ("build_llm", "deploy_llm", "release_llm")}
    assert names == wanted


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_no_file_is_too_large_for_a_workflow(path: Path) -> None:
    assert path.stat().st_size < 200_000


def dags(document: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each group of tasks with the definitions of its inputs."""
    root = document["root"]
    if "dag" in root:
        yield "root", root["dag"], root.get("inputDefinitions", {})
    for name, component in document.get("components", {}).items():
        if "dag" in component:
            yield name, component["dag"], component.get("inputDefinitions", {})


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_each_parameter_that_a_task_reads_exists_in_its_group(path: Path) -> None:
    document = documents(path)[0]
    seen = 0
    for group, dag, inputs in dags(document):
        parameters = set(inputs.get("parameters", {}))
        for task in dag["tasks"].values():
            for binding in task.get("inputs", {}).get("parameters", {}).values():
                if "componentInputParameter" in binding:
                    seen += 1
                    assert binding["componentInputParameter"] in parameters, f"{group}: {binding}"
    assert seen > 20
    # Placement can be read from parameters too, and those are the ones that the compiler forgets to pass on.
    for executor in document["deploymentSpec"]["executors"].values():
        assert "{{$.inputs.parameters" not in str(executor["container"].get("resources", ""))
        assert "{{" not in executor["container"]["image"]
    for platform in documents(path)[1:]:
        assert "componentInputParameter" not in str(platform)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_parameter_has_a_description_and_a_default_that_works(path: Path) -> None:
    parameters = documents(path)[0]["root"]["inputDefinitions"]["parameters"]
    for name, parameter in parameters.items():
        assert parameter.get("description"), name
        if name != "repository":
            assert "defaultValue" in parameter, name
    from kfp_trtllm.check_release.spec import Release

    Release(**{name: p.get("defaultValue", "") for name, p in parameters.items()}).check()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_tasks_have_names_for_people_and_placement(path: Path) -> None:
    document, platform = documents(path)
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in document["deploymentSpec"]["executors"]:
        assert int(placed[executor]["activeDeadlineSeconds"]) > 0
        assert placed[executor]["imagePullPolicy"] == "IfNotPresent"
    for _, dag, _ in dags(document):
        for name, task in dag["tasks"].items():
            assert task["taskInfo"]["name"] != name, name


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_what_touches_a_target_or_judges_is_never_cached_and_judges_are_never_retried(path: Path) -> None:
    live = ("check-release", "resolve-model", "deploy-triton", "smoke-test", "roll-out", "require", "close-release")
    for _, dag, _ in dags(documents(path)[0]):
        for task in dag["tasks"].values():
            name = task["componentRef"]["name"].removeprefix("comp-")
            if name.startswith(live):
                assert not task["cachingOptions"].get("enableCache"), name
            elif "dag" not in documents(path)[0]["components"][task["componentRef"]["name"]]:
                assert task["cachingOptions"]["enableCache"], name
            if name.startswith(("check-release", "require", "close-release")):
                assert "retryPolicy" not in task, name


def test_check_release_comes_first_and_require_verdict_guards_packaging() -> None:
    document = documents(ROOT / "compiled/release_llm_cpu.yaml")[0]
    tasks = next(dag for name, dag, _ in dags(document) if "exit-handler" in name)["tasks"]

    def before(name: str) -> set[str]:
        found = set(tasks[name].get("dependentTasks", []))
        return found.union(*(before(other) for other in found)) if found else found

    for name in tasks:
        if name != "check-release":
            assert "check-release" in before(name), name
    assert any(name.startswith("require-verdict") for name in before("package-repository"))
    assert {"smoke-test", "deploy-triton"} <= before("roll-out-canary")
