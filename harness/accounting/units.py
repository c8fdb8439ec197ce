"""Units of energy and of grid intensity, converted exactly; a unit that is not known is an error."""

from __future__ import annotations

from fractions import Fraction

POUND_G = Fraction("453.59237")
"""Grams in an avoirdupois pound, by definition."""

JOULES = {
    "uJ": Fraction(1, 10**6),
    "mJ": Fraction(1, 10**3),
    "J": Fraction(1),
    "kJ": Fraction(10**3),
    "MJ": Fraction(10**6),
    "Wh": Fraction(3_600),
    "kWh": Fraction(3_600_000),
    "MWh": Fraction(3_600_000_000),
}
"""Unit of energy -> joules in it."""

GRAMS_PER_KWH = {
    "g/kWh": Fraction(1),
    "kg/kWh": Fraction(1000),
    "kg/MWh": Fraction(1),
    "g/MJ": Fraction(36, 10),
    "t/MWh": Fraction(1000),
    "t/GWh": Fraction(1),
    "lb/kWh": POUND_G,
    "lb/MWh": POUND_G / 1000,
}
"""Unit of grid intensity -> grams per kilowatt-hour in it."""


def convert(value: float, unit: str, to: str) -> float:
    """A value in another unit of the same quantity, rounded once, at the end.

    Args:
        value: in `unit`, taken as the shortest decimal number that it stands for.
        unit: of energy (`JOULES`) or of grid intensity (`GRAMS_PER_KWH`).
        to: the unit wanted.

    Raises:
        ValueError: a unit is not known, or the two measure different things.
    """
    for units in (JOULES, GRAMS_PER_KWH):
        if unit in units and to in units:
            return float(Fraction(repr(float(value))) * units[unit] / units[to])
    unknown = [name for name in (unit, to) if name not in JOULES and name not in GRAMS_PER_KWH]
    if unknown:
        known = ", ".join([*JOULES, *GRAMS_PER_KWH])
        raise ValueError(f"unit {unknown[0]!r} is not known; known are {known}")
    raise ValueError(f"{unit} and {to} do not measure the same thing")
