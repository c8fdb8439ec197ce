"""Best value with a lower and an upper bound, and the arithmetic that keeps the bounds honest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A figure and the interval it is claimed to lie in, all three in one unit.

    Measured energies carry 95 % intervals (`error_model`); adding and subtracting treats them as bounds.

    Raises:
        ValueError: if the order low <= best <= high does not hold or a value is not a number.
    """

    best: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.best <= self.high:
            raise ValueError(f"not an interval: {self.low} <= {self.best} <= {self.high} is false")

    @classmethod
    def exact(cls, value: float) -> Interval:
        """An interval of no width."""
        return cls(value, value, value)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.best + other.best, self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.best - other.best, self.low - other.high, self.high - other.low)

    def scale(self, factor: float) -> Interval:
        """Multiply by an exactly known, non-negative number."""
        if factor < 0:
            raise ValueError("scale takes a non-negative factor")
        return Interval(self.best * factor, self.low * factor, self.high * factor)

    def overlaps(self, other: Interval) -> bool:
        """True where no order can be claimed: the two figures are a tie."""
        return self.low <= other.high and other.low <= self.high

    @property
    def half_width(self) -> float:
        """The larger distance from the best value to a bound."""
        return max(self.best - self.low, self.high - self.best)


def total(parts: Iterable[Interval]) -> Interval:
    """Sum of figures whose errors may all go the same way (bounds are added, not their squares)."""
    items = list(parts)
    best = math.fsum([p.best for p in items])
    low, high = math.fsum([p.low for p in items]), math.fsum([p.high for p in items])
    return Interval(best, min(best, low), max(best, high))
