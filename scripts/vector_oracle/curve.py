"""Power by the protocol: readings joined by lines, gaps found, ticks missed; and how a vector asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from vector_oracle.build import Family

NJ = Fraction(1, 10**9)
"""Joules in one mW x us."""

PERIOD = 500_000

GAP_FACTOR = 2

Knots = list[tuple[int, int]]


class Curve:
    """Power by the protocol: linear between valid readings, held before the first and after the last."""

    def __init__(self, mono: Sequence[int], power: Sequence[int | None]) -> None:
        self.rows = list(zip(mono, power, strict=True))
        self.knots: Knots = [(t, p) for t, p in self.rows if p is not None and p > 0]

    def at(self, t: int) -> Fraction:
        """Milliwatts at a time."""
        before = [k for k in self.knots if k[0] <= t]
        after = [k for k in self.knots if k[0] >= t]
        if not before or not after:
            return Fraction((after or before[::-1])[0][1])
        (t0, p0), (t1, p1) = before[-1], after[0]
        return Fraction(p0) if t0 == t1 else p0 + Fraction((p1 - p0) * (t - t0), t1 - t0)

    def energy(self, start: int, end: int) -> Fraction:
        """Joules of [start, end]."""
        cuts = [start, *(t for t, _ in self.knots if start < t < end), end]
        area = sum(
            ((self.at(a) + self.at(b)) / 2 * (b - a) for a, b in pairwise(cuts)),
            Fraction(0),
        )
        return area * NJ

    def gaps(self, start: int, end: int, limit: int) -> list[tuple[int, int]]:
        """Parts of the window inside stretches without a valid reading longer than `limit`."""
        inner = list(zip(self.knots, self.knots[1:], strict=False))
        cells = [(a[0], b[0]) for a, b in inner]
        cells += [(start, self.knots[0][0]), (self.knots[-1][0], end)]
        found = [(max(a, start), min(b, end)) for a, b in cells if b - a > limit]
        return [(a, b) for a, b in found if b > a]

    def missed(self, start: int, end: int, period: int) -> int:
        """Failed reads and ticks that left no row, inside [start, end)."""
        bad = sum(start <= t < end and not (p is not None and p > 0) for t, p in self.rows)
        times = [t for t, _ in self.rows]
        ticks: list[Fraction] = []
        for a, b in pairwise(times):
            count = (2 * (b - a) + period) // (2 * period) - 1 if 2 * (b - a) > 3 * period else 0
            ticks += [a + Fraction(k * (b - a), count + 1) for k in range(1, count + 1)]
        span = (max(end, times[-1]) - min(start, times[0])) // period + 2
        ticks += [Fraction(times[0] - k * period) for k in range(1, span)]
        ticks += [Fraction(times[-1] + k * period) for k in range(1, span)]
        return bad + sum(start <= tick < end for tick in ticks)


def expected(
    mono: Sequence[int], power: Sequence[int | None], start: int, end: int, limit_mw: int | None = None
) -> dict[str, Any]:
    """Every figure of `integrate_power`."""
    curve = Curve(mono, power)
    gaps = curve.gaps(start, end, GAP_FACTOR * PERIOD)
    length = sum(b - a for a, b in gaps)
    inside = sum((curve.energy(a, b) for a, b in gaps), Fraction(0))
    most = max([p for _, p in curve.knots] + [limit_mw or 0])
    return {
        "energy_j": curve.energy(start, end),
        "samples": sum(start <= t < end for t, _ in curve.knots),
        "missed_samples": curve.missed(start, end, PERIOD),
        "longest_gap_us": max((b - a for a, b in gaps), default=0),
        "gap_us": length,
        "energy_in_gaps_j": inside,
        "gap_low_j": Fraction(0),
        "gap_high_j": max(inside, length * most * NJ),
    }


def ticks(seconds: Fraction | int, phase_us: int = 0, period: int = PERIOD) -> list[int]:
    """Sampling times from the phase on, one past the end."""
    return [phase_us + k * period for k in range(int(seconds * 1_000_000) // period + 2)]


def window(
    mono: Sequence[int], power: Sequence[int | None], start: int, end: int, **more: Any
) -> dict[str, Any]:
    """The input of `integrate_power`."""
    return {
        "nominal_period_us": PERIOD,
        "mono_start_us": start,
        "mono_end_us": end,
        "power": {"mono_us": list(mono), "power_mw": list(power)},
        **more,
    }


def adder(family: Family, clause: str) -> Callable[..., None]:
    """A function that adds integrals to a family, each with the figures that it is about."""

    def add(
        name: str,
        text: str,
        mono: Sequence[int],
        power: Sequence[int | None],
        start: int,
        end: int,
        *flags: str,
        show: tuple[str, ...] = ("energy_j",),
        limit_mw: int | None = None,
    ) -> None:
        more = {} if limit_mw is None else {"power_limit_mw": limit_mw}
        figures = expected(mono, power, start, end, limit_mw)
        given = window(mono, power, start, end, **more)
        family.valid(
            name, clause, "integrate_power", given, {key: figures[key] for key in show}, text, *flags
        )

    return add
