"""Where pipelines run: which parameters a platform adds or settles, and the placement of tasks by their role.

What KFP does with a placement that is a run parameter decides the types here: counts and sizes are texts (its driver
reads a number as nothing, so that there would silently be no GPU), an image is the whole reference, and names of
secrets are never empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl, kubernetes
from kfp_trtllm import _image

_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A pipeline's parameter, as its signature has it."""

    name: str
    annotation: Any
    default: Any
    description: str


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A kind of cluster (or machine) that pipelines are compiled for.

    Attributes:
        suffix: Behind the pipeline's name in compiled/.
        left_out: Parameters of steps that mean nothing there; the steps' own defaults apply.
        defaults: Defaults other than the steps' own.
        parameters: Those that only place tasks.
    """

    suffix: str
    left_out: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()

    @property
    def has_gpus(self) -> bool:
        """Whether engines are built and measured on GPUs."""
        return bool(self.parameters)

    def heavy(self, task: dsl.PipelineTask, display_name: str, p: Mapping[str, Any]) -> dsl.PipelineTask:
        """A task that converts, builds or measures: on a GPU where the platform has them."""
        return on_gpu(task, display_name, p) if self.has_gpus else on_cpu(task, display_name, **_HEAVY)

    def toolkit(
        self, task: dsl.PipelineTask, display_name: str, p: Mapping[str, Any], *, whole_model: bool = False
    ) -> dsl.PipelineTask:
        """A task that needs the tools of the build image, but no GPU; with `whole_model`, memory for the weights."""
        on_cpu(task, display_name, **_HEAVY)
        if self.has_gpus:
            task.set_container_image(p["build_image"])
        if self.has_gpus and whole_model:
            task.set_memory_request(p["gpu_task_memory"])
        return task

    def download(self, task: dsl.PipelineTask, p: Mapping[str, Any]) -> dsl.PipelineTask:
        """Gives a task that talks to model hubs the tokens, where the namespace has them."""
        if self.has_gpus:
            for secret, variable in (("hf_secret", "HF_TOKEN"), ("ngc_secret", "NGC_API_KEY")):
                kubernetes.use_secret_as_env(
                    task, secret_name=p[secret], secret_key_to_env={variable: variable}, optional=True
                )
        return task


_HEAVY: dict[str, Any] = {"cpu": "2", "memory": "8G", "timeout_seconds": 6 * _HOUR}

CPU = Platform(
    suffix="_cpu",
    left_out=frozenset(
        {
            "trtllm_version",
            "gpu_kind",
            "gpu_count",
            "tp_size",
            "pp_size",
            "max_num_tokens",
            "kv_cache_dtype",
            "build_options",
            "build_image",
            "gpu_task_cpu",
            "gpu_task_memory",
            "calibration_dataset",
            "calibration_size",
            "allow_fallback",
            "accuracy_subject",
            "layout",
            "kv_cache_free_gpu_memory_fraction",
        }
    ),
)

GPU = Platform(
    suffix="",
    left_out=frozenset({"memory_limit_gb"}),
    defaults={
        "source": "hf://Qwen/Qwen2.5-7B-Instruct",
        "model_name": "qwen2-5-7b-instruct",
        "backend": "pytorch",
        "variants": ["fp8"],
        "gpu_kind": "l4",
        "gpu_count": "1",
        "build_image": _image.TRTLLM,
        "gpu_task_cpu": "4",
        "gpu_task_memory": "32G",
        "accuracy_tasks": ["kfp_answers", "kfp_chat"],
        "accuracy_margin": 0.1,
    },
    parameters=(
        Parameter(
            name="node_selector",
            annotation=dict,
            default={"cloud.google.com/gke-accelerator": "nvidia-l4"},
            description="Labels of the nodes that have the GPUs; pipelines/params has those of GKE, EKS and the GPU "
            "operator.",
        ),
        Parameter(
            name="tolerations",
            annotation=list[dict],  # type: ignore[type-arg]
            default=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            description="Taints of those nodes that tasks tolerate.",
        ),
        Parameter(
            name="hf_secret",
            annotation=str,
            default="kfp-trtllm-hf",
            description="Name of a secret whose key HF_TOKEN is the token for gated models; it need not exist.",
        ),
        Parameter(
            name="ngc_secret",
            annotation=str,
            default="kfp-trtllm-ngc",
            description="Name of a secret whose key NGC_API_KEY is the key for NGC; it need not exist.",
        ),
    ),
)

PLATFORMS = (CPU, GPU)


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
    _common(task, display_name, cached=cached, retries=retries, timeout_seconds=timeout_seconds)
    task.set_cpu_request(cpu)
    task.set_memory_request(memory)
    return task


def on_cluster_api(
    task: dsl.PipelineTask, display_name: str, *, retries: int = 1, timeout_seconds: int = _HOUR
) -> dsl.PipelineTask:
    """A task that talks to a target: never cached, and repeatable, since targets' operations are idempotent."""
    return on_cpu(task, display_name, cached=False, retries=retries, timeout_seconds=timeout_seconds)


def on_gpu(
    task: dsl.PipelineTask, display_name: str, p: Mapping[str, Any], *, timeout_seconds: int = 12 * _HOUR
) -> dsl.PipelineTask:
    """A task on a GPU node.

    One retry: a preempted node costs the task, and what it had built is in the store's index.

    Args:
        task: The task.
        display_name: For the UI.
        p: The pipeline's parameters by name, the platform's own among them.
        timeout_seconds: The pod is stopped after it; fixed when the pipeline is compiled.
    """
    _common(task, display_name, cached=True, retries=1, timeout_seconds=timeout_seconds)
    task.set_container_image(p["build_image"])
    task.set_cpu_request(p["gpu_task_cpu"])
    task.set_memory_request(p["gpu_task_memory"])
    task.set_accelerator_type("nvidia.com/gpu")
    task.set_accelerator_limit(p["gpu_count"])
    kubernetes.add_node_selector_json(task, p["node_selector"])
    kubernetes.add_toleration_json(task, p["tolerations"])
    # Ranks and Triton's Python backend share memory; a pod's own 64 MB end in "No space left on device".
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit="16Gi")
    # Not a volume claim of the pod's own: its root would belong to root, the image runs as user 1000, and KFP has no
    # fsGroup to mend that.
    kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit="200Gi")
    return task


def _common(task: dsl.PipelineTask, display_name: str, *, cached: bool, retries: int, timeout_seconds: int) -> None:
    task.set_display_name(display_name)
    task.set_caching_options(cached)
    if retries:
        task.set_retry(retries, backoff_duration="2s", backoff_factor=2.0, backoff_max_duration="60s")
    kubernetes.set_timeout(task, timeout_seconds)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
