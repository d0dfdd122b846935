"""Who rolls out a model: one run at a time, and a dead run's work can be taken over.

The owner is kept in the rollout's saved state. On this machine a dead owner is known at once by its process; one
on another machine is taken for dead when it has not renewed its claim for a while.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from kfp_trtllm.core.process import born
from kfp_trtllm.core.targets.base import Revision, Target
from kfp_trtllm.errors import DeployFailed

RUN_PID_VARIABLE = "KFP_TRTLLM_RUN_PID"  # the process that lives as long as the run does, where there is one
_SILENT_SECONDS = 120.0


def claim(target: Target, revision: Revision, run_id: str) -> None:
    """Makes a run the owner of a model's rollout, before it deploys.

    What a dead run left is put right first: its canary is removed, unless it is the very revision to be deployed.

    Raises:
        DeployFailed: Another run, which is alive, owns the rollout.
    """
    saved = target.load_rollout(revision.model) or {}
    state = target.state(revision.model)
    same = state.canary is not None and state.canary.name == revision.name
    if state.canary is not None and not same:
        owner = saved.get("owner") or {}
        if owner.get("run_id") != run_id and is_alive(owner):
            raise DeployFailed(
                f"{revision.model}: run {owner.get('run_id')} is rolling out {state.canary.name} now; "
                "wait for it to end, or stop it, then run again."
            )
        target.restore(revision.model)
        saved = {}
    elif same:
        owner = saved.get("owner") or {}
        if owner.get("run_id") != run_id and is_alive(owner):
            raise DeployFailed(
                f"{revision.model}: run {owner.get('run_id')} is rolling out this very revision now; wait for it to end."
            )
    target.save_rollout(revision.model, {**saved, "canary": revision.name, "owner": renewed(run_id)})


def renewed(run_id: str) -> dict[str, Any]:
    """The claim of this run, as of now."""
    pid = int(os.environ.get(RUN_PID_VARIABLE) or 0)
    return {"run_id": run_id, "host": socket.gethostname(), "pid": pid, "born": born(pid), "seen": time.time()}


def is_alive(owner: Mapping[str, Any]) -> bool:
    """Whether an owner may still be at work."""
    if not owner:
        return False
    if owner.get("pid") and owner.get("host") == socket.gethostname():
        return born(int(owner["pid"])) == owner.get("born") != ""
    return time.time() - float(owner.get("seen", 0)) < _SILENT_SECONDS
