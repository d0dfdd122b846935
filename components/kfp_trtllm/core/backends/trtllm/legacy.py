"""What older guides tell people to give a build, understood: plan fields and trtllm-build's options of today.

The table of a guide that still goes round is tp_size, pp_size, max_batch_size, max_input_len, max_output_len, use_fp8 and
gemm_plugin, all on the build. Since then parallelism and precision moved to the checkpoint, and lengths were renamed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_trtllm.core.backends.trtllm import commands
from kfp_trtllm.core.backends.trtllm.variants import KV_CACHE_DTYPES, VARIANTS
from kfp_trtllm.errors import InvalidSpec, unknown

# Fields of a plan, which trtllm-build has too or once had.
_PLAN = (
    "kv_cache_dtype",
    "max_batch_size",
    "max_input_len",
    "max_num_tokens",
    "max_seq_len",
    "pp_size",
    "tp_size",
    "variant",
)
_OURS = ("checkpoint_dir", "input_timing_cache", "model_dir", "output_dir", "output_timing_cache")
_WEIGHT_ONLY = {"int4": "int4_wo", "int4_awq": "int4_awq", "int8": "int8_wo"}
# Flags that say what is so anyway; what is so.
_ALWAYS = {
    "builder_opt": "trtllm-build decides it by itself",
    "enable_xqa": "trtllm-build decides it by itself",
    "strongly_typed": "engines always are",
    "use_context_fmha_for_generation": "trtllm-build decides it by itself",
    "use_custom_all_reduce": "it is chosen at run time",
    "use_inflight_batching": "every engine with a paged KV cache can batch so",
}


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Old parameters in today's words.

    Attributes:
        plan: Fields of base.PlanRequest that were given or meant.
        options: What is left for trtllm-build, in its own names.
        notes: A sentence for each change.
    """

    plan: Mapping[str, Any]
    options: Mapping[str, Any]
    notes: tuple[str, ...]


def translate(options: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Translation:
    """Takes old and new parameters of a build apart. What it does not know is left for `commands.render` to judge.

    Args:
        options: Parameters by name, from an old guide or of today; None leaves one out.
        given: Plan fields that were given elsewhere, which options must not contradict; without mere defaults.

    Raises:
        InvalidSpec: Parameters contradict each other, or one can't be understood.
    """
    work = _Work(options, given or {})
    for rule in (
        _parallelism,
        _lengths,
        _fp8,
        _weight_only,
        _qformat,
        _kv_cache_dtype,
        _kv_cache_type,
        _plugins,
        _context_fmha,
        _always,
    ):
        rule(work)
    for name in _PLAN:
        if name in work.left:
            work.mean(name, work.left.pop(name), name)
    for name in _OURS:
        if name in work.left:
            raise InvalidSpec(f"{name} must not be given: each step names its own folders and files.")
    return Translation(plan=work.plan, options=work.left, notes=tuple(work.notes))


class _Work:
    """A translation on its way."""

    def __init__(self, options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.left = {name: value for name, value in options.items() if value is not None}
        self.given = given
        self.plan: dict[str, Any] = {}
        self.notes: list[str] = []

    def field(self, name: str) -> Any:
        """A plan field, from wherever it was given."""
        return self.plan.get(name, self.left.get(name, self.given.get(name)))

    def mean(self, field: str, value: Any, source: str) -> None:
        """Sets a plan field; InvalidSpec when it was given otherwise."""
        known = self.field(field)
        if known not in (None, value) and not (field == "kv_cache_dtype" and known == "auto"):
            raise InvalidSpec(f"{source} means {field} {value}, but {field} is {known}: give only one.")
        self.plan[field] = value

    def flag(self, name: str) -> bool | None:
        """Takes a flag out: whether it is on, None when it was not given."""
        if name not in self.left:
            return None
        value = self.left.pop(name)
        value = {"enable": True, "disable": False}.get(value, value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise InvalidSpec(f"{name} must be true or false, but got {value!r}.")
        return value

    def number(self, name: str) -> int | None:
        """Takes a size out, at least 1; None when it was not given."""
        if name not in self.left:
            return None
        return self.size(name, self.left.pop(name))

    def size(self, name: str, value: Any) -> int:
        """A size as a whole number, at least 1."""
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value != int(value) or value < 1:
            raise InvalidSpec(f"{name} must be a whole number of at least 1, but got {value!r}.")
        return int(value)


def _parallelism(work: _Work) -> None:
    """tp_size, pp_size and world_size belong to the checkpoint since 0.12, in build.py's times to the build."""
    for name in ("tp_size", "pp_size"):
        size = work.number(name)
        if size is not None:
            work.mean(name, size, name)
            work.notes.append(f"{name} {size} is given to the conversion of the checkpoint, not to trtllm-build.")
    world = work.number("world_size")
    if world is None:
        return
    tp, pp = work.field("tp_size"), work.field("pp_size")
    if tp is None:
        if world % (pp or 1):
            raise InvalidSpec(f"world_size must be a multiple of pp_size ({pp}), but got {world}.")
        work.mean("tp_size", world // (pp or 1), "world_size")
        work.notes.append(f"world_size {world} is tp_size x pp_size: tp_size {work.plan['tp_size']} is taken.")
    elif tp * (pp or 1) != world:
        raise InvalidSpec(f"world_size must be tp_size x pp_size ({tp} x {pp or 1}), but got {world}: leave it out.")
    else:
        work.notes.append(f"world_size {world} is left out: it is tp_size x pp_size.")


def _lengths(work: _Work) -> None:
    """Sizes are plan fields; max_output_len became max_seq_len in 0.12."""
    for name in ("max_batch_size", "max_input_len", "max_num_tokens", "max_seq_len"):
        size = work.number(name)
        if size is not None:
            work.mean(name, size, name)
    output = work.number("max_output_len")
    if output is None:
        return
    prompt = work.field("max_input_len")
    if prompt is None:
        raise InvalidSpec("max_output_len needs max_input_len: max_seq_len is their sum. Give max_seq_len instead.")
    total = prompt + output
    work.mean("max_seq_len", total, f"max_output_len {output} with max_input_len {prompt}")
    work.notes.append(
        f"max_output_len {output} is max_seq_len {total} now: max_input_len {prompt} + max_output_len {output}."
    )


def _fp8(work: _Work) -> None:
    """use_fp8: the checkpoint is quantized, and the build reads that from it."""
    for name in ("use_fp8", "enable_fp8"):
        asked = work.flag(name)
        if asked:
            work.mean("variant", "fp8", name)
            work.notes.append(f"{name} is variant fp8: quantize.py calibrates the checkpoint, trtllm-build reads it.")
        elif asked is False:
            work.notes.append(f"{name} false is left out: the variant decides.")


def _weight_only(work: _Work) -> None:
    """use_weight_only and weight_only_precision moved from the build to the conversion."""
    asked = work.flag("use_weight_only")
    precision = work.left.pop("weight_only_precision", None)
    if asked is False or (asked is None and precision is None):
        if precision is not None:
            work.notes.append("weight_only_precision is left out: use_weight_only is false.")
        elif asked is False:
            work.notes.append("use_weight_only false is left out: the variant decides.")
        return
    precision = precision or "int8"  # what the scripts took by default
    if precision not in _WEIGHT_ONLY:
        raise InvalidSpec(unknown("weight_only_precision", str(precision), _WEIGHT_ONLY))
    variant = _WEIGHT_ONLY[precision]
    work.mean("variant", variant, f"weight_only_precision {precision}")
    work.notes.append(f"weight_only_precision {precision} is variant {variant}: the checkpoint is converted to it.")


def _qformat(work: _Work) -> None:
    """quantize.py's own word for a variant."""
    if "qformat" not in work.left:
        return
    qformat = work.left.pop("qformat")
    if qformat not in VARIANTS:
        raise InvalidSpec(unknown("qformat", str(qformat), VARIANTS))
    work.mean("variant", qformat, f"qformat {qformat}")
    work.notes.append(f"qformat {qformat} is variant {qformat}.")


def _kv_cache_dtype(work: _Work) -> None:
    """The conversion's flags for a quantized KV cache, and their successor."""
    if "kv_cache_dtype" in work.left:
        value = work.left.pop("kv_cache_dtype")
        if value not in KV_CACHE_DTYPES:
            raise InvalidSpec(unknown("kv_cache_dtype", str(value), KV_CACHE_DTYPES))
        work.mean("kv_cache_dtype", value, "kv_cache_dtype")
    for dtype in ("fp8", "int8"):
        name = f"{dtype}_kv_cache"
        asked = work.flag(name)
        if asked:
            work.mean("kv_cache_dtype", dtype, name)
            work.notes.append(f"{name} is kv_cache_dtype {dtype}.")
        elif asked is False:
            work.notes.append(f"{name} false is left out: kv_cache_dtype decides.")


def _kv_cache_type(work: _Work) -> None:
    """paged_kv_cache became kv_cache_type."""
    paged = work.flag("paged_kv_cache")
    if paged is None:
        return
    kind = "paged" if paged else "continuous"
    known = work.left.get("kv_cache_type", kind)
    if known != kind:
        raise InvalidSpec(f"paged_kv_cache means kv_cache_type {kind}, but kv_cache_type is {known}: give only one.")
    work.left["kv_cache_type"] = kind
    work.notes.append(f"paged_kv_cache {str(paged).lower()} is spelled kv_cache_type {kind}.")


def _plugins(work: _Work) -> None:
    """use_…_plugin lost its prefix, and some values were respelled."""
    for name in ("gemm_plugin", "gpt_attention_plugin"):
        old = f"use_{name}"
        if old in work.left:
            value = work.left.pop(old)
            if value is False:
                work.notes.append(f"{old} false is left out: trtllm-build decides.")
                continue
            value = "auto" if value is True else value
            if work.left.get(name, value) != value:
                raise InvalidSpec(f"{old} means {name} {value}, but {name} is {work.left[name]}: give only one.")
            work.left[name] = value
            work.notes.append(f"{old} is spelled {name} {value}.")
    for row in commands.rows("build"):
        value = work.left.get(row.name)
        if isinstance(value, str) and value in row.renamed:
            work.left[row.name] = row.renamed[value]
            work.notes.append(f"{row.name} {value} is spelled {row.renamed[value]}.")
    variant = work.field("variant")
    if work.left.get("gemm_plugin") == "fp8" and variant not in (None, "fp8"):
        raise InvalidSpec(f"gemm_plugin fp8 needs variant fp8, but variant is {variant}: give gemm_plugin auto.")


def _context_fmha(work: _Work) -> None:
    """enable_context_fmha lost its prefix too."""
    asked = work.flag("enable_context_fmha")
    if asked is None:
        return
    if work.left.get("context_fmha", asked) not in (asked, "enable" if asked else "disable"):
        raise InvalidSpec(
            f"enable_context_fmha means context_fmha {asked}, but context_fmha is {work.left['context_fmha']}: give only "
            "one."
        )
    work.left["context_fmha"] = asked
    work.notes.append(f"enable_context_fmha is spelled context_fmha {'enable' if asked else 'disable'}.")


def _always(work: _Work) -> None:
    """What needs no flag anymore."""
    for name, reason in _ALWAYS.items():
        if name in work.left:
            del work.left[name]
            work.notes.append(f"{name} is left out: {reason}.")
