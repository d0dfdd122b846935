"""Runs a compiled pipeline by kfp.local, in a process of its own: `python -m kfp_trtllm._local_run YAML PARAMETERS ROOT`."""

from __future__ import annotations

import json
import signal
import sys

from kfp_trtllm.core.process import die_with_parent


def main(pipeline: str, parameters: str, root: str) -> int:
    """Returns 1 when the pipeline failed.

    Args:
        pipeline: Path of the compiled YAML.
        parameters: JSON object of the run's parameters.
        root: Folder for the run's artifacts.
    """
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    from kfp import components, local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    try:
        components.load_component_from_file(pipeline)(**json.loads(parameters))
    except RuntimeError as error:  # kfp.local's own words for a failed task, which has said why
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
