"""NVIDIA's layout from templates with the very parameters of theirs (TensorRT-LLM 1.x, inflight_batcher_llm)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cpp_templates import write_templates
from google.protobuf import text_format
from kfp_trtllm.core.serving.cpp_layout import MISSING, RENAMED, CppLayout, fill, lay_out_cpp
from kfp_trtllm.core.serving.schema import INPUTS, Field
from kfp_trtllm.errors import InvalidSpec
from tritonclient.grpc import model_config_pb2


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    return write_templates(tmp_path / "inflight_batcher_llm")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    folder = tmp_path / "engine"
    folder.mkdir()
    for name in ("config.json", "rank0.engine", "rank1.engine", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(name)
    return folder


def lay(engine: Path, templates: Path, repository: Path, **changes: Any) -> CppLayout:
    fields: dict[str, Any] = {"model_name": "llama", "version": 1, "decoupled": True, "max_batch_size": 64, **changes}
    return lay_out_cpp(engine, repository, templates=templates, mount="/mnt/models", link=os.link, **fields)


def configuration(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    assert "${" not in text
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_the_five_models_lie_where_triton_looks_for_them(engine: Path, templates: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    lay(engine, templates, repository)
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert files == {
        "preprocessing/config.pbtxt",
        "preprocessing/1/model.py",
        "postprocessing/config.pbtxt",
        "postprocessing/1/model.py",
        "tensorrt_llm_bls/config.pbtxt",
        "tensorrt_llm_bls/1/model.py",
        "tensorrt_llm_bls/1/lib/decode.py",
        "llama/config.pbtxt",
        "llama/1/.keep",
        "tensorrt_llm/config.pbtxt",
        "tensorrt_llm/1/.keep",
        *(f"tensorrt_llm/1/engine/{path.name}" for path in engine.iterdir()),
        "tensorrt_llm/1/tokenizer/tokenizer.json",
        "tensorrt_llm/1/tokenizer/tokenizer_config.json",
    }
    assert (repository / "tensorrt_llm/1/engine/rank1.engine").samefile(engine / "rank1.engine")


@pytest.mark.parametrize("decoupled", [True, False])
def test_every_configuration_is_what_triton_takes(
    engine: Path, templates: Path, tmp_path: Path, decoupled: bool
) -> None:
    repository = tmp_path / "repository"
    layout = lay(engine, templates, repository, decoupled=decoupled)
    assert layout.models == ("llama", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls")
    configs = {model: configuration(repository, model) for model in layout.models}
    assert {model: (config.name, config.max_batch_size) for model, config in configs.items()} == {
        model: (model, 64) for model in layout.models
    }
    assert configs["tensorrt_llm"].backend == "tensorrtllm"
    assert configs["tensorrt_llm"].instance_group[0].count == 1
    assert configs["llama"].platform == "ensemble"
    assert [step.model_version for step in configs["llama"].ensemble_scheduling.step] == [-1]
    for model in ("tensorrt_llm", "tensorrt_llm_bls"):
        assert configs[model].model_transaction_policy.decoupled is decoupled


def test_the_engine_gets_the_known_good_values_and_no_others(engine: Path, templates: Path, tmp_path: Path) -> None:
    lay(engine, templates, tmp_path / "repository", options={"kv_cache_free_gpu_mem_fraction": 0.5})
    config = configuration(tmp_path / "repository", "tensorrt_llm")
    assert parameters(config) == {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "cancellation_check_period_ms": "100",
        "enable_kv_cache_reuse": "False",
        "exclude_input_in_output": "True",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "gpt_model_path": "/mnt/models/tensorrt_llm/1/engine",
        "gpt_model_type": "inflight_fused_batching",
        "guided_decoding_backend": "",
        "iter_stats_max_iterations": "1000",
        "kv_cache_free_gpu_mem_fraction": "0.5",
        "max_beam_width": "1",
        "request_stats_max_iterations": "0",
        "stats_check_period_ms": "100",
        "tokenizer_dir": "/mnt/models/tensorrt_llm/1/tokenizer",
        "xgrammar_tokenizer_info_path": "",
    }
    assert {tensor.name: tensor.data_type for tensor in config.input}["encoder_input_features"] == 10  # TYPE_FP16
    assert {tensor.name: tensor.data_type for tensor in config.output}["context_logits"] == 11  # TYPE_FP32
    assert (
        config.dynamic_batching.max_queue_delay_microseconds,
        list(config.dynamic_batching.preferred_batch_size),
    ) == (0, [64])


def test_the_python_parts_keep_entries_that_they_read_without_asking(
    engine: Path, templates: Path, tmp_path: Path
) -> None:
    lay(engine, templates, tmp_path / "repository", options={"bls_instance_count": 8})
    assert parameters(configuration(tmp_path / "repository", "preprocessing")) == {
        "tokenizer_dir": "/mnt/models/tensorrt_llm/1/tokenizer",
        "add_special_tokens": "True",
        "multimodal_model_path": "",
        "gpt_model_path": "/mnt/models/tensorrt_llm/1/engine",
        "max_num_images": "",
        "hf_model_path": "",
    }
    bls = configuration(tmp_path / "repository", "tensorrt_llm_bls")
    assert parameters(bls)["tensorrt_llm_model_name"] == "tensorrt_llm"
    assert bls.instance_group[0].count == 8


def test_the_request_is_the_ensembles_own(engine: Path, templates: Path, tmp_path: Path) -> None:
    layout = lay(engine, templates, tmp_path / "repository")
    assert layout.entry == "llama"
    assert layout.request_fields == (
        Field("text_input", "STRING", optional=False),
        Field("max_tokens", "INT32", optional=False),
        Field("stop_words", "STRING", many=True),
        Field("stream", "BOOL"),
    )
    assert [field.name for field in layout.response_fields] == ["text_output", "generation_logits"]
    ours = {field.name for field in INPUTS}
    assert RENAMED.keys() < ours and set(MISSING) < ours


def test_a_second_version_is_refused_with_the_reason_and_the_way_out(
    engine: Path, templates: Path, tmp_path: Path
) -> None:
    lay(engine, templates, tmp_path / "repository")
    with pytest.raises(InvalidSpec) as caught:
        lay(engine, templates, tmp_path / "repository", version=2)
    assert str(caught.value).startswith(
        "version must be the only one with layout cpp, but the repository has version 1 and got 2: the C++ backend takes"
    )
    assert "as a repository of its own" in str(caught.value) and "use layout python" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        (
            "tensorrt_llm",
            "# A comment",
            'parameters: { key: "x" value: { string_value: "${brand_new} ${other_new}" } }\n#',
            r"template tensorrt_llm/config.pbtxt must have no unfilled parameters, but \$\{brand_new\}, \$\{other_new\} are",
        ),
        ("ensemble", "${logits_datatype}", "${logits_typ}", r"\$\{logits_typ\} is unknown here: give a value"),
        ("preprocessing", "name:", "nam:", "template preprocessing/config.pbtxt must be a model configuration"),
        ("tensorrt_llm", '"${triton_backend}"', '"tensorrt_llm"', "of tensorrt_llm on tensorrtllm, but it is of 'tensorrt_llm' on 'tensorrt_llm'"),
        ("ensemble", 'platform: "ensemble"', 'backend: "python"', "of ensemble on ensemble, but it is of 'ensemble' on ''"),
        ("postprocessing", 'name: "postprocessing"', 'name: "post"', "but it is of 'post' on 'python'"),
    ],
)  # fmt: skip
def test_a_template_that_is_not_understood_is_refused_by_name(
    engine: Path, templates: Path, tmp_path: Path, part: str, old: str, new: str, message: str
) -> None:
    path = templates / part / "config.pbtxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InvalidSpec, match=message):
        lay(engine, templates, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_new_parameter_can_be_given_by_hand(engine: Path, templates: Path, tmp_path: Path) -> None:
    path = templates / "tensorrt_llm/config.pbtxt"
    path.write_text(path.read_text() + 'parameters: { key: "new" value: { string_value: "${brand_new}" } }\n')
    lay(engine, templates, tmp_path / "repository", options={"brand_new": "7", "max_tokens_in_paged_kv_cache": 2560})
    found = parameters(configuration(tmp_path / "repository", "tensorrt_llm"))
    assert (found["new"], found["max_tokens_in_paged_kv_cache"]) == ("7", "2560")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine_dir": "/x"}, "layout options must not set engine_dir: it lies in the repository."),
        ({"triton_backend": "python"}, "layout options must not set triton_backend: it is tensorrtllm."),
        ({"decoding_mod": "top_k"}, r"layout option must be one of .*, but got 'decoding_mod'. Did you mean 'decoding_mode'?"),
        ({"decoding_mode": 'top_k"'}, "decoding_mode must hold no quotes"),
        ({"max_beam_width": "1\n"}, "max_beam_width must hold no quotes, backslashes and line ends"),
    ],
)  # fmt: skip
def test_an_option_that_means_nothing_is_refused(
    engine: Path, templates: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        lay(engine, templates, tmp_path / "repository", options=options)


def test_an_image_without_templates_is_named(engine: Path, templates: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="templates must be the image's folder inflight_batcher_llm"):
        lay(engine, tmp_path / "nowhere", tmp_path / "repository")
    (templates / "postprocessing/1/model.py").unlink()
    with pytest.raises(InvalidSpec, match=r"templates must hold postprocessing/1/model\.py, but it is missing"):
        lay(engine, templates, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_the_entry_is_no_part(engine: Path, templates: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidSpec, match="model_name must not be that of a part with layout cpp, but got 'tensorrt_llm'"
    ):
        lay(engine, templates, tmp_path / "repository", model_name="tensorrt_llm")
    assert lay(engine, templates, tmp_path / "repository", model_name="ensemble").entry == "ensemble"


def test_templates_are_filled_as_python_templates() -> None:
    assert fill("$a ${b} $$c 5 $", {"a": "1", "b": "2", "unused": "3"}, "it") == "1 2 $c 5 $"
    with pytest.raises(InvalidSpec, match=r"it must have no unfilled parameters, but \$\{b\} is unknown"):
        fill("$a ${b}", {"a": "1"}, "it")
