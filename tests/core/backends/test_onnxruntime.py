from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.base import PlanRequest, Sampling, Tensor
from kfp_trtllm.core.backends.onnxruntime import ARCHITECTURES, REFUSED, OnnxRuntime
from kfp_trtllm.core.backends.text_model import EngineTextModel
from kfp_trtllm.core.checkpoint import read_config, read_headers
from kfp_trtllm.errors import BuildFailed, InvalidSpec
from tiny_model import LIMITS, build_plan, write_checkpoint

GB = 10**9
# SmolLM2-135M's shape.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
TENSORS = [
    Tensor(name="model.embed_tokens.weight", dtype="F32", shape=(49152, 576)),
    Tensor(name="model.norm.weight", dtype="F32", shape=(576,)),
    *(
        Tensor(name=f"model.layers.{layer}.{name}.weight", dtype="F32", shape=shape)
        for layer in range(30)
        for name, shape in {
            "input_layernorm": (576,),
            "mlp.down_proj": (576, 1536),
            "mlp.gate_proj": (1536, 576),
            "mlp.up_proj": (1536, 576),
            "post_attention_layernorm": (576,),
            "self_attn.k_proj": (192, 576),
            "self_attn.o_proj": (576, 576),
            "self_attn.q_proj": (576, 576),
            "self_attn.v_proj": (192, 576),
        }.items()
    ),
]


def planned(config: dict[str, Any] | None = None, **changes: Any) -> Any:
    request = {"variant": "int4", "max_batch_size": 8, "max_input_len": 512, "max_seq_len": 1024, **changes}
    return OnnxRuntime().plan({**CONFIG, **(config or {})}, TENSORS, PlanRequest(**request))


# Sizes of model.onnx.data as the builder wrote it for SmolLM2-135M.
@pytest.mark.parametrize(
    ("variant", "size"), [("fp32", 540_157_184), ("int4", 113_365_376), ("int8", 266_773_760)]
)  # fmt: skip
def test_weights_are_as_large_as_the_builder_writes_them(variant: str, size: int) -> None:
    plan = planned(variant=variant)
    assert plan.memory.weights == pytest.approx(size, rel=0.001)
    recipe = {"algo_config": "k_quant_mixed"} if variant == "int4" else {}
    assert plan.options == {"precision": variant, "execution_provider": "cpu", **recipe}


def test_the_cache_has_a_row_per_request_and_one_to_read_prompts_in() -> None:
    memory = planned().memory
    assert memory.kv_cache == 2 * 30 * 3 * 64 * 4 * 1024 * 9


@pytest.mark.parametrize(
    ("config", "request_", "message"),
    [
        ({"architectures": ["LlamaForCausalLn"]}, {}, "Did you mean 'LlamaForCausalLM'?"),
        ({"architectures": []}, {}, "the architecture, for backend onnxruntime, must be one of"),
        ({"architectures": ["Lfm2ForCausalLM"]}, {}, "can't run Lfm2ForCausalLM: its layers keep a state"),
        ({}, {"variant": "fp8"}, "variant must be one of fp32, int4, int8 on backend onnxruntime, but got 'fp8'"),
        ({}, {"variant": "fp8"}, "int8 comes nearest"),
        ({}, {"variant": "in4"}, "Did you mean 'int4'?"),
        ({}, {"max_seq_len": 9000}, "at most the model's max_position_embeddings (8192), but got 9000"),
        ({}, {"max_input_len": 1024}, "max_seq_len must be at least 1025, but got 1024"),
        ({}, {"max_batch_size": 0}, "max_batch_size must be at least 1, but got 0"),
        ({}, {"tp_size": 2}, "tp_size must be 1 on backend onnxruntime, but got 2"),
        ({}, {"pp_size": 2}, "pp_size must be 1 on backend onnxruntime, but got 2"),
        ({}, {"gpu_kind": "H100"}, "gpu_kind must be empty on backend onnxruntime, which uses CPUs, but got 'H100'"),
        ({"quantization_config": {"quant_method": "modelopt"}}, {}, "the checkpoint's weights are modelopt already"),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 512},
            {},
            "max_seq_len must be at most the model's sliding_window (512)",
        ),
        ({}, {"memory_limit_bytes": int(0.63 * GB)}, "but the memory limit is 0.63 GB: max_batch_size 5 would fit"),
        ({}, {"memory_limit_bytes": int(0.41 * GB)}, "max_batch_size 1 with max_seq_len"),
        ({}, {"memory_limit_bytes": int(0.3 * GB), "variant": "fp32"}, "try the variant int4"),
        ({}, {"memory_limit_bytes": int(0.1 * GB)}, "it takes a machine with more memory, or a smaller model"),
    ],
)
def test_what_can_not_work_is_refused_with_what_would(
    config: dict[str, Any], request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        planned(config, **request_)
    assert message in str(caught.value)


def test_what_a_refusal_says_would_fit_does_fit() -> None:
    limits = {"memory_limit_bytes": int(0.63 * GB)}
    with pytest.raises(InvalidSpec) as caught:
        planned(**limits)
    (batch,) = re.findall(r"max_batch_size (\d+) would fit", str(caught.value))
    planned(max_batch_size=int(batch), **limits)
    with pytest.raises(InvalidSpec):
        planned(max_batch_size=int(batch) + 1, **limits)

    limits = {"memory_limit_bytes": int(0.41 * GB)}
    with pytest.raises(InvalidSpec) as caught:
        planned(**limits)
    (length,) = re.findall(r"max_batch_size 1 with max_seq_len (\d+) would fit", str(caught.value))
    planned(max_batch_size=1, max_seq_len=int(length), max_input_len=256, **limits)


def test_the_table_of_architectures_is_the_builder_s() -> None:
    package = importlib.util.find_spec("onnxruntime_genai")
    assert package is not None and package.submodule_search_locations
    source = (Path(package.submodule_search_locations[0]) / "models/builder.py").read_text()
    known = set(re.findall(r'architectures\[0\] == "(\w+)"', source))
    assert known == {*ARCHITECTURES, *REFUSED}
    assert not set(ARCHITECTURES) & set(REFUSED)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=3, tied=False)


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float]]]:
    root = tmp_path_factory.mktemp("built")
    steps: list[tuple[float, float]] = []
    OnnxRuntime().build(
        build_plan("int4"),
        checkpoint,
        root / "engine",
        cache=root,
        log=root / "build.log",
        on_progress=lambda done, total: steps.append((done, total)),
    )
    return root / "engine", steps


@pytest.mark.slow
def test_build_leaves_a_whole_engine_and_nothing_else(
    built: tuple[Path, list[tuple[float, float]]], checkpoint: Path
) -> None:
    engine, steps = built
    assert {path.name for path in engine.parent.iterdir()} == {"engine", "build.log"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (engine / name).read_bytes() == (checkpoint / name).read_bytes()
    shares = [done / total for done, total in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    request = PlanRequest(variant="int4", **LIMITS)
    memory = OnnxRuntime().plan(read_config(checkpoint), read_headers(checkpoint), request).memory
    assert memory.weights == pytest.approx((engine / "model.onnx.data").stat().st_size, rel=0.03)


@pytest.mark.slow
def test_a_build_that_fails_says_what_the_tool_said(checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchForCausalLM"]}))
    with pytest.raises(BuildFailed, match=r"(?s)exited with status 1.*model is not currently supported"):
        OnnxRuntime().build(
            build_plan("fp32"),
            broken,
            tmp_path / "engine",
            cache=tmp_path,
            log=tmp_path / "log",
            on_progress=lambda done, total: None,
        )
    assert not (tmp_path / "engine.cache").exists()


@pytest.fixture(scope="module")
def model(built: tuple[Path, list[tuple[float, float]]]) -> Any:
    loaded = OnnxRuntime().load(built[0], LIMITS)
    yield loaded
    loaded.close()


@pytest.mark.slow
def test_a_loaded_engine_answers_and_scores(model: EngineTextModel) -> None:
    assert (model.max_batch_size, model.max_seq_len) == (LIMITS["max_batch_size"], LIMITS["max_seq_len"])
    assert model.prefix_token == 0
    assert model.render_chat([{"role": "user", "content": "x"}]) == "<s>user: x</s><s>assistant: "
    prompts = ["hello", "the quick brown fox", "", "日本語", "once upon a time", "hello"]
    answers = model.generate(prompts, Sampling(max_tokens=25))
    assert answers[0].text == answers[-1].text
    for answer in answers:
        assert answer.output_tokens == len(answer.token_seconds) == 25
        assert list(answer.token_seconds) == sorted(answer.token_seconds)
        assert answer.finish_reason == "length"
    stop = answers[1].text[5:8]
    (stopped,) = model.generate([prompts[1]], Sampling(max_tokens=25, stop=(stop,)))
    assert stopped.text == answers[1].text[: answers[1].text.index(stop)]
    assert stopped.finish_reason == "stop"
    context = model.encode("hello")
    said = model.encode(" world")
    (first, second) = model.loglikelihood([(context, said), ([model.prefix_token, *context], said)])
    assert first[0] < 0 and second[0] < 0 and first != second


@pytest.mark.slow
def test_prompts_that_can_not_fit_are_refused(model: EngineTextModel) -> None:
    with pytest.raises(BuildFailed, match="a prompt must have less than 16000 tokens"):
        model.generate(["x" * 16000], Sampling(max_tokens=1))


@pytest.mark.slow
def test_a_damaged_engine_is_refused_in_one_line(built: tuple[Path, list[tuple[float, float]]], tmp_path: Path) -> None:
    for name in ("model.onnx", "genai_config.json", "tokenizer.json", "model.onnx.data"):
        engine = shutil.copytree(built[0], tmp_path / name)
        (engine / name).write_bytes(b"nothing")
        with pytest.raises(BuildFailed, match="the engine can't be loaded"):
            OnnxRuntime().load(engine, LIMITS)
        (engine / name).unlink()
        with pytest.raises(BuildFailed, match="the engine can't be loaded"):
            OnnxRuntime().load(engine, LIMITS)


def test_the_contract() -> None:
    backend = OnnxRuntime()
    assert set(backend.variants()) == {"fp32", "int4", "int8"}
    assert set(planned().versions) == {"onnxruntime", "onnxruntime-genai", "onnx-ir", "transformers"}
    assert backend.cache_key(build_plan("int4")) == ""
    assert backend.adapter() == backend.name == "onnxruntime"
    unused = Path("unused")
    assert (
        backend.convert(build_plan("int4"), unused, unused, log=unused, on_progress=lambda done, total: None) is False
    )
