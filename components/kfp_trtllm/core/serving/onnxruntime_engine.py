"""ONNX Runtime on a CPU, driven directly: one shared key/value cache, all running requests in one step.

onnxruntime-genai can't do this: its `Generator` admits nobody once it runs, and its `Engine` is static on a CPU. But
the graphs that its model builder writes can. Their GroupQueryAttention takes each row's length from the sum of its
attention mask, and writes new keys and values in place where past and present are the same memory, so rows of
different lengths run together with no padding and no copy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .batching import ContinuousBatching
from .engine import Settings

_CHUNK = 64  # tokens of a prompt between two steps of its neighbors; larger chunks are hardly faster on a CPU
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

Logits = npt.NDArray[np.float32]
T = TypeVar("T")


def open_engine(folder: Path, settings: Settings) -> OnnxRuntimeEngine:
    """Loads an engine folder that the model builder wrote: model.onnx, genai_config.json."""
    return OnnxRuntimeEngine(OrtDecoder(folder, settings))


def cores() -> int:
    """CPU cores that this process may use: those it is bound to, or its container's quota where that is less."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return max(count, 1)


class OrtDecoder:
    """batching.Decoder over a session and a cache that belongs to us.

    The cache is one array per layer, for keys and for values, [rows + 1, heads, max_seq_len, head size]. The last row
    is where prompts are read, beside the running ones. The arrays come from the system as untouched pages, so memory
    is taken as rows fill up.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        import onnxruntime as ort

        self._ort = ort
        self.rows = settings.max_batch_size
        self.chunk = min(_CHUNK, settings.max_seq_len)
        self.max_seq_len = settings.max_seq_len
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        decoder = config["model"]["decoder"]
        context = int(config["model"]["context_length"])
        if settings.max_seq_len > context:
            raise ValueError(
                f"max_seq_len must be at most {context} (the model's own), but got {settings.max_seq_len}."
            )
        ends = config["model"]["eos_token_id"]
        self.end_tokens = frozenset(ends if isinstance(ends, list) else [ends])
        try:
            self._session = ort.InferenceSession(
                str(folder / decoder["filename"]), _options(ort), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own classes have no base but this
            raise ValueError(f"{decoder['filename']} can't be loaded: {str(error).splitlines()[0]}") from None
        self._names = {**decoder["inputs"], **decoder["outputs"]}
        self._cache = self._make_cache(int(decoder["num_hidden_layers"]), int(decoder["head_size"]))
        vocabulary = self._session.get_outputs()[self._output(self._names["logits"])].shape[-1]
        self._logits = np.zeros((max(self.rows, self.chunk), vocabulary), np.float32)
        self._bindings: dict[tuple[int, int], Any] = {}
        self.reads = 0  # uses of the reading row
        self._check_sharing()

    def prefill(self, tokens: Sequence[int], start: int) -> Logits:
        """See batching.Decoder."""
        last: Logits = self.read(tokens, start)[-1]
        return last

    def read(self, tokens: Sequence[int], start: int) -> Logits:
        """Like `prefill`, but with the logits behind each token, [tokens, vocabulary]."""
        self.reads += 1
        ids = np.array([tokens], np.int64)
        return self._run(self.rows, ids, [start + len(tokens)])

    def admit(self, row: int, length: int) -> None:
        """See batching.Decoder."""
        self.move(self.rows, row, length)

    def move(self, source: int, target: int, length: int) -> None:
        """See batching.Decoder."""
        for array in self._cache.values():
            array[target, :, :length] = array[source, :, :length]

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """See batching.Decoder."""
        return self._run(0, np.array(tokens, np.int64)[:, None], lengths)

    def _run(self, row: int, ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """Runs tokens [rows, n] at the end of rows that have `lengths` tokens with them; logits [rows * n, vocabulary]."""
        count, width = ids.shape
        binding = self._binding(row, count)
        ends = np.array(lengths)[:, None]
        binding.bind_cpu_input(self._names["input_ids"], ids)
        mask = (np.arange(max(lengths)) < ends).astype(np.int64)
        binding.bind_cpu_input(self._names["attention_mask"], mask)
        if "position_ids" in self._names:
            binding.bind_cpu_input(self._names["position_ids"], ends - width + np.arange(width))
        logits = self._logits[: count * width]
        binding.bind_ortvalue_output(
            self._names["logits"], self._ort.OrtValue.ortvalue_from_numpy(logits.reshape(count, width, -1))
        )
        self._session.run_with_iobinding(binding)
        return logits

    def _binding(self, row: int, count: int) -> Any:
        """A binding of that many rows of the cache, as past and present at once; made once."""
        if (row, count) not in self._bindings:
            binding = self._session.io_binding()
            for name, array in self._cache.items():
                # On a CPU this is no copy: the value is the array's own memory.
                value = self._ort.OrtValue.ortvalue_from_numpy(array[row : row + count])
                binding.bind_ortvalue_input(name, value)
                binding.bind_ortvalue_output(self._presents[name], value)
            self._bindings[row, count] = binding
        return self._bindings[row, count]

    def _make_cache(self, layers: int, head_size: int) -> dict[str, npt.NDArray[Any]]:
        """Checks that the graph wants exactly what this decoder feeds, and makes the cache, by the past's names."""
        names = self._names
        self._presents = {
            names[f"past_{part}_names"] % layer: names[f"present_{part}_names"] % layer
            for layer in range(layers)
            for part in ("key", "value")
        }
        inputs = {value.name: value for value in self._session.get_inputs()}
        fed = {names["input_ids"], names["attention_mask"], *self._presents}
        if names.get("position_ids") in inputs:
            fed.add(names["position_ids"])
        else:
            names.pop("position_ids", None)
        if foreign := sorted(set(inputs) - fed):
            raise ValueError(f"model.onnx must have no inputs but tokens, masks and a cache, but got {_list(foreign)}.")
        if missing := sorted(fed - set(inputs)):
            raise ValueError(f"model.onnx lacks inputs that genai_config.json names: {_list(missing)}.")
        if self._session.get_outputs()[self._output(names["logits"])].type != "tensor(float)":
            raise ValueError("model.onnx must return logits as 32-bit floats: build it as fp32, int8 or int4.")
        cache = {}
        for name in self._presents:
            if inputs[name].type not in _TYPES:
                raise ValueError(f"model.onnx must keep its cache in floats, but {name} is {inputs[name].type}.")
            shape = inputs[name].shape
            if len(shape) != 4 or not isinstance(shape[1], int):
                raise ValueError(f"{name} must be [batch, heads, tokens, size], but got {shape}.")
            size = shape[3] if isinstance(shape[3], int) else head_size
            cache[name] = np.zeros((self.rows + 1, shape[1], self.max_seq_len, size), _TYPES[inputs[name].type])
        return cache

    def _output(self, name: str) -> int:
        return [value.name for value in self._session.get_outputs()].index(name)

    def _check_sharing(self) -> None:
        """Runs one token and looks whether its keys and values arrived in our memory; warms the session up, too."""
        try:
            self.read([0], 0)
        except Exception as error:
            raise ValueError(f"model.onnx can't be run: {str(error).splitlines()[0]}") from None
        first = next(iter(self._cache.values()))
        if not first[self.rows, :, 0].any() or first[self.rows, :, 1:].any():
            raise ValueError("this ONNX Runtime does not write the cache in place, which this engine relies on.")


class OnnxRuntimeEngine(ContinuousBatching):
    """engine.Engine, and log-likelihoods for evaluation."""

    def __init__(self, decoder: OrtDecoder) -> None:
        super().__init__(decoder, end_tokens=decoder.end_tokens)
        self.end_tokens = decoder.end_tokens
        self._ort = decoder
        self._context: tuple[list[int], int] = ([], -1)  # scored last, and the reads until then

    def logits(self, tokens: Sequence[int]) -> Logits:
        """Logits behind each token of a text, [tokens, vocabulary]."""
        return self.call(lambda: np.concatenate([chunk.copy() for chunk in self._chunks(tokens, 0)])).result()

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each (context, continuation) in tokens: the sum of log-probabilities, and whether greedy would say it.

        Pairs with the same context run one after the other, so that it is computed once; those that differ in the last
        token only, which is predicted and never read, share one run.

        Raises:
            ValueError: A context or a continuation is empty, or a continuation does not fit.
        """
        limit = self._ort.max_seq_len
        wanted: dict[tuple[tuple[int, ...], int], list[int]] = {}
        ends: list[int] = []
        for index, (context, continuation) in enumerate(pairs):
            if not context or not 0 < len(continuation) <= limit:
                raise ValueError(
                    f"a pair must have a context and a continuation of 1 to {limit} tokens, "
                    f"but got {len(context)} and {len(continuation)}."
                )
            # The last token is predicted, never read.
            *text, last = [*context, *continuation][-limit - 1 :]
            wanted.setdefault((tuple(text), len(text) + 1 - len(continuation)), []).append(index)
            ends.append(last)
        results: list[tuple[float, bool]] = [(0.0, False)] * len(ends)
        # One call per text, so that requests under way go on in between.
        for (read, first), indices in sorted(wanted.items()):
            scores = self.call(_bind(self._score, list(read), first, [ends[index] for index in indices])).result()
            for index, score in zip(indices, scores, strict=True):
                results[index] = score
        return results

    def _score(self, text: list[int], first: int, ends: Sequence[int]) -> list[tuple[float, bool]]:
        """Scores the text from its token `first` on, with each of `ends` behind it."""
        # Always split here, whether or not the context is there already: results depend on the split in the last bit.
        context = text[: first - 1]
        if self._context != (context, self._ort.reads):
            for _ in self._chunks(context, 0):
                pass
        total, greedy, place = 0.0, True, len(context)
        scores: list[tuple[float, bool]] = []
        for rows in self._chunks(text, len(context)):
            best = rows.max(axis=1, keepdims=True)
            norms = best[:, 0] + np.log(np.exp(rows - best).sum(axis=1, dtype=np.float64))
            likeliest = rows.argmax(axis=1)
            targets = np.array(text[place + 1 : place + 1 + len(rows)], np.int64)
            inner = np.arange(len(targets))
            total += float((rows[inner, targets] - norms[: len(targets)]).sum())
            greedy = greedy and bool((likeliest[: len(targets)] == targets).all())
            if len(targets) < len(rows):
                last = [(float(rows[-1, end] - norms[-1]), bool(likeliest[-1] == end)) for end in ends]
                scores = [(total + score, greedy and likely) for score, likely in last]
            place += len(rows)
        self._context = (context, self._ort.reads)
        return scores

    def _chunks(self, tokens: Sequence[int], start: int) -> Iterator[Logits]:
        """Reads tokens from `start` on; logits of each chunk, valid until the next one."""
        for place in range(start, len(tokens), self._ort.chunk):
            yield self._ort.read(tokens[place : place + self._ort.chunk], place)


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # By default ORT takes all of the host's cores and binds threads to them: wrong in a container, and where two
    # versions of a model run side by side.
    options.intra_op_num_threads = cores()
    options.inter_op_num_threads = 1
    # Threads that wait actively between the small operators of a step make one stream a quarter to twice as fast. But
    # where something else wants the cores, such as another version of the model, the default (a millisecond) costs up
    # to half of the speed, and 20 microseconds hardly any. At the end of a step they sleep: an idle server uses no CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _bind(function: Callable[..., T], *args: Any) -> Callable[[], T]:
    return lambda: function(*args)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
