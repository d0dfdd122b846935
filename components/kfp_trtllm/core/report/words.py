"""Numbers as people read them."""

from __future__ import annotations

import math


def share(value: float | None, digits: int = 3) -> str:
    """A share of 1 in percent; "-" when there is none."""
    return "-" if value is None else f"{100 * value:.{digits}g} %"


def points(value: float, digits: int = 2) -> str:
    """A signed difference of shares, in percentage points."""
    return signed(f"{100 * value:+.{digits}f}")


def signed(number: str) -> str:
    """A number with a minus sign, which is as wide as a plus, in place of a hyphen."""
    return number.replace("-", "\u2212")


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1 in percent with as many decimals as its neighbors in a column; "-" when there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def evidence(log_e: float) -> str:
    """E from its logarithm: plain near 1, as a power of ten far from it."""
    if abs(log_e) < math.log(1e4):
        e = math.exp(log_e)
        return f"{e:,.0f}" if e >= 100 else f"{e:.3g}"
    return power(round(log_e / math.log(10)))


def power(exponent: int) -> str:
    """A power of ten, written out where it is short."""
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:,.{max(0, -exponent)}f}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


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
