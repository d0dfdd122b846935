"""The reference: a checkpoint as transformers executes it, without any engine in between."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_trtllm.core.backends.base import Generated, Sampling
from kfp_trtllm.errors import BuildFailed, InvalidSpec, KfpTrtllmError

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS_PER_FORWARD = 1024  # enough to keep a CPU busy; bounds the logits to a few hundred MB for large vocabularies


class TransformersModel:
    """A checkpoint as a `TextModel`: float32 on a CPU, the checkpoint's own dtype on a GPU.

    It answers "is the engine as good as what it was built from?", so nothing here is clever: batches change the speed
    of an answer, not the answer. Code that a checkpoint brings along is never run, and weights are read from
    safetensors only.
    """

    def __init__(self, checkpoint: str | Path, *, max_batch_size: int = 16, device: str = "") -> None:
        """Loads the model.

        Args:
            checkpoint: Folder with config.json, weights in safetensors and a tokenizer.
            max_batch_size: Prompts that generate together.
            device: As torch names it; "" takes a GPU where there is one.

        Raises:
            BuildFailed: transformers can't load the folder.
        """
        import torch
        import transformers

        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(checkpoint), local_files_only=True, trust_remote_code=False
            )
            model = self._load(Path(checkpoint), torch.float32 if self._device == "cpu" else "auto")
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            if isinstance(error, KfpTrtllmError):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BuildFailed(f"transformers can't load the checkpoint {checkpoint}: {first}") from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        self._model: Any = model.to(self._device).eval()
        self.max_batch_size = max_batch_size
        self.max_seq_len: int = getattr(model.config, "max_position_embeddings", None) or 2048

    def _load(self, checkpoint: Path, dtype: Any) -> Any:
        """The model, on a CPU still. The seam for checkpoints that transformers can't read by itself."""
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(
            str(checkpoint), dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens added."""
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens

    @property
    def prefix_token(self) -> int:
        """Beginning of text where the tokenizer has it, else its end."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def render_chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt for chat turns, up to where the answer begins.

        Raises:
            InvalidSpec: The tokenizer has no chat template.
        """
        if not self._tokenizer.chat_template:
            raise InvalidSpec("the checkpoint's tokenizer has no chat template, so it can't be given chat turns.")
        text: str = self._tokenizer.apply_chat_template(
            [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True
        )
        return text

    def loglikelihood(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the sum of log-probabilities, and whether greedy would say it.

        A pair's last token is never an input, so choices of one token share the row of their question, and a row that
        begins another row is read from it.
        """
        pairs = [(context or (self.prefix_token,), continuation) for context, continuation in pairs]
        inputs = {i: (*context, *said)[:-1] for i, (context, said) in enumerate(pairs) if said}
        host = _hosts(set(inputs.values()))
        guests: dict[tuple[int, ...], list[int]] = {}
        for index, row in inputs.items():
            guests.setdefault(host[row], []).append(index)
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        for rows in _batches(sorted(guests, key=len)):
            # Logits are wanted from where the first continuation of the batch is predicted.
            first = min(len(pairs[index][0]) - 1 for row in rows for index in guests[row])
            logits = self._logits(rows, first)
            for line, row in enumerate(rows):
                for index in guests[row]:
                    context, continuation = pairs[index]
                    start = len(context) - 1 - first
                    answers[index] = _score(logits[line, start : start + len(continuation)], continuation)
        return answers

    def _logits(self, rows: Sequence[Sequence[int]], first: int) -> Tensor:
        """Logits of [rows, positions from `first`, vocabulary]; padding is on the right, where causal models ignore it."""
        import torch

        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits: Tensor = self._model(
                ids, attention_mask=mask, use_cache=False, logits_to_keep=longest - first
            ).logits
        return logits[:, first - longest :]  # an architecture may have ignored logits_to_keep

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
        """Answers, in order; the time of a token is when its whole batch had it."""
        done: list[Generated] = []
        for start in range(0, len(prompts), self.max_batch_size):
            done += self._generate(prompts[start : start + self.max_batch_size], sampling)
        return done

    def _generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generated]:
        import torch
        import transformers

        encoded = [self.encode(prompt) or [self.prefix_token] for prompt in prompts]
        longest = max(len(tokens) for tokens in encoded)
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self.prefix_token
        ids = torch.tensor([[*[pad] * (longest - len(row)), *row] for row in encoded], device=self._device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded], device=self._device)
        greedy = sampling.temperature == 0 or sampling.top_k == 1
        how: dict[str, Any] = {"do_sample": False}
        if not greedy:
            torch.manual_seed(sampling.seed)
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        watch = _Watch(self._tokenizer, longest, sampling.stop)
        # A generation_config.json may ask for sampling or penalties; the measurement decides, not the checkpoint.
        config = transformers.GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._ends() or None,
            pad_token_id=pad,
            **how,
        )
        watch.start()
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=transformers.StoppingCriteriaList([watch]),
            )
        return [
            self._answer(len(encoded[line]), row[longest:].tolist(), sampling, watch.seconds)
            for line, row in enumerate(output)
        ]

    def _ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, and those that the checkpoint names (chat models have several)."""
        named = self._model.generation_config.eos_token_id
        named = named if isinstance(named, list) else [named]
        return sorted({int(token) for token in (*named, self._tokenizer.eos_token_id) if token is not None})

    def _answer(self, prompt: int, tokens: list[int], sampling: Sampling, seconds: Sequence[float]) -> Generated:
        ends = set(self._ends())
        stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        count = min(stop + 1, len(tokens))
        text = self._tokenizer.decode(tokens[:stop], skip_special_tokens=True)
        cuts = [place for word in sampling.stop if (place := text.find(word)) >= 0]
        if cuts:
            text = text[: min(cuts)]
            # Rows that stopped early are padded until the batch ends; those tokens are nobody's.
            count = _tokens_until_stop(self._tokenizer, tokens[:stop], sampling.stop)
        return Generated(
            text=text,
            finish_reason="stop" if cuts or stop < len(tokens) else "length",
            input_tokens=prompt,
            output_tokens=count,
            token_seconds=tuple(seconds[:count]),
        )

    def close(self) -> None:
        """Frees the weights."""
        self._model = None


class _Watch:
    """Called by transformers after each token: notes the time, and ends rows that said a stop text."""

    def __init__(self, tokenizer: Any, prompt: int, stop: Sequence[str]) -> None:
        self._tokenizer, self._prompt, self._stop = tokenizer, prompt, stop
        self._began = 0.0
        self.seconds: list[float] = []

    def start(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        import torch

        self.seconds.append(time.perf_counter() - self._began)
        answers = ids[:, self._prompt :]
        ended = [any(word in self._tokenizer.decode(row) for word in self._stop) for row in answers]
        return torch.tensor(ended, dtype=torch.bool, device=ids.device)


def _hosts(rows: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Each row, and the longest row that begins with it: in sorted order its extensions come right behind it."""
    hosts: dict[tuple[int, ...], tuple[int, ...]] = {}
    later: tuple[int, ...] | None = None
    for row in sorted(rows, reverse=True):
        hosts[row] = hosts[later] if later is not None and later[: len(row)] == row else row
        later = row
    return hosts


def _batches(rows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Runs of rows, sorted by length, that fit into one forward pass with their padding."""
    batch: list[tuple[int, ...]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > _TOKENS_PER_FORWARD:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score(logits: Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    """The continuation's log-probability under logits of [its tokens, vocabulary], and whether each was the likeliest."""
    import torch

    target = torch.tensor(continuation, device=logits.device)
    logits = logits.float()
    chosen = logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=1)
    total = float(chosen.sum())
    return (total if not math.isnan(total) else -math.inf), bool((logits.argmax(dim=1) == target).all())


def _tokens_until_stop(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> int:
    """How many tokens it took to say a stop text."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        if any(word in text for word in stop):
            return count
    return len(tokens)
