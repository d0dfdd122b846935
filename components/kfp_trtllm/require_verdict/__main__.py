from kfp_trtllm.core.command import main
from kfp_trtllm.require_verdict import run, spec

if __name__ == "__main__":
    main(spec.Requirement, run.run)
