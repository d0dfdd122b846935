from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.base import Sampling
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.core.evaluation.quantized import QuantizedModel
from kfp_trtllm.core.evaluation.reference import TransformersModel
from kfp_trtllm.core.quantization import Calibration, quantize_checkpoint
from kfp_trtllm.core.quantization.checking import check_quantized
from kfp_trtllm.core.quantization.formats import FORMATS, fake_nvfp4
from kfp_trtllm.core.quantization.quantize import configuration, load, make_batches, quantize, rows
from kfp_trtllm.core.quantization.runner import complete

sys.path.insert(0, str(Path(__file__).parents[1] / "quantization"))

FORMS = [
    ("llama", "fp8", "auto"),
    ("qwen2", "fp8", "fp8"),
    ("llama", "int8_sq", "auto"),
    ("qwen2", "int8_sq", "fp8"),
    ("llama", "int4_awq", "fp8"),
    ("qwen2", "int4_awq", "auto"),
    ("llama", "w4a8_awq", "auto"),
    ("qwen2", "w4a8_awq", "fp8"),
    ("llama", "nvfp4", "auto"),
    ("qwen2", "nvfp4", "fp8"),
]
DTYPES = {"llama": "float16", "qwen2": "bfloat16"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small lose more by waiting for other threads than they gain."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from small_models import write_model, write_texts

    root = tmp_path_factory.mktemp("sources")
    write_texts(root / "texts.jsonl")
    return {kind: write_model(root / kind, kind) for kind in ("llama", "qwen2")}


@pytest.fixture(scope="module")
def make(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Path]:
    """Quantizes as `quantize_checkpoint` does, in this process: ModelOpt takes ten seconds to import."""
    root = tmp_path_factory.mktemp("quantized")

    def made(kind: str, variant: str, cache: str) -> Path:
        output = root / f"{kind}-{variant}-{cache}"
        if not output.exists():
            precision = VARIANTS[variant]
            settings = {
                "modelopt": precision.modelopt,
                "kv_cache_fp8": cache == "fp8",
                "load_dtype": DTYPES[kind],
                "calibration": dataclasses.asdict(Calibration(dataset=str(sources[kind].with_name("texts.jsonl")))),
            }
            quantize(sources[kind], root / "export", settings)
            output.mkdir()
            complete(sources[kind], root / "export", output, dtype=DTYPES[kind])
            check_quantized(output, sources[kind], variant=precision, kv_cache_fp8=cache == "fp8")
            shutil.rmtree(root / "export")
        return output

    return made


def modelopt_model(source: Path, variant: str, cache: str) -> Any:
    """ModelOpt's own fake-quantized model, with what its export stores in 16 bits rounded to them."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers

    dtype = getattr(torch, DTYPES[source.name])
    tokenizer, model = load(source, DTYPES[source.name])
    calibration = Calibration(dataset=str(source.with_name("texts.jsonl")))
    torch.manual_seed(calibration.seed)
    batches = list(make_batches(rows(calibration, tokenizer), calibration.batch_size))
    with torch.inference_mode():
        model = mtq.quantize(
            model,
            configuration(VARIANTS[variant].modelopt, kv_cache_fp8=cache == "fp8"),
            lambda model: [model(torch.tensor(batch), use_cache=False) for batch in batches],
        )
        requantize_resmooth_fused_llm_layers(model)  # scales that layers share, as the export merges them
        for name, module in model.named_modules():
            if hasattr(module, "_pre_quant_scale"):
                module._pre_quant_scale = module._pre_quant_scale.to(dtype).float()
            if name.endswith("norm"):
                module.weight.data = module.weight.to(dtype).float()
        if variant == "nvfp4":
            _round_by_tensor_class(model)
    return model


def _round_by_tensor_class(model: Any) -> None:
    """ModelOpt's fake NVFP4 runs on GPUs only; the tensors that it stores round on a CPU too."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    def rounded(values: Any, amax: Any) -> Any:
        stored, scale, double = NVFP4QTensor.quantize(values.clone(), 16, None, amax.float() / (6 * 448))
        return stored.dequantize(scale=scale, double_scale=double, block_sizes={-1: 16})

    for module in model.modules():
        if hasattr(module, "weight_quantizer") and module.weight_quantizer.is_enabled:
            module.weight.data = rounded(module.weight, module.weight_quantizer._amax)
            amax = module.input_quantizer._amax
            module.weight_quantizer.disable()
            module.input_quantizer.disable()
            module.register_forward_pre_hook(lambda _, inputs, amax=amax: (rounded(inputs[0], amax),))


@pytest.mark.parametrize(("kind", "variant", "cache"), FORMS)
def test_what_is_read_back_computes_as_modelopts_own_fake_quantized_model(
    sources: dict[str, Path], make: Callable[[str, str, str], Path], kind: str, variant: str, cache: str
) -> None:
    import torch

    ids = torch.randint(2, 400, (4, 40), generator=torch.Generator().manual_seed(1))
    ours = QuantizedModel(make(kind, variant, cache), device="cpu")._model
    plain = TransformersModel(sources[kind], device="cpu")._model
    theirs = modelopt_model(sources[kind], variant, cache)
    modules = dict(theirs.named_modules())
    with torch.inference_mode():
        layers = [(name, module) for name, module in ours.named_modules() if name.endswith("_proj")]
        assert len(layers) == 14
        for name, module in layers:
            weights = modules[name].weight_quantizer(modules[name].weight)
            # A weight halfway between two values may be rounded to either: the export divides, the model multiplies.
            other = ~torch.isclose(module.weight, weights, rtol=1e-5, atol=1e-7)
            assert float(other.float().mean()) < 0.001, name
        logits, expected, original = (model(ids).logits for model in (ours, theirs, plain))
    difference, damage = (float((logits - other).norm() / other.norm()) for other in (expected, original))
    assert damage > 0.05
    assert difference < damage / 8  # inputs halfway too, and what follows from them


def test_it_answers_as_a_text_model(make: Callable[[str, str, str], Path]) -> None:
    model = QuantizedModel(make("llama", "fp8", "auto"), device="cpu")
    (score, _), *_ = model.loglikelihood([(model.encode("the quick"), model.encode(" brown"))])
    assert score < 0
    answers = model.generate(["the quick", "one hundred"], Sampling(max_tokens=4))
    assert [answer.output_tokens for answer in answers] == [4, 4]
    assert "assistant: " in model.render_chat([{"role": "user", "content": "hello"}])


def test_the_cache_is_rounded_while_generating_as_when_reading(make: Callable[[str, str, str], Path]) -> None:
    import torch

    model = QuantizedModel(make("qwen2", "fp8", "fp8"), device="cpu")._model
    ids = torch.randint(2, 400, (1, 12), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = model(ids).logits[0, -1]
        start = model(ids[:, :-1], use_cache=True)
        step = model(ids[:, -1:], past_key_values=start.past_key_values).logits[0, -1]
    assert torch.allclose(whole, step, atol=1e-4)


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_nvfp4_rounds_inputs_as_modelopts_tensors_do(scale: float) -> None:
    import torch
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    values = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)) * 4
    values[0, 0, :16] = 0
    values[0, 1, :16] = torch.tensor([6, 5, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25] * 2) * 64 * scale  # halves
    stored, blocks, double = NVFP4QTensor.quantize(values.clone(), 16, None, torch.tensor(scale))
    theirs = stored.dequantize(scale=blocks, double_scale=double, block_sizes={-1: 16})
    assert torch.equal(fake_nvfp4(values, torch.tensor(scale), 16), theirs)


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _say(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "hf_quant_config.json").read_text())
    document["quantization"].update(changes)
    (folder / "hf_quant_config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: _say(folder, quant_algo="MXFP8"),
            "a quantization that can be read back must be one of FP8, NVFP4, W4A16_AWQ, W4A8_AWQ, W8A8_SQ_PER_CHANNEL, "
            "but got 'MXFP8'.",
        ),
        (lambda folder: _say(folder, kv_cache_quant_algo="NVFP4"), "must be one of FP8, but got 'NVFP4'."),
        (
            lambda folder: _edit(folder, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight_scale")),
            "model.layers.0.mlp.up_proj is quantized, but has no weight_scale: make the checkpoint anew.",
        ),
        (
            lambda folder: _edit(
                folder,
                lambda tensors: tensors.update({"model.other.input_scale": tensors["model.norm.weight"].clone()}),
            ),
            "model.other has scales for its input, but LlamaForCausalLM has no linear layer of that name",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "model.safetensors is cut off",
        ),
        (lambda folder: (folder / "hf_quant_config.json").unlink(), "must have a hf_quant_config.json with producer"),
    ],
)
def test_what_can_not_be_read_back_is_told_in_a_line(
    make: Callable[[str, str, str], Path], tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    shutil.copytree(make("llama", "fp8", "auto"), tmp_path / "made")
    damage(tmp_path / "made")
    with pytest.raises(Exception) as caught:
        QuantizedModel(tmp_path / "made", device="cpu")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert type(caught.value).__name__ in ("BuildFailed", "SourceError")


def test_every_variant_of_modelopt_can_be_read_back() -> None:
    assert {known.quant_algo for known in VARIANTS.values() if known.modelopt} == set(FORMATS)
    assert {variant for _, variant, _ in FORMS} == {name for name, known in VARIANTS.items() if known.modelopt}


@pytest.mark.slow
def test_a_real_model_passes_the_accuracy_gate_in_fp8(tmp_path: Path) -> None:
    from kfp_trtllm.core import sources
    from kfp_trtllm.core.evaluation.compare import compare
    from kfp_trtllm.core.evaluation.harness import evaluate

    source = sources.parse("sample://smollm2-135m")
    (tmp_path / "smollm2").mkdir()
    source.fetch(source.resolve().revision, tmp_path / "smollm2")
    quantize_checkpoint(
        tmp_path / "smollm2",
        tmp_path / "fp8",
        variant="fp8",
        kv_cache_dtype="fp8",
        calibration=Calibration(size=32, max_seq_length=256),
        log=tmp_path / "log",
        on_progress=lambda done, total: None,
    )
    size = (tmp_path / "fp8/model.safetensors").stat().st_size
    assert 162e6 < size < 165e6  # 106 million weights in 8 bits, 28 million embeddings in 16

    def ask(model: Any) -> Any:
        try:
            return evaluate(model, tasks=["kfp_core"], limit=25, seed=0, on_progress=lambda done, total: None)
        finally:
            model.close()

    before = ask(TransformersModel(tmp_path / "smollm2", device="cpu"))
    after = ask(QuantizedModel(tmp_path / "fp8", device="cpu"))
    judged = compare(before, after, margin=0.1, alpha=0.05).report(model="smollm2", reference="fp32", candidate="fp8")
    assert before.score > 0.85
    assert judged["verdict"] == "passed", judged["reason"]
