"""The report of a selection: which variant is shipped, and what the others would have cost or brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from kfp_trtllm.core.report import words
from kfp_trtllm.core.report.chart import WIDE, Box, Frame, linear_axis, place_label, shortened
from kfp_trtllm.core.report.page import Html, badge, element, page, section, table


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in one coordinate without losing in the other, by rising x.

    Args:
        points: (x, y), both the larger the better.
    """
    front: list[int] = []
    best = float("-inf")
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if points[i][1] > best:
            front.append(i)
            best = points[i][1]
    return front[::-1]


def pareto_html(report: Mapping[str, Any]) -> str:
    """A self-contained page about a selection.

    Args:
        report: JSON values: "model" and "variants", of which each has "variant", "accuracy" and "accuracy_lower_bound"
            (None where the gate was off), "tokens_per_second", "size_bytes", "passed", "chosen" and "reason".
    """
    variants: Sequence[Mapping[str, Any]] = report["variants"]
    chosen = next((one for one in variants if one.get("chosen")), None)
    verdict = badge("None passes", "bad")
    reason = "No variant passed its accuracy gate, so none is shipped."
    if chosen is not None:
        verdict = badge(f"{chosen['variant']} is chosen", "good")
        passed = sum(1 for one in variants if one["passed"])
        reason = f"Of {words.count(len(variants), 'variant')}, {passed} passed; the fastest of these is shipped."
    return page(
        f"Selection for {report['model']}",
        *_scatter(variants),
        _table(variants),
        verdict=verdict,
        reason=reason,
    )


def _scatter(variants: Sequence[Mapping[str, Any]]) -> list[Html]:
    known = [one for one in variants if one.get("accuracy") is not None]
    if not known:
        return []
    speeds = [float(one["tokens_per_second"]) for one in known]
    scores = [100 * float(one["accuracy"]) for one in known]
    worst = [
        100 * float(one["accuracy_lower_bound"]) if one.get("accuracy_lower_bound") is not None else score
        for one, score in zip(known, scores, strict=True)
    ]
    x = linear_axis("tokens per second", speeds, ticks=7)
    y = linear_axis("accuracy", [*scores, *worst], zero=False, unit=" %")
    frame = Frame(x, y, width=WIDE, height=380, right=60)
    places = [(frame.x(speed), frame.y(score)) for speed, score in zip(speeds, scores, strict=True)]
    passing = [i for i, one in enumerate(known) if one["passed"]]
    front = [passing[i] for i in pareto_front([(speeds[i], scores[i]) for i in passing])]
    drawn = []
    if len(front) > 1:
        corners = [places[front[0]]]
        for i in front[1:]:
            corners += [(corners[-1][0], corners[-1][1]), (corners[-1][0], places[i][1]), places[i]]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in corners)
        drawn.append(element("path", d=path, class_="front"))
    taken = [Box(left=px - 9, top=py - 9, right=px + 9, bottom=py + 9) for px, py in places]
    for i, j in pairwise(front):
        (px, _), (qx, qy) = places[i], places[j]
        taken.append(Box(left=px, top=qy - 2, right=qx, bottom=qy + 2))
    for one, (px, py), low in zip(known, places, worst, strict=True):
        color = "-good" if one.get("chosen") else "0" if one["passed"] else "-bad"
        bottom = frame.y(low)
        drawn.append(element("line", x1=px, x2=px, y1=py, y2=bottom, class_=f"s{color}", stroke_width=1.5, opacity=0.6))
        drawn.append(element("line", x1=px - 5, x2=px + 5, y1=bottom, y2=bottom, class_=f"s{color}", opacity=0.6))
        taken.append(Box(left=px - 5, top=min(py, bottom), right=px + 5, bottom=max(py, bottom)))
        shape = f"s{color} hollow" if not one["passed"] else f"f{color}"
        drawn.append(element("circle", cx=px, cy=py, r=8 if one.get("chosen") else 6, class_=shape))
    for one, (px, py) in zip(known, places, strict=True):
        color = "-good" if one.get("chosen") else "0" if one["passed"] else "-bad"
        name = shortened(str(one["variant"]))
        text = f"{name} (chosen)" if one.get("chosen") else name if one["passed"] else f"{name} (failed)"
        beside, base, anchor = place_label(px, py, text, taken, within=frame)
        drawn.append(element("text", text, x=beside, y=base, text_anchor=anchor, class_=f"name halo f{color}"))
    note = (
        "Up and right is better. Lines reach down to the lower bound of accuracy; variants on the dotted front are "
        "beaten by no other that passed. Hollow ones failed their gate."
    )
    return [section("Accuracy and speed", frame.draw(drawn, "Accuracy by tokens per second"), note=note)]


def _table(variants: Sequence[Mapping[str, Any]]) -> Html:
    def verdict(one: Mapping[str, Any]) -> Html:
        if one.get("chosen"):
            return badge("chosen", "good")
        return badge("passed") if one["passed"] else badge("failed", "bad")

    body = [
        (
            one["variant"],
            verdict(one),
            words.percent(one.get("accuracy")),
            words.percent(one.get("accuracy_lower_bound")),
            f"{one['tokens_per_second']:,.1f}",
            words.size(one["size_bytes"]),
            one.get("reason", ""),
        )
        for one in sorted(variants, key=lambda one: (-bool(one.get("chosen")), -float(one["tokens_per_second"])))
    ]
    headers = ("variant", "", "accuracy", "at worst", "tokens/s", "size", "why")
    return section("Variants", table(headers, body, numeric=range(2, 6)))
