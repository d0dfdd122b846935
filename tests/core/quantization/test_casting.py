from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kfp_trtllm.core.quantization import cast_checkpoint
from kfp_trtllm.core.quantization.casting import to_float32
from kfp_trtllm.errors import BuildFailed, InvalidSpec, SourceError

WIDE = [0.0, -0.0, 1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -1.0 - 2**-9, 3e38, 1e-40, 65504.0, float("inf"), float("nan")]


def write(folder: Path, shards: dict[str, dict[str, object]], **config: object) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    index: dict[str, str] = {}
    for file, tensors in shards.items():
        save_file({name: torch.as_tensor(value) for name, value in tensors.items()}, folder / file)
        index.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "tokenizer.json").write_bytes(b'{"a":   1}')
    return folder


@pytest.mark.parametrize("start", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_gives_the_very_bits_that_torch_gives(tmp_path: Path, start: str, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    values = torch.randn(300, generator=torch.Generator().manual_seed(0))
    wide = torch.tensor(WIDE)
    if start == "float32" and dtype == "float16":
        wide = wide[wide.abs() < 65505]
    if start == "bfloat16" and dtype == "float16":
        wide = wide[wide.abs() < 60000]
    weights = torch.cat((values, wide)).to(getattr(torch, start))
    folder = write(tmp_path / "in", {"model.safetensors": {"w": weights, "i": torch.arange(3)}}, torch_dtype=start)
    assert cast_checkpoint(folder, tmp_path / "out", dtype=dtype) is (start != dtype)
    if start == dtype:
        assert not (tmp_path / "out").exists()
        return
    cast = load_file(tmp_path / "out/model.safetensors")
    wanted = weights.to(getattr(torch, dtype))
    same = cast["w"].view(torch.int16) == wanted.view(torch.int16)
    assert cast["w"].dtype == wanted.dtype and bool((same | wanted.isnan()).all())
    assert torch.equal(cast["w"].isnan(), wanted.isnan())
    assert cast["i"].tolist() == [0, 1, 2]
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"model_type": "llama", "torch_dtype": dtype}


def test_shards_stay_and_companions_are_copied_byte_for_byte(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    shards = {f"model-{i}.safetensors": {f"w{i}": torch.full((4, 2), float(i))} for i in (1, 2)}
    folder = write(tmp_path / "in", shards, dtype="float32", text_config={"dtype": "float32"})
    seen: list[tuple[float, float]] = []
    cast_checkpoint(
        folder, tmp_path / "out", dtype="bfloat16", on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(8, 16), (16, 16)]
    assert load_file(tmp_path / "out/model-2.safetensors")["w2"].tolist() == [[2.0, 2.0]] * 4
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 32} and index["weight_map"]["w2"] == "model-2.safetensors"
    assert (tmp_path / "out/tokenizer.json").read_bytes() == b'{"a":   1}'
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"


def test_a_weight_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"model.safetensors": {"w": [1.0, -7e4]}})
    with pytest.raises(BuildFailed, match=r"^w has a weight of 70000, which F16 can't hold: take variant bf16"):
        cast_checkpoint(folder, tmp_path / "out", dtype="float16")


def test_other_dtypes_and_cut_off_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"model.safetensors": {"w": [1.0, 2.0]}})
    with pytest.raises(InvalidSpec, match=r"dtype must be one of bfloat16, float16, but got 'bf16'"):
        cast_checkpoint(folder, tmp_path / "out", dtype="bf16")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SourceError, match="is cut off"):
        cast_checkpoint(folder, tmp_path / "out", dtype="bfloat16")


def test_every_byte_as_an_8_bit_float_is_what_torch_reads() -> None:
    import torch

    every = np.arange(256, dtype=np.uint8)
    ours, theirs = to_float32(every.tobytes(), "F8_E4M3"), torch.from_numpy(every).view(torch.float8_e4m3fn).float()
    assert np.array_equal(ours, theirs.numpy(), equal_nan=True)
