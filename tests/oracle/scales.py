"""Figures of energies that share scales: each end of each scale is tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.power import Json
from tests.oracle.worth import break_even

Ends = tuple[Fraction, Fraction, Fraction]


def _energy(parts: Sequence[Json], gains: dict[str, Fraction]) -> Ends:
    """Best, low and high where every scale has one value."""
    ends = []
    for name in ("best", "low", "high"):
        found = Fraction(0)
        for part in parts:
            joules = part[name]
            for scale in part["scales"]:
                joules *= gains[scale]
            found += joules
        ends.append(found)
    return ends[0], ends[1], ends[2]


def _corners(given: Json, names: Sequence[str]) -> Iterator[list[Ends]]:
    """The energies at each end of each scale; where all are nothing there is no figure."""
    scales = given["scales"]
    shares = list(scales)
    for ends in product(*(scales[name] for name in shares)):
        found = [_energy(given[name], dict(zip(shares, ends, strict=True))) for name in names]
        if wrong("ScalesApart"):
            # Each energy has a scale of its own: its least and its largest value stand side by side.
            low, high = ({n: scales[n][k] for n in shares} for k in (0, 1))
            found = [(e[0], _energy(given[n], low)[1], _energy(given[n], high)[2])
                     for n, e in zip(names, found, strict=True)]  # fmt: skip
        if any(energy[2] > 0 for energy in found) or wrong("NothingOverNothing"):
            yield found


def _best(given: Json, names: Sequence[str]) -> list[Fraction]:
    ones = dict.fromkeys(given["scales"], Fraction(1))
    return [_energy(given[name], ones)[0] for name in names]


def shared_ratio(given: Json) -> Json:
    """One energy as a multiple of another."""
    names = ("one", "other")
    one, other = _best(given, names)
    need(other > 0, "a multiple of nothing")
    lows: list[Fraction] = []
    highs: list[Any] = []
    for a, b in _corners(given, names):
        lows += [a[1] / b[2]] if b[2] > 0 else []
        highs.append(a[2] / b[1] if b[1] > 0 else None)
    return {
        "ratio": one / other,
        "low": min([*lows, one / other]),
        "high": "inf" if None in highs else max([*highs, one / other]),
    }


def shared_break_even(given: Json) -> Json:
    """N* where the three energies share scales."""
    names = ("teacher", "baseline_student", "distilled_student")
    found = break_even(dict(zip(names, _best(given, names), strict=True)))
    lows: list[Fraction] = []
    highs: list[Any] = []
    for teacher, base, student in _corners(given, names):
        most, least = base[2] - student[1], base[1] - student[2]
        lows += [teacher[1] / most] if most > 0 else []
        highs.append(teacher[2] / least if least > 0 else None)
    known = [] if found["ratio"] is None else [found["ratio"]]
    found["low"] = min([*lows, *known], default="inf")
    found["high"] = "inf" if None in highs or not known else max([*highs, *known])
    return found
