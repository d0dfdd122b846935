"""Small real models and a home of their own for whole releases on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core/serving"))  # shares its stand-ins with the tests of serving

SENTENCES = [
    "The capital of France is Paris.",
    "A week has seven days and a year has twelve months.",
    "What do bees make? Bees make honey.",
    "The sun rises in the east and sets in the west.",
    "Two plus two is four, and four plus four is eight.",
]


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of a few hundred KB that nobody prepared for us."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "qwen"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=0,
        bos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass
class Machine:
    """The command line, on a home of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*arguments), capture_output=True, text=True, env=self.env, timeout=timeout)

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kfp_trtllm.cli", *arguments]

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "KFP_TRTLLM_HOME": str(self.home), **self.environment}

    def release(self, source: Path, name: str = "tiny", **parameters: object) -> subprocess.CompletedProcess[str]:
        """A release of a tiny model, quick: no accuracy gate, few probes."""
        return self("run", "release_llm_cpu", "--local", *self.pairs(source, name, **parameters))

    @staticmethod
    def pairs(source: Path, name: str = "tiny", **parameters: object) -> list[str]:
        values: dict[str, object] = {
            "source": f"file://{source}",
            "model_name": name,
            "variants": ["fp32"],
            "max_batch_size": 2,
            "max_input_len": 128,
            "max_seq_len": 192,
            "accuracy_gate": False,
            "benchmark_concurrency": [1],
            "benchmark_max_tokens": 4,
            "probe_max_tokens": 4,
            **parameters,
        }
        pairs = []
        for key, value in values.items():
            pairs += ["-p", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return pairs

    def facts(self) -> list[dict[str, object]]:
        """All events of the newest run."""
        newest = max((self.home / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(line) for line in (newest / "events.jsonl").read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "home")
    yield found
    found("local", "stop")
    assert found("local", "status").stdout == "nothing runs\n"


@pytest.fixture(scope="module")
def shared_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    found = Machine(tmp_path_factory.mktemp("machine") / "home")
    yield found
    found("local", "stop")
    assert found("local", "status").stdout == "nothing runs\n"
