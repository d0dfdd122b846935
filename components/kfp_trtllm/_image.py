"""The only place where an image reference is made: a folder of containers/, tagged with the package's version."""

from kfp_trtllm import __version__

REGISTRY = "ghcr.io/kfp-trtllm"

# Components run in these.
CPU = f"{REGISTRY}/cpu:{__version__}"  # containers/cpu: everything that runs without a GPU
TRTLLM = f"{REGISTRY}/trtllm:{__version__}"  # containers/trtllm: convert, build, evaluate and benchmark on GPUs

# Targets serve with these; neither kfp nor this package is in them, since model.py brings core/serving along.
TRITON_CPU = f"{REGISTRY}/triton-cpu:{__version__}"  # containers/triton-cpu: Triton for the engines of onnxruntime
TRITON_TRTLLM = f"{REGISTRY}/triton-trtllm:{__version__}"  # containers/triton-trtllm: Triton with TensorRT-LLM
