"""CI: from a source to a packaged Triton model repository."""

from typing import Any

from pipelines.parameters import BUILD, pipeline
from pipelines.parts import build, check
from pipelines.platforms import Platform


@pipeline(
    BUILD,
    display_name="Build an LLM for Triton",
    description="Fetches a model, builds its engine, gates it on accuracy, measures its speed, packages it for Triton.",
    returns="Digest of the repository's manifest: deploy_llm takes it.",
)
def build_llm(p: dict[str, Any], on: Platform) -> Any:
    """Gives the repository's digest, which deploy_llm takes."""
    return build(check(p), p, on)
