"""The halves that pipelines are composed of.

A component takes every parameter of the pipeline that it has an input for; only what another task made is named here.
"""

from typing import Any

from kfp import dsl
from kfp_trtllm.components import (
    benchmark_engine,
    build_engine,
    check_release,
    close_release,
    convert_checkpoint,
    deploy_triton,
    evaluate_accuracy,
    fetch_model,
    package_repository,
    plan_build,
    require_verdict,
    resolve_model,
    roll_out_canary,
    select_engine,
    smoke_test,
)

from pipelines.platforms import Platform, on_cluster_api, on_cpu


def _task(component: Any, p: dict[str, Any], **made: Any) -> dsl.PipelineTask:
    """A task with the pipeline's parameters that it has inputs for, and what other tasks made."""
    inputs = component.component_spec.inputs or {}
    task: dsl.PipelineTask = component(**{**{name: p[name] for name in inputs if name in p}, **made})
    return task


def check(p: dict[str, Any]) -> dsl.PipelineTask:
    """The task that everything waits for: a wrong parameter is refused before anything is spent."""
    return on_cpu(_task(check_release, p), "Check parameters", cached=False)


def build(checked: dsl.PipelineTask, p: dict[str, Any], on: Platform) -> Any:
    """From a source to a packaged repository.

    Args:
        checked: The task that everything waits for.
        p: The pipeline's parameters by name.
        on: Where tasks are placed.

    Returns:
        The digest of the repository's manifest, as a task's output.
    """
    resolved = on_cpu(_task(resolve_model, p), "Resolve model", cached=False, retries=1).after(checked)
    on.download(resolved, p)
    fetched = on.download(
        on_cpu(
            _task(fetch_model, p, source=resolved.outputs["source"], revision=resolved.outputs["revision"]),
            "Fetch model",
            retries=1,
            cpu="2",
            memory="8G",
            timeout_seconds=12 * 3600,
        ),
        p,
    )
    checkpoint = fetched.outputs["checkpoint"]
    # One variant after the other: two builds or two measurements on one machine would disturb each other.
    with dsl.ParallelFor(p["variants"], name="Variants", parallelism=1) as variant:
        planned = on_cpu(_task(plan_build, p, checkpoint=checkpoint, variant=variant), "Plan build")
        plan = planned.outputs["plan"]
        converted = on.heavy(_task(convert_checkpoint, p, checkpoint=checkpoint, plan=plan), "Convert checkpoint", p)
        on.download(converted, p)
        building = _task(build_engine, p, checkpoint=converted.outputs["converted"], plan=plan)
        if on.has_gpus:
            early = on.toolkit(
                _task(evaluate_accuracy, p, checkpoint=checkpoint, candidate=converted.outputs["converted"]),
                "Evaluate checkpoint",
                p,
                whole_model=True,
            )
            building.after(_require("checkpoint accuracy", on.download(early, p)))
        built = on.heavy(building, "Build engine", p)
        engine = built.outputs["engine"]
        evaluated = on.heavy(
            _task(evaluate_accuracy, p, checkpoint=checkpoint, candidate=engine), "Evaluate accuracy", p
        )
        on.download(evaluated, p)
        measured = on.heavy(_task(benchmark_engine, p, engine=engine), "Benchmark engine", p).after(evaluated)
    selected = on_cpu(
        _task(
            select_engine,
            p,
            engines=dsl.Collected(engine),
            evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
            benchmarks=dsl.Collected(measured.outputs["benchmark"]),
        ),
        "Select engine",
    )
    packaged = on.toolkit(
        _task(package_repository, p, engine=selected.outputs["engine"]), "Package repository", p
    ).after(_require("accuracy", selected))
    return packaged.outputs["digest"]


def deploy(checked: dsl.PipelineTask, repository: Any, p: dict[str, Any]) -> None:
    """From a packaged repository to a decided rollout.

    Args:
        checked: The task that everything waits for.
        repository: Digest of the repository's manifest.
        p: The pipeline's parameters by name.
    """
    made = {"repository": repository, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    deployed = on_cluster_api(_task(deploy_triton, p, **made), "Deploy Triton").after(checked)
    smoked = on_cluster_api(_task(smoke_test, p, repository=repository), "Smoke test").after(deployed)
    rolled_out = on_cluster_api(
        _task(roll_out_canary, p, **made), "Roll out canary", retries=3, timeout_seconds=24 * 3600
    ).after(_require("smoke test", smoked))
    _require("rollout", rolled_out)


def close(p: dict[str, Any]) -> dsl.PipelineTask:
    """The exit task of everything that deploys."""
    closing = _task(close_release, p, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    return on_cpu(closing, "Close release", cached=False)


def _require(gate: str, judged: dsl.PipelineTask) -> dsl.PipelineTask:
    required = require_verdict(gate=gate, verdict=judged.outputs["verdict"], reason=judged.outputs["reason"])
    return on_cpu(required, f"Require {gate}", cached=False)
