import pytest
from kfp_trtllm.core.backends.base import Generated
from kfp_trtllm.core.evaluation.benchmark import Percentiles, benchmark
from kfp_trtllm.core.evaluation.prompts import PROMPTS
from kfp_trtllm.errors import BuildFailed, InvalidSpec


class Steady:
    """Answers with a token every 10 ms, the first after 50 ms."""

    max_batch_size = 4

    def __init__(self, tokens=3):
        self.sizes, self._tokens = [], tokens

    def generate(self, prompts, sampling):
        self.sizes.append(len(prompts))
        seconds = tuple(0.05 + 0.01 * i for i in range(self._tokens))
        return [
            Generated(
                text="", finish_reason="length", input_tokens=1, output_tokens=len(seconds), token_seconds=seconds
            )
            for _ in prompts
        ]


def run(model, **values):
    return benchmark(model, name="m", variant="int4", backend="b", **values)


def test_levels():
    model, seen = Steady(), []
    result = run(model, concurrency=[4, 1], requests=5, on_progress=lambda *step: seen.append(step)).to_json()
    assert [(level["concurrency"], level["requests"]) for level in result["levels"]] == [(1, 5), (4, 8)]
    assert model.sizes == [1] * 6 + [4] * 3  # one batch more each: the warm-up
    assert seen[-1] == (18, 18)
    for level in result["levels"]:
        assert level["ttft_ms"] == pytest.approx({"p50": 50, "p95": 50})
        assert level["itl_ms"] == pytest.approx({"p50": 10, "p95": 10})
        assert level["tokens_per_second"] > 0


def test_percentiles():
    assert Percentiles.of(list(range(101))) == Percentiles(p50=50, p95=95)
    assert Percentiles.of([3.0]) == Percentiles(p50=3.0, p95=3.0)
    assert Percentiles.of([]) == Percentiles(p50=0.0, p95=0.0)


@pytest.mark.parametrize("values", [{"concurrency": []}, {"concurrency": [0]}, {"requests": 0}, {"max_tokens": 1}])
def test_numbers_that_cannot_work(values):
    with pytest.raises(InvalidSpec):
        run(Steady(), **{"concurrency": [1], **values})


def test_more_requests_than_the_engine_runs_together_are_refused():
    with pytest.raises(InvalidSpec, match="at most max_batch_size, 4, but got 8"):
        run(Steady(), concurrency=[1, 8])


def test_an_engine_that_says_nothing_has_no_speed():
    with pytest.raises(BuildFailed, match="no token"):
        run(Steady(tokens=0), concurrency=[1])


def test_prompts_are_distinct():
    assert len(set(PROMPTS)) == len(PROMPTS) == 16
