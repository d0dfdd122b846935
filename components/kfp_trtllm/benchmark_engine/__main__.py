from kfp_trtllm.benchmark_engine import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.Benchmark, run.run)
