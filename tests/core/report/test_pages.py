"""Every page is well formed, self-contained, escapes what it is given, and draws within its drawings."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import sample_reports as samples
from hypothesis import given
from hypothesis import strategies as st
from kfp_trtllm.core.report import chart, page, words
from kfp_trtllm.core.report.accuracy import accuracy_html, accuracy_markdown
from kfp_trtllm.core.report.benchmark import benchmark_html
from kfp_trtllm.core.report.pareto import pareto_front, pareto_html
from kfp_trtllm.core.report.rollout import rollout_html, rollout_markdown

PAGES = {
    "promoted": lambda: rollout_html(samples.rollout()),
    "slow": lambda: rollout_html(samples.rollout(slowdown=2.2)),
    "failing": lambda: rollout_html(samples.rollout(error_rate=0.3)),
    "inconclusive": lambda: rollout_html(samples.rollout(looks=12)),
    "first release": lambda: rollout_html(samples.first_release()),
    "nothing but the verdict": lambda: rollout_html(
        {"model": "m", "target": "local", "stable": None, "canary": "m-1", "outcome": "promoted", "reason": "Because."}
    ),
    "accurate": lambda: accuracy_html(samples.accuracy()),
    "inaccurate": lambda: accuracy_html(samples.accuracy(passed=False)),
    "skipped": lambda: accuracy_html({"verdict": "skipped", "reason": "accuracy_gate is off"}),
    "benchmark": lambda: benchmark_html(samples.benchmark()),
    "one level": lambda: benchmark_html(samples.benchmark(levels=(4,))),
    "no level": lambda: benchmark_html(samples.benchmark(levels=())),
    "pareto": lambda: pareto_html(samples.pareto()),
    "nothing passes": lambda: pareto_html(
        {"model": "m", "variants": [{**one, "passed": False, "chosen": False} for one in samples.pareto()["variants"]]}
    ),
    "accuracy not measured": lambda: pareto_html(
        {
            "model": "m",
            "variants": [
                {**one, "accuracy": None, "accuracy_lower_bound": None} for one in samples.pareto()["variants"]
            ],
        }
    ),
    "one variant": lambda: pareto_html({"model": "m", "variants": samples.pareto()["variants"][4:5]}),
}
each_page = pytest.mark.parametrize("make", PAGES.values(), ids=PAGES.keys())


class Checker(HTMLParser):
    """Raises on a tag that is closed in the wrong place, and collects what is in the page."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text += data


def check(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    return checker


def drawings(text):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, flags=re.S)]


@each_page
def test_pages_are_well_formed_and_self_contained(make):
    text = make()
    checker = check(text)
    assert text.startswith("<!doctype html>")
    assert checker.tags.count("h1") == 1
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    assert not {"src", "href", "onclick", "onload", "style"} & {name for name, _ in checker.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"\bNone\b(?! passes)", checker.text)
    assert not re.search(r"\b(nan|inf)\b", checker.text)


@each_page
def test_drawings_stay_within_their_edges(make):
    for svg in drawings(make()):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for part in svg.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert -0.01 <= float(part.get(name, 0)) <= width, ElementTree.tostring(part)
            for name in ("y", "y1", "y2", "cy"):
                assert -0.01 <= float(part.get(name, 0)) <= height, ElementTree.tostring(part)


@each_page
def test_texts_in_drawings_do_not_overlap(make):
    for svg in drawings(make()):
        boxes = []
        for part in svg.iter("text"):
            bold = "name" in (part.get("class") or "")
            width = len(part.text or "") * (6.6 if bold else 5.8)
            x, y = float(part.get("x")), float(part.get("y"))
            left = x - {"middle": width / 2, "end": width}.get(part.get("text-anchor"), 0.0)
            boxes.append((chart.Box(left=left, top=y - 9, right=left + width, bottom=y + 1), part.text))
        for i, (box, text) in enumerate(boxes):
            for other, words_ in boxes[i + 1 :]:
                assert not box.overlaps(other), f"{text!r} and {words_!r}"


def poisoned(value):
    """The same report with every text that people or models choose replaced by markup."""
    kept = {"outcome", "verdict", "metric", "started", "metrics"}
    if isinstance(value, dict):
        return {k: v if k in kept and not isinstance(v, (dict, list)) else poisoned(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [poisoned(v) for v in value]
    return samples.NASTY if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("render", "report"),
    [
        (rollout_html, {**samples.rollout(error_rate=0.3), "guards": ["x"]}),
        (accuracy_html, samples.accuracy()),
        (accuracy_html, {"verdict": "skipped", "reason": "x"}),
        (benchmark_html, samples.benchmark()),
        (pareto_html, samples.pareto()),
    ],
)
def test_what_models_and_people_wrote_never_becomes_markup(render, report):
    text = render(poisoned(report))
    checker = check(text)
    assert "script" not in checker.tags
    assert "b" not in checker.tags or render is rollout_html  # the list of events has numbers in bold
    assert 'alert("x")' in checker.text
    assert 'alert("' not in text
    for svg in drawings(text):
        assert svg.tag == "svg"


@pytest.mark.parametrize(
    ("render", "report"), [(rollout_markdown, samples.rollout()), (accuracy_markdown, samples.accuracy())]
)
def test_markdown_is_escaped_too(render, report):
    text = render(poisoned(report))
    assert "\\<script\\>" in text
    assert not re.search(r"(?<!\\)<", text)


def test_markdown_says_what_the_page_says():
    assert rollout_markdown(samples.first_release()).startswith("## Promoted: smollm2-135m\n\nFirst release: ")
    text = rollout_markdown(samples.rollout())
    assert text.startswith("## Promoted: smollm2-135m\n")
    assert "| errors | 0 of 170 (0 %) | 0 of 170 (0 %) |" in text
    assert "| lambada\\_openai | 400 |" in accuracy_markdown(samples.accuracy())
    assert accuracy_markdown({"verdict": "skipped", "reason": "off"}) == "## Skipped: accuracy of the engine\n\noff\n"


@given(st.text(), st.text())
def test_elements_escape_children_and_attributes(child, value):
    given_ = child.replace("\r", "").replace("\0", "")
    title = value.replace("\r", "").replace("\0", "")
    made = page.element("p", given_, title=title)
    parser = Checker()
    parser.feed(made)
    parser.close()
    assert parser.tags == ["p"]
    assert parser.attributes == [("title", title)]
    assert parser.text == given_


def test_markup_is_not_escaped_twice():
    inner = page.element("b", "a & b")
    assert page.element("p", inner, " < c") == "<p><b>a &amp; b</b> &lt; c</p>"
    assert page.element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert page.element("i", class_="x", stroke_width=1.5, id=None) == '<i class="x" stroke-width="1.5"></i>'


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.booleans())
def test_linear_axes_hold_all_values(values, zero):
    axis = chart.linear_axis("x", values, zero=zero)
    assert axis.low < axis.high
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values) and max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 9
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


@given(st.floats(1e-6, 1e9), st.floats(1, 1e12))
def test_log_axes_hold_both_ends(low, factor):
    axis = chart.log_axis("x", low, low * factor)
    assert axis.low <= low * 1.001
    assert low * factor <= axis.high * 1.001
    assert 1 <= len(axis.ticks) <= 9


@given(st.floats(0, 1e6))
def test_time_axes_hold_the_end(seconds):
    axis = chart.time_axis(seconds)
    assert axis.high >= seconds
    assert 1 <= len(axis.ticks) <= 9


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_are_spread_within_bounds(places):
    moved = chart.spread(places, 0.0, 200.0)
    ordered = sorted(moved)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(ordered))
    assert not moved or ordered[-1] <= 200 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_no_point_of_the_front_is_beaten(points):
    front = pareto_front(points)
    for i, (x, y) in enumerate(points):
        beaten = any(p != (x, y) and p[0] >= x and p[1] >= y for p in points)
        assert ((x, y) in [points[j] for j in front]) == (not beaten), i
    assert [points[i] for i in front] == sorted({points[i] for i in front})


def test_words():
    assert [words.duration(s) for s in (3.25, 59.6, 119, 125, 7300)] == [
        "3.2 s",
        "60 s",
        "119 s",
        "2 min 05 s",
        "2 h 01 min",
    ]
    assert [words.size(n) for n in (12, 84e6, 1.6e9)] == ["12 B", "84 MB", "1.6 GB"]
    assert [words.evidence(x) for x in (0.0, 5.0, 8.0, 40.0)] == ["1", "148", "2,981", "10¹⁷"]
    assert words.points(-0.0123) == "\u22121.23"
    assert [words.quantile([3.0, 1.0, 2.0], q) for q in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    assert words.quantile([], 0.5) is None
    assert (words.count(1, "item"), words.count(1200, "item")) == ("1 item", "1,200 items")
    assert (words.milliseconds(None), words.milliseconds(3.14159), words.milliseconds(1234.5)) == (
        "-",
        "3.14 ms",
        "1,234 ms",
    )
    assert words.cell("a|b\n<c>") == "a\\|b \\<c\\>"
    assert chart.shortened("smollm2-135m-instruct-b7714e02aa", 20) == "smollm2-1…b7714e02aa"
