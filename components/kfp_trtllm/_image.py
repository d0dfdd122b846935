"""The only place where an image reference is made: a folder of containers/, tagged with the package's version."""

from kfp_trtllm import __version__

REGISTRY = "ghcr.io/kfp-trtllm"

CPU = f"{REGISTRY}/cpu:{__version__}"  # containers/cpu: everything that runs without a GPU
