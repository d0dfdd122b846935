from kfp_trtllm.core.command import main
from kfp_trtllm.package_repository import run, spec

if __name__ == "__main__":
    main(spec.Packaging, run.run)
