"""trtllm-build (tensorrt_llm/commands/build.py, tensorrt_llm/plugin/plugin.py), as of 1.1 and 1.2.

What older versions had is here with the version that dropped it (docs/source/release-notes.md), so that who gives it
hears what to do now.
"""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import LOG_LEVELS, Argument, Tool

_DTYPES = ("auto", "float16", "float32", "bfloat16", "int32", "disable")
_OF_BUILD_PY = "0.8"  # each model had its own build.py before

_ARGUMENTS = (
    Argument(name="checkpoint_dir", flag="--checkpoint_dir"),
    Argument(name="model_config", flag="--model_config"),
    Argument(name="build_config", flag="--build_config"),
    Argument(name="model_cls_file", flag="--model_cls_file"),
    Argument(name="model_cls_name", flag="--model_cls_name"),
    Argument(name="output_dir", flag="--output_dir", default="engine_outputs"),
    Argument(name="max_batch_size", flag="--max_batch_size", kind="int", default=2048, minimum=1, since="0.14"),
    Argument(
        name="max_batch_size", flag="--max_batch_size", kind="int", default=256, minimum=1, since="0.11", until="0.14"
    ),
    Argument(name="max_batch_size", flag="--max_batch_size", kind="int", minimum=1, until="0.11"),
    # Ignored where padding is removed and context_fmha is on, as both are by default.
    Argument(name="max_input_len", flag="--max_input_len", kind="int", default=1024, minimum=1),
    Argument(
        name="max_seq_len",
        flag="--max_seq_len",
        kind="int",
        aliases=("--max_decoder_seq_len",),
        minimum=1,
        since="0.11",
        instead="give max_output_len",
    ),
    Argument(name="max_beam_width", flag="--max_beam_width", kind="int", default=1, minimum=1),
    Argument(name="max_num_tokens", flag="--max_num_tokens", kind="int", default=8192, minimum=1),
    Argument(name="opt_num_tokens", flag="--opt_num_tokens", kind="int", minimum=1),
    Argument(name="max_encoder_input_len", flag="--max_encoder_input_len", kind="int", default=1024, minimum=1),
    Argument(
        name="max_prompt_embedding_table_size",
        flag="--max_prompt_embedding_table_size",
        kind="int",
        aliases=("--max_multimodal_len",),
        default=0,
        minimum=0,
    ),
    Argument(name="kv_cache_type", flag="--kv_cache_type", choices=("continuous", "paged", "disabled")),
    # Deprecated, but still there.
    Argument(name="paged_kv_cache", flag="--paged_kv_cache", choices=("enable", "disable")),
    Argument(name="input_timing_cache", flag="--input_timing_cache"),
    Argument(name="output_timing_cache", flag="--output_timing_cache", default="model.cache"),
    Argument(
        name="profiling_verbosity",
        flag="--profiling_verbosity",
        choices=("layer_names_only", "detailed", "none"),
        default="layer_names_only",
    ),
    Argument(name="strip_plan", flag="--strip_plan", kind="flag", default=False),
    Argument(name="weight_sparsity", flag="--weight_sparsity", kind="flag", default=False),
    Argument(name="weight_streaming", flag="--weight_streaming", kind="flag", default=False, since="0.10"),
    # Not with int8 or int4 weights without their plugin.
    Argument(name="fast_build", flag="--fast_build", kind="flag", default=False, since="0.12", instead="leave it out"),
    Argument(name="workers", flag="--workers", kind="int", default=1, minimum=1),
    Argument(name="log_level", flag="--log_level", choices=LOG_LEVELS, default="info"),
    Argument(name="enable_debug_output", flag="--enable_debug_output", kind="flag", default=False),
    Argument(name="visualize_network", flag="--visualize_network", since="0.10"),
    Argument(name="dry_run", flag="--dry_run", kind="flag", default=False, since="0.10"),
    Argument(name="monitor_memory", flag="--monitor_memory", kind="flag", default=False),
    Argument(name="logits_dtype", flag="--logits_dtype", choices=("float16", "float32")),
    Argument(name="gather_context_logits", flag="--gather_context_logits", kind="flag", default=False),
    Argument(name="gather_generation_logits", flag="--gather_generation_logits", kind="flag", default=False),
    Argument(name="gather_all_token_logits", flag="--gather_all_token_logits", kind="flag", default=False),
    Argument(name="lora_dir", flag="--lora_dir", kind="texts", needs="lora_plugin"),
    Argument(
        name="lora_ckpt_source", flag="--lora_ckpt_source", choices=("hf", "nemo"), default="hf", needs="lora_plugin"
    ),
    # Its choices are modules of the model, which tensorrt_llm/lora_manager.py lists.
    Argument(name="lora_target_modules", flag="--lora_target_modules", kind="texts", needs="lora_plugin"),
    Argument(name="max_lora_rank", flag="--max_lora_rank", kind="int", default=64, minimum=1, needs="lora_plugin"),
    Argument(
        name="speculative_decoding_mode",
        flag="--speculative_decoding_mode",
        choices=("draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"),
    ),
    Argument(name="max_draft_len", flag="--max_draft_len", kind="int", default=0, minimum=0),
    # Plugins.
    Argument(name="bert_attention_plugin", flag="--bert_attention_plugin", choices=_DTYPES, default="auto"),
    Argument(name="gpt_attention_plugin", flag="--gpt_attention_plugin", choices=_DTYPES, default="auto"),
    Argument(
        name="gemm_plugin",
        flag="--gemm_plugin",
        choices=("auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"),
        renamed={"bf16": "bfloat16", "float8": "fp8", "fp16": "float16"},
    ),
    Argument(
        name="gemm_swiglu_plugin",
        flag="--gemm_swiglu_plugin",
        choices=("fp8", "disable"),
        default="disable",
        since="0.11",
    ),
    Argument(name="fp8_rowwise_gemm_plugin", flag="--fp8_rowwise_gemm_plugin", choices=_DTYPES, default="disable"),
    Argument(name="nccl_plugin", flag="--nccl_plugin", choices=_DTYPES, default="auto"),
    Argument(name="lora_plugin", flag="--lora_plugin", choices=_DTYPES, default="disable"),
    Argument(name="dora_plugin", flag="--dora_plugin", kind="switch", default=False),
    Argument(name="moe_plugin", flag="--moe_plugin", choices=_DTYPES, default="auto"),
    Argument(name="mamba_conv1d_plugin", flag="--mamba_conv1d_plugin", choices=_DTYPES, default="auto"),
    Argument(
        name="low_latency_gemm_plugin",
        flag="--low_latency_gemm_plugin",
        choices=("fp8", "disable"),
        default="disable",
    ),
    Argument(
        name="low_latency_gemm_swiglu_plugin",
        flag="--low_latency_gemm_swiglu_plugin",
        choices=("fp8", "disable"),
        default="disable",
    ),
    Argument(
        name="gemm_allreduce_plugin",
        flag="--gemm_allreduce_plugin",
        choices=("float16", "bfloat16", "disable"),
        default="disable",
    ),
    # Features.
    Argument(name="context_fmha", flag="--context_fmha", kind="switch", default=True),
    Argument(name="bert_context_fmha_fp32_acc", flag="--bert_context_fmha_fp32_acc", kind="switch", default=False),
    Argument(name="remove_input_padding", flag="--remove_input_padding", kind="switch", default=True),
    Argument(name="norm_quant_fusion", flag="--norm_quant_fusion", kind="switch", default=False),
    Argument(name="reduce_fusion", flag="--reduce_fusion", kind="switch", default=False, since="0.11"),
    Argument(name="user_buffer", flag="--user_buffer", kind="switch", default=False, needs="reduce_fusion"),
    Argument(name="tokens_per_block", flag="--tokens_per_block", kind="int", default=32, minimum=1),
    Argument(name="use_paged_context_fmha", flag="--use_paged_context_fmha", kind="switch", default=True),
    Argument(name="use_fp8_context_fmha", flag="--use_fp8_context_fmha", kind="switch", default=True),
    Argument(name="fuse_fp4_quant", flag="--fuse_fp4_quant", kind="switch", default=False),
    Argument(name="multiple_profiles", flag="--multiple_profiles", kind="switch", default=False),
    Argument(name="paged_state", flag="--paged_state", kind="switch", default=True),
    # Enabled, it trips an assertion.
    Argument(
        name="streamingllm",
        flag="--streamingllm",
        kind="switch",
        choices=("disable",),
        default=False,
        instead="attention sinks don't work with the present KV cache, so leave it out",
    ),
    Argument(name="use_fused_mlp", flag="--use_fused_mlp", kind="switch", default=True, since="0.13"),
    # For Mixtral only.
    Argument(name="pp_reduce_scatter", flag="--pp_reduce_scatter", kind="switch", default=False, since="0.15"),
    # What is gone.
    Argument(
        name="max_output_len",
        flag="--max_output_len",
        kind="int",
        minimum=1,
        until="0.12",
        instead="give max_seq_len = max_input_len + max_output_len",
    ),
    Argument(
        name="tp_size",
        flag="--tp_size",
        kind="int",
        until="0.12",
        instead="give tp_size to convert_checkpoint.py or quantize.py, whose checkpoint it reads",
    ),
    Argument(
        name="pp_size",
        flag="--pp_size",
        kind="int",
        until="0.12",
        instead="give pp_size to convert_checkpoint.py or quantize.py, whose checkpoint it reads",
    ),
    Argument(
        name="cp_size",
        flag="--cp_size",
        kind="int",
        until="0.12",
        instead="give cp_size to convert_checkpoint.py or quantize.py, whose checkpoint it reads",
    ),
    Argument(
        name="use_custom_all_reduce",
        flag="--use_custom_all_reduce",
        kind="switch",
        until="0.12",
        instead="leave it out, it is chosen at run time",
    ),
    Argument(
        name="multi_block_mode",
        flag="--multi_block_mode",
        kind="switch",
        until="0.12",
        instead="leave it out, it is a setting of the server and on by default",
    ),
    Argument(
        name="context_fmha_fp32_acc",
        flag="--context_fmha_fp32_acc",
        kind="switch",
        until="0.12",
        instead="set enable_context_fmha_fp32_acc when serving",
    ),
    Argument(name="builder_opt", flag="--builder_opt", kind="int", until="0.14", instead="leave it out"),
    Argument(name="enable_xqa", flag="--enable_xqa", kind="switch", until="0.16", instead="leave it out"),
    Argument(
        name="weight_only_precision",
        flag="--weight_only_precision",
        until="0.11",
        instead="give it to convert_checkpoint.py, with use_weight_only",
    ),
    Argument(
        name="attention_qk_half_accumulation",
        flag="--attention_qk_half_accumulation",
        kind="switch",
        until="0.11",
        instead="leave it out",
    ),
    Argument(
        name="use_context_fmha_for_generation",
        flag="--use_context_fmha_for_generation",
        kind="switch",
        until="0.11",
        instead="leave it out",
    ),
    Argument(name="strongly_typed", flag="--strongly_typed", kind="flag", until="0.11", instead="leave it out"),
    Argument(
        name="use_fp8",
        flag="--use_fp8",
        kind="flag",
        until=_OF_BUILD_PY,
        instead="quantize the checkpoint by quantize.py with qformat fp8",
    ),
    Argument(name="use_gemm_plugin", flag="--use_gemm_plugin", until=_OF_BUILD_PY, instead="give gemm_plugin"),
    Argument(
        name="use_gpt_attention_plugin",
        flag="--use_gpt_attention_plugin",
        until=_OF_BUILD_PY,
        instead="give gpt_attention_plugin",
    ),
    Argument(
        name="use_inflight_batching",
        flag="--use_inflight_batching",
        kind="flag",
        until=_OF_BUILD_PY,
        instead="leave it out, every engine with a paged KV cache can",
    ),
    Argument(
        name="enable_context_fmha",
        flag="--enable_context_fmha",
        kind="flag",
        until=_OF_BUILD_PY,
        instead="give context_fmha",
    ),
    Argument(
        name="world_size",
        flag="--world_size",
        kind="int",
        until=_OF_BUILD_PY,
        instead="give tp_size and pp_size to convert_checkpoint.py or quantize.py",
    ),
)

BUILD = Tool(
    title="trtllm-build",
    program="trtllm-build",
    arguments=_ARGUMENTS,
    since=_OF_BUILD_PY,
    until="1.3",
    instead="use backend pytorch, which builds nothing",
)
