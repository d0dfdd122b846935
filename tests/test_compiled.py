"""The compiled pipelines: up to date, and free of the faults that the compiler lets pass and a local run hides."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_trtllm import components
from kfp_trtllm.core.backends.trtllm.gpus import node_selector

from pipelines import compile as compiling
from pipelines.platforms import CPU, GPU, PLATFORMS, Platform

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
    pipelines = ("build_llm", "deploy_llm", "release_llm")
    wanted |= {f"{name}{platform.suffix}.yaml" for name in pipelines for platform in PLATFORMS}
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
    document, platform = documents(path)
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = document["deploymentSpec"]["executors"]
    seen, placements = 0, 0
    for group, dag, inputs in dags(document):
        parameters = set(inputs.get("parameters", {}))
        for task in dag["tasks"].values():
            bindings = task.get("inputs", {}).get("parameters", {})
            for binding in bindings.values():
                if "componentInputParameter" in binding:
                    seen += 1
                    assert binding["componentInputParameter"] in parameters, f"{group}: {binding}"
            label = document["components"][task["componentRef"]["name"]].get("executorLabel")
            if label is None:
                continue
            # Placement can be read from parameters too, and those are the ones that the compiler forgets to pass on:
            # the task's own where a container's text names them, the group's in the platform's part.
            for name in re.findall(r"inputs\.parameters\['([^']+)'\]", str(executors[label]["container"])):
                placements += 1
                assert name in bindings, f"{group}: {name}"
            for name in re.findall(r"'componentInputParameter': '([^']+)'", str(placed[label])):
                placements += 1
                assert name in parameters, f"{group}: {name}"
    assert seen > 20
    assert (placements > 20) == (platform_of(path).has_gpus and "deploy" not in path.stem)


def platform_of(path: Path) -> Platform:
    return CPU if path.stem.endswith(CPU.suffix) else GPU


GPU_PIPELINES = [path for path in PIPELINES if platform_of(path) is GPU and "deploy" not in path.stem]


@pytest.mark.parametrize("path", GPU_PIPELINES, ids=lambda path: path.stem)
def test_what_builds_and_measures_is_on_a_gpu_and_nothing_else(path: Path) -> None:
    document, platform = documents(path)
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    golden = yaml.safe_load((ROOT / "tests/golden/on_gpu.yaml").read_text())
    on_gpu = set()
    for label, executor in document["deploymentSpec"]["executors"].items():
        if "accelerator" in executor["container"].get("resources", {}):
            on_gpu.add(label.removeprefix("exec-").rstrip("-0123456789"))
            found = {
                "container": {k: executor["container"][k] for k in ("image", "resources")},
                "platform": placed[label],
            }
            found["platform"].pop("secretAsEnv", None)
            assert found == golden, label
        else:
            assert "nodeSelector" not in placed[label], label
    assert on_gpu == {"convert-checkpoint", "build-engine", "evaluate-accuracy", "benchmark-engine"}
    early = document["deploymentSpec"]["executors"]["exec-evaluate-accuracy"]["container"]
    assert "accelerator" not in early["resources"], "the verdict on a checkpoint comes before a GPU is asked for"


@pytest.mark.parametrize("path", GPU_PIPELINES, ids=lambda path: path.stem)
def test_tokens_come_from_secrets_that_need_not_exist(path: Path) -> None:
    _, platform = documents(path)
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    with_tokens = {label for label, entry in placed.items() if "secretAsEnv" in entry}
    assert {"exec-resolve-model", "exec-fetch-model", "exec-convert-checkpoint"} <= with_tokens
    for label in with_tokens:
        for secret in placed[label]["secretAsEnv"]:
            assert secret["optional"] is True
            assert secret["secretNameParameter"]["componentInputParameter"].startswith("pipelinechannel--") or (
                secret["secretNameParameter"]["componentInputParameter"] in ("hf_secret", "ngc_secret")
            )


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_parameter_has_a_description_and_a_default_that_works(path: Path) -> None:
    parameters = documents(path)[0]["root"]["inputDefinitions"]["parameters"]
    for name, parameter in parameters.items():
        assert parameter.get("description"), name
        if name != "repository":
            assert "defaultValue" in parameter, name
    from kfp_trtllm.check_release.spec import Release

    placement = {parameter.name for parameter in platform_of(path).parameters}
    Release(**{n: p.get("defaultValue", "") for n, p in parameters.items() if n not in placement}).check()


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


PARAMETERS = sorted((ROOT / "pipelines/params").glob("*.yaml"))


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.stem)
def test_sample_parameters_are_parameters(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    pipeline = "build_llm" if "gpu_kind" in given else "release_llm_cpu"
    declared = documents(ROOT / f"compiled/{pipeline}.yaml")[0]["root"]["inputDefinitions"]["parameters"]
    assert set(given) <= set(declared)
    if "gpu_kind" in given:
        assert given["node_selector"] == node_selector(given["gpu_kind"], path.stem.rpartition("-")[2])
