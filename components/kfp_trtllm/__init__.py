"""From a model checkpoint to a canaried Triton endpoint, as Kubeflow Pipelines components.

Import components from `kfp_trtllm.components`: this module imports nothing, so that tools and images
that only need the library never pay for importing kfp.
"""

__version__ = "0.1.0"
