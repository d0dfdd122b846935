"""Arguments of TensorRT-LLM's LLM(), by release line and backend, and how versions share a GPU's memory.

Sources, in NVIDIA/TensorRT-LLM's terms: BaseLlmArgs and TrtLlmArgs of 1.0.0 and 1.2.1 from those releases' llm_args.py;
for 1.1, tests/unittest/api_stability/references/llm.yaml of 1.1.0rc6; TorchLlmArgs of 1.0 from 1.0.0rc4 and a
llm_args.py of that time; of 1.2 from a llm.yaml of days after the branch, so that a few newer keys may be among them.
LLM() itself has the last word: it refuses at the server's start what is accepted here by mistake.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_trtllm.core import rules
from kfp_trtllm.errors import InvalidSpec

TOTAL_FRACTION = 0.9  # of the free memory of a GPU for KV caches: TensorRT-LLM's own default

# What we say ourselves, and where the user says it.
_OURS = {
    "model": "it is the engine",
    "backend": "set the step's backend",
    "_mpi_session": "leave it to TensorRT-LLM",
    "mpi_session": "leave it to TensorRT-LLM",
    "tensor_parallel_size": "set tp_size",
    "pipeline_parallel_size": "set pp_size",
    "max_batch_size": "set the plan's max_batch_size",
    "max_input_len": "set the plan's max_input_len",
    "max_seq_len": "set the plan's max_seq_len",
    "build_config": "set the plan's build_options",
    "revision": "it belongs to the source",
    **dict.fromkeys(
        (
            "tokenizer",
            "tokenizer_mode",
            "tokenizer_revision",
            "custom_tokenizer",
            "skip_tokenizer_init",
            "num_postprocess_workers",
            "postprocess_tokenizer_dir",
            "reasoning_parser",
        ),
        "text and tokens are made by this package's own tokenizer",
    ),
    **dict.fromkeys(("batched_logits_processor", "checkpoint_loader"), "an object can't be written down"),
}

_BASE_1_0 = frozenset(
    "model tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code tensor_parallel_size dtype revision "
    "tokenizer_revision pipeline_parallel_size context_parallel_size gpus_per_node moe_cluster_parallel_size "
    "moe_tensor_parallel_size moe_expert_parallel_size enable_attention_dp cp_config load_format "
    "fail_fast_on_attention_window_too_large enable_lora lora_config kv_cache_config enable_chunked_prefill "
    "guided_decoding_backend batched_logits_processor iter_stats_max_iterations request_stats_max_iterations "
    "peft_cache_config scheduler_config cache_transceiver_config speculative_config max_batch_size max_input_len "
    "max_seq_len max_beam_width max_num_tokens gather_generation_logits num_postprocess_workers "
    "postprocess_tokenizer_dir reasoning_parser decoding_config mpi_session backend".split()
)
_BASE_1_1 = _BASE_1_0 | {"return_perf_metrics", "enable_lm_head_tp_in_adp"}
_BASE_1_2 = _BASE_1_1 | frozenset(
    "custom_tokenizer model_kwargs pp_partition sparse_attention_config otlp_traces_endpoint orchestrator_type "
    "env_overrides".split()
)
_TRT_1_1 = frozenset(
    "enable_tqdm workspace enable_build_cache extended_runtime_perf_knob_config calib_config quant_config "
    "embedding_parallel_mode fast_build build_config enable_prompt_adapter max_prompt_adapter_token batching_type "
    "normalize_log_probs".split()
)
_TORCH_ALL = frozenset(
    "garbage_collection_gen0_threshold cuda_graph_config disable_overlap_scheduler moe_config attn_backend "
    "enable_iter_perf_stats enable_iter_req_stats print_iter_log torch_compile_config enable_autotuner "
    "enable_layerwise_nvtx_marker enable_min_latency stream_interval force_dynamic_quantization allreduce_strategy "
    "checkpoint_loader checkpoint_format".split()
)
_TORCH_1_0 = _TORCH_ALL | {"build_config", "enable_mixed_sampler", "enable_trtllm_sampler"}
_TORCH_1_1 = _TORCH_ALL | frozenset(
    "build_config attention_dp_config sampler_type mm_encoder_only batch_wait_timeout_ms batch_wait_timeout_iters "
    "batch_wait_max_tokens_ratio perf_metrics_max_requests kv_connector_config".split()
)
_TORCH_1_2 = _TORCH_1_1 - {"build_config"} | frozenset(
    "nvfp4_gemm_config sampler_force_async_worker ray_worker_extension_cls ray_placement_config enable_sleep "
    "disable_flashinfer_sampling max_stats_len layer_wise_benchmarks_config".split()
)

ACCEPTED: Mapping[tuple[str, str], frozenset[str]] = {
    ("tensorrt", "1.0"): _BASE_1_0 | _TRT_1_1 | {"auto_parallel", "auto_parallel_world_size"},
    ("tensorrt", "1.1"): _BASE_1_1 | _TRT_1_1,
    ("tensorrt", "1.2"): _BASE_1_2 | _TRT_1_1,
    ("pytorch", "1.0"): _BASE_1_0 | _TORCH_1_0,
    ("pytorch", "1.1"): _BASE_1_1 | _TORCH_1_1,
    ("pytorch", "1.2"): _BASE_1_2 | _TORCH_1_2,
}

# KvCacheConfig of 1.0.0; later versions have more, so that only a resemblance is refused.
KV_CACHE = frozenset(
    "enable_block_reuse max_tokens max_attention_window sink_token_length free_gpu_memory_fraction host_cache_size "
    "onboard_blocks cross_kv_cache_fraction secondary_offload_min_priority event_buffer_max_size enable_partial_reuse "
    "copy_on_partial_reuse use_uvm dtype".split()
)


def check_llm_args(options: Mapping[str, Any], version: str, *, backend: str = "pytorch") -> None:
    """Refuses arguments that LLM() would refuse, or that are not the user's to give.

    Args:
        options: Arguments by name; JSON values.
        version: TensorRT-LLM's, such as "1.2.1". Of a line that is not in `ACCEPTED` only our own are refused.
        backend: "pytorch" or "tensorrt".

    Raises:
        InvalidSpec: Names the key, and what was probably meant or is to be done.
    """
    rules.one_of("backend", backend, ("pytorch", "tensorrt"))
    line = ".".join(version.split(".")[:2])
    accepted = ACCEPTED.get((backend, line))
    for key in options:
        if key in _OURS:
            raise InvalidSpec(f"engine options must not set {key}: {_OURS[key]}.")
        if accepted is not None and key not in accepted:
            raise InvalidSpec(_unknown_key(key, accepted - _OURS.keys(), f"LLM() of TensorRT-LLM {line}", backend))
    _check_kv_cache(options.get("kv_cache_config", {}), backend)


def _check_kv_cache(config: Any, backend: str) -> None:
    if not isinstance(config, Mapping):
        raise InvalidSpec(f"kv_cache_config must be a dictionary, but got {config!r}.")
    for key in config:
        if key not in KV_CACHE and difflib.get_close_matches(key, KV_CACHE, n=1, cutoff=0.6):
            raise InvalidSpec(_unknown_key(key, KV_CACHE, "kv_cache_config", backend))
    fraction = config.get("free_gpu_memory_fraction")
    if fraction is not None and not (isinstance(fraction, int | float) and 0 < fraction < 1):
        raise InvalidSpec(f"free_gpu_memory_fraction must be above 0 and below 1, but got {fraction!r}.")
    if backend == "tensorrt" and config.get("dtype", "auto") != "auto":
        raise InvalidSpec(
            f"kv_cache_config.dtype must be auto with backend tensorrt, whose engine decides, but got {config['dtype']!r}."
        )


def _unknown_key(key: str, known: frozenset[str], what: str, backend: str) -> str:
    aliases = {"kv_cache_free_gpu_memory_fraction": "kv_cache_config with free_gpu_memory_fraction"}
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    meant = aliases.get(key) or (repr(close[0]) if close else "")
    hint = f" Did you mean {meant}?" if meant else ""
    return f"{key!r} is no argument of {what} with backend {backend}.{hint}"


def engine_options(
    options: Mapping[str, Any],
    *,
    backend: str,
    version: str,
    tp_size: int = 1,
    pp_size: int = 1,
    versions: int = 1,
    memory_fraction: float = TOTAL_FRACTION,
) -> dict[str, Any]:
    """The options that go into a version's serving.json.

    Args:
        options: The user's.
        backend: "pytorch" or "tensorrt".
        version: TensorRT-LLM's.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        versions: Versions that are served on the same GPUs, this one counted; see `shared_fraction`.
        memory_fraction: Fraction of the memory that all of them may take for keys and values.

    Raises:
        InvalidSpec: See `check_llm_args`.
    """
    check_llm_args(options, version, backend=backend)
    values = dict(options)
    if tp_size > 1:
        values["tensor_parallel_size"] = tp_size
    if pp_size > 1:
        values["pipeline_parallel_size"] = pp_size
    cache = dict(values.get("kv_cache_config", {}))
    if "max_tokens" not in cache:
        cache.setdefault("free_gpu_memory_fraction", shared_fraction(versions, memory_fraction))
    values["kv_cache_config"] = cache
    if (
        backend == "pytorch"
        and version.split(".")[:2] == ["1", "0"]
        and not any(key.endswith("_sampler") for key in values)
    ):
        # 1.0's own sampler is greedy whatever a request asks for (pull request 6451); 1.1 replaced it.
        values["enable_trtllm_sampler"] = True
    return values


def shared_fraction(versions: int, total: float = TOTAL_FRACTION) -> float:
    """The fraction that every one of some versions may take, in whatever order or at the same time they load.

    Each takes its fraction of the memory that is free when it measures, behind its own weights. At the same time n
    times `total / n` is `total`; one after the other it is `1 - (1 - total / n) ** n`, which is less. So KV caches
    never exceed `total` of the memory, but the first gets more than the last: equal shares need an order, see
    `fractions_in_order`. Either way the first must leave room for the others' weights: `1 - total / n` of the memory
    is what is left for them and for all else.

    Args:
        versions: Versions on the same GPUs.
        total: Fraction that all together may take.
    """
    rules.at_least("versions", versions, 1)
    rules.between("total", total, 0, 1)
    return total / versions


def fractions_in_order(weights: Sequence[float], memory: float, total: float = TOTAL_FRACTION) -> tuple[float, ...]:
    """Fractions that give versions KV caches of the same size, if they load one after the other in this order.

    The i-th sees `memory - weights[0..i] - i * share`, so it needs a larger fraction of less. Triton loads the versions
    of a model at the same time; with --model-load-thread-count=1 in ascending order (seen with Triton 2.51). Absolute
    sizes (`share_tokens`) need no order at all.

    Args:
        weights: Bytes that each version takes of a GPU besides its KV cache.
        memory: Bytes of a GPU that are free before the first loads.
        total: Fraction of what all weights leave that the KV caches may take together.

    Raises:
        InvalidSpec: The weights alone don't fit.
    """
    share = _share(weights, memory, total)
    free = memory
    fractions = []
    for weight in weights:
        free -= weight
        fractions.append(share / free)
        free -= share
    return tuple(fractions)


def share_tokens(
    weights: Sequence[float], memory: float, bytes_per_token: Sequence[float], total: float = TOTAL_FRACTION
) -> tuple[int, ...]:
    """The same shares as `kv_cache_config.max_tokens`, which hold in any order.

    Args:
        weights: See `fractions_in_order`.
        memory: See there.
        bytes_per_token: Bytes that a token of each version takes in one GPU's KV cache.
        total: See there.
    """
    share = _share(weights, memory, total)
    return tuple(math.floor(share / size) for size in bytes_per_token)


def _share(weights: Sequence[float], memory: float, total: float) -> float:
    rules.not_empty("weights", weights)
    rules.between("total", total, 0, 1)
    left = memory - sum(weights)
    if left <= 0:
        raise InvalidSpec(
            f"versions on one GPU must leave memory for their KV caches, but {len(weights)} take {sum(weights) / 1e9:.1f} "
            f"of {memory / 1e9:.1f} GB: serve fewer versions, or on more GPUs."
        )
    return left * total / len(weights)
