from kfp_trtllm.core.command import main
from kfp_trtllm.select_engine import run, spec

if __name__ == "__main__":
    main(spec.Selection, run.run)
