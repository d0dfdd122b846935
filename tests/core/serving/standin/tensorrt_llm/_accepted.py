"""What TensorRT-LLM 1.2.1 accepts: BaseLlmArgs, TrtLlmArgs, TorchLlmArgs, KvCacheConfig, SamplingParams."""

from __future__ import annotations

BASE = frozenset(
    "model tokenizer tokenizer_mode custom_tokenizer skip_tokenizer_init trust_remote_code tensor_parallel_size dtype "
    "revision tokenizer_revision model_kwargs pipeline_parallel_size context_parallel_size gpus_per_node "
    "moe_cluster_parallel_size moe_tensor_parallel_size moe_expert_parallel_size enable_attention_dp "
    "enable_lm_head_tp_in_adp pp_partition cp_config load_format fail_fast_on_attention_window_too_large enable_lora "
    "lora_config kv_cache_config enable_chunked_prefill guided_decoding_backend batched_logits_processor "
    "iter_stats_max_iterations request_stats_max_iterations peft_cache_config scheduler_config "
    "cache_transceiver_config sparse_attention_config speculative_config max_batch_size max_input_len max_seq_len "
    "max_beam_width max_num_tokens gather_generation_logits num_postprocess_workers postprocess_tokenizer_dir "
    "reasoning_parser decoding_config mpi_session otlp_traces_endpoint backend return_perf_metrics orchestrator_type "
    "env_overrides".split()
)
TRT = BASE | frozenset(
    "enable_tqdm workspace enable_build_cache extended_runtime_perf_knob_config calib_config quant_config "
    "embedding_parallel_mode fast_build build_config enable_prompt_adapter max_prompt_adapter_token batching_type "
    "normalize_log_probs".split()
)
TORCH = BASE | frozenset(
    "garbage_collection_gen0_threshold cuda_graph_config attention_dp_config disable_overlap_scheduler moe_config "
    "nvfp4_gemm_config attn_backend sampler_type sampler_force_async_worker enable_iter_perf_stats "
    "enable_iter_req_stats print_iter_log perf_metrics_max_requests batch_wait_timeout_ms batch_wait_timeout_iters "
    "batch_wait_max_tokens_ratio torch_compile_config enable_autotuner enable_layerwise_nvtx_marker "
    "enable_min_latency stream_interval force_dynamic_quantization allreduce_strategy checkpoint_loader "
    "checkpoint_format kv_connector_config mm_encoder_only ray_worker_extension_cls ray_placement_config enable_sleep "
    "disable_flashinfer_sampling max_stats_len layer_wise_benchmarks_config".split()
)
KV_CACHE = frozenset(
    "enable_block_reuse max_tokens max_attention_window sink_token_length free_gpu_memory_fraction host_cache_size "
    "onboard_blocks cross_kv_cache_fraction secondary_offload_min_priority event_buffer_max_size enable_partial_reuse "
    "copy_on_partial_reuse use_uvm dtype".split()
)
SAMPLING = frozenset(
    "end_id pad_id max_tokens bad bad_token_ids stop stop_token_ids include_stop_str_in_output embedding_bias "
    "logits_processor apply_batched_logits_processor n best_of use_beam_search top_k top_p top_p_min top_p_reset_ids "
    "top_p_decay seed temperature min_tokens beam_search_diversity_rate repetition_penalty presence_penalty "
    "frequency_penalty length_penalty early_stopping no_repeat_ngram_size min_p beam_width_array logprobs "
    "prompt_logprobs return_context_logits return_generation_logits exclude_input_from_output return_encoder_output "
    "return_perf_metrics additional_model_outputs lookahead_config guided_decoding ignore_eos detokenize "
    "add_special_tokens truncate_prompt_tokens skip_special_tokens spaces_between_special_tokens".split()
)
