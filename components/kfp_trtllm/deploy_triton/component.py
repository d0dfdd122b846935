"""The component deploy_triton: its contract with KFP."""

from typing import NamedTuple

from kfp import dsl

from kfp_trtllm import _image


@dsl.component(base_image=_image.CPU, install_kfp_package=False)
def deploy_triton(
    store: str,
    repository: str,
    deployment: dsl.Output[dsl.Artifact],
    target: str = "local",
    ready_timeout_seconds: int = 300,
    run_id: str = "",
) -> NamedTuple("Outputs", [("revision", str), ("url", str)]):
    """Starts a repository's revision with no traffic and waits until it answers.

    Ends at once when that revision serves already.

    Args:
        store: URL of the store.
        repository: Digest of the Triton model repository's manifest.
        target: Where Triton runs: local.
        ready_timeout_seconds: Time for the revision to load its model.
        run_id: Names the run that owns this rollout; another run is kept from interfering.

    Returns:
        deployment: The revision and the endpoint, as JSON.
        revision: Name of the revision.
        url: Endpoint of the model.
    """
    from kfp_trtllm.core.step import step
    from kfp_trtllm.deploy_triton.run import run
    from kfp_trtllm.deploy_triton.spec import Deployment

    with step("deploy_triton"):
        done = run(
            Deployment(
                store=store,
                repository=repository,
                target=target,
                ready_timeout_seconds=ready_timeout_seconds,
                run_id=run_id,
            ),
            deployment=deployment.path,
        )
    return done.revision, done.url
