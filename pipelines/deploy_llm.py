"""CD: from a packaged Triton model repository to a decided rollout."""

from typing import Any

from kfp import dsl

from pipelines.parameters import DEPLOY, pipeline
from pipelines.parts import check, close, deploy
from pipelines.platforms import Platform


@pipeline(
    DEPLOY,
    display_name="Deploy an LLM on Triton",
    description="Starts a packaged model, smoke-tests it, and rolls it out by canary on evidence.",
)
def deploy_llm(p: dict[str, Any], on: Platform) -> None:
    """Takes the digest that build_llm gives."""
    with dsl.ExitHandler(close(p), name="Release"):
        deploy(check(p), p["repository"], p)
