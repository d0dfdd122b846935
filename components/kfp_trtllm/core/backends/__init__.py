"""Backends, by name. To add one: a module with one class that implements `base.Backend`, and its line here."""

from kfp_trtllm.core.backends.base import Backend
from kfp_trtllm.core.plugins import load

BACKENDS = {
    "onnxruntime": "kfp_trtllm.core.backends.onnxruntime:OnnxRuntime",
    "pytorch": "kfp_trtllm.core.backends.pytorch:PyTorch",
    "tensorrt": "kfp_trtllm.core.backends.tensorrt:TensorRt",
}


def get(name: str) -> Backend:
    """The backend of that name; InvalidSpec with the nearest match when there is none."""
    backend: Backend = load("backend", name, BACKENDS)()
    return backend
