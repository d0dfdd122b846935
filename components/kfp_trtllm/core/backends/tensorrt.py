"""Backend `tensorrt`: engines built by trtllm-build for GPUs, with TensorRT-LLM up to 1.2.1."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core import keys
from kfp_trtllm.core.backends.base import BuildPlan, Planned, PlanRequest, Tensor
from kfp_trtllm.core.backends.trtllm import commands, devices, folders, gpus, planning
from kfp_trtllm.core.backends.trtllm.backend import TrtLlmBackend
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.checkpoint import read_config
from kfp_trtllm.core.doctor.retries import shrink
from kfp_trtllm.core.links import link
from kfp_trtllm.core.process import run_tool
from kfp_trtllm.core.step import note
from kfp_trtllm.errors import BuildFailed, Unsupported

_TIMING_CACHE = "model.cache"
_RANK = re.compile(r"rank ?(\d+)", re.IGNORECASE)
_WEIGHT_ONLY = {"int8_wo": "int8", "int4_wo": "int4"}


class TensorRt(TrtLlmBackend):
    """Implements `base.Backend`."""

    name = "tensorrt"

    def check(self, request: PlanRequest) -> PlanRequest:
        """See `base.Backend`."""
        settled = planning.settle(request, self.name).request
        _render_build(_build_options(settled), settled.trtllm_version)
        return settled

    def plan(self, config: Mapping[str, Any], tensors: Sequence[Tensor], request: PlanRequest) -> Planned:
        """See `base.Backend`."""
        settled = planning.settle(request, self.name)
        request = settled.request
        architecture, memory = planning.fit(config, tensors, request, self.name)
        calibration = planning.calibration(request)
        tool, converting = _conversion(request, architecture.family)
        if tool == "quantize":
            converting |= {
                "calib_size": calibration.size,
                "calib_max_seq_length": calibration.max_seq_length,
                "seed": calibration.seed,
            }
        options: dict[str, Any] = {
            "family": architecture.family,
            "tool": tool,
            "convert": converting,
            "build": _build_options(request),
            **(
                {"calibration": {"dataset": calibration.dataset, "digest": calibration.digest()}}
                if tool == "quantize"
                else {}
            ),
        }
        # What the tools would refuse is refused now.
        _render_convert(options, request.trtllm_version, "checkpoint", "output", "dataset")
        _render_build(options["build"], request.trtllm_version)
        return Planned(
            request=request,
            memory=memory,
            options=options,
            versions=planning.tool_versions(request),
            notes=settled.notes,
        )

    def convert(
        self, plan: BuildPlan, checkpoint: Path, output: Path, *, log: Path, on_progress: Callable[[float, float], None]
    ) -> bool:
        """See `base.Backend`: runs the image's convert_checkpoint.py or quantize.py."""
        from kfp_trtllm.core.quantization.casting import copy_companions

        devices.check(plan.gpu_kind, plan.world_size)
        dataset = _calibration_set(plan, output.with_name("calibration"))
        argv = _render_convert(plan.options, plan.trtllm_version, str(checkpoint), str(output), dataset)
        _run(argv, log=log, ranks=plan.world_size, on_progress=on_progress)
        folders.check_checkpoint(output, plan, read_config(checkpoint))
        copy_companions(checkpoint, output)
        return True

    def cache_key(self, plan: BuildPlan) -> str:
        """See `base.Backend`: a timing cache is good for one TensorRT on one kind of GPU."""
        gpu = gpus.gpu(plan.gpu_kind)
        return keys.key(
            what="timing", tensorrt=plan.versions.get("tensorrt", ""), gpu=[gpu.name, gpu.compute_capability]
        )

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
        """See `base.Backend`. Out of memory, it tries again with smaller limits; a stale timing cache is dropped."""
        folders.check_checkpoint(checkpoint, plan)
        devices.check(plan.gpu_kind, plan.world_size)
        timing = cache / _TIMING_CACHE
        dropped = False
        while True:
            options: dict[str, Any] = {
                **plan.options["build"],
                "checkpoint_dir": str(checkpoint),
                "output_dir": str(output),
                "input_timing_cache": str(timing) if timing.is_file() else None,
                "output_timing_cache": str(timing),
            }
            try:
                _run(
                    _render_build(options, plan.trtllm_version), log=log, ranks=plan.world_size, on_progress=on_progress
                )
                break
            except BuildFailed as problem:
                retry = problem.diagnosis.retry if problem.diagnosis else ""
                if retry == "smaller":
                    plan = _smaller(plan, problem)
                elif retry == "drop_timing_cache" and timing.is_file() and not dropped:
                    note(f"{problem.diagnosis.cause} Trying again without the timing cache.")
                    timing.unlink()
                    dropped = True
                else:
                    raise
        folders.check_engine(output, plan)
        for path in sorted(checkpoint.iterdir()):
            # The tokenizer, the chat template and the generation settings, which convert put beside the weights.
            if path.is_file() and path.suffix != ".safetensors" and not (output / path.name).exists():
                link(path, output / path.name)
        return plan

    def serving_options(self, facts: Mapping[str, Any], *, versions: int, memory_fraction: float) -> Mapping[str, Any]:
        """See `base.Backend`."""
        return self.arguments({}, facts, versions=versions, memory_fraction=memory_fraction)


def _conversion(request: PlanRequest, family: str) -> tuple[str, dict[str, Any]]:
    """The tool that makes the checkpoint, and its options by its own names."""
    variant = VARIANTS[request.variant]
    ranks = {"tp_size": request.tp_size, "pp_size": request.pp_size}
    dtype = variant.dtype or "auto"
    if variant.qformat:
        cache = None if request.kv_cache_dtype == "auto" else request.kv_cache_dtype
        return "quantize", {"qformat": variant.qformat, "dtype": dtype, "kv_cache_dtype": cache, **ranks}
    options: dict[str, Any] = {"dtype": dtype, **ranks}
    if request.variant in _WEIGHT_ONLY:
        options |= {"use_weight_only": True, "weight_only_precision": _WEIGHT_ONLY[request.variant]}
    if request.kv_cache_dtype != "auto":
        options[f"{request.kv_cache_dtype}_kv_cache"] = True
    known = {row.name for row in commands.rows("convert_checkpoint", family)}
    if "ckpt_type" in known:
        options["ckpt_type"] = "hf"
    if "workers" in known:
        options["workers"] = request.tp_size * request.pp_size
    return "convert_checkpoint", options


def _build_options(request: PlanRequest) -> dict[str, Any]:
    """trtllm-build's options by its own names, without folders."""
    return {
        "gemm_plugin": "auto",
        "kv_cache_type": "paged",
        "workers": request.tp_size * request.pp_size,
        **request.build_options,
        "max_batch_size": request.max_batch_size,
        "max_input_len": request.max_input_len,
        "max_seq_len": request.max_seq_len,
        "max_num_tokens": request.max_num_tokens,
    }


def _render_convert(options: Mapping[str, Any], version: str, checkpoint: str, output: str, dataset: str) -> list[str]:
    folders_ = {"model_dir": checkpoint, "output_dir": output}
    if options["tool"] == "quantize":
        folders_["calib_dataset"] = dataset
    return commands.render(
        options["tool"],
        {**options["convert"], **folders_},
        version=version,
        family=options["family"],
        examples=commands.examples(),
    )


def _render_build(options: Mapping[str, Any], version: str) -> list[str]:
    return commands.render("build", options, version=version)


def _calibration_set(plan: BuildPlan, folder: Path) -> str:
    """What quantize.py takes for --calib_dataset: a data set of the hub, or a folder whose train split has `text`."""
    if plan.options["tool"] != "quantize":
        return ""
    from kfp_trtllm.core.quantization.calibration import Calibration

    convert, chosen = plan.options["convert"], plan.options["calibration"]
    calibration = Calibration(dataset=chosen["dataset"], size=convert["calib_size"], seed=convert["seed"])
    if calibration.file is None:
        return calibration.dataset
    texts = [
        text if isinstance(text, str) else "\n".join(turn["content"] for turn in text) for text in calibration.texts()
    ]
    folder.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


def _run(argv: Sequence[str], *, log: Path, ranks: int, on_progress: Callable[[float, float], None]) -> None:
    """Runs one of TensorRT-LLM's tools; its progress is told by the ranks that its log names."""
    seen: set[int] = set()

    def follow(line: str) -> None:
        if (found := _RANK.search(line)) and int(found[1]) < ranks:
            seen.add(int(found[1]))
            on_progress(len(seen) - 0.5, ranks)

    on_progress(0, ranks)
    try:
        run_tool(argv, log=log, on_line=follow)
    except BuildFailed as problem:
        if problem.diagnosis is not None and problem.diagnosis.retry == "other_backend":
            raise Unsupported(str(problem)) from None
        raise
    on_progress(ranks, ranks)


def _smaller(plan: BuildPlan, problem: BuildFailed) -> BuildPlan:
    """The plan with smaller limits; at the floors, the failure with the ranks that would help."""
    smaller = shrink(plan.max_batch_size, plan.max_num_tokens, floor_tokens=plan.max_input_len)
    if smaller is None:
        raise BuildFailed(
            f"the build ran out of GPU memory even with max_batch_size {plan.max_batch_size} and max_num_tokens "
            f"{plan.max_num_tokens}: set tp_size to {2 * plan.tp_size} and gpu_count to {2 * plan.world_size}, or take a "
            f"larger gpu_kind.\n{problem}"
        ) from None
    limits = dataclasses.asdict(smaller)
    note(
        f"out of GPU memory: trying again with max_batch_size {smaller.max_batch_size} and max_num_tokens {smaller.max_num_tokens}"
    )
    return dataclasses.replace(plan, **limits, options={**plan.options, "build": {**plan.options["build"], **limits}})
