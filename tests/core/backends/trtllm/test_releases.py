from __future__ import annotations

import itertools

import pytest
from kfp_trtllm.core.backends.trtllm import releases
from kfp_trtllm.core.backends.trtllm.releases import DEFAULT, RELEASES, check_backend, numbers, release
from kfp_trtllm.errors import InvalidSpec


def test_rows_go_from_the_newest_to_the_oldest_by_every_number() -> None:
    for newer, older in itertools.pairwise(RELEASES):
        assert numbers(newer.trtllm) >= numbers(older.trtllm)
        assert newer.triton[-1] > older.triton[0]
        assert tuple(map(int, newer.driver.split("."))) >= tuple(map(int, older.driver.split(".")))
    for row in RELEASES:
        assert list(row.triton) == sorted(row.triton, reverse=True)


def test_triton_tags_leave_no_month_out() -> None:
    tags = [tag for row in RELEASES for tag in row.triton]
    first, last = sorted(tags)[0], sorted(tags)[-1]
    months = [f"{year}.{month:02}" for year in (24, 25, 26) for month in range(1, 13)]
    assert sorted(tags) == [month for month in months if first <= month <= last]


def test_the_default_is_the_newest_and_has_both_backends() -> None:
    row = release(DEFAULT)
    assert row is RELEASES[0]
    assert (row.tensorrt, row.cuda, row.driver) == ("10.14.1.48", "13.1.0.036", "590.44.01")
    assert row.backends == ("tensorrt", "pytorch")
    assert releases.serving_image(row) == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert releases.build_image(row) == "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"


def test_of_two_rows_of_a_version_the_newer_is_taken() -> None:
    assert release("0.9.0").triton == ("24.05",)


@pytest.mark.parametrize("row", RELEASES, ids=lambda row: row.triton[0])
def test_a_rows_backends_are_those_that_the_check_lets_pass(row: releases.Release) -> None:
    for backend in ("tensorrt", "pytorch"):
        if backend in row.backends:
            check_backend(backend, row.trtllm)
        else:
            with pytest.raises(InvalidSpec):
                check_backend(backend, row.trtllm)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.2.2", "Did you mean '1.2.1'?"),
        ("0.18.1", "Did you mean '0.18.2'?"),
        ("1.3.0rc24", "take 1.2.1, or name the images of 1.3.0rc24 yourself and use backend pytorch."),
        ("1.4.0rc1", "which ends with 1.2.1, but got '1.4.0rc1'"),
        ("latest", "must look like 1.2.1 or 1.3.0rc24, but got 'latest'"),
        ("", "must look like 1.2.1 or 1.3.0rc24, but got ''"),
        ("1.2.1; rm", "must look like 1.2.1"),
    ],
)
def test_a_version_without_a_row_is_refused_with_what_would_do(version: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        release(version)
    assert message in str(caught.value)


def test_a_version_older_than_the_build_images_has_none() -> None:
    assert releases.build_image(release("0.20.0")) == "nvcr.io/nvidia/tensorrt-llm/release:0.20.0"
    with pytest.raises(InvalidSpec, match=r"must be at least 0\.20 to have a build image, but got 0\.19\.0"):
        releases.build_image(release("0.19.0"))


@pytest.mark.parametrize(
    ("backend", "version", "message"),
    [
        ("tensorrt", "1.3.0rc0", "trtllm-build was removed in 1.3. Use backend pytorch, or 1.2.1."),
        ("tensorrt", "1.4.0", "needs TensorRT-LLM 1.2.1 or older, but got 1.4.0"),
        ("pytorch", "0.21.0", "needs TensorRT-LLM 1.0 or newer, but got 0.21.0"),
        ("pytorch", "0.21.0", "Use 1.2.1, or backend tensorrt."),
        ("tensort", "1.2.1", "Did you mean 'tensorrt'?"),
        ("onnxruntime", "1.2.1", "must be one of pytorch, tensorrt"),
    ],
)
def test_a_backend_that_a_version_lacks_is_refused_with_what_to_do(backend: str, version: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_backend(backend, version)
    assert message in str(caught.value)


def test_a_prerelease_without_a_row_still_has_the_backend_pytorch() -> None:
    check_backend("pytorch", "1.3.0rc24")
    check_backend("tensorrt", "1.2.0rc2")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.2", (1, 2, 0, 0)),
        ("1.0.3.2510", (1, 0, 3, 2510)),
        ("0.17.0.post1", (0, 17, 0, 0)),
        ("1.3.0rc24", (1, 3, 0, 0)),
        ("0.10.0.dev2024050700", (0, 10, 0, 0)),
    ],
)
def test_numbers_of_a_version(version: str, expected: tuple[int, ...]) -> None:
    assert numbers(version) == expected
