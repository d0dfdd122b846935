"""convert_checkpoint.py of each family (examples/models/core/<family>/), as they last were, in 1.1 and 1.2.

Names are those of the llama script. Where a family spells one otherwise (gemma: --world-size), its row says so.
"""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import Argument, Tool

_DTYPES = ("auto", "float16", "bfloat16", "float32")
_CNN = "ccdv/cnn_dailymail"


def _off(name: str, *aliases: str, flag: str = "", needs: str = "") -> Argument:
    """A flag without value."""
    return Argument(name=name, flag=flag or f"--{name}", aliases=aliases, kind="flag", default=False, needs=needs)


def _precision(*choices: str, unsure: tuple[str, ...] = ()) -> Argument:
    return Argument(
        name="weight_only_precision",
        flag="--weight_only_precision",
        choices=choices,
        unsure=unsure,
        default="int8",
        needs="use_weight_only",
    )


_MODEL = Argument(name="model_dir", flag="--model_dir")
_OUTPUT = Argument(name="output_dir", flag="--output_dir", default="tllm_checkpoint")
_TP = Argument(name="tp_size", flag="--tp_size", kind="int", default=1, minimum=1)
_PP = Argument(name="pp_size", flag="--pp_size", kind="int", default=1, minimum=1)
_CP = Argument(name="cp_size", flag="--cp_size", kind="int", default=1, minimum=1)
# -1 for as many as tp_size allows; their product must be tp_size.
_MOE = (
    Argument(name="moe_tp_size", flag="--moe_tp_size", kind="int", default=-1, minimum=-1),
    Argument(name="moe_ep_size", flag="--moe_ep_size", kind="int", default=-1, minimum=-1),
)
_DTYPE = Argument(name="dtype", flag="--dtype", choices=_DTYPES, default="auto")
_CALIBRATION = Argument(name="calib_dataset", flag="--calib_dataset", default=_CNN)
_SMOOTH = Argument(name="smoothquant", flag="--smoothquant", aliases=("-sq",), kind="float", minimum=0)
_SMOOTH_SCALES = (_off("per_channel"), _off("per_token"))
_GROUPS = (
    _off("per_group"),
    Argument(name="group_size", flag="--group_size", kind="int", default=128, minimum=1),
)
_EMBEDDING = (
    _off("use_parallel_embedding"),
    Argument(
        name="embedding_sharding_dim",
        flag="--embedding_sharding_dim",
        kind="int",
        choices=(0, 1),
        default=0,
        needs="use_parallel_embedding",
    ),
    Argument(
        name="use_embedding_sharing",
        flag="--use_embedding_sharing",
        kind="flag",
        until="0.16",
        instead="leave it out, embeddings are shared where they can be",
    ),
)
_WORKERS = Argument(name="workers", flag="--workers", kind="int", default=1, minimum=1)
_LOG_LEVEL = Argument(name="log_level", flag="--log_level", default="info")
_WEIGHT_ONLY = _off("use_weight_only")
_NO_PLUGIN = _off("disable_weight_only_quant_plugin", needs="use_weight_only")
_ON_CPU = _off("load_model_on_cpu")

_LLAMA = (
    _MODEL,
    Argument(name="meta_ckpt_dir", flag="--meta_ckpt_dir"),
    _OUTPUT,
    _TP,
    _PP,
    _CP,
    *_MOE,
    _DTYPE,
    _WEIGHT_ONLY,
    _NO_PLUGIN,
    _precision("int8", "int4", "int8_gptq", "int4_gptq", "int4_awq"),
    _CALIBRATION,
    Argument(name="calib_size", flag="--calib_size", kind="int", default=512, minimum=-1),
    Argument(name="calib_max_seq_length", flag="--calib_max_seq_length", kind="int", default=512, minimum=1),
    _SMOOTH,
    *_SMOOTH_SCALES,
    _off("use_qserve"),
    _off("int8_kv_cache"),
    _off("fp8_kv_cache"),
    Argument(name="quant_ckpt_path", flag="--quant_ckpt_path"),
    _off("use_fp8"),  # without calibration; quantize.py does it with
    _off("use_nvfp4"),
    _off("use_fp8_rowwise"),
    _off("use_meta_fp8_rowwise_recipe", needs="use_fp8_rowwise"),
    *_GROUPS,
    _off("load_by_shard"),
    _ON_CPU,
    *_EMBEDDING,
    _WORKERS,
    Argument(name="hidden_act", flag="--hidden_act", default="silu"),
    Argument(name="rotary_base", flag="--rotary_base", kind="float", default=10000.0),
    Argument(name="moe_num_experts", flag="--moe_num_experts", kind="int", default=0, minimum=0),
    Argument(name="moe_top_k", flag="--moe_top_k", kind="int", default=0, minimum=0),
    Argument(name="moe_renorm_mode", flag="--moe_renorm_mode", kind="int"),  # by default, RENORMALIZE of layers/moe.py
    _off("save_config_only"),
    _off("remove_duplicated_kv_heads"),
    # The shape of a model without weights.
    Argument(name="vocab_size", flag="--vocab_size", kind="int", default=32000, minimum=1),
    Argument(name="n_positions", flag="--n_positions", kind="int", default=2048, minimum=1),
    Argument(name="n_layer", flag="--n_layer", kind="int", default=32, minimum=1),
    Argument(name="n_head", flag="--n_head", kind="int", default=32, minimum=1),
    Argument(name="n_kv_head", flag="--n_kv_head", kind="int", minimum=1),
    Argument(name="n_embd", flag="--n_embd", kind="int", default=4096, minimum=1),
    Argument(name="inter_size", flag="--inter_size", kind="int", default=11008, minimum=1),
    Argument(name="multiple_of", flag="--multiple_of", kind="int", minimum=1),
    Argument(name="ffn_dim_multiplier", flag="--ffn_dim_multiplier", kind="float"),
    Argument(name="rms_norm_eps", flag="--rms_norm_eps", kind="float", default=1e-6),
    _LOG_LEVEL,
)
_QWEN = (
    Argument(name="model_dir", flag="--model_dir", required=True),
    _OUTPUT,
    _TP,
    _PP,
    _CP,
    *_MOE,
    _DTYPE,
    _WEIGHT_ONLY,
    _NO_PLUGIN,
    _precision("int8", "int4", "int4_gptq", "int8_gptq", unsure=("int8_gptq",)),
    _CALIBRATION,
    _SMOOTH,
    *_SMOOTH_SCALES,
    _off("int8_kv_cache"),
    *_GROUPS,
    _ON_CPU,
    *_EMBEDDING,
    _WORKERS,
)
_GEMMA = (
    # Without it the script fails on a KeyError.
    Argument(name="ckpt_type", flag="--ckpt-type", choices=("jax", "keras", "torch", "hf"), required=True),
    Argument(name="model_dir", flag="--model_dir", aliases=("--model-dir",), required=True),
    Argument(name="output_dir", flag="--output_dir", aliases=("--output-model-dir",), required=True),
    Argument(name="tp_size", flag="--world-size", kind="int", default=1, minimum=1),
    Argument(
        name="pp_size",
        kind="fixed",
        choices=(1,),
        instead="the gemma script splits by tensor parallelism only, so give tp_size",
    ),
    _DTYPE,
    _WEIGHT_ONLY,
    Argument(
        name="weight_only_precision",
        flag="--weight_only_precision",
        aliases=("--use-weight-only-with-precision",),
        choices=("int8", "int4", "w4a8_awq", "w4a16_awq"),
    ),
    _off("use_int8_weight_only_embedding", flag="--use-int8-weight-only-embedding"),
    _off("enable_fp8"),
    _off("fp8_kv_cache"),
    Argument(name="quant_ckpt_path", flag="--quant_ckpt_path"),
    _CALIBRATION,
    _off("use_smooth_quant"),
    _off("int8_kv_cache", "--calibrate_kv_cache", "-kv"),
    *_SMOOTH_SCALES,
    Argument(
        name="smoothquant",
        flag="--smoothquant",
        aliases=("--use_smooth_quant_plugin", "-sq"),
        kind="float",
        minimum=0,
    ),
    Argument(name="tokenizer_dir", flag="--tokenizer_dir"),
    _ON_CPU,
)
_PHI = (
    _MODEL,
    _OUTPUT,
    _TP,
    Argument(
        name="pp_size",
        flag="--pp_size",
        kind="int",
        choices=(1,),
        default=1,
        instead="the phi script refuses pipeline parallelism, so give tp_size",
    ),
    *_MOE,
    _DTYPE,
    _WEIGHT_ONLY,
    _precision("int8", "int4"),
    _WORKERS,
)
_GPT = (
    _MODEL,
    Argument(name="nemo_ckpt_path", flag="--nemo_ckpt_path"),
    Argument(
        name="gpt_variant",
        flag="--gpt_variant",
        choices=("gpt2", "santacoder", "starcoder", "starcoder2", "persimmon", "kosmos-2", "nemotron"),
        since="0.15",
    ),
    _OUTPUT,
    _TP,
    _PP,
    _DTYPE,
    _WEIGHT_ONLY,
    _precision("int8", "int4"),
    Argument(name="calib_dataset", flag="--calib_dataset", default="lambada"),
    Argument(name="dataset_cache_dir", flag="--dataset_cache_dir"),
    _SMOOTH,
    *_SMOOTH_SCALES,
    _off("int8_kv_cache"),
    _ON_CPU,
    *_EMBEDDING,
    _WORKERS,
    Argument(name="nemo_rename_key", flag="--nemo_rename_key", kind="texts"),
    _LOG_LEVEL,
)

CONVERT_CHECKPOINT = Tool(
    title="convert_checkpoint.py",
    program="",
    families={"gemma": _GEMMA, "gpt": _GPT, "llama": _LLAMA, "phi": _PHI, "qwen": _QWEN},
    since="0.8",
    until="1.3",
    instead="use backend pytorch, which converts nothing",
)
