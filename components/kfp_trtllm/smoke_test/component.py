"""The component smoke_test: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def smoke_test(
    store: str,
    repository: str,
    report: dsl.Output[dsl.Markdown],
    target: str = "local",
    smoke_prompt: str = "What is the capital of France?",
    smoke_expect: str = "",
    smoke_max_tokens: int = 24,
    smoke_timeout_seconds: int = 60,
) -> NamedTuple("Outputs", [("verdict", str), ("reason", str)]):
    """Looks at a revision before it gets traffic.

    Health, metadata, real answers over HTTP and gRPC, streams read to their end, limits. Succeeds whatever the
    verdict: put require_verdict behind it.

    Args:
        store: URL of the store.
        repository: Digest of the Triton model repository's manifest.
        target: Where Triton runs: local.
        smoke_prompt: A prompt that the model must answer.
        smoke_expect: Regular expression that the answer must match somewhere; empty takes any text.
        smoke_max_tokens: Length of the answer in tokens.
        smoke_timeout_seconds: Time for one answer.

    Returns:
        report: Each check with its result.
        verdict: passed or failed.
        reason: The first failed check, or how many passed.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.smoke_test.run import run
    from kfp_trtllm.smoke_test.spec import SmokeTest

    with step("smoke_test"):
        done = run(
            SmokeTest(
                store=store,
                repository=repository,
                target=target,
                smoke_prompt=smoke_prompt,
                smoke_expect=smoke_expect,
                smoke_max_tokens=smoke_max_tokens,
                smoke_timeout_seconds=smoke_timeout_seconds,
            ),
            report=report.path,
        )
    return done.verdict, done.reason
