"""Targets, by name. To add one: a module with one class that implements `base.Target`, and its line here."""

from kfp_trtllm.core.plugins import load
from kfp_trtllm.core.targets.base import Target

TARGETS = {
    "local": "kfp_trtllm.core.targets.local:LocalTarget",
}


def get(name: str) -> Target:
    """The target of that name; InvalidSpec with the nearest match when there is none."""
    target: Target = load("target", name, TARGETS)()
    return target
