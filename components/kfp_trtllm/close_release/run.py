"""The exit task: traffic where it should be, nothing half-deployed, the summary written."""

from __future__ import annotations

from pathlib import Path

from kfp_trtllm.close_release.spec import Closing
from kfp_trtllm.core import targets
from kfp_trtllm.core.step import fact, leave, note
from kfp_trtllm.core.targets import ownership


def run(spec: Closing, *, summary: Path | None = None) -> str:
    """Removes the canary that this run (or a dead one) left, with traffic back on stable first, and sums up."""
    target = targets.get(spec.target)
    before = target.state(spec.model_name)
    cleaned = ""
    if before.canary is not None:
        owner = (target.load_rollout(spec.model_name) or {}).get("owner") or {}
        if spec.run_id and owner.get("run_id") != spec.run_id and ownership.is_alive(owner):
            note(f"{before.canary.name} belongs to run {owner.get('run_id')}, which is at work: left alone")
        else:
            target.restore(spec.model_name)
            cleaned = f"{before.canary.name} was left without a decision and has been removed."
            note(cleaned)
    if cleaned or before.canary is None:
        target.save_rollout(spec.model_name, None)
    after = target.state(spec.model_name)
    serving = after.stable.name if after.stable is not None else "nothing"
    if after.stable is not None:
        endpoint = target.endpoint(spec.model_name).url
        fact(endpoint=endpoint, model=spec.model_name, decoupled=after.stable.facts.decoupled)
    else:
        endpoint = "none"
    fact(result=f"{serving} serves")
    lines = [
        f"### Release of {spec.model_name}: {spec.state.lower()}",
        "",
        f"- serving now: **{serving}**",
        f"- endpoint: {endpoint}",
        *([f"- {cleaned}"] if cleaned else []),
        *([f"- error: {spec.error}"] if spec.error else []),
    ]
    text = "\n".join(lines) + "\n"
    leave(summary, text)
    return text
