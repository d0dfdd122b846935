from kfp_trtllm.convert_checkpoint import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Conversion, run.run)
