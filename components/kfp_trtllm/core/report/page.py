"""Small, self-contained HTML pages: no scripts, no links to elsewhere, light and dark by the reader's own setting.

Text and markup are told apart by type: `element` escapes every child and attribute that is not `Html`, so that a model
name or an answer can't become markup by being forgotten.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

Tone = Literal["good", "bad", "unsure", "plain"]


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """A value as markup: `Html` as it is, everything else escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts, each escaped unless it is markup, as one piece of markup."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        tag: Its name; trusted.
        *children: Content; escaped unless it is `Html`.
        **attributes: By name, where "_" stands for "-" and a final "_" is dropped (`class_`, `stroke_width`). None leaves
            the attribute out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if not children and tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


_VOID: Final = frozenset({"br", "hr", "meta"})
_SIGNS: Final[Mapping[Tone, str]] = {"good": "✓", "bad": "✕", "unsure": "?", "plain": ""}


def badge(text: str, tone: Tone = "plain") -> Html:
    """A verdict in a word; its sign says the same as its color."""
    sign = [element("span", _SIGNS[tone], " ", aria_hidden="true")] if _SIGNS[tone] else []
    return element("span", *sign, text, class_=f"badge {tone}")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Short facts side by side; those without a value are left out."""
    entries = (
        element("div", element("dt", name), element("dd", value)) for name, value in pairs if value not in (None, "")
    )
    return element("dl", *entries, class_="facts")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = ()) -> Html:
    """A table.

    Args:
        headers: The columns' names.
        rows: Cells, as many as there are headers.
        numeric: Columns to be aligned to the right, by index.
    """
    right = set(numeric)

    def cells(tag: str, values: Sequence[object]) -> list[Html]:
        return [element(tag, value, class_="n" if i in right else None) for i, value in enumerate(values)]

    head = element("thead", element("tr", *cells("th", headers)))
    body = element("tbody", *(element("tr", *cells("td", row)) for row in rows))
    return element("div", element("table", head, body), class_="scroll")


def section(title: str, *content: object, note: object = "") -> Html:
    """A part of a page: a heading, a sentence that says how to read it, and content."""
    lead = [element("p", note, class_="note")] if note else []
    return element("section", element("h2", title), *lead, *content)


def side_by_side(*content: object) -> Html:
    """Content in columns where there is room for them."""
    return element("div", *content, class_="columns")


def figure(title: str, drawing: Html, *, note: object = "") -> Html:
    """A drawing with its title."""
    below = [element("p", note, class_="note")] if note else []
    return element("figure", element("figcaption", title), drawing, *below)


def answer(text: str) -> Html:
    """What a model was asked or said, with its line breaks."""
    return (
        element("span", text.strip("\r\n"), class_="answer")
        if text.strip()
        else element("span", "(empty)", class_="note")
    )


def page(title: str, *sections: object, subtitle: object = "", verdict: Html | None = None, reason: object = "") -> str:
    """A whole document.

    Args:
        title: Heading and window title.
        *sections: The content, in order.
        subtitle: One line below the title.
        verdict: A `badge`, shown beside the title.
        reason: Why, in a sentence.
    """
    heading = element("div", element("h1", title), verdict or Html(""), class_="title")
    under = [element("p", subtitle, class_="subtitle")] if subtitle else []
    why = [element("p", reason, class_="reason")] if reason else []
    body = element("main", element("header", heading, *under, *why), *sections)
    head = join(
        (
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Html(STYLE)),
        )
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


# The arms' and series' colors are told apart by color-blind readers too (after Okabe and Ito, darkened or lightened for
# a contrast of at least 4.5 as text), and every series is also named where it ends.
STYLE: Final = """
:root {
  --back: #ffffff; --panel: #f6f7f9; --text: #1b2129; --soft: #59636f; --line: #dfe3e8; --grid: #eceff2;
  --c0: #0b65a8; --c1: #b45309; --c2: #0f766e; --c3: #9d3c86; --c4: #75600a;
  --good: #17703c; --good-back: #e2f4e9; --bad: #b3261e; --bad-back: #fce8e6; --unsure: #875700; --unsure-back: #fdf1d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14181d; --panel: #1c2229; --text: #e6e9ed; --soft: #9aa5b1; --line: #343c46; --grid: #262d35;
    --c0: #6cb6f5; --c1: #f2a45c; --c2: #4fd1bd; --c3: #e29bd0; --c4: #d8c35e;
    --good: #6fd598; --good-back: #173524; --bad: #ff9b91; --bad-back: #43201d; --unsure: #f0c264; --unsure-back: #3d3014;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 4px; letter-spacing: -0.005em; }
section { margin-top: 36px; }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; }
.subtitle { color: var(--soft); margin: 6px 0 0; overflow-wrap: anywhere; }
.reason { margin: 16px 0 0; font-size: 16px; max-width: 80ch; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 13.5px; margin: 0 0 12px; max-width: 92ch; }
.badge { display: inline-block; padding: 2px 11px; border-radius: 999px; font-size: 13px; font-weight: 600;
  white-space: nowrap; background: var(--panel); color: var(--soft); }
.good { background: var(--good-back); color: var(--good); }
.bad { background: var(--bad-back); color: var(--bad); }
.unsure { background: var(--unsure-back); color: var(--unsure); }
.facts { display: flex; flex-wrap: wrap; gap: 14px 36px; margin: 22px 0 0; padding: 14px 18px; border-radius: 10px;
  background: var(--panel); }
.facts dt { color: var(--soft); font-size: 12.5px; }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 12.5px; color: var(--soft); vertical-align: bottom; }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; overflow-wrap: break-word; } td .note { margin: 0; min-width: 13em; }
th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; }
.answer { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 8em; display: block; max-height: 9em; overflow-y: auto; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 12px 32px; }
figure { margin: 14px 0 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 2px; }
figure .note { margin: 2px 0 0; }
.columns svg { max-width: 560px; }
svg { display: block; width: 100%; height: auto; font-family: inherit; font-size: 12px; }
svg text { fill: var(--soft); }
svg .name { font-weight: 600; }
svg .grid { stroke: var(--grid); }
svg .axis { stroke: var(--line); }
svg .level { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .s0 { stroke: var(--c0); } svg .f0, svg text.f0 { fill: var(--c0); }
svg .s1 { stroke: var(--c1); } svg .f1, svg text.f1 { fill: var(--c1); }
svg .s2 { stroke: var(--c2); } svg .f2, svg text.f2 { fill: var(--c2); }
svg .s3 { stroke: var(--c3); } svg .f3, svg text.f3 { fill: var(--c3); }
svg .s4 { stroke: var(--c4); } svg .f4, svg text.f4 { fill: var(--c4); }
svg .s-good { stroke: var(--good); } svg .f-good, svg text.f-good { fill: var(--good); }
svg .s-bad { stroke: var(--bad); } svg .f-bad, svg text.f-bad { fill: var(--bad); }
svg .hollow { fill: var(--back); stroke-width: 2; }
svg .front { fill: none; stroke: var(--soft); stroke-dasharray: 2 4; stroke-width: 1.5; }
svg .halo { paint-order: stroke; stroke: var(--back); stroke-width: 4px; stroke-linejoin: round; }
svg .strong { fill: var(--text); }
svg .mark { fill: var(--panel); stroke: var(--soft); }
.events { margin: 10px 0 0; padding: 0; list-style: none; font-size: 13.5px; columns: 2 380px; column-gap: 32px; }
.events li { display: flex; gap: 10px; padding: 2px 0; break-inside: avoid; }
.events b { flex: none; min-width: 1.2em; text-align: right; color: var(--soft); font-weight: 600; }
.events time { flex: none; width: 4.4em; color: var(--soft); font-variant-numeric: tabular-nums; }
details { margin-top: 36px; } summary { cursor: pointer; font-weight: 600; }
"""
