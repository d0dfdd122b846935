"""What plan_build needs to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp_trtllm.core import backends, rules, store
from kfp_trtllm.core.backends.base import PlanRequest
from kfp_trtllm.errors import InvalidSpec


@dataclass(frozen=True, kw_only=True)
class Planning:
    """An engine to plan.

    Attributes:
        store: URL of the store.
        backend: What executes the model: onnxruntime on a CPU; pytorch (TensorRT-LLM's LLM API) or tensorrt (built
            engines, TensorRT-LLM up to 1.2.1) on GPUs.
        variant: Precision; which ones there are depends on the backend.
        max_batch_size: Requests that run at once.
        max_input_len: Longest prompt in tokens.
        max_seq_len: Longest prompt plus answer in tokens.
        memory_limit_gb: Memory that the engine may need on a CPU, in GB; 0 takes what this machine has.
        trtllm_version: TensorRT-LLM to build with and to serve with; empty takes the newest that has both backends.
        gpu_kind: Kind of the GPUs, for example l4, a100-80 or h100.
        gpu_count: GPUs that a build and a server get: tp_size times pp_size.
        tp_size: Tensor parallel ranks: each layer is spread over so many GPUs.
        pp_size: Pipeline parallel ranks: the layers are dealt out to so many groups of GPUs.
        max_num_tokens: Tokens of all requests that one step computes; 0 takes the tool's default.
        kv_cache_dtype: Precision of keys and values: auto (that of the activations), fp8 or int8.
        build_options: Further options of the build tool, in its own names, such as {"gemm_plugin": "auto"}. Those of
            old guides (max_output_len, use_fp8, gemm_plugin float8, …) are understood and translated.
        calibration_dataset: What quantization is calibrated with: empty takes our own texts; else a .jsonl or .txt
            file, or the name of a data set on the Hugging Face hub.
        calibration_size: Texts of it to use; 0 takes the backend's default.
        allow_fallback: Whether backend pytorch may be used where tensorrt does not know the model.
        build_image: The image that converts and builds, as a whole reference: what it holds decides what is built.
        gpu_task_cpu: CPU cores that a task on a GPU asks for, as Kubernetes writes them; empty on a CPU.
        gpu_task_memory: Memory that a task on a GPU asks for; a conversion holds the whole checkpoint.
    """

    store: str
    backend: str = "onnxruntime"
    variant: str = "int4"
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

    def __post_init__(self) -> None:
        store.check_url(self.store)
        rules.at_least("memory_limit_gb", self.memory_limit_gb, 0)
        rules.at_least("max_num_tokens", self.max_num_tokens, 0)
        rules.at_least("calibration_size", self.calibration_size, 0)
        if self.gpu_count and not self.gpu_count.isdecimal():
            raise InvalidSpec(f"gpu_count must be a whole number, but got {self.gpu_count!r}.")
        if self.allow_fallback and self.backend != "tensorrt":
            raise InvalidSpec(
                f"allow_fallback must be false on backend {self.backend}: only tensorrt has one to fall back to."
            )
        if self.gpu_task_cpu:
            rules.quantity("gpu_task_cpu", self.gpu_task_cpu)
        if self.gpu_task_memory:
            rules.quantity("gpu_task_memory", self.gpu_task_memory)
        backends.get(self.backend).check(self.request(0))

    def request(self, memory_limit_bytes: int) -> PlanRequest:
        """The same in the backend's words."""
        names = {entry.name for entry in dataclasses.fields(PlanRequest)} & {e.name for e in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names}
        values["gpu_count"] = int(self.gpu_count or 0)
        return PlanRequest(**values, memory_limit_bytes=memory_limit_bytes)
