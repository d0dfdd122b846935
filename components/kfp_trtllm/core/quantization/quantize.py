"""Quantizes a checkpoint with NVIDIA ModelOpt; a program of its own, run by `core.quantization.quantize_checkpoint`.

    python -m kfp_trtllm.core.quantization.quantize CHECKPOINT OUTPUT SETTINGS

SETTINGS is JSON: modelopt (name of a configuration), kv_cache_fp8, load_dtype (on GPUs; a CPU computes in float32) and
calibration (the fields of a `Calibration`). The output is what ModelOpt exports, which the parent completes and checks.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kfp_trtllm.core.quantization.calibration import Calibration, Turns
from kfp_trtllm.errors import KfpTrtllmError

REPORT = "@"  # lines for the parent start with it
_SEARCHES = ("awq_lite",)  # algorithms that run the calibration set twice


def report(**values: Any) -> None:
    """Tells the parent something: one JSON object a line."""
    print(REPORT + json.dumps(values), flush=True)


def quantize(checkpoint: Path, output: Path, settings: dict[str, Any]) -> None:
    """Calibrates, quantizes and exports a model.

    Raises:
        InvalidSpec: There are no texts to calibrate with.
        ValueError: ModelOpt or transformers can't do it.
    """
    import torch

    calibration = Calibration(**settings["calibration"])
    torch.manual_seed(calibration.seed)
    tokenizer, model = load(checkpoint, settings["load_dtype"])  # ModelOpt takes seconds to import: after what may fail
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    batches = list(make_batches(rows(calibration, tokenizer), calibration.batch_size))
    config = configuration(settings["modelopt"], kv_cache_fp8=settings["kv_cache_fp8"])
    algorithm = config["algorithm"]
    method = algorithm if isinstance(algorithm, str) else algorithm["method"]
    total = len(batches) * (2 if method in _SEARCHES else 1)
    done = 0

    def calibrate(model: Any) -> None:
        nonlocal done
        for batch in batches:
            model(torch.tensor(batch, device=model.device), use_cache=False)
            done += 1
            report(done=min(done, total), total=total)

    with torch.inference_mode():
        model = mtq.quantize(model, config, calibrate)
        export_hf_checkpoint(model, export_dir=output)


def configuration(name: str, *, kv_cache_fp8: bool) -> dict[str, Any]:
    """ModelOpt's configuration of that name, with the KV cache in 8-bit floats where that is wanted."""
    import modelopt.torch.quantization as mtq

    config: dict[str, Any] = copy.deepcopy(getattr(mtq, name))
    if kv_cache_fp8:
        config["quant_cfg"] += copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])
    return config


def load(checkpoint: Path, dtype: str) -> tuple[Any, Any]:
    """Tokenizer and model: float32 on a CPU, `dtype` spread over the GPUs where there are some."""
    import torch
    import transformers

    safe = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, **safe)
    where: dict[str, Any] = {"dtype": getattr(torch, dtype) if torch.cuda.is_available() else torch.float32}
    if torch.cuda.device_count() > 1:
        where["device_map"] = "auto"
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, use_safetensors=True, **where, **safe)
    if torch.cuda.device_count() == 1:
        model = model.to("cuda")
    return tokenizer, model.eval()


def rows(calibration: Calibration, tokenizer: Any) -> list[list[int]]:
    """The tokens of each text as a server would get it: chats by the chat template, texts with what a text begins with."""
    texts: Sequence[str | Turns]
    if calibration.file is None:
        from modelopt.torch.utils.dataset_utils import get_dataset_samples

        texts = get_dataset_samples(
            calibration.dataset,
            calibration.size,
            apply_chat_template=bool(tokenizer.chat_template),
            tokenizer=tokenizer,
        )
    else:
        texts = calibration.texts()
    encoded = (encode(text, tokenizer)[: calibration.max_seq_length] for text in texts)
    tokens = [row for row in encoded if row]
    if not tokens:
        raise ValueError("the calibration set has no texts")
    return tokens


def encode(text: str | Turns, tokenizer: Any) -> list[int]:
    """Tokens of a text; of a chat's contents where there is no chat template, or none for turns of its kinds."""
    from jinja2.exceptions import TemplateError

    tokens: list[int]
    if isinstance(text, str):
        tokens = tokenizer(text).input_ids
        return tokens
    if tokenizer.chat_template:
        # Some templates refuse a system's turn; its words are measured with the user's then.
        merged = [{"role": "user", "content": f"{text[0]['content']}\n\n{text[1]['content']}"}] if len(text) > 1 else []
        for turns in (text, [*merged, *text[2:]] if text[0]["role"] == "system" else []):
            if turns:
                try:
                    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
                except TemplateError:
                    continue
                tokens = tokenizer(rendered, add_special_tokens=False).input_ids
                return tokens
    tokens = tokenizer("\n".join(turn["content"] for turn in text)).input_ids
    return tokens


def make_batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[list[int]]]:
    """Batches of rows of one length: neighbors by length, cut to the shortest, so that nothing but text is measured."""
    ordered = sorted(rows, key=len)
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        yield [list(row[: len(batch[0])]) for row in batch]


def main(arguments: list[str]) -> int:
    """Runs `quantize`; what can be told in a line ends without a traceback."""
    checkpoint, output = map(Path, arguments[:2])
    settings = json.loads(arguments[2])
    warnings.simplefilter("ignore")  # ModelOpt warns of every transformers that is newer than itself
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        quantize(checkpoint, output, settings)
    except (ValueError, NotImplementedError, OSError, KfpTrtllmError) as error:
        print(f"{checkpoint.name} can't be quantized: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
