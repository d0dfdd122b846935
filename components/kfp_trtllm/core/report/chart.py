"""Line, step and scatter charts as inline SVG, colored by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from kfp_trtllm.core.report import words
from kfp_trtllm.core.report.page import Html, element, join

_CHARACTER, _BOLD = 6.6, 7.9  # mean width of a character of 12 px, generously, as text can't be measured here
WIDE = 860.0  # width of a chart that has a row to itself, in SVG units
_LINE = 15.0  # height of a line of text


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale.

    Attributes:
        label: What is shown, with its unit.
        low: Value at the start.
        high: Value at the end; above `low`.
        ticks: (value, text) pairs within.
        log: Whether equal ratios take equal space.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the start, 1 at the end; values outside are moved to the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind.

    Attributes:
        name: Written where the series ends.
        points: (x, y), sorted by x for lines.
        color: From 0 to 4.
        kind: "line", "step" (a value holds until the next) or "dots" (a line with its points shown).
    """

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    kind: Literal["line", "step", "dots"] = "line"


@dataclass(frozen=True, kw_only=True)
class Level:
    """A dashed line across the chart, at a value of one axis."""

    value: float
    text: str
    axis: Literal["x", "y"] = "y"


def linear_axis(label: str, values: Iterable[float], *, zero: bool = True, unit: str = "", ticks: int = 5) -> Axis:
    """An axis from round value to round value around the given ones, from 0 if `zero`."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *known) if zero else min(known)), max(known)
    if high - low <= 1e-6 * max(abs(low), abs(high), 1e-3):  # too close together for ticks that differ
        pad = max(abs(low) * 0.1, 1e-6) if low else 1.0
        low, high = (low, low + pad) if zero else (low - pad, low + pad)
    step = _round_up((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = next((d for d in range(12) if math.isclose(round(step, d), step)), 12)
    marks = tuple((i * step, words.signed(f"{i * step:,.{digits}f}{unit}")) for i in range(first, last + 1))
    return Axis(label=label, low=first * step, high=last * step, ticks=marks)


def percent_axis(label: str, low: float = 0.0, high: float = 100.0) -> Axis:
    """From 0 to 100 %, in quarters."""
    ticks = tuple((float(value), f"{value} %") for value in (0, 25, 50, 75, 100))
    return Axis(label=label, low=low, high=high, ticks=ticks)


def log_axis(label: str, low: float, high: float, *, most: int = 7) -> Axis:
    """An axis of powers of ten around [low, high], both above 0."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = max(1, math.ceil((last - first) / most))
    ticks = tuple((10.0**i, words.power(i)) for i in range(first, last + 1) if i % every == 0)
    return Axis(label=label, low=10.0**first, high=10.0**last, ticks=ticks, log=True)


def level_axis(label: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis with a tick at each of a few values above 0, such as levels of concurrency."""
    known = sorted(set(values)) or [1.0]
    room = (known[-1] / known[0]) ** 0.06 if len(known) > 1 else 2.0
    ticks = tuple((value, f"{value:g}") for value in known)
    return Axis(label=label, low=known[0] / room, high=known[-1] * room, ticks=ticks, log=True)


def time_axis(seconds: float) -> Axis:
    """From 0 to at least so many seconds, in seconds, minutes or hours."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
    seconds = max(seconds, 1.0)
    step = next((s for s in steps if seconds / s <= 8), math.ceil(seconds / 8 / 86400) * 86400)
    unit, divisor = ("s", 1) if step < 60 else ("min", 60) if step < 3600 else ("h", 3600)
    count = math.floor(seconds / step + 1e-9)
    ticks = tuple((float(i * step), f"{i * step / divisor:g}") for i in range(count + 1))
    return Axis(label=f"time ({unit})", low=0.0, high=seconds, ticks=ticks)


def _round_up(step: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(step))
    return next(nice * magnitude for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= step * (1 - 1e-9))


class Frame:
    """The plane of a chart: places values, and draws what lies behind them.

    Attributes:
        left, right, top, bottom: Edges of the plane, in SVG units, which are pixels at full width.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        width: float = 480,
        height: float = 270,
        left: float = 0,
        right: float = 16,
        top: float = 26,
    ) -> None:
        self.x_axis, self.y_axis, self.width, self.height = x, y, width, height
        widest = max((text_width(text) for _, text in y.ticks), default=0)
        self.left = max(left, widest + 12)
        self.right, self.top, self.bottom = width - right, top, height - 42

    def x(self, value: float) -> float:
        """The place of a value on the horizontal axis."""
        return self.left + self.x_axis.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a value on the vertical axis."""
        return self.bottom - self.y_axis.share(value) * (self.bottom - self.top)

    def behind(self) -> Iterator[Html]:
        """Grid, ticks and the axes' labels."""
        for value, text in self.y_axis.ticks:
            y = self.y(value)
            yield element("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="grid")
            yield element("text", text, x=self.left - 8, y=y + 4, text_anchor="end")
        for value, text in self.x_axis.ticks:
            x = self.x(value)
            yield element("line", x1=x, x2=x, y1=self.bottom, y2=self.bottom + 4, class_="axis")
            yield element("text", text, x=x, y=self.bottom + 18, text_anchor="middle")
        yield element("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis")
        middle = (self.left + self.right) / 2
        yield element("text", self.x_axis.label, x=middle, y=self.height - 6, text_anchor="middle")
        if self.y_axis.label:
            yield element("text", self.y_axis.label, x=0, y=12)

    def level(self, level: Level) -> Html:
        """A reference line with its words."""
        if level.axis == "y":
            y = self.y(level.value)
            line = element("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="level")
            words = element("text", level.text, x=self.left + 6, y=y - 5, class_="halo")
        else:
            x = self.x(level.value)
            line = element("line", x1=x, x2=x, y1=self.top, y2=self.bottom, class_="level")
            fits = x + text_width(level.text) + 4 <= self.right
            words = element(
                "text",
                level.text,
                x=x + 4 if fits else x - 4,
                y=self.top - 5,
                text_anchor="start" if fits else "end",
                class_="halo",
            )
        return join((line, words))

    def draw(self, parts: Iterable[Html], title: str) -> Html:
        """The SVG element, with a title for screen readers."""
        return element(
            "svg",
            element("title", title),
            *self.behind(),
            *parts,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
        )


def text_width(text: str, *, bold: bool = False) -> float:
    """An estimate of a text's width in SVG units."""
    return len(text) * (_BOLD if bold else _CHARACTER)


def shortened(text: str, most: int = 28) -> str:
    """A text cut in the middle, as names differ at their ends."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def spread(places: Sequence[float], low: float, high: float, distance: float = _LINE) -> list[float]:
    """Places moved apart as little as need be, so that texts there do not overlap; in the given order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [min(max(place, low), high) for place in places]
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + distance)
    limit = high
    for i in reversed(order):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - distance
    return moved


def lines(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    title: str,
    levels: Sequence[Level] = (),
    width: float = 480,
    height: float = 270,
) -> Html:
    """A chart of lines, each named at its end.

    Args:
        series: What to draw; empty ones are left out.
        x: Horizontal axis.
        y: Vertical axis.
        title: What the chart shows, for screen readers.
        levels: Reference lines.
        width: In SVG units.
        height: In SVG units.
    """
    shown = [one for one in series if one.points]
    names = [shortened(one.name) for one in shown]
    frame = Frame(
        x, y, width=width, height=height, right=max((text_width(n, bold=True) for n in names), default=0) + 16
    )
    drawn = []
    ends = spread([frame.y(one.points[-1][1]) for one in shown], frame.top, frame.bottom)
    for one, name, end in zip(shown, names, ends, strict=True):
        drawn.append(_line(frame, one))
        drawn.append(element("text", name, x=frame.right + 9, y=end + 4, class_=f"name f{one.color}"))
    return frame.draw([*drawn, *(frame.level(level) for level in levels)], title)


def _line(frame: Frame, series: Series) -> Html:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = f"M{_pair(places[0])}"
    for (_, before), (x, y) in pairwise(places):
        path += f"L{_pair((x, before))}L{_pair((x, y))}" if series.kind == "step" else f"L{_pair((x, y))}"
    parts = [element("path", d=path, class_=f"line s{series.color}")]
    if series.kind == "dots" or len(places) == 1:
        parts += [element("circle", cx=x, cy=y, r=4, class_=f"f{series.color}") for x, y in places]
    return join(parts)


def _pair(place: tuple[float, float]) -> str:
    return f"{place[0]:.1f} {place[1]:.1f}"


def distribution(
    series: Sequence[tuple[str, Sequence[float], int]], *, label: str, title: str, levels: Sequence[Level] = ()
) -> Html:
    """Cumulative distributions: for every value, the share of samples that are at most so large.

    Args:
        series: (name, samples, color).
        label: The samples' name and unit.
        title: For screen readers.
        levels: Vertical lines, such as a bound.
    """
    samples = [value for _, values, _ in series for value in values]
    bounds = [level.value for level in levels]
    x = linear_axis(label, [*samples, *bounds], ticks=6)
    low, high = min([*samples, *bounds], default=0.0), max([*samples, *bounds], default=1.0)
    if low > 0 and high / low > 30:  # a few far outliers would press everything else against the axis
        x = log_axis(label, low, high)
    curves = []
    for name, values, color in series:
        ordered = sorted(values)
        points = [(value, 100.0 * (i + 1) / len(ordered)) for i, value in enumerate(ordered)]
        if points:
            points = [(points[0][0], 0.0), *points, (x.high, 100.0)]
        curves.append(Series(name=name, points=points, color=color, kind="step"))
    return lines(curves, x=x, y=percent_axis("share of answers"), title=title, levels=levels)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The place that a text takes, to find another where texts would overlap."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether both share a point."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def place_label(x: float, y: float, text: str, taken: list[Box], *, within: Frame) -> tuple[float, float, str]:
    """A place for a text beside a point, clear of what is taken; it is then taken itself.

    Returns:
        x, baseline and text-anchor of the text.
    """
    width = text_width(text, bold=True)
    tries = [
        (side, y + drop)
        for drop in (4, -12, 20, -27, 35, -42, 50)
        for side in ((1, -1, 0) if abs(drop) > 4 else (1, -1))
    ]
    lefts = {1: x + 11, -1: x - 11 - width, 0: x - width / 2}
    boxes = [Box(left=lefts[side], top=base - 11, right=lefts[side] + width, bottom=base + 3) for side, base in tries]
    inside = [box.left >= within.left and box.right <= within.width and box.top >= 0 for box in boxes]
    best = next((i for i, box in enumerate(boxes) if inside[i] and not any(box.overlaps(other) for other in taken)), 0)
    taken.append(boxes[best])
    side, base = tries[best]
    return x + 11 * side, base, {1: "start", -1: "end", 0: "middle"}[side]
