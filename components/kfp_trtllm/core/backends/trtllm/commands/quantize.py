"""examples/quantization/quantize.py: calibrates with ModelOpt and writes a TensorRT-LLM checkpoint; 1.1 and 1.2.

Of two stored versions one has the format fp8_pc_pt, the other --export_format; which releases have which is not known.
"""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import Argument, Tool

_ARGUMENTS = (
    Argument(name="model_dir", flag="--model_dir"),
    Argument(name="nemo_ckpt_path", flag="--nemo_ckpt_path"),
    Argument(
        name="decoder_type",
        flag="--decoder_type",
        choices=("gptnext", "llama"),
        default="gptnext",
    ),
    Argument(name="output_dir", flag="--output_dir", default="exported_model"),
    Argument(name="tp_size", flag="--tp_size", kind="int", default=1, minimum=1),
    Argument(name="pp_size", flag="--pp_size", kind="int", default=1, minimum=1),
    Argument(name="cp_size", flag="--cp_size", kind="int", default=1, minimum=1),
    Argument(name="dtype", flag="--dtype", choices=("auto", "float16", "bfloat16", "float32"), default="auto"),
    Argument(
        name="qformat",
        flag="--qformat",
        choices=("nvfp4", "fp8", "fp8_pc_pt", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo", "full_prec"),
        unsure=("fp8_pc_pt",),
        default="full_prec",
    ),
    Argument(name="kv_cache_dtype", flag="--kv_cache_dtype", choices=("int8", "fp8")),
    Argument(name="quantize_lm_head", flag="--quantize_lm_head", kind="flag", default=False, since="0.19"),
    Argument(name="awq_block_size", flag="--awq_block_size", kind="int", default=128, minimum=1),
    Argument(name="device", flag="--device", choices=("cuda", "cpu"), default="cuda"),
    Argument(name="device_map", flag="--device_map", choices=("auto", "sequential", "cpu", "gpu"), default="auto"),
    Argument(name="calib_dataset", flag="--calib_dataset", default="cnn_dailymail"),
    Argument(name="calib_size", flag="--calib_size", kind="int", default=512, minimum=1),
    Argument(name="calib_max_seq_length", flag="--calib_max_seq_length", kind="int", default=512, minimum=1),
    Argument(name="calib_tp_size", flag="--calib_tp_size", kind="int", default=1, minimum=1),
    Argument(name="calib_pp_size", flag="--calib_pp_size", kind="int", default=1, minimum=1),
    Argument(name="batch_size", flag="--batch_size", kind="int", default=1, minimum=1),
    Argument(name="tokenizer_max_seq_length", flag="--tokenizer_max_seq_length", kind="int", default=2048, minimum=1),
    Argument(name="seed", flag="--seed", kind="int", default=1234),
    Argument(name="num_medusa_heads", flag="--num_medusa_heads", kind="int", default=4, minimum=1),
    Argument(name="num_medusa_layers", flag="--num_medusa_layers", kind="int", default=1, minimum=1),
    Argument(name="max_draft_len", flag="--max_draft_len", kind="int", default=63, minimum=0),
    Argument(name="medusa_hidden_act", flag="--medusa_hidden_act", default="silu"),
    Argument(name="medusa_model_dir", flag="--medusa_model_dir"),
    Argument(name="quant_medusa_head", flag="--quant_medusa_head", kind="flag", default=False),
    # A comma list of fp8, int4_awq, w4a8_awq and int8_sq, but not both fp8 and int8_sq.
    Argument(name="autoq_format", flag="--autoq_format", since="0.15"),
    Argument(name="auto_quantize_bits", flag="--auto_quantize_bits", kind="float", minimum=4, since="0.15"),
    Argument(name="export_format", flag="--export_format", choices=("tensorrt_llm", "hf"), default="tensorrt_llm"),
)

QUANTIZE = Tool(
    title="quantize.py",
    program="quantization/quantize.py",
    arguments=_ARGUMENTS,
    since="0.8",
    until="1.3",
    instead="quantize for backend pytorch, by ModelOpt",
)
