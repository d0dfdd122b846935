"""The public surface: every component, for pipelines of ours and of others."""

from kfp_trtllm.benchmark_engine.component import benchmark_engine
from kfp_trtllm.build_engine.component import build_engine
from kfp_trtllm.check_release.component import check_release
from kfp_trtllm.close_release.component import close_release
from kfp_trtllm.convert_checkpoint.component import convert_checkpoint
from kfp_trtllm.deploy_triton.component import deploy_triton
from kfp_trtllm.evaluate_accuracy.component import evaluate_accuracy
from kfp_trtllm.fetch_model.component import fetch_model
from kfp_trtllm.package_repository.component import package_repository
from kfp_trtllm.plan_build.component import plan_build
from kfp_trtllm.require_verdict.component import require_verdict
from kfp_trtllm.resolve_model.component import resolve_model
from kfp_trtllm.roll_out_canary.component import roll_out_canary
from kfp_trtllm.select_engine.component import select_engine
from kfp_trtllm.smoke_test.component import smoke_test

__all__ = [
    "benchmark_engine",
    "build_engine",
    "check_release",
    "close_release",
    "convert_checkpoint",
    "deploy_triton",
    "evaluate_accuracy",
    "fetch_model",
    "package_repository",
    "plan_build",
    "require_verdict",
    "resolve_model",
    "roll_out_canary",
    "select_engine",
    "smoke_test",
]
