from kfp_trtllm.core.command import main
from kfp_trtllm.fetch_model import run, spec

if __name__ == "__main__":
    main(spec.Fetch, run.run)
