"""trtllm-serve (tensorrt_llm/commands/serve.py), read as of 1.2 and, in its documentation, of 0.18.

Some versions know only the short names of options, and those that know the long ones know both: so the short ones.
"""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import LOG_LEVELS, Argument, Tool

_ARGUMENTS = (
    Argument(name="model", kind="positional", required=True),
    Argument(name="tokenizer", flag="--tokenizer"),
    Argument(name="custom_tokenizer", flag="--custom_tokenizer"),
    Argument(name="host", flag="--host", default="localhost"),
    Argument(name="port", flag="--port", kind="int", default=8000, minimum=1),
    Argument(
        name="backend",
        flag="--backend",
        choices=("pytorch", "tensorrt", "_autodeploy"),
        default="pytorch",
        since="1.0",
        until="1.3",
    ),
    Argument(name="backend", flag="--backend", choices=("pytorch", "_autodeploy"), default="pytorch", since="1.3"),
    Argument(name="backend", flag="--backend", choices=("pytorch",), until="1.0", instead="leave it out for engines"),
    Argument(name="custom_module_dirs", flag="--custom_module_dirs", kind="repeated"),
    Argument(name="log_level", flag="--log_level", choices=LOG_LEVELS, default="info"),
    Argument(name="max_beam_width", flag="--max_beam_width", kind="int", default=1, minimum=1),
    Argument(name="max_batch_size", flag="--max_batch_size", kind="int", default=2048, minimum=1),
    Argument(name="max_num_tokens", flag="--max_num_tokens", kind="int", default=8192, minimum=1),
    Argument(name="max_seq_len", flag="--max_seq_len", kind="int", minimum=1),
    Argument(name="tp_size", flag="--tp_size", kind="int", aliases=("--tensor_parallel_size",), default=1, minimum=1),
    Argument(name="pp_size", flag="--pp_size", kind="int", aliases=("--pipeline_parallel_size",), default=1, minimum=1),
    Argument(name="cp_size", flag="--cp_size", kind="int", aliases=("--context_parallel_size",), default=1, minimum=1),
    Argument(name="ep_size", flag="--ep_size", kind="int", aliases=("--moe_expert_parallel_size",), minimum=1),
    Argument(
        name="cluster_size", flag="--cluster_size", kind="int", aliases=("--moe_cluster_parallel_size",), minimum=1
    ),
    Argument(name="gpus_per_node", flag="--gpus_per_node", kind="int", minimum=1),
    Argument(
        name="kv_cache_free_gpu_memory_fraction",
        flag="--kv_cache_free_gpu_memory_fraction",
        kind="float",
        aliases=("--free_gpu_memory_fraction",),
        default=0.9,
        minimum=0,
    ),
    Argument(name="num_postprocess_workers", flag="--num_postprocess_workers", kind="int", default=0, minimum=0),
    Argument(name="trust_remote_code", flag="--trust_remote_code", kind="flag", default=False),
    Argument(name="revision", flag="--revision"),
    Argument(name="extra_llm_api_options", flag="--extra_llm_api_options", aliases=("--config",)),
    Argument(name="reasoning_parser", flag="--reasoning_parser"),
    Argument(name="tool_parser", flag="--tool_parser"),
    Argument(name="metadata_server_config_file", flag="--metadata_server_config_file"),
    Argument(name="server_role", flag="--server_role"),
    Argument(
        name="fail_fast_on_attention_window_too_large",
        flag="--fail_fast_on_attention_window_too_large",
        kind="flag",
        default=False,
    ),
    Argument(name="otlp_traces_endpoint", flag="--otlp_traces_endpoint"),
    Argument(name="disagg_cluster_uri", flag="--disagg_cluster_uri"),
    Argument(name="enable_chunked_prefill", flag="--enable_chunked_prefill", kind="flag", default=False),
    Argument(name="media_io_kwargs", flag="--media_io_kwargs"),
    Argument(name="chat_template", flag="--chat_template"),
)

SERVE = Tool(
    title="trtllm-serve",
    program="trtllm-serve",
    arguments=_ARGUMENTS,
    since="0.15",
    instead="serve by Triton",
)
