"""GPU kinds: what they hold, how fast they read it, what they compute with, and how a cluster labels their nodes."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core.backends.trtllm.variants import VARIANTS
from kfp_trtllm.errors import InvalidSpec, unknown

_GIB = 1 << 30
# NVIDIA's support matrix begins here (TensorRT-LLM 0.18 to 1.2): older GPUs may run, but nobody at NVIDIA tests them.
_OLDEST_TESTED = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: As in the parameter gpu_kind.
        title: For people, short enough for "2 × L4".
        memory_bytes: Usable by CUDA, as PyTorch reports it in error messages ("GPU 0 has a total capacity of … GiB").
            Drivers and machines differ by half a percent: the least that was seen.
        bandwidth_bytes_per_second: Of its memory, from NVIDIA's data sheet.
        compute_capability: (major, minor).
        hourly_dollars: One GPU for an hour on demand: the smallest Amazon EC2 instance with it, or an eighth of one with
            eight (us-east, seen in 2026). Only to say which is cheaper.
        gke_accelerator: Value of the node label cloud.google.com/gke-accelerator; "" where GKE has none.
        product_labels: Values of nvidia.com/gpu.product by NVIDIA's GPU feature discovery, the usual one first.
        aws_families: Amazon EC2 instance families with it; none where there are none.
        aws_name: Value of the labels …/instance-gpu-name on EKS.
        aws_memory_mib: Value of the labels …/instance-gpu-memory on EKS; 0 where the name suffices.
    """

    name: str
    title: str
    memory_bytes: int
    bandwidth_bytes_per_second: int
    compute_capability: tuple[int, int]
    hourly_dollars: float
    gke_accelerator: str = ""
    product_labels: tuple[str, ...]
    aws_families: tuple[str, ...] = ()
    aws_name: str = ""
    aws_memory_mib: int = 0

    @property
    def tested_by_nvidia(self) -> bool:
        """Whether TensorRT-LLM's support matrix has its architecture."""
        return self.compute_capability >= _OLDEST_TESTED

    @property
    def variants(self) -> tuple[str, ...]:
        """Precisions that it runs."""
        return tuple(
            name for name, variant in VARIANTS.items() if variant.compute_capability <= self.compute_capability
        )


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="t4",
            title="T4",
            memory_bytes=int(14.56 * _GIB),
            bandwidth_bytes_per_second=320 * 10**9,
            compute_capability=(7, 5),
            hourly_dollars=0.526,
            gke_accelerator="nvidia-tesla-t4",
            product_labels=("Tesla-T4",),
            aws_families=("g4dn",),
            aws_name="t4",
        ),
        Gpu(
            name="l4",
            title="L4",
            memory_bytes=int(22.03 * _GIB),
            bandwidth_bytes_per_second=300 * 10**9,
            compute_capability=(8, 9),
            hourly_dollars=0.8048,
            gke_accelerator="nvidia-l4",
            product_labels=("NVIDIA-L4",),
            aws_families=("g6",),
            aws_name="l4",
        ),
        Gpu(
            name="a10g",
            title="A10G",
            memory_bytes=int(21.96 * _GIB),
            bandwidth_bytes_per_second=600 * 10**9,
            compute_capability=(8, 6),
            hourly_dollars=1.006,
            product_labels=("NVIDIA-A10G",),
            aws_families=("g5",),
            aws_name="a10g",
        ),
        Gpu(
            name="l40s",
            title="L40S",
            memory_bytes=int(44.39 * _GIB),
            bandwidth_bytes_per_second=864 * 10**9,
            compute_capability=(8, 9),
            hourly_dollars=1.861,
            product_labels=("NVIDIA-L40S",),
            aws_families=("g6e",),
            aws_name="l40s",
        ),
        Gpu(
            name="a100-40",
            title="A100-40",
            memory_bytes=int(39.38 * _GIB),
            bandwidth_bytes_per_second=1555 * 10**9,
            compute_capability=(8, 0),
            hourly_dollars=2.745,
            gke_accelerator="nvidia-tesla-a100",
            product_labels=("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
            aws_families=("p4d",),
            aws_name="a100",
            aws_memory_mib=40960,
        ),
        Gpu(
            name="a100-80",
            title="A100-80",
            memory_bytes=int(79.18 * _GIB),
            bandwidth_bytes_per_second=2039 * 10**9,
            compute_capability=(8, 0),
            hourly_dollars=3.431,
            gke_accelerator="nvidia-a100-80gb",
            product_labels=("NVIDIA-A100-SXM4-80GB",),
            aws_families=("p4de",),
            aws_name="a100",
            aws_memory_mib=81920,
        ),
        Gpu(
            name="h100",
            title="H100",  # SXM, 80 GB
            memory_bytes=int(79.18 * _GIB),
            bandwidth_bytes_per_second=3350 * 10**9,
            compute_capability=(9, 0),
            hourly_dollars=6.88,
            gke_accelerator="nvidia-h100-80gb",  # a3-megagpu machines carry nvidia-h100-mega-80gb instead
            product_labels=("NVIDIA-H100-80GB-HBM3",),
            aws_families=("p5",),
            aws_name="h100",
        ),
        Gpu(
            name="h200",
            title="H200",
            memory_bytes=int(139.72 * _GIB),
            bandwidth_bytes_per_second=4800 * 10**9,
            compute_capability=(9, 0),
            hourly_dollars=7.912,
            gke_accelerator="nvidia-h200-141gb",
            product_labels=("NVIDIA-H200",),
            aws_families=("p5en", "p5e"),
            aws_name="h200",
        ),
        Gpu(
            name="b200",
            title="B200",
            memory_bytes=int(178.35 * _GIB),
            bandwidth_bytes_per_second=8000 * 10**9,
            compute_capability=(10, 0),
            hourly_dollars=14.24,
            gke_accelerator="nvidia-b200",
            product_labels=("NVIDIA-B200",),
            aws_families=("p6-b200",),
            aws_name="b200",
        ),
    )
}

# eks: EKS Auto Mode, whose nodes carry these labels by themselves; karpenter: nodes of one's own Karpenter on EKS;
# operator: any cluster with NVIDIA's GPU operator.
PLATFORMS = ("eks", "gke", "karpenter", "operator")
_AWS = {"eks": "eks.amazonaws.com", "karpenter": "karpenter.k8s.aws"}


def gpu(kind: str) -> Gpu:
    """The GPU of a name.

    Raises:
        InvalidSpec: There is none; names those that there are, and the nearest.
    """
    name = kind.lower()
    if name in GPUS:
        return GPUS[name]
    # "a100" is nearer to h100 by letters, but means one of its own sizes.
    if name and (longer := [known for known in sorted(GPUS) if known.startswith(name)]):
        raise InvalidSpec(
            f"gpu_kind must be one of {', '.join(sorted(GPUS))}, but got {kind!r}. "
            f"Did you mean {' or '.join(map(repr, longer))}?"
        )
    raise InvalidSpec(unknown("gpu_kind", kind, GPUS))


def check_variant(variant: str, gpu: Gpu) -> None:
    """Whether a GPU has units for a precision.

    Raises:
        InvalidSpec: It has not; names what it runs, and the cheapest kinds that run the wanted precision.
    """
    if variant not in VARIANTS:
        raise InvalidSpec(unknown("variant", variant, VARIANTS))
    if variant in gpu.variants:
        return
    major, minor = VARIANTS[variant].compute_capability
    able = [other.name for other in cheapest_first() if variant in other.variants]
    raise InvalidSpec(
        f"variant {variant} needs compute capability {major}.{minor}, but gpu_kind {gpu.name} has "
        f"{gpu.compute_capability[0]}.{gpu.compute_capability[1]}: it runs {', '.join(gpu.variants)}; "
        f"the cheapest with {variant}: {', '.join(able[:3])}."
    )


def cheapest_first() -> list[Gpu]:
    """All kinds that NVIDIA tests TensorRT-LLM on, by what an hour of one costs."""
    return sorted((one for one in GPUS.values() if one.tested_by_nvidia), key=lambda one: one.hourly_dollars)


def node_selector(kind: str, platform: str) -> dict[str, str]:
    """The node labels to ask for, so that a pod lands on a kind of GPU.

    Args:
        kind: Name of the GPU.
        platform: One of PLATFORMS.

    Raises:
        InvalidSpec: There is no such kind or platform, or the platform does not offer the kind.
    """
    wanted = gpu(kind)
    if platform not in PLATFORMS:
        raise InvalidSpec(unknown("platform", platform, PLATFORMS))
    if platform == "operator":
        return {"nvidia.com/gpu.product": wanted.product_labels[0]}
    if platform == "gke":
        if not wanted.gke_accelerator:
            offered = ", ".join(one.name for one in GPUS.values() if one.gke_accelerator)
            raise InvalidSpec(f"gpu_kind on platform gke must be one of {offered}, but got {kind!r}.")
        return {"cloud.google.com/gke-accelerator": wanted.gke_accelerator}
    prefix = _AWS[platform]
    selector = {f"{prefix}/instance-gpu-name": wanted.aws_name}
    if wanted.aws_memory_mib:
        selector[f"{prefix}/instance-gpu-memory"] = str(wanted.aws_memory_mib)
    return selector
