from kfp_trtllm.core.command import main
from kfp_trtllm.roll_out_canary import run, spec

if __name__ == "__main__":
    main(spec.Rollout, run.run)
