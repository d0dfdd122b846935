"""Reports as the components make them, from seeded draws and the real decision rules."""

import math
import random
from dataclasses import asdict

from kfp_trtllm.core.evidence.decision import Counts, Evidence, Policy, decide
from kfp_trtllm.core.evidence.paired import compare
from kfp_trtllm.core.evidence.split import observed_split

NASTY = """</text></svg><script>alert("x")</script> & 'quoted' <b>"""


def rollout(*, slowdown=1.0, error_rate=0.0, seed=1, looks=80, model="smollm2-135m"):
    """A rollout in three steps, in which canary is so many times slower and fails so often."""
    rng = random.Random(seed)
    policy = Policy(min_step_requests=20, deadline_seconds=900)
    stable, canary = f"{model}-3f9a2c81d0", f"{model}-b7714e02aa"
    weights, step, seconds = (10, 50, 100), 0, 6.2
    bounds = {"ttft_ms": 160.0, "itl_ms": 42.0}
    latency = {arm: {"ttft_ms": [], "itl_ms": []} for arm in ("stable", "canary")}
    timeline = [
        {"seconds": 6.0, "weight": 0, "event": "latency bounds: first token 160 ms, between tokens 42 ms"},
        {"seconds": 6.2, "weight": 10, "event": "canary gets 10 %"},
    ]
    document_looks, splits, failures, served = [], [], [], {}
    evidence = Evidence.start(policy)
    for _ in range(looks):
        seconds += rng.uniform(2.6, 3.4)
        counts = {}
        errors = sum(rng.random() < error_rate for _ in range(5))
        counts["errors"] = Counts(n_canary=5, bad_canary=errors, n_stable=5)
        for _ in range(errors):
            failures.append({"arm": "canary", "prompt": "The capital of France is", "error": "CUDA error 700"})
        for metric, base in (("ttft", 92.0), ("itl", 26.0)):
            slow = {}
            for arm, factor, n in (("stable", 1.0, 5), ("canary", slowdown, 5 - errors)):
                draws = [base * factor * math.exp(rng.gauss(0, 0.16)) for _ in range(n)]
                latency[arm][f"{metric}_ms"] += draws
                slow[arm] = sum(draw > bounds[f"{metric}_ms"] for draw in draws)
            counts[metric] = Counts(
                n_canary=5 - errors, bad_canary=slow["canary"], n_stable=5, bad_stable=slow["stable"]
            )
        for _ in range(5):
            name = canary if rng.random() < weights[step] / 100 else stable
            served[name] = served.get(name, 0) + 1
        evidence = evidence.update(counts)
        decision = decide(evidence, policy, elapsed_seconds=seconds, final_step=step == 2)
        document_looks.append(
            {
                "seconds": seconds,
                "weight": weights[step],
                "metrics": {row.metric: row.to_json() for row in decision.rows},
            }
        )
        if decision.outcome == "advance" or decision.final:
            check = observed_split(served, {canary: weights[step], stable: 100 - weights[step]})
            splits.append({"weight": weights[step], "counts": dict(served), "ok": check.ok, "text": check.text})
        if decision.final:
            break
        if decision.outcome == "advance":
            step, served, evidence = step + 1, {}, evidence.begin_step()
            timeline.append({"seconds": seconds, "weight": weights[step], "event": f"canary gets {weights[step]} %"})
    outcomes = {"promote": "promoted", "roll_back": "rolled_back"}
    outcome = outcomes.get(decision.outcome, "inconclusive")
    last = 100 if outcome == "promoted" else 0
    timeline.append({"seconds": seconds, "weight": last, "event": f"decided: {outcome.replace('_', ' ')}"})
    timeline.append({"seconds": seconds + 1.4, "weight": last, "event": f"traffic is on {canary if last else stable}"})
    return {
        "model": model,
        "target": "local",
        "stable": stable,
        "canary": canary,
        "outcome": outcome,
        "reason": decision.reason,
        "started": "2025-01-31T09:12:44+00:00",
        "seconds": seconds + 1.4,
        "alpha": policy.alpha,
        "policy": asdict(policy),
        "slo": bounds,
        "timeline": timeline,
        "looks": document_looks,
        "split": splits,
        "metrics": [row.to_json() for row in decision.rows],
        "latency": latency,
        "samples": [
            {
                "prompt": "The capital of France is",
                "stable_text": " Paris. It is also the most populous city of the country",
                "canary_text": " Paris. It is the largest city in the country",
            },
            {
                "prompt": "List three primes:",
                "stable_text": "\n1. 2\n2. 3\n3. 5",
                "canary_text": "\n- 2\n- 3\n- 7",
            },
        ],
        "failures": failures[:20],
        "guards": [],
        "users": {"requests": 5 * len(document_looks), "errors": 0},
    }


def first_release(model="smollm2-135m"):
    """What is written where there was nothing to compare with."""
    return {
        "model": model,
        "target": "local",
        "stable": None,
        "canary": f"{model}-b7714e02aa",
        "outcome": "promoted",
        "reason": "First release: there was nothing to compare with, so it was promoted after its smoke test.",
        "started": "2025-01-31T09:12:44+00:00",
        "seconds": 0.0,
        "alpha": 0.05,
        "policy": asdict(Policy()),
        "slo": {"ttft_ms": None, "itl_ms": None},
        "timeline": [],
        "looks": [],
        "split": [],
        "metrics": [],
        "latency": {arm: {"ttft_ms": [], "itl_ms": []} for arm in ("stable", "canary")},
        "samples": [],
        "failures": [],
        "guards": [],
        "users": {"requests": 0, "errors": 0},
    }


def accuracy(*, passed=True, names=("arc_easy", "hellaswag", "lambada_openai", "piqa"), model="smollm2-135m"):
    """Four tasks; without `passed`, one of them has lost a lot."""
    margin = 0.03

    def row(task, lost, won, n, right):
        both = right - lost
        reference = [1] * lost + [0] * won + [1] * both + [0] * (n - both - lost - won)
        candidate = [0] * lost + [1] * won + [1] * both + [0] * (n - both - lost - won)
        result = compare(reference, candidate, margin=margin)
        return {
            "task": task,
            "metric": "acc",
            "n": n,
            "reference": result.reference_mean,
            "candidate": result.candidate_mean,
            "difference": result.difference,
            "lower_bound": result.lower_bound,
            "smallest_detectable_drop": result.smallest_detectable_drop,
        }

    lost = 9 if passed else 61
    return {
        "model": model,
        "reference": "checkpoint",
        "candidate": "int4",
        "verdict": "passed" if passed else "failed",
        "reason": "The score went from 51.4% to 51.1% on 1600 items: at 95% confidence the loss is at most 1.2%, "
        "within the tolerated 3.0%."
        if passed
        else "The score went from 51.4% to 47.8% on 1600 items: not shown to be within the tolerated 3.0%.",
        "margin": margin,
        "alpha": 0.05,
        "tasks": [
            row(name, *numbers)
            for name, numbers in zip(
                names, ((12, 10, 400, 236), (7, 11, 400, 171), (lost, 4, 400, 144), (8, 6, 400, 271)), strict=False
            )
        ],
        "overall": row("overall", 27 + lost, 31, 1600, 822),
        "examples": [
            {
                "task": "arc_easy",
                "prompt": "Question: Which of these gives off its own light?\nAnswer:",
                "reference_answer": "the Sun",
                "candidate_answer": "the Moon",
                "target": "the Sun",
                "reference_ok": True,
                "candidate_ok": False,
            },
            {
                "task": "piqa",
                "prompt": "Question: How do I keep a paper bag from ripping?\nAnswer:",
                "reference_answer": "Wet it before use.",
                "candidate_answer": "Put one bag inside another.",
                "target": "Put one bag inside another.",
                "reference_ok": False,
                "candidate_ok": True,
            },
        ],
    }


def benchmark(levels=(1, 2, 4, 8, 16, 32), model="smollm2-135m"):
    """Throughput that saturates, latency that grows."""
    return {
        "model": model,
        "variant": "int4",
        "backend": "onnxruntime",
        "levels": [
            {
                "concurrency": level,
                "requests": 4 * level + 8,
                "tokens_per_second": 420.0 * level / (1 + level / 9),
                "ttft_ms": {"p50": 38.0 + 11 * level, "p95": 52.0 + 19 * level},
                "itl_ms": {"p50": 5.1 + 1.3 * level, "p95": 6.9 + 2.2 * level},
            }
            for level in levels
        ],
    }


def pareto(model="smollm2-135m"):
    """Six variants; two points nearly coincide, one failed its gate."""
    variants = [
        ("fp32", 0.534, 0.534, 182.0, 538e6, True),
        ("fp16", 0.533, 0.529, 301.0, 269e6, True),
        ("int8", 0.530, 0.522, 417.0, 139e6, True),
        ("int8_sq", 0.529, 0.520, 424.0, 138e6, True),
        ("int4", 0.519, 0.508, 655.0, 92e6, True),
        ("int4_rtn_group_128", 0.471, 0.455, 668.0, 84e6, False),
    ]
    return {
        "model": model,
        "variants": [
            {
                "variant": name,
                "accuracy": score,
                "accuracy_lower_bound": low,
                "tokens_per_second": speed,
                "size_bytes": int(size),
                "passed": passed,
                "chosen": name == "int4",
                "reason": "The loss is within the tolerated 3.0%."
                if passed
                else "The loss is above the tolerated 3.0%.",
            }
            for name, score, low, speed, size, passed in variants
        ],
    }
