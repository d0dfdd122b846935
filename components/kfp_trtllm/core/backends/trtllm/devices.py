"""The GPUs that are really here, as nvidia-smi tells them."""

from __future__ import annotations

import shutil
import subprocess

from kfp_trtllm.core.backends.trtllm.gpus import GPUS, gpu
from kfp_trtllm.errors import BuildFailed


def check(kind: str, count: int) -> None:
    """Whether enough GPUs of a kind are here: an engine runs on the compute capability only that it was built on.

    Does nothing where there is no nvidia-smi: then the tools say themselves that there is no GPU.

    Args:
        kind: Name in gpus.GPUS.
        count: How many are needed.

    Raises:
        BuildFailed: There are fewer, or they are of another kind.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    asked = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildFailed(
            f"nvidia-smi exited with status {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}"
        )
    found = [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines() if "," in line]
    wanted = gpu(kind)
    capability = "{}.{}".format(*wanted.compute_capability)
    for name, theirs in found:
        # The GPU operator makes its label of this very name.
        kinds = [other.name for other in GPUS.values() if name.replace(" ", "-") in other.product_labels]
        if kinds and kind not in kinds:
            raise BuildFailed(
                f"gpu_kind must be that of the node: {kind} was planned for, but here is {name} ({', '.join(kinds)}). Mend "
                "node_selector, or set gpu_kind."
            )
        if theirs != capability:
            raise BuildFailed(
                f"gpu_kind must be that of the node: {kind} has compute capability {capability}, but here is {name} "
                f"with {theirs}. Mend node_selector, or set gpu_kind."
            )
    if len(found) < count:
        raise BuildFailed(f"gpu_count must be at least {count} on this node, but {len(found)} GPUs are here.")
