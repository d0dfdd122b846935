"""Placement: timeouts, retries, image pull policy and resources of a task, by its role."""

from kfp import dsl, kubernetes

_HOUR = 3600


def on_cpu(
    task: dsl.PipelineTask,
    display_name: str,
    *,
    cached: bool = True,
    retries: int = 0,
    timeout_seconds: int = _HOUR,
    cpu: str = "500m",
    memory: str = "1G",
) -> dsl.PipelineTask:
    """A task on an ordinary node.

    Retries are for steps that cross a network: what a tool refuses once it refuses again, and KFP's retry can't tell.

    Args:
        task: The task.
        display_name: For the UI.
        cached: Whether KFP may reuse its outputs.
        retries: Further attempts after a failure.
        timeout_seconds: The pod is stopped after it.
        cpu: Cores asked for, as Kubernetes writes them.
        memory: Memory asked for.
    """
    task.set_display_name(display_name)
    task.set_caching_options(cached)
    task.set_cpu_request(cpu)
    task.set_memory_request(memory)
    if retries:
        task.set_retry(retries, backoff_duration="2s", backoff_factor=2.0, backoff_max_duration="60s")
    kubernetes.set_timeout(task, timeout_seconds)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    return task


def on_cluster_api(
    task: dsl.PipelineTask, display_name: str, *, retries: int = 1, timeout_seconds: int = _HOUR
) -> dsl.PipelineTask:
    """A task that talks to a target: never cached, and repeatable, since targets' operations are idempotent."""
    return on_cpu(task, display_name, cached=False, retries=retries, timeout_seconds=timeout_seconds)
