from __future__ import annotations

import pytest
from kfp_trtllm.core.backends.trtllm.gpus import GPUS, PLATFORMS, cheapest_first, check_variant, gpu, node_selector
from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.errors import InvalidSpec


def test_kinds_are_known_by_name_in_any_case() -> None:
    assert gpu("h100") is gpu("H100") is GPUS["h100"]
    assert set(GPUS) >= {"t4", "l4", "a10g", "a100-40", "a100-80", "l40s", "h100", "h200", "b200"}


@pytest.mark.parametrize(
    ("kind", "nearest"), [("H10", "'h100'"), ("a100", "'a100-40' or 'a100-80'"), ("l40", "'l40s'"), ("b-200", "'b200'")]
)
def test_an_unknown_kind_is_answered_with_the_nearest(kind: str, nearest: str) -> None:
    with pytest.raises(
        InvalidSpec, match=rf"gpu_kind must be one of a100-40, .*, but got '{kind}'\. Did you mean {nearest}\?"
    ):
        gpu(kind)


# Gigabytes on the data sheet; CUDA has up to a tenth less.
@pytest.mark.parametrize(
    ("kind", "sold"),
    [("t4", 16), ("l4", 24), ("a10g", 24), ("a100-40", 40), ("a100-80", 80), ("l40s", 48), ("h100", 80), ("h200", 141),
     ("b200", 192)],
)  # fmt: skip
def test_usable_memory_is_what_cuda_leaves_of_what_is_sold(kind: str, sold: int) -> None:
    # A "GB" on a data sheet is 2**30 bytes for all but H200 and B200.
    assert 0.9 * sold * 1e9 < gpu(kind).memory_bytes < sold * 2**30


@pytest.mark.parametrize(
    ("kind", "runs", "lacks"),
    [
        ("t4", {"fp16", "int8_sq", "int8_wo", "int4_wo"}, {"bf16", "fp8", "nvfp4", "int4_awq"}),
        ("a100-80", {"bf16", "fp16", "int8_sq", "int4_awq"}, {"fp8", "w4a8_awq", "nvfp4"}),
        ("a10g", {"bf16", "int8_sq", "int4_awq"}, {"fp8", "w4a8_awq", "nvfp4"}),
        ("l4", {"bf16", "fp8", "w4a8_awq"}, {"nvfp4"}),
        ("h100", {"bf16", "fp8", "w4a8_awq"}, {"nvfp4"}),
        ("b200", set(VARIANTS), set()),
    ],
)
def test_a_gpu_runs_what_its_compute_capability_has_units_for(kind: str, runs: set[str], lacks: set[str]) -> None:
    assert runs <= set(gpu(kind).variants)
    assert not lacks & set(gpu(kind).variants)


@pytest.mark.parametrize(
    ("variant", "kind", "message"),
    [
        (
            "fp8",
            "a100-80",
            "variant fp8 needs compute capability 8.9, but gpu_kind a100-80 has 8.0: it runs bf16, fp16, int8_sq, "
            "int8_wo, int4_wo, int4_awq; the cheapest with fp8: l4, l40s, h100.",
        ),
        (
            "nvfp4",
            "h100",
            "variant nvfp4 needs compute capability 10.0, but gpu_kind h100 has 9.0: it runs bf16, fp16,",
        ),
        ("nvfp4", "h100", "the cheapest with nvfp4: b200."),
        ("bf16", "t4", "variant bf16 needs compute capability 8.0, but gpu_kind t4 has 7.5: it runs fp16,"),
        ("bf16", "t4", "the cheapest with bf16: l4, a10g, l40s."),
        ("fp9", "h100", "variant must be one of bf16, fp16, fp8,"),
        ("fp9", "h100", "Did you mean 'fp8'?"),
    ],
)
def test_a_precision_without_units_is_refused_with_what_would_do(variant: str, kind: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_variant(variant, gpu(kind))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", GPUS)
def test_every_precision_that_a_kind_runs_is_accepted(kind: str) -> None:
    for variant in gpu(kind).variants:
        check_variant(variant, gpu(kind))


def test_a_gpu_that_nvidia_does_not_test_is_never_proposed() -> None:
    assert not gpu("t4").tested_by_nvidia
    assert gpu("t4") not in cheapest_first()
    costs = [one.hourly_dollars for one in cheapest_first()]
    assert costs == sorted(costs)
    assert len(costs) == len(GPUS) - 1


@pytest.mark.parametrize(
    ("kind", "platform", "selector"),
    [
        ("l4", "gke", {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
        ("a100-40", "gke", {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}),
        ("a100-80", "gke", {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}),
        ("h200", "gke", {"cloud.google.com/gke-accelerator": "nvidia-h200-141gb"}),
        ("h100", "operator", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}),
        ("t4", "operator", {"nvidia.com/gpu.product": "Tesla-T4"}),
        ("l40s", "eks", {"eks.amazonaws.com/instance-gpu-name": "l40s"}),
        (
            "a100-80",
            "eks",
            {"eks.amazonaws.com/instance-gpu-name": "a100", "eks.amazonaws.com/instance-gpu-memory": "81920"},
        ),
        (
            "a100-40",
            "karpenter",
            {"karpenter.k8s.aws/instance-gpu-name": "a100", "karpenter.k8s.aws/instance-gpu-memory": "40960"},
        ),
    ],
)
def test_node_selectors_ask_for_the_labels_that_a_platform_sets(
    kind: str, platform: str, selector: dict[str, str]
) -> None:
    assert node_selector(kind, platform) == selector


@pytest.mark.parametrize(
    ("kind", "platform", "message"),
    [
        ("l40s", "gke", "gpu_kind on platform gke must be one of t4, l4, a100-40, a100-80, h100, h200, b200, but got"),
        ("l4", "aks", "platform must be one of eks, gke, karpenter, operator, but got 'aks'. Did you mean 'eks'?"),
        ("l5", "gke", "gpu_kind must be one of"),
    ],
)
def test_what_a_platform_does_not_offer_is_refused(kind: str, platform: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        node_selector(kind, platform)
    assert message in str(caught.value)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_two_kinds_share_a_selector(platform: str) -> None:
    found = [
        tuple(node_selector(kind, platform).items()) for kind in GPUS if platform != "gke" or GPUS[kind].gke_accelerator
    ]
    assert len(found) == len(set(found)) >= 7
