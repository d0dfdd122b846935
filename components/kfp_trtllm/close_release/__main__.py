from kfp_trtllm.close_release import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Closing, run.run)
