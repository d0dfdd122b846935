from kfp_trtllm.check_release import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Release, run.run)
