from kfp_trtllm.build_engine import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.EngineBuild, run.run)
