from kfp_trtllm.core.command import main
from kfp_trtllm.resolve_model import run, spec

if __name__ == "__main__":
    main(spec.Resolution, run.run)
