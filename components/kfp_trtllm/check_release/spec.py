"""What check_release needs to know: every parameter that any later step takes."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp_trtllm.core import backends, rules
from kfp_trtllm.errors import InvalidSpec

# The specs of the later steps, by dotted name: the only place where one component looks into others, and only at
# their rules.
STEPS = {
    "resolve_model": "Resolution",
    "fetch_model": "Fetch",
    "plan_build": "Planning",
    "convert_checkpoint": "Conversion",
    "build_engine": "EngineBuild",
    "evaluate_accuracy": "AccuracyEvaluation",
    "benchmark_engine": "Benchmark",
    "select_engine": "Selection",
    "package_repository": "Packaging",
    "deploy_triton": "Deployment",
    "smoke_test": "SmokeTest",
    "roll_out_canary": "Rollout",
    "close_release": "Closing",
}
# Tasks of ours that compare log-probabilities.
_LOGLIKELIHOOD = frozenset({"kfp_core", "kfp_facts", "kfp_grammar", "kfp_sequences"})
_LATER = "sha256:" + 64 * "0"  # stands for a digest that an earlier step will have made


@dataclass(frozen=True, kw_only=True)
class Release:
    """The parameters of a release.

    Attributes:
        source: Where the model comes from.
        model_name: Name that clients ask for.
        store: URL of the store.
        allow_pickle: As in fetch_model.
        backend: As in plan_build.
        variants: Precisions to build and choose from.
        max_batch_size: As in plan_build.
        max_input_len: As in plan_build.
        max_seq_len: As in plan_build.
        memory_limit_gb: As in plan_build.
        trtllm_version: As in plan_build.
        gpu_kind: As in plan_build.
        gpu_count: As in plan_build.
        tp_size: As in plan_build.
        pp_size: As in plan_build.
        max_num_tokens: As in plan_build.
        kv_cache_dtype: As in plan_build.
        build_options: As in plan_build.
        calibration_dataset: As in plan_build.
        calibration_size: As in plan_build.
        allow_fallback: As in plan_build.
        build_image: As in plan_build.
        gpu_task_cpu: As in plan_build.
        gpu_task_memory: As in plan_build.
        accuracy_gate: As in evaluate_accuracy.
        accuracy_tasks: As in evaluate_accuracy.
        accuracy_limit: As in evaluate_accuracy.
        accuracy_margin: As in evaluate_accuracy.
        accuracy_alpha: As in evaluate_accuracy.
        seed: As in evaluate_accuracy.
        accuracy_subject: As in evaluate_accuracy.
        accuracy_rule: As in evaluate_accuracy.
        benchmark_concurrency: As in benchmark_engine.
        benchmark_max_tokens: As in benchmark_engine.
        model_version: As in package_repository.
        base_repository: As in package_repository.
        decoupled: As in package_repository.
        layout: As in package_repository.
        kv_cache_free_gpu_memory_fraction: As in package_repository.
        repository: Digest of the repository to deploy; empty where the run makes it.
        target: As in deploy_triton.
        ready_timeout_seconds: As in deploy_triton.
        smoke_prompt: As in smoke_test.
        smoke_expect: As in smoke_test.
        smoke_max_tokens: As in smoke_test.
        smoke_timeout_seconds: As in smoke_test.
        rollout_steps: As in roll_out_canary.
        rollout_alpha: As in roll_out_canary.
        rollout_margin: As in roll_out_canary.
        max_error_rate: As in roll_out_canary.
        max_slow_rate: As in roll_out_canary.
        slo_ttft_ms: As in roll_out_canary.
        slo_itl_ms: As in roll_out_canary.
        min_step_requests: As in roll_out_canary.
        rollout_deadline_seconds: As in roll_out_canary.
        probe_prompts: As in roll_out_canary.
        probe_max_tokens: As in roll_out_canary.
        probe_timeout_seconds: As in roll_out_canary.
    """

    store: str
    source: str = "sample://smollm2-135m"
    model_name: str = "smollm2-135m"
    allow_pickle: bool = False
    backend: str = "onnxruntime"
    variants: Sequence[str] = ("int4",)
    max_batch_size: int = 8
    max_input_len: int = 1024
    max_seq_len: int = 2048
    memory_limit_gb: float = 0.0
    trtllm_version: str = ""
    gpu_kind: str = ""
    gpu_count: str = ""
    tp_size: int = 1
    pp_size: int = 1
    max_num_tokens: int = 0
    kv_cache_dtype: str = "auto"
    build_options: Mapping[str, Any] = field(default_factory=dict)
    calibration_dataset: str = ""
    calibration_size: int = 0
    allow_fallback: bool = False
    build_image: str = ""
    gpu_task_cpu: str = ""
    gpu_task_memory: str = ""
    accuracy_gate: bool = True
    accuracy_tasks: Sequence[str] = ("kfp_core",)
    accuracy_limit: int = 0
    accuracy_margin: float = 0.05
    accuracy_alpha: float = 0.05
    seed: int = 0
    accuracy_subject: str = "engine"
    accuracy_rule: str = "paired"
    benchmark_concurrency: Sequence[int] = (1, 8)
    benchmark_max_tokens: int = 32
    model_version: int = 1
    base_repository: str = ""
    decoupled: bool = True
    layout: str = "python"
    kv_cache_free_gpu_memory_fraction: float = 0.9
    repository: str = ""
    target: str = "local"
    ready_timeout_seconds: int = 300
    smoke_prompt: str = "What is the capital of France?"
    smoke_expect: str = ""
    smoke_max_tokens: int = 24
    smoke_timeout_seconds: int = 60
    rollout_steps: Sequence[int] = (10, 50, 100)
    rollout_alpha: float = 0.05
    rollout_margin: float = 1.5
    max_error_rate: float = 0.02
    max_slow_rate: float = 0.1
    slo_ttft_ms: float = 0.0
    slo_itl_ms: float = 0.0
    min_step_requests: int = 20
    rollout_deadline_seconds: int = 900
    probe_prompts: Sequence[str] = ()
    probe_max_tokens: int = 12
    probe_timeout_seconds: float = 30.0

    def check(self) -> int:
        """Builds every later step's spec; returns how many steps there are.

        Raises:
            InvalidSpec: The first rule that a parameter breaks.
        """
        backends.get(self.backend)
        rules.not_empty("variants", self.variants)
        rules.settle(self, variants=rules.texts("variants", self.variants))
        if self.backend != "onnxruntime":
            self._check_gpu_tasks()
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values["repository"] = self.repository or _LATER
        for step, name in STEPS.items():
            spec_class = getattr(importlib.import_module(f"kfp_trtllm.{step}.spec"), name)
            for variant in self.variants:
                _build(spec_class, {**values, "variant": variant})
        return len(STEPS)

    def _check_gpu_tasks(self) -> None:
        """Rules that no step alone knows, for backends on GPUs."""
        for name in ("gpu_count", "gpu_task_cpu", "gpu_task_memory", "build_image"):
            # KFP takes an empty count for none at all, and an empty image for an error in the pod.
            rules.not_empty(name, getattr(self, name))
        if self.layout == "cpp" and (self.backend != "tensorrt" or self.allow_fallback):
            raise InvalidSpec(
                f"layout must be python with backend {self.backend}{' and a fallback' * self.allow_fallback}, but got "
                "cpp, which serves built engines only."
            )
        if not self.accuracy_gate:
            return
        if self.accuracy_subject == "checkpoint":
            if self.backend != "pytorch":
                raise InvalidSpec(
                    f"accuracy_subject must be engine on backend {self.backend}, whose converted checkpoints only its "
                    "builder reads, but got 'checkpoint'."
                )
            if len(self.variants) > 1:
                raise InvalidSpec(
                    "variants must be one with accuracy_subject checkpoint, whose verdict ends the run before anything "
                    f"is built, but got {', '.join(self.variants)}."
                )
        elif silent := sorted(_LOGLIKELIHOOD & set(self.accuracy_tasks)):
            raise InvalidSpec(
                f"accuracy_tasks must be tasks that generate (kfp_answers, kfp_chat, gsm8k, …) on backend {self.backend}, "
                f"whose engines tell no log-probabilities of a prompt, but got {', '.join(silent)}: or set "
                "accuracy_subject to checkpoint."
            )


def _build(spec_class: Any, values: dict[str, Any]) -> None:
    names = {entry.name for entry in dataclasses.fields(spec_class)}
    spec_class(**{name: value for name, value in values.items() if name in names})
