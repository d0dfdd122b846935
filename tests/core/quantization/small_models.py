"""Random models of half a MB that every format can quantize, and texts to calibrate them with."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

WORDS = (
    "the quick brown fox jumps over a lazy dog once upon time there was little girl who lived in village near forest "
    "water boils at one hundred degrees"
).split()


def write_model(folder: Path, kind: str) -> Path:
    """A Llama (16-bit floats, tied head) or a Qwen2 (brain floats, biases) whose layers have whole groups of 128."""
    import torch
    import transformers
    from tiny_model import write_tokenizer
    from tokenizers import Tokenizer

    write_tokenizer(folder)
    sizes = {
        "vocab_size": Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(tie_word_embeddings=True, **sizes)
        model = transformers.LlamaForCausalLM(config).to(torch.float16)
    else:
        config = transformers.Qwen2Config(tie_word_embeddings=False, **sizes)
        model = transformers.Qwen2ForCausalLM(config).to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    # Settings that transformers would rewrite, and words of an older one, which must survive.
    (folder / "generation_config.json").write_text('{"do_sample": false, "top_p": 0.9, "eos_token_id": 1}')
    document = json.loads((folder / "config.json").read_text())
    document["torch_dtype"] = document.pop("dtype")
    document["rope_theta"] = document.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def write_texts(path: Path) -> str:
    """A calibration file of twelve texts."""
    choose = random.Random(0)
    entries = [{"text": " ".join(choose.choices(WORDS, k=40))} for _ in range(12)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)
