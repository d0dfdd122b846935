from kfp_trtllm.resolve_model import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Resolution, run.run)
