from kfp_trtllm.require_verdict import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Requirement, run.run)
