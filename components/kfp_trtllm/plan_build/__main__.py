from kfp_trtllm.core.command import main
from kfp_trtllm.plan_build import run, spec

if __name__ == "__main__":
    main(spec.Planning, run.run)
