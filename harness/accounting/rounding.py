"""Numbers for people: no more digits than the interval allows, units that keep them short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.accounting.amortize import BreakEven
    from harness.accounting.interval import Interval

J_PER_KWH = 3_600_000.0
"""Joules in a kilowatt-hour."""

MOST_DIGITS = 4
"""However narrow the interval: the sensor behind it is known to 5 %."""

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def decimals(best: float, half_width: float, most: int = MOST_DIGITS) -> int:
    """Number of decimals to print, negative for tens, hundreds ...

    The uncertainty decides (GUM 7.2.6): it keeps two digits, and the value ends at the same place, so that
    printed parts add up to printed totals as far as they are known.

    Args:
        best: the value.
        half_width: its uncertainty; 0 = exact.
        most: most significant digits in any case.
    """
    ceiling = most - 1 - _exponent(best)
    if abs(round(best, ceiling)) >= 10.0 ** (_exponent(best) + 1):  # 9.9999 is 10.00, which has a digit more
        ceiling -= 1
    if half_width <= 0:
        return ceiling
    if math.isinf(half_width):
        return -_exponent(best)
    exponent = _exponent(half_width)
    carried = half_width / 10.0**exponent >= 9.95  # 9.96 is 10
    return min(ceiling, -exponent if carried else 1 - exponent)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def significant(
    best: float, low: float | None = None, high: float | None = None, most: int = MOST_DIGITS
) -> str:
    """A number rounded to what its interval supports, never to nothing.

    Args:
        best: the value.
        low: lower bound; None = no interval.
        high: upper bound.
        most: most significant digits.
    """
    if best == 0:
        return "0"
    half = 0.0 if low is None or high is None else max(best - low, high - best)
    return _ending_at(best, _places(best, half, most))


def plus_minus(best: float, half_width: float) -> str:
    """A number with half the width of its interval, both ending at the same place, such as `400 ± 400`; the
    number alone where the width is less than its last digit.
    """
    places = _places(best, half_width, MOST_DIGITS) if best else decimals(half_width, half_width)
    if round(half_width, places) == 0:
        return _ending_at(best, places)
    return f"{_ending_at(best, places)} ± {_ending_at(half_width, places)}"


def _places(best: float, half_width: float, most: int) -> int:
    places = decimals(best, half_width, most)
    return -_exponent(best) if round(best, places) == 0 else places


def _ending_at(value: float, places: int) -> str:
    rounded = round(value, places)
    separator = "," if abs(rounded) >= 10_000 else ""
    return f"{rounded:{separator}.{max(0, places)}f}".replace(",", "\u202f")


def quantity(best: float | None, unit: str, low: float | None = None, high: float | None = None) -> str:
    """A value with a unit and a decimal prefix, such as `2.523 kJ`; `unknown` for None."""
    if best is None:
        return "unknown"
    size = max(abs(best), 1e-6)
    at = next((i for i, (factor, _) in enumerate(_PREFIXES) if size >= factor), len(_PREFIXES) - 1)
    text = _scaled(best, low, high, *_PREFIXES[at])
    if best == 0:
        return f"0 {unit}"
    if at and text.lstrip("-").startswith(("1000 ", "1000.")):  # 999.97 m is 1 of the next
        text = _scaled(best, low, high, *_PREFIXES[at - 1])
    return text + unit


def with_ends(interval: Interval, unit: str) -> str:
    """An interval such as `170 J (0 J to 340 J)`: its ends have the digits that it leaves its middle."""
    best, low, high = interval.best, interval.low, interval.high
    text = quantity(best, unit, low, high)
    if low == high:
        return text
    half = interval.half_width
    if not math.isfinite(half):
        return f"{text} ({quantity(low, unit)} to {'no end' if math.isinf(high) else quantity(high, unit)})"
    return f"{text} ({' to '.join(quantity(end, unit, end - half, end + half) for end in (low, high))})"


def _scaled(best: float, low: float | None, high: float | None, factor: float, prefix: str) -> str:
    bounds = (None, None) if low is None or high is None else (low / factor, high / factor)
    return f"{significant(best / factor, *bounds)} {prefix}"


def break_even_text(even: BreakEven) -> str:
    """A break-even in a few words, such as `10.0 (7.6 to 14.6)`; where the intervals leave it open, that."""
    if even.case == "undefined":
        return "not defined"
    if even.withheld is not None:
        return f"no verdict: {even.withheld}"
    if even.case == "always":
        return "pays at once" if even.resolved else "pays at once, not resolved"
    if even.case == "never" or even.ratio is None:
        return (
            "never"
            if even.resolved
            else f"not resolved: never by the best values, from {_short(even.low)} up"
        )
    best = _short(even.ratio)
    if not even.resolved:
        return f"{best}, not resolved ({_short(even.low)} to never)"
    return best if even.low == even.high else f"{best} ({_short(even.low)} to {_short(even.high)})"


def break_even_sentence(even: BreakEven, unit: str, until: str) -> str:
    """The same as a sentence, such as `10.0 reuses until it has paid (7.6 to 14.6)`.

    Args:
        even: N* or T*.
        unit: what is counted, in the plural.
        until: what it is counted up to, `until ...`.
    """
    if even.withheld is not None:
        return break_even_text(even)
    if even.case == "finite" and even.ratio is not None:
        bounds = "never" if math.isinf(even.high) else _short(even.high)
        interval = "" if even.low == even.high else f" ({_short(even.low)} to {bounds})"
        whole = f"; in whole {unit} {even.whole}" if unit == "reuses" and even.resolved else ""
        doubt = "" if even.resolved else ", not resolved"
        return f"{_short(even.ratio)} {unit} {until}{interval}{doubt}{whole}"
    if even.case == "never" and even.resolved:
        return f"never: no number of {unit} is enough"
    if even.case == "never":
        return (
            f"not resolved: by the best values no number of {unit} is enough, "
            f"within the intervals {_short(even.low)} or more may be"
        )
    return break_even_text(even)


def _short(value: float) -> str:
    """Three digits, more only before the point: nobody reuses a teacher 10.034 times."""
    if value == 0:
        return "0"
    places = max(0, min(2, 2 - _exponent(value)))
    return f"{value:.{places}f}" if value < 1e5 else f"{value:.3g}"


def duration(us: int) -> str:
    """A length of time in the two largest units that fit."""
    seconds = us / 1e6
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


_PLAIN = str.maketrans(
    {"\u202f": " ", "±": "+-", "µ": "u", "✓": "ok", "✗": "x", "█": "#", "─": "-", "·": "-"}
)


def encodable(text: str, encoding: str) -> str:
    """Text with plain stand-ins for what an output encoding does not have."""
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return text.translate(_PLAIN).encode("ascii", "replace").decode()
    return text
