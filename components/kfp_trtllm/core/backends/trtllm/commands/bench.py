"""trtllm-bench (tensorrt_llm/commands/bench.py, tensorrt_llm/bench/), as of 1.0 to 1.2."""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import LOG_LEVELS, Argument, Tool

_GROUP = (
    Argument(name="model", flag="--model", aliases=("-m",), required=True),
    Argument(name="model_path", flag="--model_path"),
    Argument(name="workspace", flag="--workspace", aliases=("-w",), default="/tmp"),
    Argument(name="log_level", flag="--log_level", choices=LOG_LEVELS, default="info"),
    Argument(name="revision", flag="--revision"),
)
_ENGINE = Argument(name="engine_dir", flag="--engine_dir", until="1.3", instead="measure the checkpoint itself")
_BACKEND = (
    Argument(
        name="backend",
        flag="--backend",
        choices=("pytorch", "_autodeploy", "tensorrt"),
        default="pytorch",
        since="1.0",
        until="1.3",
    ),
    Argument(name="backend", flag="--backend", choices=("pytorch", "_autodeploy"), default="pytorch", since="1.3"),
    Argument(name="backend", flag="--backend", choices=("pytorch",), until="1.0", instead="leave it out for engines"),
)
_TP = Argument(name="tp_size", flag="--tp", kind="int", default=1, minimum=1)
_PP = Argument(name="pp_size", flag="--pp", kind="int", default=1, minimum=1)
_EP = Argument(name="ep_size", flag="--ep", kind="int", minimum=1)
_FRACTION = Argument(
    name="kv_cache_free_gpu_mem_fraction",
    flag="--kv_cache_free_gpu_mem_fraction",
    kind="float",
    aliases=("--kv_cache_free_gpu_memory_fraction",),
    default=0.9,
    minimum=0,
)
_MAX_SEQ_LEN = Argument(name="max_seq_len", flag="--max_seq_len", kind="int", minimum=1)
_BEAMS = Argument(name="beam_width", flag="--beam_width", kind="int", default=1, minimum=1)
_DATASET = Argument(name="dataset", flag="--dataset")
_MODALITY = Argument(name="modality", flag="--modality", choices=("image", "video"))
_MAX_INPUT_LEN = Argument(name="max_input_len", flag="--max_input_len", kind="int", default=4096, minimum=1)
_REQUESTS = Argument(name="num_requests", flag="--num_requests", kind="int", default=0, minimum=0)
_WARMUP = Argument(name="warmup", flag="--warmup", kind="int", default=2, minimum=0)
_TARGETS = (
    Argument(name="target_input_len", flag="--target_input_len", kind="int", minimum=1),
    Argument(name="target_output_len", flag="--target_output_len", kind="int", minimum=1),
)
_REPORT = Argument(name="report_json", flag="--report_json")
_ITERATIONS = Argument(name="iteration_log", flag="--iteration_log")

BENCH_THROUGHPUT = Tool(
    title="trtllm-bench throughput",
    program="trtllm-bench",
    command="throughput",
    group=_GROUP,
    arguments=(
        _ENGINE,
        *_BACKEND,
        Argument(name="extra_llm_api_options", flag="--extra_llm_api_options", aliases=("--config",)),
        Argument(name="max_batch_size", flag="--max_batch_size", kind="int", minimum=1),
        Argument(name="max_num_tokens", flag="--max_num_tokens", kind="int", minimum=1),
        _MAX_SEQ_LEN,
        _BEAMS,
        _FRACTION,
        _DATASET,
        Argument(name="eos_id", flag="--eos_id", kind="int", default=-1),
        _MODALITY,
        _MAX_INPUT_LEN,
        _REQUESTS,
        _WARMUP,
        *_TARGETS,
        _TP,
        _PP,
        _EP,
        Argument(name="cluster_size", flag="--cluster_size", kind="int", minimum=1),
        Argument(name="concurrency", flag="--concurrency", kind="int", default=-1, since="0.17"),
        Argument(name="streaming", flag="--streaming", kind="flag", default=False),
        _REPORT,
        _ITERATIONS,
        Argument(name="output_json", flag="--output_json"),
        Argument(name="request_json", flag="--request_json"),
        Argument(name="enable_chunked_context", flag="--enable_chunked_context", kind="flag", default=False),
        Argument(
            name="scheduler_policy",
            flag="--scheduler_policy",
            choices=("guaranteed_no_evict", "max_utilization"),
            default="guaranteed_no_evict",
        ),
    ),
)
BENCH_LATENCY = Tool(
    title="trtllm-bench latency",
    program="trtllm-bench",
    command="latency",
    group=_GROUP,
    arguments=(
        _ENGINE,
        *_BACKEND,
        _FRACTION,
        _MAX_SEQ_LEN,
        _DATASET,
        _MODALITY,
        _MAX_INPUT_LEN,
        _REQUESTS,
        _WARMUP,
        _TP,
        _PP,
        _EP,
        _BEAMS,
        Argument(name="concurrency", flag="--concurrency", kind="int", default=1),
        Argument(name="medusa_choices", flag="--medusa_choices"),
        _REPORT,
        _ITERATIONS,
    ),
)
BENCH_BUILD = Tool(
    title="trtllm-bench build",
    program="trtllm-bench",
    command="build",
    group=_GROUP,
    arguments=(
        Argument(name="tp_size", flag="--tp_size", kind="int", aliases=("-tp",), default=1, minimum=1),
        Argument(name="pp_size", flag="--pp_size", kind="int", aliases=("-pp",), default=1, minimum=1),
        # A QuantAlgo; which of them differs.
        Argument(name="quantization", flag="--quantization", aliases=("-q",)),
        _MAX_SEQ_LEN,
        Argument(name="no_weights_loading", flag="--no_weights_loading", kind="bool", default=False),
        Argument(name="trust_remote_code", flag="--trust_remote_code", kind="bool", default=False),
        _DATASET,
        Argument(name="max_batch_size", flag="--max_batch_size", kind="int", minimum=1),
        Argument(name="max_num_tokens", flag="--max_num_tokens", kind="int", minimum=1),
        *_TARGETS,
    ),
    until="1.3",
    instead="use backend pytorch, which builds nothing",
)
