from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from kfp_trtllm.core.backends.trtllm import commands
from kfp_trtllm.core.backends.trtllm.commands import TOOLS, render
from kfp_trtllm.core.backends.trtllm.releases import RELEASES, numbers
from kfp_trtllm.errors import InvalidSpec

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = {"model_dir": "model", "output_dir": "converted"}
GEMMA = {"ckpt_type": "hf", **FOLDERS}


def limits(max_batch_size: int, max_input_len: int = 2048, max_seq_len: int = 4096, tokens: int = 8192) -> Any:
    return {
        "max_num_tokens": tokens,
        "max_seq_len": max_seq_len,
        "max_input_len": max_input_len,
        "max_batch_size": max_batch_size,
        "output_dir": "engine",
        "checkpoint_dir": "converted",
    }


# Options are in no order, as they come from a JSON object.
CASES: dict[str, list[tuple[str, str | None, dict[str, Any]]]] = {
    "llama-3.1-8b-fp16": [
        ("convert_checkpoint", "llama", {"dtype": "float16", "pp_size": 1, "tp_size": 1, **FOLDERS}),
        (
            "build",
            None,
            {
                "gemm_plugin": "auto",
                "output_timing_cache": "timing.cache",
                "input_timing_cache": Path("timing.cache"),
                "kv_cache_type": "paged",
                **limits(64),
            },
        ),
    ],
    "llama-3.1-8b-fp8": [
        (
            "quantize",
            None,
            {
                "seed": 1234,
                "calib_size": 512,
                "kv_cache_dtype": "fp8",
                "qformat": "fp8",
                "pp_size": 1,
                "tp_size": 1,
                **FOLDERS,
            },
        ),
        ("build", None, {"use_fp8_context_fmha": True, "gemm_plugin": "fp8", **limits(64)}),
    ],
    "llama-3.3-70b-fp8-tp4": [
        ("quantize", None, {"kv_cache_dtype": "fp8", "qformat": "fp8", "pp_size": 1, "tp_size": 4, **FOLDERS}),
        (
            "build",
            None,
            {
                "user_buffer": "enable",
                "reduce_fusion": True,
                "gemm_plugin": "disable",
                "workers": 4.0,  # as KFP gives numbers of a JSON object
                **limits(128, 4096, 8192, 16384),
            },
        ),
    ],
    "qwen2.5-7b-int4_awq": [
        (
            "quantize",
            None,
            {"calib_size": 512, "awq_block_size": 128, "qformat": "int4_awq", "pp_size": 1, "tp_size": 1, **FOLDERS},
        ),
        ("build", None, {"gemm_plugin": "auto", "strip_plan": False, "opt_num_tokens": None, **limits(32)}),
    ],
    "qwen2.5-7b-int8_wo": [
        (
            "convert_checkpoint",
            "qwen",
            {
                "weight_only_precision": "int8",
                "use_weight_only": True,
                "dtype": "float16",
                "pp_size": 1,
                "tp_size": 1,
                **FOLDERS,
            },
        ),
        ("build", None, {"gemm_plugin": "auto", **limits(32)}),
    ],
    "mixtral-8x7b-tp2": [
        (
            "convert_checkpoint",
            "llama",
            {"workers": 2, "dtype": "float16", "moe_tp_size": 2, "pp_size": 1, "tp_size": 2, **FOLDERS},
        ),
        ("build", None, {"moe_plugin": "auto", "gemm_plugin": "auto", "workers": 2, **limits(16)}),
    ],
    "gemma-7b-tp2": [
        (
            "convert_checkpoint",
            "gemma",
            {"dtype": "bfloat16", "pp_size": 1, "tp_size": 2, "ckpt_type": "hf", **FOLDERS},
        ),
        ("build", None, {"gemm_plugin": "auto", "workers": 2, **limits(16)}),
    ],
    "llama-3.1-8b-serving": [
        (
            "serve",
            None,
            {
                "extra_llm_api_options": "llm.yaml",
                "trust_remote_code": True,
                "kv_cache_free_gpu_memory_fraction": 0.85,
                "pp_size": 1,
                "tp_size": 2,
                "max_seq_len": 4096,
                "max_batch_size": 64,
                "backend": "pytorch",
                "port": 8000,
                "host": "0.0.0.0",
                "model": "checkpoint",
            },
        ),
        (
            "bench throughput",
            None,
            {
                "report_json": "report.json",
                "streaming": True,
                "concurrency": 64,
                "pp_size": 1,
                "tp_size": 2,
                "dataset": "requests.jsonl",
                "backend": "pytorch",
                "workspace": "work",
                "model_path": "checkpoint",
                "model": "meta-llama/Llama-3.1-8B",
            },
        ),
        (
            "eval gsm8k",
            None,
            {
                "fewshot_as_multiturn": True,
                "apply_chat_template": True,
                "random_seed": 0,
                "num_samples": 200,
                "tp_size": 2,
                "backend": "pytorch",
                "model": "checkpoint",
            },
        ),
    ],
}


def written(argvs: list[list[str]]) -> str:
    """Command lines as the golden files have them: a line for each flag with its values."""
    return "".join(f"{' '.join(argv)}\n".replace(" --", "\n  --") for argv in argvs)


@pytest.mark.parametrize("name", CASES)
def test_commands_are_those_of_the_golden_file(name: str) -> None:
    argvs = [render(tool, options, version="1.2.1", family=family) for tool, family, options in CASES[name]]
    assert written(argvs) == (GOLDEN / f"{name}.txt").read_text()


def test_every_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == CASES.keys()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_output_len", 512, "(removed in 0.12): give max_seq_len = max_input_len + max_output_len."),
        ("tp_size", 2, "(removed in 0.12): give tp_size to convert_checkpoint.py or quantize.py"),
        ("use_fp8", True, "(removed in 0.8): quantize the checkpoint by quantize.py with qformat fp8."),
        ("weight_only_precision", "int8", "give it to convert_checkpoint.py, with use_weight_only."),
        ("use_custom_all_reduce", True, "(removed in 0.12): leave it out, it is chosen at run time."),
        ("builder_opt", 4, "trtllm-build of TensorRT-LLM 1.2.1 has no builder_opt (removed in 0.14): leave it out."),
        ("use_gemm_plugin", "float16", "(removed in 0.8): give gemm_plugin."),
        ("gemm_plugin", "float8", "gemm_plugin of trtllm-build must not be 'float8', which it spells 'fp8'."),
        ("gemm_plugin", "fp6", "must be one of auto, bfloat16, disable, float16"),
        ("gemm_plugin", 8, "gemm_plugin of trtllm-build must be a text, but got 8."),
        (
            "max_batchsize",
            8,
            "trtllm-build of TensorRT-LLM 1.2.1 has no 'max_batchsize'. Did you mean 'max_batch_size'?",
        ),
        ("xyz", 8, "an argument of trtllm-build must be one of bert_attention_plugin, "),
        ("max_batch_size", "8", "max_batch_size of trtllm-build must be a whole number, but got '8'."),
        ("max_batch_size", 8.5, "must be a whole number, but got 8.5."),
        ("max_batch_size", True, "must be a whole number, but got True."),
        ("max_batch_size", float("inf"), "must be a whole number, but got inf."),
        ("max_batch_size", 0, "max_batch_size of trtllm-build must be at least 1, but got 0."),
        ("strip_plan", "yes", "strip_plan of trtllm-build must be true or false, but got 'yes'."),
        ("context_fmha", "on", "context_fmha of trtllm-build must be one of disable, enable, but got 'on'."),
        ("streamingllm", True, "streamingllm of trtllm-build must be disable, but got 'enable': attention sinks"),
        ("profiling_verbosity", "detail", "Did you mean 'detailed'?"),
        ("lora_dir", "adapter", "lora_dir of trtllm-build must be a list of texts, but got 'adapter'."),
        ("lora_dir", [], "lora_dir of trtllm-build must be a list of texts, but got []."),
        ("lora_dir", ["adapter"], "lora_dir of trtllm-build has no effect without lora_plugin"),
        ("user_buffer", True, "user_buffer of trtllm-build has no effect without reduce_fusion"),
        ("build_config", "--dry_run", "build_config of trtllm-build must not start with a dash, but got '--dry_run'."),
        ("build_config", "", "build_config of trtllm-build must be a text, but got ''."),
    ],
)
def test_what_trtllm_build_does_not_take_is_refused_with_what_it_does(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        render("build", {name: value}, version="1.2.1")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tool", "family", "version", "options", "message"),
    [
        ("build", None, "1.3.0rc24", {}, "has no trtllm-build (removed in 1.3): use backend pytorch"),
        ("quantize", None, "1.3.0rc24", {}, "quantize for backend pytorch, by ModelOpt."),
        ("convert_checkpoint", "llama", "1.4.0rc1", {}, "use backend pytorch, which converts nothing."),
        ("bench build", None, "1.3.0rc24", {"model": "m"}, "has no trtllm-bench build (removed in 1.3)"),
        ("serve", None, "0.14.0", {"model": "m"}, "has no trtllm-serve (it came in 0.15): serve by Triton."),
        ("build", None, "0.10.0", {"max_seq_len": 9}, "has no max_seq_len (it came in 0.11): give max_output_len."),
        ("serve", None, "1.3.0rc24", {"model": "m", "backend": "tensorrt"}, "must be one of _autodeploy, pytorch"),
        ("serve", None, "1.2.1", {}, "trtllm-serve needs model."),
        ("serve", None, "1.2.1", {"model": "-x"}, "model of trtllm-serve must not start with a dash"),
        ("bulid", None, "1.2.1", {}, "Did you mean 'build'?"),
        ("convert_checkpoint", None, "1.2.1", {}, "the family, for convert_checkpoint.py, must be one of gemma, gpt"),
        ("convert_checkpoint", "qwen2", "1.2.1", {}, "Did you mean 'qwen'?"),
        ("convert_checkpoint", "qwen", "1.2.1", {}, "convert_checkpoint.py needs model_dir."),
        ("convert_checkpoint", "gemma", "1.2.1", {}, "convert_checkpoint.py needs ckpt_type."),
        ("convert_checkpoint", "gemma", "1.2.1", {"pp_size": 2, **GEMMA}, "must be 1, but got 2: the gemma"),
        ("convert_checkpoint", "phi", "1.2.1", {"pp_size": 2}, "must be 1, but got 2: the phi script refuses"),
        (
            "convert_checkpoint",
            "phi",
            "1.2.1",
            {"use_fp8": True},
            "an argument of convert_checkpoint.py must be one of dtype, model_dir, moe_ep_size",
        ),
        ("convert_checkpoint", "llama", "1.2.1", {"embedding_sharding_dim": 2}, "must be one of 0, 1, but got '2'."),
        ("convert_checkpoint", "llama", "1.2.1", {"use_embedding_sharing": True}, "(removed in 0.16): leave it out"),
        ("convert_checkpoint", "llama", "1.2.1", {"weight_only_precision": "int4"}, "without use_weight_only"),
        ("convert_checkpoint", "llama", "0.21.0", {}, "where the scripts' place is not known"),
        ("quantize", None, "1.2.1", {"auto_quantize_bits": "4"}, "must be a number, but got '4'."),
        ("quantize", None, "1.2.1", {"auto_quantize_bits": 2}, "must be at least 4, but got 2."),
    ],
)
def test_what_a_version_or_family_lacks_is_refused_with_what_to_do(
    tool: str, family: str | None, version: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        render(tool, options, version=version, family=family)
    assert message in str(caught.value)


def test_an_old_version_still_gets_what_it_knew() -> None:
    assert render("build", {"max_output_len": 512}, version="0.10.0") == ["trtllm-build", "--max_output_len", "512"]
    assert render("quantize", {"qformat": "fp8"}, version="0.19.0", examples="examples") == [
        "python3",
        "examples/quantization/quantize.py",
        "--qformat",
        "fp8",
    ]


def test_a_newer_version_than_the_tables_gets_what_is_known() -> None:
    assert render("serve", {"model": "m", "tp_size": 8}, version="1.3.0rc24") == ["trtllm-serve", "m", "--tp_size", "8"]


def test_lists_are_written_as_the_tool_reads_them() -> None:
    build = render("build", {"lora_plugin": "auto", "lora_dir": ["a", "b"], "dora_plugin": False}, version="1.2.1")
    assert build[1:] == ["--lora_dir", "a", "b", "--lora_plugin", "auto", "--dora_plugin", "disable"]
    serve = render("serve", {"model": "m", "custom_module_dirs": ["a", "b"]}, version="1.2.1")
    assert serve[2:] == ["--custom_module_dirs", "a", "--custom_module_dirs", "b"]
    bench = render("bench build", {"model": "m", "no_weights_loading": True}, version="1.2.1")
    assert bench == ["trtllm-bench", "--model", "m", "build", "--no_weights_loading", "True"]


def test_a_value_that_the_tool_would_take_anyway_needs_nothing_else() -> None:
    argv = render("convert_checkpoint", {"weight_only_precision": "int8"}, version="1.2.1", family="llama")
    assert argv[2:] == ["--weight_only_precision", "int8"]


TABLES = [(tool, family) for tool, entry in TOOLS.items() for family in (entry.families or (None,))]


@pytest.mark.parametrize(("tool", "family"), TABLES)
def test_rows_of_a_name_or_a_flag_do_not_overlap_in_any_version(tool: str, family: str | None) -> None:
    versions = [row.trtllm for row in RELEASES] + ["0.7.1", "1.3.0rc24"]
    for one, other in itertools.combinations(commands.rows(tool, family), 2):
        if one.name == other.name or set(one.spellings) & set(other.spellings):
            assert not any(one.known(version) and other.known(version) for version in versions)


@pytest.mark.parametrize(("tool", "family"), TABLES)
def test_rows_hold_together(tool: str, family: str | None) -> None:
    rows = commands.rows(tool, family)
    names = {row.name for row in rows}
    for row in rows:
        assert row.flag.startswith("--") == (row.kind not in ("positional", "fixed"))
        assert set(row.unsure) <= set(row.choices)
        assert not row.choices or row.kind == "switch" or row.default is None or row.default in row.choices
        assert set(row.renamed.values()) <= set(row.choices)
        assert not row.needs or row.needs in names
        assert row.until is None or row.since is None or numbers(row.since) < numbers(row.until)
        assert row.until is None or row.instead or any(other.name == row.name and other is not row for other in rows)
