"""The report of a benchmark: throughput and latency by concurrency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kfp_trtllm.core.report import words
from kfp_trtllm.core.report.chart import WIDE, Series, level_axis, linear_axis, lines
from kfp_trtllm.core.report.page import Html, facts, figure, page, section, side_by_side, table


def benchmark_html(report: Mapping[str, Any]) -> str:
    """A self-contained page about a benchmark.

    Args:
        report: JSON values: "model", "variant", "backend" and "levels", of which each has "concurrency", "requests",
            "tokens_per_second", "ttft_ms" and "itl_ms" (with "p50" and "p95").
    """
    levels: Sequence[Mapping[str, Any]] = sorted(report["levels"], key=lambda level: float(level["concurrency"]))
    shown = [_facts(report, levels), _charts(levels), _table(levels)] if levels else []
    return page(
        f"Speed of {report['model']}",
        *shown,
        subtitle=f"{report['variant']} on {report['backend']}",
        reason="" if levels else "Nothing was measured.",
    )


def _facts(report: Mapping[str, Any], levels: Sequence[Mapping[str, Any]]) -> Html:
    best = max(levels, key=lambda level: float(level["tokens_per_second"]))
    return facts(
        (
            ("most tokens per second", f"{best['tokens_per_second']:,.0f} at concurrency {best['concurrency']}"),
            ("first token, alone", words.milliseconds(levels[0]["ttft_ms"]["p50"])),
            ("between tokens, alone", words.milliseconds(levels[0]["itl_ms"]["p50"])),
            ("requests", f"{sum(level['requests'] for level in levels):,}"),
        )
        if levels[0]["concurrency"] == 1
        else (
            ("most tokens per second", f"{best['tokens_per_second']:,.0f} at concurrency {best['concurrency']}"),
            ("requests", f"{sum(level['requests'] for level in levels):,}"),
        )
    )


def _charts(levels: Sequence[Mapping[str, Any]]) -> Html:
    x = level_axis("requests at once", [float(level["concurrency"]) for level in levels])
    speeds = [(float(level["concurrency"]), float(level["tokens_per_second"])) for level in levels]
    speed = lines(
        [Series(name="", points=speeds, color=2, kind="dots")],
        x=x,
        y=linear_axis("tokens per second", [y for _, y in speeds]),
        title="Throughput by concurrency",
        width=WIDE,
        height=260,
    )
    latencies = []
    for key, name in (("ttft_ms", "Time to first token"), ("itl_ms", "Time between tokens")):
        series = [
            Series(
                name=text,
                points=[(float(level["concurrency"]), float(level[key][quantile])) for level in levels],
                color=color,
                kind="dots",
            )
            for quantile, text, color in (("p50", "median", 0), ("p95", "95 %", 1))
        ]
        y = linear_axis("ms", [value for one in series for _, value in one.points])
        latencies.append(figure(name, lines(series, x=x, y=y, title=f"{name} by concurrency")))
    return section("By concurrency", figure("Throughput", speed), side_by_side(*latencies))


def _table(levels: Sequence[Mapping[str, Any]]) -> Html:
    body = [
        (
            f"{level['concurrency']}",
            f"{level['requests']:,}",
            f"{level['tokens_per_second']:,.1f}",
            *(words.milliseconds(level[key][q]) for key in ("ttft_ms", "itl_ms") for q in ("p50", "p95")),
        )
        for level in levels
    ]
    headers = (
        "concurrency",
        "requests",
        "tokens/s",
        "first token, median",
        "95 %",
        "between tokens, median",
        "95 %",
    )
    return section("Numbers", table(headers, body, numeric=range(7)))
