"""trtllm-eval (tensorrt_llm/commands/eval.py, tensorrt_llm/evaluate/), as of 1.1 and 1.2: the tasks that were read."""

from __future__ import annotations

from kfp_trtllm.core.backends.trtllm.commands.argument import LOG_LEVELS, Argument, Tool

_GROUP = (
    Argument(name="model", flag="--model", required=True),
    Argument(name="tokenizer", flag="--tokenizer"),
    Argument(name="backend", flag="--backend", choices=("pytorch", "tensorrt"), default="pytorch", until="1.3"),
    Argument(name="backend", flag="--backend", choices=("pytorch",), default="pytorch", since="1.3"),
    Argument(name="log_level", flag="--log_level", choices=LOG_LEVELS, default="info"),
    Argument(name="max_beam_width", flag="--max_beam_width", kind="int", default=1, minimum=1),
    Argument(name="max_batch_size", flag="--max_batch_size", kind="int", default=2048, minimum=1),
    Argument(name="max_num_tokens", flag="--max_num_tokens", kind="int", default=8192, minimum=1),
    Argument(name="max_seq_len", flag="--max_seq_len", kind="int", minimum=1),
    Argument(name="tp_size", flag="--tp_size", kind="int", default=1, minimum=1),
    Argument(name="pp_size", flag="--pp_size", kind="int", default=1, minimum=1),
    Argument(name="ep_size", flag="--ep_size", kind="int", minimum=1),
    Argument(name="gpus_per_node", flag="--gpus_per_node", kind="int", minimum=1),
    Argument(
        name="kv_cache_free_gpu_memory_fraction",
        flag="--kv_cache_free_gpu_memory_fraction",
        kind="float",
        default=0.9,
        minimum=0,
    ),
    Argument(name="trust_remote_code", flag="--trust_remote_code", kind="flag", default=False),
    Argument(name="extra_llm_api_options", flag="--extra_llm_api_options", aliases=("--config",)),
    Argument(name="disable_kv_cache_reuse", flag="--disable_kv_cache_reuse", kind="flag", default=False),
)
_SAMPLES = Argument(name="num_samples", flag="--num_samples", kind="int", minimum=1)
_SEED = Argument(name="random_seed", flag="--random_seed", kind="int", default=0)
_DATASET = Argument(name="dataset_path", flag="--dataset_path")
_CHAT = (
    Argument(name="apply_chat_template", flag="--apply_chat_template", kind="flag", default=False),
    # JSON text.
    Argument(name="chat_template_kwargs", flag="--chat_template_kwargs"),
    Argument(name="system_prompt", flag="--system_prompt"),
)


def _lengths(prompt: int, answer: int) -> tuple[Argument, ...]:
    """Limits in tokens; longer prompts are cut."""
    return (
        Argument(name="max_input_length", flag="--max_input_length", kind="int", default=prompt, minimum=1),
        Argument(name="max_output_length", flag="--max_output_length", kind="int", default=answer, minimum=1),
    )


def _task(name: str, *arguments: Argument) -> Tool:
    return Tool(title=f"trtllm-eval {name}", program="trtllm-eval", command=name, group=_GROUP, arguments=arguments)


_GPQA = (_DATASET, _SAMPLES, _SEED, *_CHAT, *_lengths(4096, 32768))
EVAL_TASKS = {
    "cnn_dailymail": _task(
        "cnn_dailymail",
        Argument(name="dataset_path", flag="--dataset_path", default="ccdv/cnn_dailymail"),
        _SAMPLES,
        _SEED,
        Argument(name="rouge_path", flag="--rouge_path", default="rouge"),
        *_lengths(924, 100),
    ),
    "gpqa_diamond": _task("gpqa_diamond", *_GPQA),
    "gpqa_extended": _task("gpqa_extended", *_GPQA),
    "gpqa_main": _task("gpqa_main", *_GPQA),
    "gsm8k": _task(
        "gsm8k",
        _DATASET,
        _SAMPLES,
        _SEED,
        *_CHAT,
        Argument(
            name="fewshot_as_multiturn",
            flag="--fewshot_as_multiturn",
            kind="flag",
            default=False,
            needs="apply_chat_template",
        ),
        *_lengths(4096, 256),
    ),
    "mmlu": _task(
        "mmlu",
        _DATASET,
        _SAMPLES,
        Argument(name="num_fewshot", flag="--num_fewshot", kind="int", default=5, minimum=0),
        _SEED,
        *_CHAT,
        *_lengths(4094, 2),
    ),
}
