"""The halves that pipelines are composed of."""

from typing import Any

from kfp import dsl
from kfp_trtllm.components import (
    benchmark_engine,
    build_engine,
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

from pipelines.platforms import on_cluster_api, on_cpu

_HEAVY: dict[str, Any] = {"cpu": "2", "memory": "8G", "timeout_seconds": 6 * 3600}


def build(checked: dsl.PipelineTask, p: dict[str, Any]) -> Any:
    """From a source to a packaged repository.

    Args:
        checked: The task that everything waits for.
        p: The pipeline's parameters by name.

    Returns:
        The digest of the repository's manifest, as a task's output.
    """

    def only(*names: str) -> dict[str, Any]:
        return {name: p[name] for name in ("store", *names)}

    resolved = on_cpu(resolve_model(source=p["source"]), "Resolve model", cached=False, retries=1).after(checked)
    fetched = on_cpu(
        fetch_model(source=resolved.outputs["source"], revision=resolved.outputs["revision"], **only("allow_pickle")),
        "Fetch model",
        retries=1,
        **_HEAVY,
    )
    # One variant after the other: two builds or two measurements on one machine would disturb each other.
    with dsl.ParallelFor(p["variants"], name="Variants", parallelism=1) as variant:
        planned = on_cpu(
            plan_build(
                checkpoint=fetched.outputs["checkpoint"],
                variant=variant,
                **only("backend", "max_batch_size", "max_input_len", "max_seq_len", "memory_limit_gb"),
            ),
            "Plan build",
        )
        converted = on_cpu(
            convert_checkpoint(checkpoint=fetched.outputs["checkpoint"], plan=planned.outputs["plan"], **only()),
            "Convert checkpoint",
            **_HEAVY,
        )
        built = on_cpu(
            build_engine(checkpoint=converted.outputs["converted"], plan=planned.outputs["plan"], **only()),
            "Build engine",
            **_HEAVY,
        )
        evaluated = on_cpu(
            evaluate_accuracy(
                checkpoint=fetched.outputs["checkpoint"],
                engine=built.outputs["engine"],
                **only(
                    "accuracy_gate",
                    "accuracy_tasks",
                    "accuracy_limit",
                    "accuracy_margin",
                    "accuracy_alpha",
                    "seed",
                ),
            ),
            "Evaluate accuracy",
            **_HEAVY,
        )
        measured = on_cpu(
            benchmark_engine(engine=built.outputs["engine"], **only("benchmark_concurrency", "benchmark_max_tokens")),
            "Benchmark engine",
            **_HEAVY,
        ).after(evaluated)
    selected = on_cpu(
        select_engine(
            engines=dsl.Collected(built.outputs["engine"]),
            evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
            benchmarks=dsl.Collected(measured.outputs["benchmark"]),
            **only(),
        ),
        "Select engine",
    )
    required = _require("accuracy", selected)
    packaged = on_cpu(
        package_repository(
            engine=selected.outputs["engine"],
            **only("model_name", "model_version", "base_repository", "decoupled"),
        ),
        "Package repository",
        **_HEAVY,
    ).after(required)
    return packaged.outputs["digest"]


def deploy(checked: dsl.PipelineTask, repository: Any, p: dict[str, Any]) -> None:
    """From a packaged repository to a decided rollout.

    Args:
        checked: The task that everything waits for.
        repository: Digest of the repository's manifest.
        p: The pipeline's parameters by name.
    """
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER

    def only(*names: str) -> dict[str, Any]:
        return {"repository": repository, **{name: p[name] for name in ("store", "target", *names)}}

    deployed = on_cluster_api(deploy_triton(run_id=run_id, **only("ready_timeout_seconds")), "Deploy Triton").after(
        checked
    )
    smoked = on_cluster_api(
        smoke_test(**only("smoke_prompt", "smoke_expect", "smoke_max_tokens", "smoke_timeout_seconds")),
        "Smoke test",
    ).after(deployed)
    required = _require("smoke test", smoked)
    rolled_out = on_cluster_api(
        roll_out_canary(
            run_id=run_id,
            **only(
                "rollout_steps",
                "rollout_alpha",
                "rollout_margin",
                "max_error_rate",
                "max_slow_rate",
                "slo_ttft_ms",
                "slo_itl_ms",
                "min_step_requests",
                "rollout_deadline_seconds",
                "probe_prompts",
                "probe_max_tokens",
                "probe_timeout_seconds",
            ),
        ),
        "Roll out canary",
        retries=3,
        timeout_seconds=24 * 3600,
    ).after(required)
    _require("rollout", rolled_out)


def close(model_name: Any, target: Any) -> dsl.PipelineTask:
    """The exit task of everything that deploys."""
    closing = close_release(model_name=model_name, target=target, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    return on_cpu(closing, "Close release", cached=False)


def _require(gate: str, judged: dsl.PipelineTask) -> dsl.PipelineTask:
    required = require_verdict(gate=gate, verdict=judged.outputs["verdict"], reason=judged.outputs["reason"])
    return on_cpu(required, f"Require {gate}", cached=False)
