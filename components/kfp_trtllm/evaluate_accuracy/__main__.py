from kfp_trtllm.evaluate_accuracy import run, spec
from kfp_trtllm.core.command import main

if __name__ == "__main__":
    main(spec.AccuracyEvaluation, run.run)
