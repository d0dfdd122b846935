"""What close_release needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from kfp_trtllm.core import targets
from kfp_trtllm.core.targets.base import check_model_name


@dataclass(frozen=True, kw_only=True)
class Closing:
    """A release to close, however it went.

    Attributes:
        model_name: The model that was released.
        target: Where Triton runs: local.
        state: How the run went, in KFP's words: SUCCEEDED, FAILED or CANCELLED.
        error: The run's error, empty when there was none.
        run_id: The run whose leftovers are to be cleaned up; empty for anyone's.
    """

    model_name: str
    target: str = "local"
    state: str = "SUCCEEDED"
    error: str = ""
    run_id: str = ""

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        targets.check(self.target)
