"""The report of a rollout: what was done, what was seen, and why it was decided so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kfp_trtllm.core.report import words
from kfp_trtllm.core.report.chart import (
    WIDE,
    Frame,
    Level,
    Series,
    distribution,
    lines,
    log_axis,
    percent_axis,
    time_axis,
)
from kfp_trtllm.core.report.page import (
    Html,
    Tone,
    answer,
    badge,
    element,
    facts,
    figure,
    join,
    page,
    section,
    side_by_side,
    table,
)

_OUTCOMES: Final[Mapping[str, tuple[str, Tone]]] = {
    "promoted": ("Promoted", "good"),
    "rolled_back": ("Rolled back", "bad"),
    "inconclusive": ("Inconclusive", "unsure"),
}
_VERDICTS: Final[Mapping[str, tuple[str, Tone]]] = {
    "good": ("good", "good"),
    "worse": ("worse", "bad"),
    "undecided": ("undecided", "unsure"),
}
_NAMES: Final = {"errors": "errors", "ttft": "first token", "itl": "token gap"}
_LATENCIES: Final = {"ttft_ms": "Time to first token", "itl_ms": "Mean time between tokens"}
_FLOOR = 1e-3  # E below this is drawn at this: it says no more than "none"
_CEILING = 1e12


def rollout_html(report: Mapping[str, Any]) -> str:
    """A self-contained page about a rollout.

    Args:
        report: JSON values: "model", "target", "stable" (None for a first release), "canary", "outcome" ("promoted",
            "rolled_back" or "inconclusive") and "reason"; all else may be missing: "started", "seconds", "alpha",
            "policy", "slo", "timeline", "looks", "split", "metrics" (rows of the final decision), "latency", "samples",
            "failures", "guards", "users".
    """
    text, tone = _OUTCOMES.get(report["outcome"], (str(report["outcome"]), "plain"))
    reason = str(report["reason"])
    if reason.startswith(f"{text}: "):  # the badge says so
        reason = reason[len(text) + 2 :]
        reason = reason[:1].upper() + reason[1:]
    arms = f"{report['stable']} → {report['canary']}" if report.get("stable") else report["canary"]
    return page(
        f"Rollout of {report['model']}",
        _facts(report),
        *_traffic(report),
        *_evidence(report),
        *_counts(report),
        *_latency(report),
        *_split(report),
        *_problems(report),
        *_samples(report),
        *_policy(report),
        subtitle=arms,
        verdict=badge(text, tone),
        reason=reason,
    )


def rollout_markdown(report: Mapping[str, Any]) -> str:
    """The same in a few lines of Markdown; takes what `rollout_html` takes."""
    text, _ = _OUTCOMES.get(report["outcome"], (str(report["outcome"]), "plain"))
    parts = [f"## {text}: {words.cell(report['model'])}", words.cell(report["reason"])]
    arms = f"stable {words.cell(report['stable'])}, " if report.get("stable") else ""
    span = f", {words.duration(report['seconds'])}" if report.get("seconds") else ""
    parts.append(f"{arms}canary {words.cell(report['canary'])}, target {words.cell(report['target'])}{span}")
    rows = report.get("metrics") or []
    if rows:
        lines_ = ["| metric | canary bad | stable bad | E worse | E good | verdict |", "|---|---|---|---|---|---|"]
        for row in rows:
            lines_.append(
                f"| {words.cell(row['metric'])} | {_bad(row, 'canary')} | {_bad(row, 'stable')} "
                f"| {words.evidence(row['log_e_harm'])} | {words.evidence(row['log_e_promote'])} "
                f"| {words.cell(row.get('verdict', ''))} |"
            )
        parts.append("\n".join(lines_))
    parts += [f"- {words.cell(check['text'])}" for check in report.get("split") or [] if check.get("ok") is False]
    return "\n\n".join(parts) + "\n"


def _facts(report: Mapping[str, Any]) -> Html:
    users = report.get("users") or {}
    errors = next((row for row in report.get("metrics") or [] if row["metric"] == "errors"), None)
    asked = f"{errors['n_canary']:,} canary, {errors['n_stable']:,} stable" if errors else None
    seen = f"{users['requests']:,}, {users.get('errors', 0):,} failed" if users.get("requests") else None
    return facts(
        (
            ("target", report["target"]),
            ("started", str(report.get("started") or "").replace("T", " ").replace("+00:00", " UTC")),
            ("took", words.duration(report["seconds"]) if report.get("seconds") else None),
            ("paired requests", asked),
            ("through the gateway", seen),
            ("alpha", f"{report['alpha']:g}" if report.get("alpha") else None),
        )
    )


def _end(report: Mapping[str, Any]) -> float:
    times = [float(entry["seconds"]) for key in ("timeline", "looks") for entry in report.get(key) or []]
    return max([float(report.get("seconds") or 0.0), *times])


def _traffic(report: Mapping[str, Any]) -> list[Html]:
    events: Sequence[Mapping[str, Any]] = report.get("timeline") or []
    if not events:
        return []
    end = _end(report)
    frame = Frame(time_axis(end), percent_axis("canary's share of traffic"), width=WIDE, height=250, top=44, right=24)
    corners = [(0.0, 0.0)]
    for event in events:
        corners += [(event["seconds"], corners[-1][1]), (event["seconds"], event["weight"])]
    corners.append((end, corners[-1][1]))
    places = [(frame.x(x), frame.y(y)) for x, y in corners]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    area = f"{path}L{places[-1][0]:.1f} {frame.bottom:.1f}L{places[0][0]:.1f} {frame.bottom:.1f}Z"
    drawn = [
        element("path", d=area, class_="f1", opacity=0.12),
        element("path", d=path, class_="line s1"),
        *_numbers(frame, [event["seconds"] for event in events]),
    ]
    listed = element(
        "ol",
        *(
            element(
                "li",
                element("b", str(i)),
                element("time", words.duration(event["seconds"])),
                element("span", event["event"]),
            )
            for i, event in enumerate(events, 1)
        ),
        class_="events",
    )
    return [section("Traffic", frame.draw(drawn, "Canary's share of traffic over time, in percent"), listed)]


def _numbers(frame: Frame, seconds: Sequence[float]) -> list[Html]:
    """Numbered marks above the plane; those at nearly the same time share one."""
    groups: list[list[int]] = []
    for i, value in enumerate(seconds):
        if groups and frame.x(value) - frame.x(seconds[groups[-1][0]]) < 44:
            groups[-1].append(i)
        else:
            groups.append([i])
    drawn = []
    for group in groups:
        text = f"{group[0] + 1}" if len(group) == 1 else f"{group[0] + 1}-{group[-1] + 1}"
        width = 12 + 6.6 * len(text)
        for i in group:
            x = frame.x(seconds[i])
            drawn.append(element("line", x1=x, x2=x, y1=frame.top - 8, y2=frame.bottom, class_="level", opacity=0.5))
        left = min(max(frame.x(seconds[group[0]]) - 9, frame.left), frame.width - width)
        drawn.append(
            element("rect", x=left, y=frame.top - 24, width=width, height=18, rx=9, class_="mark"),
        )
        drawn.append(element("text", text, x=left + width / 2, y=frame.top - 11, text_anchor="middle", class_="strong"))
    return drawn


def _evidence(report: Mapping[str, Any]) -> list[Html]:
    looks: Sequence[Mapping[str, Any]] = report.get("looks") or []
    alpha = report.get("alpha")
    if not looks or not alpha:
        return []
    metrics = list(looks[-1]["metrics"])
    alarm = alpha / (len(metrics) + 1)
    note = (
        "E counts how much better the requests so far are explained by a canary that is worse (or good) than by one that "
        "is not; it starts at 1, may be looked at after every request, and decides where it reaches the dashed line. "
        "Good needs every metric, worse only one."
    )
    return [
        section(
            "Evidence",
            side_by_side(
                figure("Worse than stable", _e_chart(looks, metrics, "log_e_harm", alarm, "roll back")),
                figure("Good enough", _e_chart(looks, metrics, "log_e_promote", alpha, "good")),
            ),
            note=note,
        )
    ]


def _e_chart(looks: Sequence[Mapping[str, Any]], metrics: Sequence[str], key: str, alpha: float, says: str) -> Html:
    def drawn(log_e: float) -> float:
        return math.exp(min(max(log_e, math.log(_FLOOR)), math.log(_CEILING)))

    series = [
        Series(
            name=_NAMES.get(metric, metric),
            points=[(0.0, 1.0)] + [(look["seconds"], drawn(look["metrics"][metric][key])) for look in looks],
            color=color,
        )
        for color, metric in zip((3, 2, 4), metrics, strict=False)  # not those of the arms
    ]
    values = [y for one in series for _, y in one.points]
    return lines(
        series,
        x=time_axis(looks[-1]["seconds"]),
        y=log_axis("E", min([0.1, *values]), max([10 / alpha, *values])),
        title=f"Evidence over time: {says}",
        levels=[Level(value=1 / alpha, text=f"at {1 / alpha:.0f}: {says}")],
    )


def _bad(row: Mapping[str, Any], arm: str) -> str:
    n, bad = row[f"n_{arm}"], row[f"bad_{arm}"]
    return f"{bad:,} of {n:,} ({words.share(bad / n)})" if n else "-"


def _counts(report: Mapping[str, Any]) -> list[Html]:
    rows: Sequence[Mapping[str, Any]] = report.get("metrics") or []
    if not rows:
        return []
    slo = report.get("slo") or {}
    what = {
        "errors": "failed, timed out or empty answers",
        "ttft": f"first token later than {words.milliseconds(slo.get('ttft_ms'))}",
        "itl": f"mean time between tokens above {words.milliseconds(slo.get('itl_ms'))}",
    }
    body = [
        (
            join((row["metric"], element("div", what.get(row["metric"], ""), class_="note"))),
            _bad(row, "canary"),
            _bad(row, "stable"),
            words.share(row.get("upper_bound")),
            words.share(row.get("tolerance")),
            words.evidence(row["log_e_harm"]),
            words.evidence(row["log_e_promote"]),
            badge(*_VERDICTS.get(row.get("verdict", ""), ("-", "plain"))),
        )
        for row in rows
    ]
    headers = ("metric", "canary, bad", "stable, bad", "canary at most", "tolerated", "E worse", "E good", "verdict")
    confidence = f"{100 * (1 - report['alpha']):g} %" if report.get("alpha") else "the policy's"
    note = f"“Canary at most” is the exact upper bound of canary's rate at {confidence} confidence."
    return [section("Bad requests", table(headers, body, numeric=range(1, 7)), note=note)]


def _latency(report: Mapping[str, Any]) -> list[Html]:
    arms: Mapping[str, Mapping[str, list[float]]] = report.get("latency") or {}
    slo = report.get("slo") or {}
    drawn, rows = [], []
    for key, name in _LATENCIES.items():
        samples = {arm: list(arms.get(arm, {}).get(key) or []) for arm in ("stable", "canary")}
        if not any(samples.values()):
            continue
        bound = slo.get(key)
        levels = [Level(value=bound, text=f"bound {words.milliseconds(bound)}", axis="x")] if bound else []
        curves = [(arm, samples[arm], color) for color, arm in enumerate(samples)]
        drawn.append(
            figure(name, distribution(curves, label="ms", title=f"{name}, distribution by arm", levels=levels))
        )
        for arm, values in samples.items():
            quantiles = (words.milliseconds(words.quantile(values, q)) for q in (0.5, 0.95, 1.0))
            rows.append((name, arm, f"{len(values):,}", *quantiles))
    if not drawn:
        return []
    figures = table(("", "arm", "answers", "median", "95 %", "worst"), rows, numeric=range(2, 6))
    note = "The share of answers that came within so many milliseconds: the further left, the faster."
    return [section("Latency", side_by_side(*drawn), figures, note=note)]


def _split(report: Mapping[str, Any]) -> list[Html]:
    checks: Sequence[Mapping[str, Any]] = report.get("split") or []
    if not checks:
        return []
    says: Mapping[Any, tuple[str, Tone]] = {
        True: ("as wanted", "good"),
        False: ("wrong", "bad"),
        None: ("too few", "unsure"),
    }
    rows = [
        (
            f"{check['weight']} %",
            join((f"{name}: {count:,}" for name, count in check["counts"].items()), ", ") or "-",
            badge(*says[check.get("ok")]),
            check["text"],
        )
        for check in checks
    ]
    note = (
        "Which revision answered requests that were addressed to none, against the weights that the gateway was given."
    )
    return [section("Observed split", table(("canary", "answered by", "", "check"), rows, numeric=[0]), note=note)]


def _problems(report: Mapping[str, Any]) -> list[Html]:
    parts = []
    guards: Sequence[str] = report.get("guards") or []
    if guards:
        parts.append(section("Alarms", element("ul", *(element("li", guard) for guard in guards))))
    failures: Sequence[Mapping[str, Any]] = report.get("failures") or []
    if failures:
        rows = [(one["arm"], answer(one["prompt"]), answer(one["error"])) for one in failures]
        parts.append(section("Failed requests", table(("arm", "prompt", "error"), rows), note="The first ones."))
    return parts


def _samples(report: Mapping[str, Any]) -> list[Html]:
    samples: Sequence[Mapping[str, Any]] = report.get("samples") or []
    if not samples:
        return []
    rows = [(answer(s["prompt"]), answer(s["stable_text"]), answer(s["canary_text"])) for s in samples]
    return [section("Answers side by side", table(("prompt", "stable", "canary"), rows))]


def _policy(report: Mapping[str, Any]) -> list[Html]:
    policy: Mapping[str, Any] = report.get("policy") or {}
    if not policy:
        return []
    rows = [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else f"{value}")
        for name, value in policy.items()
    ]
    return [element("details", element("summary", "The rules that decided"), table(("rule", "value"), rows))]
