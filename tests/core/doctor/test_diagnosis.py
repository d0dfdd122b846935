import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.doctor.ailments import AILMENTS, Ailment
from kfp_trtllm.core.doctor.diagnosis import RETRIES, Diagnosis, describe


def diagnosis(ailment: Ailment, evidence: str) -> Diagnosis:
    return Diagnosis(
        kind=ailment.kind, cause=ailment.cause, remedy=ailment.remedy, evidence=evidence, retry=ailment.retry
    )


def test_it_reads_as_a_table_of_five_parts() -> None:
    text = describe(
        Diagnosis(
            kind="build_oom_gpu",
            cause="The GPU ran out of memory.",
            remedy="Lower max_num_tokens.",
            evidence="[TRT] [E] OutOfMemory",
            retry="smaller",
        )
    )
    assert text == (
        "Diagnosis   build_oom_gpu\n"
        "Cause       The GPU ran out of memory.\n"
        "Evidence    [TRT] [E] OutOfMemory\n"
        "What to do  Lower max_num_tokens.\n"
        "Retry       A build is tried again by itself with a smaller max_num_tokens, then\n"
        "            a smaller max_batch_size.\n"
    )


@pytest.mark.parametrize("ailment", AILMENTS, ids=lambda ailment: f"{ailment.kind}: {ailment.signs[0]}")
@given(evidence=st.text(max_size=300))
def test_it_fits_80_columns_whatever_the_log_said(ailment: Ailment, evidence: str) -> None:
    text = describe(diagnosis(ailment, evidence))
    assert max(map(len, text.split("\n"))) <= 80
    said = " ".join(text.split())
    assert all(part in said for part in (ailment.kind, ailment.cause, ailment.remedy, RETRIES[ailment.retry]))
