from kfp_trtllm.plan_build import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Planning, run.run)
