"""Numbers as people read them."""

from __future__ import annotations

import math


def share(value: float | None, digits: int = 3) -> str:
    """A share of 1 in percent; "-" when there is none."""
    return "-" if value is None else f"{100 * value:.{digits}g} %"


def points(value: float, digits: int = 2) -> str:
    """A signed difference of shares, in percentage points."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")  # noqa: RUF001 - a minus sign, as wide as the plus


def evidence(log_e: float) -> str:
    """E from its logarithm: plain near 1, as a power of ten far from it."""
    if abs(log_e) < math.log(1e4):
        return f"{math.exp(log_e):.3g}"
    return f"1e{log_e / math.log(10):+.0f}"


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def quantile(values: list[float], q: float) -> float | None:
    """The smallest value that a share `q` of the values does not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else None


def milliseconds(value: float | None) -> str:
    """A time in ms to three digits; "-" when there is none."""
    return "-" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def cell(text: object) -> str:
    """A text as the cell of a Markdown table: one line, with nothing that ends the cell or starts markup."""
    plain = " ".join(str(text).split())
    for sign in "\\`*_[]<>|~#":
        plain = plain.replace(sign, "\\" + sign)
    return plain
