from __future__ import annotations

from typing import Any

import pytest
from kfp_trtllm.core.backends.trtllm.commands import render
from kfp_trtllm.core.backends.trtllm.legacy import translate
from kfp_trtllm.errors import InvalidSpec

GUIDE = {
    "tp_size": 2,
    "pp_size": 1,
    "max_batch_size": 8,
    "max_input_len": 2048,
    "max_output_len": 512,
    "use_fp8": True,
    "gemm_plugin": "float8",
}


def test_a_user_of_the_old_table_gets_what_was_meant() -> None:
    found = translate(GUIDE)
    assert found.plan == {
        "tp_size": 2,
        "pp_size": 1,
        "max_batch_size": 8,
        "max_input_len": 2048,
        "max_seq_len": 2560,
        "variant": "fp8",
    }
    assert found.options == {"gemm_plugin": "fp8"}
    assert found.notes == (
        "tp_size 2 is given to the conversion of the checkpoint, not to trtllm-build.",
        "pp_size 1 is given to the conversion of the checkpoint, not to trtllm-build.",
        "max_output_len 512 is max_seq_len 2560 now: max_input_len 2048 + max_output_len 512.",
        "use_fp8 is variant fp8: quantize.py calibrates the checkpoint, trtllm-build reads it.",
        "gemm_plugin float8 is spelled fp8.",
    )


def test_what_comes_out_is_what_the_tools_of_today_take() -> None:
    found = translate(GUIDE | {"paged_kv_cache": True, "enable_context_fmha": True, "use_inflight_batching": True})
    build = render("build", found.options, version="1.2.1")
    assert build == ["trtllm-build", "--kv_cache_type", "paged", "--gemm_plugin", "fp8", "--context_fmha", "enable"]
    sizes = {name: found.plan[name] for name in ("tp_size", "pp_size")}
    assert render("quantize", {"qformat": found.plan["variant"], **sizes}, version="1.2.1")[2:] == [
        "--tp_size",
        "2",
        "--pp_size",
        "1",
        "--qformat",
        "fp8",
    ]


def test_todays_parameters_pass_without_a_word() -> None:
    options = {"max_batch_size": 8.0, "gemm_plugin": "auto", "workers": 2, "variant": "fp16", "max_num_tokens": 4096}
    found = translate(options | {"reduce_fusion": None})
    assert found.plan == {"max_batch_size": 8, "variant": "fp16", "max_num_tokens": 4096}
    assert found.options == {"gemm_plugin": "auto", "workers": 2}
    assert found.notes == ()


def test_nothing_is_made_of_nothing() -> None:
    found = translate({})
    assert (found.plan, found.options, found.notes) == ({}, {}, ())


@pytest.mark.parametrize(
    ("options", "plan", "left", "note"),
    [
        ({"world_size": 4}, {"tp_size": 4}, {}, "world_size 4 is tp_size x pp_size: tp_size 4 is taken."),
        ({"world_size": 4, "pp_size": 2}, {"tp_size": 2, "pp_size": 2}, {}, "tp_size 2 is taken."),
        ({"world_size": 4, "tp_size": 2, "pp_size": 2}, {"tp_size": 2, "pp_size": 2}, {}, "world_size 4 is left out"),
        ({"use_fp8": False}, {}, {}, "use_fp8 false is left out: the variant decides."),
        ({"enable_fp8": True}, {"variant": "fp8"}, {}, "enable_fp8 is variant fp8"),
        ({"use_fp8": True, "variant": "fp8"}, {"variant": "fp8"}, {}, "use_fp8 is variant fp8"),
        (
            {"weight_only_precision": "int4"},
            {"variant": "int4_wo"},
            {},
            "weight_only_precision int4 is variant int4_wo",
        ),
        ({"weight_only_precision": "int4_awq"}, {"variant": "int4_awq"}, {}, "is variant int4_awq"),
        ({"use_weight_only": True}, {"variant": "int8_wo"}, {}, "weight_only_precision int8 is variant int8_wo"),
        ({"use_weight_only": False, "weight_only_precision": "int4"}, {}, {}, "weight_only_precision is left out"),
        ({"use_weight_only": False}, {}, {}, "use_weight_only false is left out"),
        ({"qformat": "int8_sq"}, {"variant": "int8_sq"}, {}, "qformat int8_sq is variant int8_sq."),
        ({"fp8_kv_cache": True}, {"kv_cache_dtype": "fp8"}, {}, "fp8_kv_cache is kv_cache_dtype fp8."),
        ({"int8_kv_cache": False}, {}, {}, "int8_kv_cache false is left out"),
        ({"paged_kv_cache": "enable"}, {}, {"kv_cache_type": "paged"}, "paged_kv_cache true is spelled kv_cache_type"),
        ({"paged_kv_cache": False}, {}, {"kv_cache_type": "continuous"}, "spelled kv_cache_type continuous."),
        (
            {"use_gemm_plugin": "float16"},
            {},
            {"gemm_plugin": "float16"},
            "use_gemm_plugin is spelled gemm_plugin float16.",
        ),
        ({"use_gemm_plugin": True}, {}, {"gemm_plugin": "auto"}, "use_gemm_plugin is spelled gemm_plugin auto."),
        ({"use_gemm_plugin": "float8"}, {}, {"gemm_plugin": "fp8"}, "gemm_plugin float8 is spelled fp8."),
        ({"gemm_plugin": "fp16"}, {}, {"gemm_plugin": "float16"}, "gemm_plugin fp16 is spelled float16."),
        (
            {"use_gpt_attention_plugin": "bfloat16"},
            {},
            {"gpt_attention_plugin": "bfloat16"},
            "use_gpt_attention_plugin is spelled gpt_attention_plugin bfloat16.",
        ),
        ({"use_gpt_attention_plugin": False}, {}, {}, "use_gpt_attention_plugin false is left out"),
        ({"enable_context_fmha": False}, {}, {"context_fmha": False}, "is spelled context_fmha disable."),
        ({"use_inflight_batching": True}, {}, {}, "use_inflight_batching is left out: every engine"),
        ({"use_custom_all_reduce": "enable"}, {}, {}, "use_custom_all_reduce is left out: it is chosen at run time."),
        ({"builder_opt": 4}, {}, {}, "builder_opt is left out"),
        ({"strongly_typed": True}, {}, {}, "strongly_typed is left out: engines always are."),
    ],
)
def test_an_old_parameter_is_translated_with_a_note(
    options: dict[str, Any], plan: dict[str, Any], left: dict[str, Any], note: str
) -> None:
    found = translate(options)
    assert (found.plan, found.options) == (plan, left)
    assert note in found.notes[-1]


def test_every_note_is_about_what_was_given() -> None:
    options = {"world_size": 1, "use_fp8": True, "paged_kv_cache": True, "builder_opt": 4, "use_gemm_plugin": True}
    assert {note.split()[0] for note in translate(options).notes} == options.keys()


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (
            {"max_input_len": 2048, "max_output_len": 512, "max_seq_len": 4096},
            {},
            "max_output_len 512 with max_input_len 2048 means max_seq_len 2560, but max_seq_len is 4096: give only one.",
        ),
        ({"max_output_len": 512}, {"max_input_len": 2048, "max_seq_len": 4096}, "but max_seq_len is 4096"),
        ({"max_output_len": 512}, {}, "max_output_len needs max_input_len"),
        (
            {"max_output_len": 0, "max_input_len": 9},
            {},
            "max_output_len must be a whole number of at least 1, but got 0.",
        ),
        ({"max_output_len": "512"}, {}, "max_output_len must be a whole number of at least 1, but got '512'."),
        ({"max_batch_size": float("nan")}, {}, "max_batch_size must be a whole number"),
        (
            {"use_fp8": True, "variant": "int4_awq"},
            {},
            "use_fp8 means variant fp8, but variant is int4_awq: give only one.",
        ),
        ({"use_fp8": True}, {"variant": "int4_awq"}, "use_fp8 means variant fp8, but variant is int4_awq"),
        ({"use_fp8": True, "weight_only_precision": "int8"}, {}, "means variant int8_wo, but variant is fp8"),
        ({"use_fp8": "yes"}, {}, "use_fp8 must be true or false, but got 'yes'."),
        ({"use_fp8": 1}, {}, "use_fp8 must be true or false, but got 1."),
        ({"qformat": "fp8_pc"}, {}, "Did you mean 'fp8'?"),
        ({"weight_only_precision": "int4_gptq"}, {}, "must be one of int4, int4_awq, int8, but got 'int4_gptq'."),
        ({"fp8_kv_cache": True, "int8_kv_cache": True}, {}, "means kv_cache_dtype int8, but kv_cache_dtype is fp8"),
        ({"kv_cache_dtype": "float8"}, {}, "kv_cache_dtype must be one of auto, fp8, int8"),
        ({"paged_kv_cache": True, "kv_cache_type": "continuous"}, {}, "but kv_cache_type is continuous"),
        ({"gemm_plugin": "float8"}, {"variant": "fp16"}, "gemm_plugin fp8 needs variant fp8, but variant is fp16"),
        (
            {"use_gemm_plugin": "float16", "gemm_plugin": "auto"},
            {},
            "means gemm_plugin float16, but gemm_plugin is auto",
        ),
        ({"enable_context_fmha": True, "context_fmha": "disable"}, {}, "but context_fmha is disable: give only one."),
        ({"world_size": 3, "pp_size": 2}, {}, "world_size must be a multiple of pp_size (2), but got 3."),
        ({"world_size": 8, "tp_size": 2}, {}, "world_size must be tp_size x pp_size (2 x 1), but got 8"),
        ({"tp_size": 2}, {"tp_size": 4}, "tp_size means tp_size 2, but tp_size is 4"),
        ({"output_dir": "/engines"}, {}, "output_dir must not be given: each step names its own folders and files."),
    ],
)
def test_contradictions_and_riddles_are_refused(options: dict[str, Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        translate(options, given)
    assert message in str(caught.value)


def test_a_quantized_cache_overrides_the_automatic_one() -> None:
    assert translate({"fp8_kv_cache": True}, {"kv_cache_dtype": "auto"}).plan == {"kv_cache_dtype": "fp8"}


def test_what_it_does_not_know_is_left_for_the_tools_table() -> None:
    found = translate({"max_batchsize": 8, "multi_block_mode": True})
    assert found.options == {"max_batchsize": 8, "multi_block_mode": True}
    with pytest.raises(InvalidSpec, match="Did you mean 'max_batch_size'"):
        render("build", {"max_batchsize": 8}, version="1.2.1")


def test_the_users_options_stay_as_they_are() -> None:
    options = dict(GUIDE)
    translate(options)
    assert options == GUIDE
