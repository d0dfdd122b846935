"""The report of an accuracy gate: what was lost, how surely, and on which items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kfp_trtllm.core.report import words
from kfp_trtllm.core.report.chart import WIDE, Axis, Frame, Level, linear_axis, shortened, text_width
from kfp_trtllm.core.report.page import Html, Tone, answer, badge, element, facts, page, section, table

_VERDICTS: Final[Mapping[str, tuple[str, Tone]]] = {
    "passed": ("Passed", "good"),
    "failed": ("Failed", "bad"),
    "skipped": ("Skipped", "plain"),
}
_ROW = 34.0


def accuracy_html(report: Mapping[str, Any]) -> str:
    """A self-contained page about an accuracy gate.

    Args:
        report: JSON values: "verdict" ("passed", "failed" or "skipped") and "reason"; where it was not skipped also
            "model", "reference", "candidate", "margin", "alpha", "tasks" and "overall" (rows of "task", "metric", "n",
            "reference", "candidate", "difference", "lower_bound", "smallest_detectable_drop") and "examples" (items on
            which both differ).
    """
    overall = report.get("overall")
    shown = [_facts(report), _differences(report), _table(report), *_examples(report)] if overall else []
    arms = f"{report['candidate']} against {report['reference']}" if overall else ""
    return page(
        f"Accuracy of {report['model']}" if report.get("model") else "Accuracy",
        *shown,
        subtitle=arms,
        verdict=badge(*_VERDICTS.get(report["verdict"], (str(report["verdict"]), "plain"))),
        reason=report["reason"],
    )


def accuracy_markdown(report: Mapping[str, Any]) -> str:
    """The same in a few lines of Markdown; takes what `accuracy_html` takes."""
    text, _ = _VERDICTS.get(report["verdict"], (str(report["verdict"]), "plain"))
    parts = [f"## {text}: accuracy of {words.cell(report.get('model') or 'the engine')}", words.cell(report["reason"])]
    if report.get("overall"):
        lines = ["| task | items | reference | candidate | difference | at worst |", "|---|---|---|---|---|---|"]
        for row in _rows(report):
            lines.append(
                f"| {words.cell(row['task'])} | {row['n']:,} | {words.percent(row['reference'])} "
                f"| {words.percent(row['candidate'])} | {words.points(row['difference'])} "
                f"| {words.points(row['lower_bound'])} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _rows(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tasks, then all of them together, unless that would say the same twice."""
    tasks: list[Mapping[str, Any]] = list(report["tasks"])
    return [*tasks, {**report["overall"], "task": "all items"}]


def _facts(report: Mapping[str, Any]) -> Html:
    overall = report["overall"]
    return facts(
        (
            ("reference", words.percent(overall["reference"])),
            ("candidate", words.percent(overall["candidate"])),
            ("difference", f"{words.points(overall['difference'])} points"),
            ("at worst", f"{words.points(overall['lower_bound'])} points"),
            ("tolerated", f"{words.points(-report['margin'])} points"),
            ("items", f"{overall['n']:,}"),
        )
    )


def _differences(report: Mapping[str, Any]) -> Html:
    rows, margin = _rows(report), report["margin"]
    values = [100 * value for row in rows for value in (row["difference"], row["lower_bound"])]
    x = linear_axis("candidate − reference (percentage points)", [*values, -120 * margin, 0.0], ticks=8)
    names = [shortened(str(row["task"]), 34) for row in rows]
    frame = Frame(
        x,
        Axis(label="", low=0.0, high=1.0, ticks=()),
        width=WIDE,
        height=_ROW * len(rows) + 82,
        left=max(text_width(name) for name in names) + 16,
        right=30,
        top=34,
    )
    drawn = [
        *(
            element("line", x1=frame.x(v), x2=frame.x(v), y1=frame.top, y2=frame.bottom, class_="grid")
            for v, _ in x.ticks
        ),
        element("line", x1=frame.x(0), x2=frame.x(0), y1=frame.top, y2=frame.bottom, class_="axis", stroke_width=1.5),
        frame.level(Level(value=-100 * margin, text=f"margin {words.points(-margin)}", axis="x")),
    ]
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        whole = i == len(rows) - 1
        y = frame.top + _ROW * (i + 0.5)
        here, worst = frame.x(100 * row["difference"]), frame.x(100 * row["lower_bound"])
        color = ("good" if report["verdict"] == "passed" else "bad") if whole else "0"
        kind = f"s-{color} f-{color}" if whole else f"s{color} f{color}"
        if whole:
            top = frame.top + _ROW * i
            drawn.append(element("line", x1=0, x2=frame.right, y1=top, y2=top, class_="axis"))
        drawn += [
            element("text", name, x=0, y=y + 4, class_="strong name" if whole else "strong"),
            element("line", x1=worst, x2=here, y1=y, y2=y, class_=kind, stroke_width=3 if whole else 2),
            element("line", x1=worst, x2=worst, y1=y - 6, y2=y + 6, class_=kind, stroke_width=2),
            element("circle", cx=here, cy=y, r=6 if whole else 4.5, class_=kind),
        ]
    sure = f"{100 * (1 - report['alpha']):g} %"
    note = (
        f"Each dot is the difference of mean scores, and its line reaches down to the {sure} lower bound. The gate "
        "passes when the line of all items ends right of the margin. Single tasks show where accuracy was lost."
    )
    return section("Differences", frame.draw(drawn, "Difference of mean scores by task, with lower bounds"), note=note)


def _table(report: Mapping[str, Any]) -> Html:
    body = [
        (
            row["task"],
            row.get("metric", ""),
            f"{row['n']:,}",
            words.percent(row["reference"]),
            words.percent(row["candidate"]),
            words.points(row["difference"]),
            words.points(row["lower_bound"]),
            words.points(-row["smallest_detectable_drop"]),
        )
        for row in _rows(report)
    ]
    headers = ("task", "metric", "items", "reference", "candidate", "difference", "at worst", "detectable drop")
    note = "Detectable drop: what so many items would have shown, with 80 % probability, to be a loss."
    return section("Numbers", table(headers, body, numeric=range(2, 8)), note=note)


def _examples(report: Mapping[str, Any]) -> list[Html]:
    examples: Sequence[Mapping[str, Any]] = report.get("examples") or []
    if not examples:
        return []
    rows = [
        (
            example["task"],
            answer(str(example["prompt"])),
            answer(str(example["target"])),
            _judged(str(example["reference_answer"]), example["reference_ok"]),
            _judged(str(example["candidate_answer"]), example["candidate_ok"]),
        )
        for example in examples
    ]
    headers = ("task", "prompt", "right answer", str(report["reference"]), str(report["candidate"]))
    return [section("Items on which they differ", table(headers, rows))]


def _judged(text: str, ok: bool) -> Html:
    return element("div", badge("right", "good") if ok else badge("wrong", "bad"), answer(text))
