"""A real model that is built in seconds: a random Llama with a tokenizer of its own, and its engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kfp_trtllm.core.backends.base import BuildPlan, Memory
from kfp_trtllm.core.backends.onnxruntime import OnnxRuntime

CONTEXT = 16384  # long enough for requests that last some seconds
LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 16000}
TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('roles must be user or assistant') }}"
    "{% endif %}\n"
    "    {{- '<s>' + message.role + ': ' + message.content + '</s>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}\n"
)
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "once upon a time there was a little girl who lived in a village near the forest",
    "water boils at one hundred degrees",
    "user: hello\nassistant: good morning, how can I help you today?",
    "日本語のテキスト、中文文本、한국어 텍스트",
    "🙂🚀🎉 naïve café Ελληνικά",
]


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer whose tokens can end within a character."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    # As a careless checkpoint has it; serving must not cut prompts because of it.
    tokenizer.enable_truncation(8)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def write_checkpoint(folder: Path, *, seed: int = 0, tied: bool = True) -> Path:
    """A checkpoint of some 500 KB as transformers saves it."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,  # wide enough for answers that differ from prompt to prompt
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # "End of text" is never the likeliest token, so answers are as long as was asked for.
        model.get_output_embeddings().weight[1] = 0
    model.save_pretrained(folder)
    return folder


def build_plan(variant: str) -> BuildPlan:
    """A plan as plan_build leaves it."""
    return BuildPlan(
        backend="onnxruntime",
        variant=variant,
        checkpoint="sha256:" + "0" * 64,
        engine_key="0" * 64,
        tp_size=1,
        pp_size=1,
        memory=Memory(weights=0, kv_cache=0, activations=0, workspace=0),
        **LIMITS,
    )


def build(checkpoint: Path, engine: Path, variant: str) -> Path:
    """An engine, by the real builder."""
    log = engine.with_name(engine.name + ".log")
    OnnxRuntime().build(
        build_plan(variant), checkpoint, engine, cache=engine.parent, log=log, on_progress=lambda done, total: None
    )
    return engine


def common_start(first: Sequence[object], second: Sequence[object]) -> int:
    """How many entries two sequences share at their beginning."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
