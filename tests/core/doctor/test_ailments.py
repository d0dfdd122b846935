from pathlib import Path

import pytest
from kfp_trtllm.core.doctor.ailments import AILMENTS, HARMLESS, Ailment, rows
from kfp_trtllm.core.doctor.signs import find, plain

LOGS = Path(__file__).parent / "logs"
KINDS = {ailment.kind for ailment in AILMENTS}
# Classes of failures as the facts about TensorRT-LLM and Triton count them.
COUNTED = {
    *("build_oom_gpu", "host_oom", "engine_version_mismatch", "abi_mismatch", "gpu_arch_mismatch"),
    *("world_size_mismatch", "precision_unsupported", "unsupported_model", "convert_failure", "quantize_failure"),
    *("accuracy_drop", "template_unfilled", "wrong_image", "engine_dir_missing", "config_invalid"),
    *("dependent_failed", "serve_oom", "tokenizer", "decoupled", "request_too_long", "request_schema"),
    *("shm_exhausted", "stub_crash", "mpi", "port_in_use", "engine_flow_removed", "bench_limits"),
}
each_ailment = pytest.mark.parametrize("ailment", AILMENTS, ids=lambda ailment: f"{ailment.kind}: {ailment.signs[0]}")


def test_every_counted_class_is_in_the_table() -> None:
    assert COUNTED <= KINDS


def test_every_class_has_a_log_and_every_log_a_class() -> None:
    assert {path.stem.partition("-")[0] for path in LOGS.glob("*.log")} == KINDS


@each_ailment
def test_cause_and_remedy_are_a_sentence_each(ailment: Ailment) -> None:
    for text in (ailment.cause, ailment.remedy):
        assert text.endswith(".")
        assert ". " not in text.replace("e.g. ", "")
        assert "\n" not in text


@each_ailment
def test_signs_are_long_enough_to_be_no_accident(ailment: Ailment) -> None:
    for sign in ailment.signs:
        pieces = [piece for piece in sign.strip("^$").split("…") if piece]
        assert pieces
        assert sign == "^Killed$" or sum(map(len, pieces)) >= 9


def test_no_sign_is_listed_twice_for_the_same_programs() -> None:
    listed = [(sign, ailment.tools) for ailment in AILMENTS for sign in ailment.signs]
    assert len(listed) == len(set(listed))


def test_what_is_only_a_consequence_stands_last() -> None:
    assert AILMENTS[-1].kind == "dependent_failed"


def test_retries_are_promised_only_where_the_change_mends_the_cause() -> None:
    assert {(ailment.kind, ailment.retry) for ailment in AILMENTS if ailment.retry} == {
        ("build_oom_gpu", "smaller"),
        ("timing_cache_stale", "drop_timing_cache"),
        ("engine_flow_removed", "other_backend"),
        ("precision_unsupported", "other_backend"),
        ("unsupported_model", "other_backend"),
    }


def test_rows_are_the_whole_table_in_its_order() -> None:
    table = rows()
    assert [row.kind for row in table] == [ailment.kind for ailment in AILMENTS]
    assert next(row.messages[0] for row in table if row.kind == "host_oom") == "Killed"
    assert all(row.messages and row.cause and row.remedy and row.retry for row in table)


def test_every_harmless_line_is_seen_in_some_log() -> None:
    seen = "\n".join(plain(path.read_text("utf-8")) for path in Path(__file__).parent.glob("*/*.log"))
    unseen = {sign for sign in HARMLESS if not any(find(seen, sign))}
    assert unseen == {"Detected invalid timing cache, setup a local cache instead"}  # of TensorRT 7 and 8
