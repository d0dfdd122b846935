from kfp_trtllm.core.command import main
from kfp_trtllm.smoke_test import run, spec

if __name__ == "__main__":
    main(spec.SmokeTest, run.run)
