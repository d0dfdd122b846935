"""From a source to a decided rollout: build_llm and deploy_llm in one run."""

from typing import Any

from kfp import dsl

from pipelines.parameters import BUILD, DEPLOY, pipeline
from pipelines.parts import build, check, close, deploy
from pipelines.platforms import Platform


@pipeline(
    (*BUILD, *DEPLOY),
    display_name="Release an LLM on Triton",
    description="From a model checkpoint to a canaried Triton endpoint, gated on accuracy, speed and live evidence.",
)
def release_llm(p: dict[str, Any], on: Platform) -> None:
    """Does both halves, and closes the release whatever happened."""
    with dsl.ExitHandler(close(p), name="Release"):
        checked = check(p)
        deploy(checked, build(checked, p, on), p)
