"""Templates with the very parameters of NVIDIA's inflight_batcher_llm (TensorRT-LLM 1.x)."""

from __future__ import annotations

from pathlib import Path

# Entries of `parameters` by their key, with the template parameter where its name is another.
PARAMETERS = {
    "preprocessing": "tokenizer_dir add_special_tokens multimodal_model_path gpt_model_path=engine_dir max_num_images "
    "hf_model_path",
    "postprocessing": "tokenizer_dir skip_special_tokens",
    "tensorrt_llm_bls": "accumulate_tokens tensorrt_llm_model_name tensorrt_llm_draft_model_name "
    "multimodal_encoders_name",
    "tensorrt_llm": "max_beam_width gpt_model_type=batching_strategy gpt_model_path=engine_dir "
    "encoder_model_path=encoder_engine_dir max_tokens_in_paged_kv_cache max_attention_window_size sink_token_length "
    "batch_scheduler_policy kv_cache_free_gpu_mem_fraction cross_kv_cache_fraction kv_cache_host_memory_bytes "
    "kv_cache_onboard_blocks enable_trt_overlap exclude_input_in_output cancellation_check_period_ms "
    "stats_check_period_ms iter_stats_max_iterations request_stats_max_iterations enable_kv_cache_reuse "
    "normalize_log_probs enable_chunked_context gpu_device_ids participant_ids num_nodes "
    "lora_cache_optimal_adapter_size lora_cache_max_adapter_size lora_cache_gpu_memory_fraction "
    "lora_cache_host_memory_bytes lora_prefetch_dir decoding_mode lookahead_window_size lookahead_ngram_size "
    "lookahead_verification_set_size medusa_choices eagle_choices gpu_weights_percent enable_context_fmha_fp32_acc "
    "multi_block_mode cuda_graph_mode cuda_graph_cache_size speculative_decoding_fast_logits tokenizer_dir "
    "guided_decoding_backend xgrammar_tokenizer_info_path",
}
QUEUE = """
dynamic_batching {
  preferred_batch_size: [ ${triton_max_batch_size} ]
  max_queue_delay_microseconds: ${max_queue_delay_microseconds}
  default_queue_policy: { max_queue_size: ${max_queue_size} }
}
"""
HEADS = {
    "preprocessing": f'backend: "python"{QUEUE}instance_group [ {{ count: ${{preprocessing_instance_count}} kind: KIND_CPU }} ]',
    "postprocessing": 'backend: "python"\ninstance_group [ { count: ${postprocessing_instance_count} kind: KIND_CPU } ]',
    "tensorrt_llm_bls": 'backend: "python"\nmodel_transaction_policy { decoupled: ${decoupled_mode} }\n'
    'output [ { name: "context_logits" data_type: ${logits_datatype} dims: [ -1, -1 ] } ]\n'
    "instance_group [ { count: ${bls_instance_count} kind: KIND_CPU } ]",
    "tensorrt_llm": f'backend: "${{triton_backend}}"\nmodel_transaction_policy {{ decoupled: ${{decoupled_mode}} }}{QUEUE}'
    'input [ { name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] allow_ragged_batch: true },\n'
    '{ name: "encoder_input_features" data_type: ${encoder_input_features_data_type} dims: [ -1, -1 ] optional: true },\n'
    '{ name: "prompt_embedding_table" data_type: ${prompt_embedding_table_data_type} dims: [ -1, -1 ] optional: true } ]\n'
    'output [ { name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] },\n'
    '{ name: "context_logits" data_type: ${logits_datatype} dims: [ -1, -1 ] } ]\n'
    "instance_group [ { count: 1 kind: KIND_CPU } ]",
    "ensemble": 'platform: "ensemble"\n'
    'input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },\n'
    '{ name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] },\n'
    '{ name: "stop_words" data_type: TYPE_STRING dims: [ -1 ] optional: true },\n'
    '{ name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true } ]\n'
    'output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] },\n'
    '{ name: "generation_logits" data_type: ${logits_datatype} dims: [ -1, -1, -1 ] } ]\n'
    'ensemble_scheduling { step [ { model_name: "tensorrt_llm" model_version: -1\n'
    'input_map { key: "input_ids" value: "text_input" } output_map { key: "output_ids" value: "text_output" } } ] }',
}


def template(part: str) -> str:
    text = (
        f'# A comment with "quotes" and a price of 5 $.\nname: "{part}"\nmax_batch_size: ${{triton_max_batch_size}}\n'
    )
    text += HEADS[part] + "\n"
    for entry in PARAMETERS.get(part, "").split():
        key, _, name = entry.partition("=")
        text += f'parameters: {{ key: "{key}" value: {{ string_value: "${{{name or key}}}" }} }}\n'
    if part == "tensorrt_llm":
        text += 'parameters: { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: { string_value: "no" } }\n'
        worker = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
        text += f'parameters: {{ key: "executor_worker_path" value: {{ string_value: "{worker}" }} }}\n'
    return text


def write_templates(root: Path) -> Path:
    """The folder as the image has it."""
    for part in HEADS:
        (root / part / "1").mkdir(parents=True)
        (root / part / "config.pbtxt").write_text(template(part))
        if part != "ensemble":
            (root / part / "1/model.py").write_text(f"# {part}\n")
    (root / "tensorrt_llm_bls/1/lib").mkdir()
    (root / "tensorrt_llm_bls/1/lib/decode.py").write_text("# decode\n")
    return root
