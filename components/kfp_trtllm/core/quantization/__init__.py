"""Post-training quantization for backend `pytorch`, by NVIDIA ModelOpt, on a CPU as on a GPU.

calibration.py   the texts that set the scales; calibration.jsonl is the set that we ship
runner.py        `quantize_checkpoint`: runs the tool, completes and checks what it leaves
quantize.py      the tool's program, in a process of its own
checking.py      what a quantized checkpoint must be
formats.py       how each format stores a layer, and how to read it back
casting.py       `cast_checkpoint`: float tensors in another dtype, with no quantization
"""

from kfp_trtllm.core.quantization.calibration import Calibration
from kfp_trtllm.core.quantization.casting import cast_checkpoint
from kfp_trtllm.core.quantization.runner import check_quantizable, quantize_checkpoint

__all__ = ["Calibration", "cast_checkpoint", "check_quantizable", "quantize_checkpoint"]
