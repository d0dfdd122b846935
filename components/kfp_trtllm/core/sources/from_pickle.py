"""Converts PyTorch's pickles into safetensors; a program of its own, run by `core.checkpoint.convert_pickles`.

torch's `weights_only` reads tensors and refuses everything that could run code; a process of its own keeps the rest away.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPORT = "@"  # lines for the parent start with it


def convert(sources: Sequence[Path], output: Path) -> None:
    """Writes one safetensors file for each pickle, and an index when there are several.

    Raises:
        ValueError: A pickle holds something else than named tensors.
        pickle.UnpicklingError: A pickle wants to run code, or is damaged.
    """
    from safetensors.torch import save_file

    total = sum(source.stat().st_size for source in sources)
    done, bytes_written = 0, 0
    index: dict[str, str] = {}
    for source in sources:
        name = source.name.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"
        tensors = _load(source)
        save_file(tensors, output / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))
        bytes_written += sum(tensor.nbytes for tensor in tensors.values())
        done += source.stat().st_size
        print(REPORT + json.dumps({"done": done, "total": total}), flush=True)
    if len(sources) > 1:
        document = {"metadata": {"total_size": bytes_written}, "weight_map": dict(sorted(index.items()))}
        (output / "model.safetensors.index.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _load(source: Path) -> dict[str, Any]:
    """The named tensors of a pickle, each with memory of its own: safetensors has no shared tensors."""
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("it must hold nothing but named tensors")
    owners: set[int] = set()
    tensors: dict[str, Any] = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        alone = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in owners
        owners.add(storage.data_ptr())
        tensors[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
    return tensors


def main(arguments: list[str]) -> int:
    """Runs `convert`; what can be told in a line ends without a traceback."""
    *sources, output = map(Path, arguments)
    try:
        convert(sources, output)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        print(f"the pickles can't be converted: {str(error).splitlines()[0]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
