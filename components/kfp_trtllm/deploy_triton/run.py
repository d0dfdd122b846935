"""Starts a revision, with no traffic."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kfp_trtllm.core import targets
from kfp_trtllm.core.step import fact, leave, note, progress
from kfp_trtllm.core.store import open_store
from kfp_trtllm.core.targets import ownership
from kfp_trtllm.core.targets.base import Revision
from kfp_trtllm.deploy_triton.spec import Deployment
from kfp_trtllm.errors import DeployFailed


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """Outputs of deploy_triton."""

    revision: str
    url: str


def run(spec: Deployment, *, deployment: Path | None = None) -> Deployed:
    """Starts a repository's revision beside what serves now and waits until it answers; it gets no traffic yet."""
    store = open_store(spec.store)
    manifest = store.get(spec.repository)
    revision = Revision.of(manifest)
    target = targets.get(spec.target)
    state = target.state(revision.model)
    if state.stable is not None and state.stable.name == revision.name and target.observe(state.stable).alive:
        note(f"{revision.name} serves already")
        fact(reused=True, result=revision.name)
    else:
        problems = target.preflight(revision)
        if problems:
            raise DeployFailed(
                f"{revision.name} can't be deployed to {spec.target}:\n" + "\n".join(f"- {p}" for p in problems)
            )
        ownership.claim(target, revision, spec.run_id)
        with progress(f"Starting {revision.name}", 0, "s"):
            folder = target.repository_folder(revision)
            if folder is not None and not folder.exists():
                folder.parent.mkdir(parents=True, exist_ok=True)
                store.materialize(manifest, folder)
            target.deploy(revision, folder if folder is not None else f"{store.url}#{manifest.digest}")
            target.wait_ready(revision, spec.ready_timeout_seconds)
        fact(result=revision.name)
    done = Deployed(revision=revision.name, url=target.endpoint(revision.model).url)
    leave(deployment, json.dumps({**asdict(done), "repository": spec.repository}, indent=1) + "\n")
    return done
