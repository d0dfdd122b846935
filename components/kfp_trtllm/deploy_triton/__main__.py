from kfp_trtllm.core.command import main
from kfp_trtllm.deploy_triton import run, spec

if __name__ == "__main__":
    main(spec.Deployment, run.run)
