"""Backend `pytorch`: TensorRT-LLM's LLM API on GPUs. Weights are quantized by ModelOpt; there is no build.

The engine is the checkpoint and the arguments of LLM(), checked against what the pinned version takes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.backends.base import BuildPlan, Planned, PlanRequest, Tensor
from kfp_trtllm.core.backends.trtllm import devices, llm_args, planning
from kfp_trtllm.core.backends.trtllm.backend import TrtLlmBackend
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.checkpoint import read_config, read_headers
from kfp_trtllm.core.links import link
from kfp_trtllm.errors import BuildFailed, InvalidSpec

ARGUMENTS = "llm_args.json"  # in the engine folder, for people: what LLM() gets besides the limits
# In TensorRT-LLM's list of what its PyTorch backend runs (docs/source/features/quantization.md, about 1.1).
_LISTED = ("bf16", "fp16", "fp8", "int4_awq", "nvfp4", "w4a8_awq")
# A change of the quantizer changes the weights.
_QUANTIZER = "nvidia-modelopt"


class PyTorch(TrtLlmBackend):
    """Implements `base.Backend`."""

    name = "pytorch"

    def check(self, request: PlanRequest) -> PlanRequest:
        """See `base.Backend`."""
        return self._settle(request).request

    def _settle(self, request: PlanRequest) -> planning.Settled:
        """What needs no checkpoint."""
        settled = planning.settle(request, self.name)
        asked = settled.request
        llm_args.check_llm_args(asked.build_options, asked.trtllm_version, backend=self.name)
        if asked.kv_cache_dtype != "auto" and not VARIANTS[asked.variant].modelopt:
            raise InvalidSpec(
                f"kv_cache_dtype must be auto with variant {asked.variant}, whose checkpoint is not calibrated, but got "
                f"{asked.kv_cache_dtype!r}: take fp8 for both."
            )
        return settled

    def plan(self, config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest) -> Planned:
        """See `base.Backend`."""
        settled = self._settle(request)
        request, notes = settled.request, list(settled.notes)
        _, memory = planning.fit(config, tensors, request, self.name)
        options: dict[str, Any] = {"llm_args": dict(request.build_options)}
        versions = planning.tool_versions(request)
        if VARIANTS[request.variant].modelopt:
            calibration = planning.calibration(request)
            # Where a file lies says nothing about what is in it, so its digest is in the key, too.
            options["calibration"] = {**dataclasses.asdict(calibration), "digest": calibration.digest()}
            versions[_QUANTIZER] = _installed(_QUANTIZER)
        if request.variant not in _LISTED:
            notes.append(
                f"{request.variant} is not in TensorRT-LLM's list of what its PyTorch backend runs: try it before you "
                "rely on it, or take backend tensorrt"
            )
        return Planned(request=request, memory=memory, options=options, versions=versions, notes=tuple(notes))

    def convert(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> bool:
        """See `base.Backend`."""
        from kfp_trtllm.core.quantization.calibration import Calibration
        from kfp_trtllm.core.quantization.casting import cast_checkpoint
        from kfp_trtllm.core.quantization.runner import quantize_checkpoint

        variant = VARIANTS[plan.variant]
        devices.check(plan.gpu_kind, plan.world_size)
        if not variant.modelopt:
            return cast_checkpoint(checkpoint, output, dtype=variant.dtype, on_progress=on_progress)
        chosen = {name: value for name, value in plan.options["calibration"].items() if name != "digest"}
        quantize_checkpoint(
            checkpoint,
            output,
            variant=plan.variant,
            kv_cache_dtype=plan.kv_cache_dtype,
            calibration=Calibration(**chosen),
            log=log,
            on_progress=on_progress,
        )
        return True

    def cache_key(self, plan: BuildPlan) -> str:
        """See `base.Backend`."""
        return ""

    def build(
        self,
        plan: BuildPlan,
        checkpoint: Path,
        output: Path,
        *,
        cache: Path,
        log: Path,
        on_progress: Callable[[float, float], None],
    ) -> BuildPlan:
        """See `base.Backend`: checks that the checkpoint is what was planned, and links it."""
        config = read_config(checkpoint)
        read_headers(checkpoint)
        wanted = VARIANTS[plan.variant].quant_algo
        found = _quantization(checkpoint)
        if found != wanted:
            raise BuildFailed(
                f"the checkpoint must be quantized as {wanted or 'nothing'} for the variant {plan.variant}, but is "
                f"{found or 'not quantized'}: run convert_checkpoint with this plan."
            )
        if not (checkpoint / "tokenizer.json").is_file():
            raise BuildFailed("the checkpoint must have a tokenizer.json beside its weights.")
        output.mkdir()
        files = sorted(path for path in checkpoint.iterdir() if path.is_file())
        for done, path in enumerate(files):
            link(path, output / path.name)
            on_progress(done + 1, len(files))
        document = {"architecture": (config.get("architectures") or [""])[0], **plan.options["llm_args"]}
        (output / ARGUMENTS).unlink(missing_ok=True)  # the checkpoint's would be written over in the store
        (output / ARGUMENTS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return plan

    def serving_options(self, facts: Mapping[str, Any], *, versions: int, memory_fraction: float) -> Mapping[str, Any]:
        """See `base.Backend`."""
        options = dict(facts["options"].get("llm_args", {}))
        options.setdefault("max_num_tokens", facts["max_num_tokens"])
        return self.arguments(options, facts, versions=versions, memory_fraction=memory_fraction)


def _quantization(folder: Path) -> str:
    """The algorithm that a checkpoint says it was quantized with; "" for none."""
    from kfp_trtllm.core.quantization.checking import QUANT_CONFIG, read_quantization

    return str(read_quantization(folder).get("quant_algo") or "") if (folder / QUANT_CONFIG).is_file() else ""


def _installed(package: str) -> str:
    """The version here, "" where a package is only in the build image, whose reference is in the key."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
