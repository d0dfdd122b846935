from __future__ import annotations

import pytest
from kfp_trtllm.core.backends.trtllm import commands, families
from kfp_trtllm.core.backends.trtllm.families import ARCHITECTURES, FAMILIES, check, convert_script
from kfp_trtllm.errors import InvalidSpec


@pytest.mark.parametrize(
    ("architecture", "script"),
    [
        ("LlamaForCausalLM", "models/core/llama/convert_checkpoint.py"),
        ("MistralForCausalLM", "models/core/llama/convert_checkpoint.py"),
        ("MixtralForCausalLM", "models/core/llama/convert_checkpoint.py"),
        ("Qwen2ForCausalLM", "models/core/qwen/convert_checkpoint.py"),
        ("Qwen3MoeForCausalLM", "models/core/qwen/convert_checkpoint.py"),
        ("Gemma2ForCausalLM", "models/core/gemma/convert_checkpoint.py"),
        ("Phi3ForCausalLM", "models/core/phi/convert_checkpoint.py"),
        ("NemotronForCausalLM", "models/core/gpt/convert_checkpoint.py"),
    ],
)
def test_an_architecture_leads_to_the_script_that_converts_it(architecture: str, script: str) -> None:
    assert convert_script(check(architecture, "tensorrt").family) == script


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_runs_somewhere_by_the_default_release(architecture: str) -> None:
    passed = []
    for backend in ("tensorrt", "pytorch"):
        try:
            passed.append(check(architecture, backend))
            assert backend == "pytorch" or convert_script(passed[-1].family).endswith("/convert_checkpoint.py")
        except InvalidSpec as error:
            assert f"use backend {'pytorch' if backend == 'tensorrt' else 'tensorrt'}" in str(error)
    assert passed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_of_its_script_what_the_scripts_arguments_say(family: str) -> None:
    table = {row.name: row for row in commands.arguments("convert_checkpoint", version="1.2.1", family=family)}
    assert FAMILIES[family].pipeline == (table["pp_size"].choices != (1,))
    assert FAMILIES[family].experts == ("moe_tp_size" in table)
    assert "tp_size" in table
    assert families.FAMILIES.keys() == commands.TOOLS["convert_checkpoint"].families.keys()


@pytest.mark.parametrize(
    ("architecture", "backend", "version", "message"),
    [
        ("LlamaForCausalLn", "tensorrt", "1.2.1", "Did you mean 'LlamaForCausalLM'?"),
        ("", "pytorch", "1.2.1", "the architecture, for backend pytorch, must be one of DeciLMForCausalLM"),
        ("DeepseekV3ForCausalLM", "tensorrt", "1.2.1", "no convert script is known: use backend pytorch."),
        ("GemmaForCausalLM", "pytorch", "1.2.1", "use backend tensorrt with TensorRT-LLM 1.2.1."),
        ("GptOssForCausalLM", "pytorch", "1.0.0", "from TensorRT-LLM 1.1 on, but got 1.0.0: use 1.2.1."),
        ("Qwen3ForCausalLM", "tensorrt", "0.21.0", "from TensorRT-LLM 1.0 on, but got 0.21.0: use 1.2.1."),
        ("LlamaForCausalLM", "tensorrt", "1.3.0rc24", "trtllm-build was removed in 1.3"),
    ],
)
def test_what_a_backend_lacks_is_refused_with_what_would_do(
    architecture: str, backend: str, version: str, message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check(architecture, backend, version)
    assert message in str(caught.value)


def test_the_list_of_engine_architectures_leaves_out_those_without_a_script() -> None:
    with pytest.raises(InvalidSpec) as caught:
        check("Nothing", "tensorrt")
    assert "DeepseekV3ForCausalLM" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "version", "path"),
    [
        ("llama", "1.0.0", "models/core/llama/convert_checkpoint.py"),
        ("gemma", "1.2.0rc2", "models/core/gemma/convert_checkpoint.py"),
        ("llama", "0.19.0", "llama/convert_checkpoint.py"),
        ("qwen", "0.12.0", "qwen/convert_checkpoint.py"),
    ],
)
def test_scripts_lie_where_the_version_has_them(family: str, version: str, path: str) -> None:
    assert convert_script(family, version) == path


@pytest.mark.parametrize(
    ("family", "version", "message"),
    [
        ("lama", "1.2.1", "Did you mean 'llama'?"),
        ("llama", "0.21.0", "where the scripts' place is not known: use 1.2.1."),
        ("llama", "1.3.0rc24", "Use backend pytorch"),
    ],
)
def test_a_script_whose_place_is_not_known_is_not_guessed(family: str, version: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        convert_script(family, version)
    assert message in str(caught.value)
