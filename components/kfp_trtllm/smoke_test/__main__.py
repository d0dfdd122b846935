from kfp_trtllm.smoke_test import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.SmokeTest, run.run)
