"""TensorRT-LLM's releases: the Triton, TensorRT, CUDA and driver that belong to each, and the backends that it has.

The rows are those of Triton's support matrix (server/docs/introduction/compatibility.md). No row is known for 1.3 and
later: those versions pass `check_backend` and have command tables, but `release` refuses them, since neither their
images nor their driver can be named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kfp_trtllm.errors import InvalidSpec, unknown

DEFAULT = "1.2.1"
_NO_ENGINES = "1.3"  # its release candidates dropped the builder, and which of them did first is not known
_LLM_API = "1.0"  # there PyTorch became the default, and stable
_IMAGES = "0.20"  # the first whose release image is in NVIDIA's registry


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of TensorRT-LLM.

    Attributes:
        trtllm: Its version.
        triton: Tags ("YY.MM") of Triton's images that carry it, newest first.
        tensorrt: Version of TensorRT: engines are tied to it.
        cuda: Version of CUDA.
        driver: The lowest driver for data center GPUs.
        backends: What executes models there: "tensorrt" (built engines), "pytorch" (the LLM API).
    """

    trtllm: str
    triton: tuple[str, ...]
    tensorrt: str
    cuda: str
    driver: str
    backends: tuple[str, ...] = ("tensorrt",)


_BOTH = ("tensorrt", "pytorch")
RELEASES = (
    Release(
        trtllm="1.2.1",
        triton=("26.07", "26.06", "26.05", "26.04"),
        tensorrt="10.14.1.48",
        cuda="13.1.0.036",
        driver="590.44.01",
        backends=_BOTH,
    ),
    Release(
        trtllm="1.2.0",
        triton=("26.03",),
        tensorrt="10.14.1.48",
        cuda="13.1.0.036",
        driver="590.44.01",
        backends=_BOTH,
    ),
    Release(
        trtllm="1.1.0",
        triton=("26.02", "26.01", "25.12"),
        tensorrt="10.13.3.9",
        cuda="13.0.2.006",
        driver="580.95.05",
        backends=_BOTH,
    ),
    Release(
        trtllm="1.0.3.2510",
        triton=("25.11",),
        tensorrt="10.13.3.9",
        cuda="13.0.2.006",
        driver="580.95.05",
        backends=_BOTH,
    ),
    Release(
        trtllm="1.0.0",
        triton=("25.10", "25.09"),
        tensorrt="10.11.0.33",
        cuda="12.9.1.010",
        driver="575.57.08",
        backends=_BOTH,
    ),
    Release(trtllm="0.21.0", triton=("25.08",), tensorrt="10.11.0.33", cuda="12.9.0.043", driver="575.51.03"),
    Release(trtllm="0.20.0", triton=("25.07", "25.06"), tensorrt="10.10.0.31", cuda="12.9.0.036", driver="575.51.03"),
    Release(trtllm="0.19.0", triton=("25.05",), tensorrt="10.9.0.34", cuda="12.8.1.012", driver="570.124.06"),
    Release(trtllm="0.18.2", triton=("25.04",), tensorrt="10.9.0.34", cuda="12.8.1.012", driver="570.124.06"),
    Release(trtllm="0.18.0", triton=("25.03",), tensorrt="10.9.0.34", cuda="12.8.1.012", driver="570.124.06"),
    Release(trtllm="0.17.0.post1", triton=("25.02",), tensorrt="10.8.0.43", cuda="12.8.0.038", driver="570.86.10"),
    Release(trtllm="0.17.0", triton=("25.01",), tensorrt="10.8.0.43", cuda="12.8.0.038", driver="570.86.10"),
    Release(trtllm="0.16.0", triton=("24.12",), tensorrt="10.7.0", cuda="12.6.3", driver="560.35.05"),
    Release(trtllm="0.15.0", triton=("24.11",), tensorrt="10.6.0", cuda="12.6.3", driver="555.42.06"),
    Release(trtllm="0.14.0", triton=("24.10",), tensorrt="10.4.0", cuda="12.5.1.007", driver="555.42.06"),
    Release(trtllm="0.13.0", triton=("24.09",), tensorrt="10.4.0", cuda="12.5.1.007", driver="555.42.06"),
    Release(trtllm="0.12.0", triton=("24.08",), tensorrt="10.3.0", cuda="12.5.1.007", driver="555.42.06"),
    Release(trtllm="0.11.0", triton=("24.07",), tensorrt="10.1.0", cuda="12.4.1.003", driver="550.54.15"),
    Release(trtllm="0.10.0", triton=("24.06",), tensorrt="10.0.1", cuda="12.4.0.041", driver="550.54.14"),
    Release(trtllm="0.9.0", triton=("24.05",), tensorrt="10.0.1.6", cuda="12.3.2.001", driver="545.23.08"),
    Release(trtllm="0.9.0", triton=("24.04",), tensorrt="9.3.0.post12.dev1", cuda="12.3.2.001", driver="545.23.08"),
)
_VERSION = re.compile(r"(\d+(?:\.\d+)+)(?:\.?(?:dev|post|a|b|rc)\d+)?")


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons. A release candidate counts as the release that it leads to.

    Raises:
        InvalidSpec: It is no version.
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise InvalidSpec(f"the version of TensorRT-LLM must look like {DEFAULT} or 1.3.0rc24, but got {version!r}.")
    parts = tuple(map(int, found[1].split(".")))
    return parts + (0,) * (4 - len(parts))


def release(version: str) -> Release:
    """The row of a version; where it has two, the newer.

    Raises:
        InvalidSpec: It is no version, or has no row; says which come nearest.
    """
    for row in RELEASES:
        if row.trtllm == version:
            return row
    if numbers(version) >= numbers(_NO_ENGINES):
        raise InvalidSpec(
            f"the version of TensorRT-LLM must have a row in Triton's support matrix, which ends with {DEFAULT}, but got "
            f"{version!r}: take {DEFAULT}, or name the images of {version} yourself and use backend pytorch."
        )
    raise InvalidSpec(unknown("the version of TensorRT-LLM", version, [row.trtllm for row in RELEASES]))


def serving_image(row: Release) -> str:
    """Triton's image that serves a release's engines: the newest tag, with the Python backend in it."""
    return f"nvcr.io/nvidia/tritonserver:{row.triton[0]}-trtllm-python-py3"


def build_image(row: Release) -> str:
    """NVIDIA's image that converts and builds.

    Raises:
        InvalidSpec: The release is older than these images.
    """
    if numbers(row.trtllm) < numbers(_IMAGES):
        raise InvalidSpec(
            f"the version of TensorRT-LLM must be at least {_IMAGES} to have a build image, but got {row.trtllm}: take "
            f"{DEFAULT}, or name your own image."
        )
    return f"nvcr.io/nvidia/tensorrt-llm/release:{row.trtllm}"


def check_backend(backend: str, version: str) -> None:
    """InvalidSpec unless a version of TensorRT-LLM has the backend; says what to do. It need not have a row."""
    if backend not in _BOTH:
        raise InvalidSpec(unknown("backend of TensorRT-LLM", backend, _BOTH))
    if backend == "tensorrt" and numbers(version) >= numbers(_NO_ENGINES):
        raise InvalidSpec(
            f"backend tensorrt needs TensorRT-LLM {DEFAULT} or older, but got {version}: trtllm-build was removed in "
            f"{_NO_ENGINES}. Use backend pytorch, or {DEFAULT}."
        )
    if backend == "pytorch" and numbers(version) < numbers(_LLM_API):
        raise InvalidSpec(
            f"backend pytorch needs TensorRT-LLM {_LLM_API} or newer, but got {version}, where it was an experiment. "
            f"Use {DEFAULT}, or backend tensorrt."
        )
