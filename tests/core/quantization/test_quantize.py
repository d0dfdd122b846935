from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.quantization import Calibration, check_quantizable, quantize_checkpoint
from kfp_trtllm.core.quantization.checking import check_quantized
from kfp_trtllm.errors import BuildFailed, InvalidSpec, SourceError


def run(checkpoint: Path, output: Path, texts: str, **changes: Any) -> None:
    settings = {"variant": "fp8", "kv_cache_dtype": "fp8", "calibration": Calibration(dataset=texts), **changes}
    quantize_checkpoint(
        checkpoint, output, log=output.with_name("log"), on_progress=lambda done, total: None, **settings
    )


@pytest.fixture(scope="session")
def quantized(models: dict[str, Path], texts: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP8 checkpoint with an FP8 cache, by the tool in its own process; `seen` beside it has the progress."""
    root = tmp_path_factory.mktemp("quantized")
    seen: list[tuple[float, float]] = []
    quantize_checkpoint(
        models["llama"],
        root / "fp8",
        variant="fp8",
        kv_cache_dtype="fp8",
        calibration=Calibration(dataset=texts, batch_size=5),
        log=root / "log",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    (root / "seen").write_text(json.dumps(seen))
    return root / "fp8"


def test_a_quantized_checkpoint_is_whole_and_says_what_it_is(quantized: Path, models: dict[str, Path]) -> None:
    source = models["llama"]
    assert json.loads(quantized.with_name("seen").read_text()) == [[1, 3], [2, 3], [3, 3]]
    assert {entry.name for entry in quantized.parent.iterdir()} == {"fp8", "log", "seen"}
    made = json.loads((quantized / "hf_quant_config.json").read_text())
    assert made["producer"]["name"] == "modelopt"
    assert made["quantization"]["quant_algo"] == made["quantization"]["kv_cache_quant_algo"] == "FP8"
    # Everything but the weights is as it came: transformers would have rewritten it in its own newer words.
    kept = {"chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {entry.name for entry in quantized.iterdir()} == kept | {
        "config.json",
        "hf_quant_config.json",
        "model.safetensors",
    }
    for name in kept:
        assert (quantized / name).read_bytes() == (source / name).read_bytes(), name
    config = json.loads((quantized / "config.json").read_text())
    assert config.pop("quantization_config")["quant_algo"] == "FP8"
    assert config == json.loads((source / "config.json").read_text())


def test_what_is_not_quantized_keeps_16_bits_and_scales_32(quantized: Path) -> None:
    from safetensors.torch import load_file

    dtypes = {name: str(tensor.dtype) for name, tensor in load_file(quantized / "model.safetensors").items()}
    assert dtypes["model.embed_tokens.weight"] == dtypes["model.norm.weight"] == "torch.float16"
    assert dtypes["model.layers.1.mlp.up_proj.weight"] == "torch.float8_e4m3fn"
    assert {dtype for name, dtype in dtypes.items() if name.endswith("scale")} == {"torch.float32"}


def test_the_same_seed_and_texts_give_the_same_bytes(
    quantized: Path, models: dict[str, Path], texts: str, tmp_path: Path
) -> None:
    run(models["llama"], tmp_path / "again", texts, calibration=Calibration(dataset=texts, batch_size=5))
    assert (tmp_path / "again/model.safetensors").read_bytes() == (quantized / "model.safetensors").read_bytes()


def _drop(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        _edit(folder, lambda tensors: tensors.pop(name))

    return damage


def _set(name: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        import torch

        _edit(folder, lambda tensors: tensors.update({name: torch.tensor(value)}))

    return damage


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _say(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / "hf_quant_config.json").read_text())
        document["quantization"].update(changes)
        (folder / "hf_quant_config.json").write_text(json.dumps(document))

    return damage


def _cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])


UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_drop(f"{UP}.weight_scale"), f"{UP} must have a weight_scale, which ModelOpt did not leave."),
        (_drop(f"{UP}.input_scale"), f"{UP} must have a input_scale, which ModelOpt did not leave."),
        (_drop("model.layers.0.self_attn.k_proj.k_scale"), "k_proj must have a k_scale, which ModelOpt did not leave."),
        (_drop("model.norm.weight"), "must have model.norm.weight, which ModelOpt did not leave."),
        (_set(f"{UP}.input_scale", float("nan")), f"{UP}.input_scale must be above 0 and finite, but has nan."),
        (_set(f"{UP}.weight_scale", 0.0), f"{UP}.weight_scale must be above 0 and finite, but has 0."),
        (_set(f"{UP}.weight_scale", [1.0, 1.0]), f"{UP}.weight_scale must have the shape [], but has [2]."),
        (_set("model.norm.weight", [1.0] * 64), "model.norm.weight must have the shape [128], but has [64]."),
        (_set(f"{UP}.weight", [[1.0]]), f"{UP}.weight must be stored as F8_E4M3, but ModelOpt left it as F32."),
        (_say(quant_algo="NVFP4"), "hf_quant_config.json must have quant_algo FP8, but has 'NVFP4'."),
        (_say(kv_cache_quant_algo=None), "hf_quant_config.json must have kv_cache_quant_algo FP8, but has None."),
        (_say(exclude_modules=["*"]), "must have quantized layers, but all are excluded."),
        (_cut, "the quantized checkpoint is damaged: model.safetensors is cut off"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "must have tokenizer.json, which ModelOpt did not leave.",
        ),
        (lambda folder: (folder / "hf_quant_config.json").write_text("{}"), "with producer and quantization"),
    ],
)
def test_a_tool_that_leaves_something_else_is_caught(
    quantized: Path, models: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(quantized, tmp_path / "made")
    check_quantized(tmp_path / "made", models["llama"], variant=VARIANTS["fp8"], kv_cache_fp8=True)
    damage(tmp_path / "made")
    with pytest.raises(BuildFailed) as caught:
        check_quantized(tmp_path / "made", models["llama"], variant=VARIANTS["fp8"], kv_cache_fp8=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_bad_parameters_are_refused_before_anything_runs(models: dict[str, Path], texts: str, tmp_path: Path) -> None:
    for changes, words in [
        (
            {"variant": "fp9"},
            r"variant must be one of fp8, int4_awq, int8_sq, nvfp4, w4a8_awq, but got 'fp9'\. Did you",
        ),
        ({"variant": "int8_wo"}, r"but got 'int8_wo'"),
        ({"kv_cache_dtype": "int8"}, r"kv_cache_dtype must be one of auto, fp8, but got 'int8'"),
        ({"calibration": Calibration(dataset=f"{texts}.gone.txt")}, r"can't read the calibration file"),
    ]:
        with pytest.raises(InvalidSpec, match=words):
            run(models["llama"], tmp_path / "out", texts, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_checkpoint_is_not_quantized_again(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"fp8 is quantized already \(modelopt\): take the original, or serve it"):
        check_quantizable(quantized, variant="nvfp4")
    shutil.copytree(quantized, tmp_path / "bare")
    (tmp_path / "bare/hf_quant_config.json").unlink()
    config = json.loads((tmp_path / "bare/config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "bare/config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidSpec, match=r"bare is quantized already \(F8_E4M3\)"):
        check_quantizable(tmp_path / "bare", variant="nvfp4")


def test_pickles_and_cut_off_weights_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "cut")
    _cut(tmp_path / "cut")
    with pytest.raises(SourceError, match="is cut off"):
        check_quantizable(tmp_path / "cut", variant="fp8")
    (tmp_path / "cut/model.safetensors").rename(tmp_path / "cut/pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pickles only \(pytorch_model\.bin\): convert it to safetensors"):
        check_quantizable(tmp_path / "cut", variant="fp8")


def test_layers_that_have_no_whole_groups_are_named(tmp_path: Path) -> None:
    from tiny_model import write_checkpoint

    write_checkpoint(tmp_path / "narrow")  # 64 wide
    with pytest.raises(InvalidSpec, match=r"int4_awq needs layers whose number of inputs 128 divides, but model\."):
        check_quantizable(tmp_path / "narrow", variant="int4_awq")
    assert check_quantizable(tmp_path / "narrow", variant="nvfp4").quant_algo == "NVFP4"


def test_a_missing_package_is_named_with_the_remedy(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(InvalidSpec) as caught:
        check_quantizable(models["llama"], variant="fp8")
    assert str(caught.value) == (
        "variant fp8 needs nvidia-modelopt, which is not installed: pip install 'kfp-trtllm[quantize]'."
    )


def test_a_model_that_can_not_be_loaded_ends_in_a_line_and_leaves_nothing(
    models: dict[str, Path], texts: str, tmp_path: Path
) -> None:
    shutil.copytree(models["llama"], tmp_path / "odd")
    config = json.loads((tmp_path / "odd/config.json").read_text())
    (tmp_path / "odd/config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    with pytest.raises(BuildFailed) as caught:
        run(tmp_path / "odd", tmp_path / "out", texts)
    last = str(caught.value).splitlines()[-1]
    assert re.match(
        r"odd can't be quantized: The checkpoint you are trying to load has model type `nobody_knows`", last
    )
    assert "Traceback" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "odd"]
