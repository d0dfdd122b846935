"""Target local: a real Triton for each revision and a real gateway, on this machine, surviving the run."""

from kfp_trtllm.core.targets.local.target import LocalTarget, Row, VersionRow

__all__ = ["LocalTarget", "Row", "VersionRow"]
