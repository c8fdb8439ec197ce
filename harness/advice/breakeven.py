"""N* and T* from figures typed in, and which of them moves the result most."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from harness.accounting import BreakEven, Interval, break_even, serving_break_even
from harness.accounting.rounding import break_even_sentence, quantity
from harness.accounting.units import JOULES, convert
from harness.errors import KitError

_LEAST_J, _MOST_J = 1e-9, 1e21  # the world uses less in a year
_J_PER = {unit: convert(1.0, unit, "J") for unit in JOULES}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FIGURE = re.compile(rf"^\s*({_NUMBER})\s*(?:(?:±|\+-|\+/-)\s*({_NUMBER})\s*(%)?)?\s*([A-Za-z]*)\s*(%)?$")


def parse_energy(text: str, option: str) -> Interval:
    """Joules of a figure such as `11kWh`, `11±0.5kWh` or `6.3kWh±3%`; `+-` stands for ±.

    Raises:
        KitError: It is no number with a unit of energy.
    """
    plain = re.sub(r"([A-Za-z]+)\s*(±|\+-|\+/-)\s*(.*)$", r"\2\3\1", text.strip())
    found = _FIGURE.match(plain.replace("%", "") + ("%" if "%" in plain else ""))
    unit = found.group(4) if found else ""
    numbers = [float(number or 0.0) for number in found.group(1, 2)] if found else []
    if found is not None and unit in JOULES:
        best = numbers[0]
        half = abs(numbers[1]) * (abs(best) / 100 if "%" in plain else 1.0)
        if abs(best) + half <= _MOST_J / _J_PER[unit] and (best == 0 or abs(best) >= _LEAST_J / _J_PER[unit]):
            low, mid, high = (convert(value, unit, "J") for value in (best - half, best, best + half))
            return Interval(mid, low, high)
    raise KitError(
        f"{text!r} is no energy",
        where=option,
        expected=f"a number and one of {', '.join(JOULES)}, up to {_MOST_J:g} J: 11kWh, 11±0.5kWh",
    )


def reuse_sensitivity(teacher: Interval, baseline: Interval, student: Interval) -> dict[str, float]:
    """How far 1 % more of each input moves N*, in percent, the strongest first.

    Empty where N* is not finite; inf where it ceases to exist.
    """
    given = {"teacher": teacher.best, "baseline": baseline.best, "student": student.best}

    def even(values: Mapping[str, float]) -> BreakEven:
        return break_even(*(Interval.exact(values[name]) for name in ("teacher", "baseline", "student")))

    start = even(given)
    if start.case != "finite" or not start.ratio:
        return {}
    found: dict[str, float] = {}
    for name, value in given.items():
        one = even({**given, name: 1.01 * value})
        finite = one.case == "finite" and one.ratio is not None
        found[name] = 100 * (one.ratio / start.ratio - 1) if finite and one.ratio else math.inf
    return dict(sorted(found.items(), key=lambda moved: -abs(moved[1])))


def reuse_lines(teacher: Interval, baseline: Interval, student: Interval) -> list[str]:
    """N* in words, its case, and which input moves it."""
    even = break_even(teacher, baseline, student)
    sentence = break_even_sentence(even, "reuses", "until the teacher has paid for itself")
    lines = [f"N* = {sentence}"]
    if even.case == "finite":
        saving = quantity(baseline.best - student.best, "J")
        lines.append(f"The teacher's {quantity(teacher.best, 'J')} are paid back by {saving} a student.")
    lines += [f"Why: {words}" for words in [_CASES.get(even.case)] if words]
    for name, percent in reuse_sensitivity(teacher, baseline, student).items():
        change = f"{percent:+.1f} %" if math.isfinite(percent) else "until it is never paid back"
        lines.append(f"1 % more of --{name} moves N* by {change}.")
    return lines


def serving_lines(extra: Interval, per_token: tuple[float, float]) -> list[str]:
    """T* in words; `extra` is what the training took more.

    Raises:
        KitError: A figure is none that a model can need.
    """
    for joules in per_token:
        if joules and not _LEAST_J <= joules <= _MOST_J:
            raise KitError(
                f"{joules} J per served token",
                where="--serving",
                expected=f"0, or {_LEAST_J:g} to {_MOST_J:g} J",
            )
    even = serving_break_even(extra, *map(Interval.exact, per_token))
    sentence = break_even_sentence(even, "served tokens", "until the extra energy is saved")
    return [f"T* = {sentence}", *(f"Why: {words}" for words in [_CASES.get(even.case)] if words)]


_CASES = {
    "always": "there is nothing to pay back.",
    "never": "the student saves nothing, so nothing pays it back.",
    "undefined": "a figure is negative, or the student is cheaper to train and dearer to serve.",
}
