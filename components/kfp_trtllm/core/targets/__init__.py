"""Targets, by name. To add one: a module with one class that implements `base.Target`, and its line here."""

from kfp_trtllm.core import plugins
from kfp_trtllm.core.targets.base import Target

TARGETS = {
    "local": "kfp_trtllm.core.targets.local:LocalTarget",
}


def check(name: str) -> None:
    """InvalidSpec with the nearest match unless there is such a target."""
    plugins.check("target", name, TARGETS)


def get(name: str) -> Target:
    """The target of that name; InvalidSpec with the nearest match when there is none."""
    target: Target = plugins.load("target", name, TARGETS)()
    return target
