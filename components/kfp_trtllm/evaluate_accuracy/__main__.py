from kfp_trtllm.core.command import main
from kfp_trtllm.evaluate_accuracy import run, spec

if __name__ == "__main__":
    main(spec.AccuracyEvaluation, run.run)
