"""Power samples with known integrals: trapezoid, edges, gaps, nulls, closed forms, two clocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family

NJ = Fraction(1, 10**9)
"""Joules in one mW x us."""

PERIOD = 500_000
GAP_FACTOR = 2
DAY_US = 1_774_742_400_000_000
"""2026-03-29T00:00:00Z, an hour before summer time begins in Europe."""

Knots = list[tuple[int, int]]


class Curve:
    """Power by the protocol: linear between valid readings, held before the first and after the last."""

    def __init__(self, mono: Sequence[int], power: Sequence[int | None]) -> None:
        self.rows = list(zip(mono, power, strict=True))
        self.knots: Knots = [(t, p) for t, p in self.rows if p is not None and p > 0]

    def at(self, t: int) -> Fraction:
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
            ((self.at(a) + self.at(b)) / 2 * (b - a) for a, b in zip(cuts, cuts[1:], strict=False)),
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
        for a, b in zip(times, times[1:], strict=False):
            count = (2 * (b - a) + period) // (2 * period) - 1
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


def _given(
    mono: Sequence[int], power: Sequence[int | None], start: int, end: int, **more: Any
) -> dict[str, Any]:
    return {
        "nominal_period_us": PERIOD,
        "mono_start_us": start,
        "mono_end_us": end,
        "power": {"mono_us": list(mono), "power_mw": list(power)},
        **more,
    }


def families() -> list[Family]:
    """Power integrals and clocks."""
    return [_integration(), _edges(), _gaps(), _nulls(), _waveforms(), _clocks()]


def _adder(family: Family, clause: str) -> Callable[..., None]:
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
        given = _given(mono, power, start, end, **more)
        family.valid(
            name, clause, "integrate_power", given, {key: figures[key] for key in show}, text, *flags
        )

    return add


def _integration() -> Family:
    family = Family("integration", "Trapezoid over samples as they came, on an uneven grid.")
    add = _adder(family, "4.2")
    even = [k * PERIOD for k in range(5)]
    add("two-samples", "Two samples, one cell.", [0, 500_000], [100_000, 300_000], 0, 500_000, "LeftRiemann")
    add("steady", "Constant power: 200 W for 2 s.", even, [200_000] * 5, 0, 2_000_000)
    add(
        "step",
        "A step between two samples is a ramp.",
        even,
        [100_000, 100_000, 500_000, 500_000, 500_000],
        0,
        2_000_000,
        "LeftRiemann",
    )
    add(
        "fall",
        "A fall: holding the left value is too high.",
        even,
        [500_000, 300_000, 100_000, 90_000, 80_000],
        0,
        2_000_000,
        "LeftRiemann",
    )
    jitter = [0, 498_211, 1_003_907, 1_499_002, 2_000_441]
    add(
        "jitter",
        "Ticks a few milliseconds off their deadline.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        0,
        2_000_441,
        "LeftRiemann",
    )
    add(
        "irregular",
        "Cells of 0.1 to 0.9 s: weights are the times, not the counts.",
        [0, 100_000, 1_000_000, 1_050_000, 1_900_000],
        [100_000, 600_000, 600_000, 100_000, 100_000],
        0,
        1_900_000,
        "LeftRiemann",
    )
    add(
        "burst",
        "Many samples in a short burst weigh no more than their time.",
        [0, 500_000, 502_000, 504_000, 506_000, 508_000, 1_008_000],
        [80_000, 700_000, 700_000, 700_000, 700_000, 700_000, 80_000],
        0,
        1_008_000,
        "LeftRiemann",
    )
    add(
        "no-dedup",
        "Equal readings are samples like any other: a run of them is a plateau, not one point.",
        [k * PERIOD for k in range(7)],
        [100_000, 400_000, 400_000, 400_000, 400_000, 400_000, 100_000],
        0,
        3_000_000,
        "LeftRiemann",
        show=("energy_j", "samples"),
    )
    add(
        "odd-milliwatts",
        "Thirds: the sum is exact to the last digit a double has.",
        [0, 333_333, 666_667, 1_000_000],
        [100_001, 100_003, 100_007, 100_019],
        0,
        1_000_000,
        "LeftRiemann",
    )
    add(
        "half-open",
        "A sample at the start counts, one at the end belongs to the next window.",
        even,
        [100_000] * 5,
        500_000,
        1_500_000,
        show=("samples", "missed_samples", "energy_j"),
    )
    add(
        "single-sample",
        "One sample: held on both sides.",
        [250_000],
        [300_000],
        0,
        500_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "empty-window",
        "A window of no length holds nothing.",
        even,
        [200_000] * 5,
        700_000,
        700_000,
        show=("energy_j", "samples"),
    )
    family.valid(
        "no-valid-sample",
        "4.2",
        "integrate_power",
        _given(even, [None] * 5, 0, 2_000_000),
        {
            "energy_j": None,
            "samples": 0,
            "missed_samples": 4,
            "gap_us": 2_000_000,
            "longest_gap_us": 2_000_000,
        },
        "Nothing was read: the energy is unknown, not zero, and all of the window is a gap.",
        "NullAsZero",
        "GapsHidden",
        "GapsDropped",
    )
    hour = 3_600_000_000
    late = [90 * hour + k * PERIOD + (k * 7919) % 1000 for k in range(9)]
    add(
        "after-ninety-hours",
        "The same after 90 h of run: microseconds need 64-bit integers.",
        late,
        [100_000 + 40_000 * (k % 4) for k in range(9)],
        late[0] + 250_123,
        late[-1] - 250_077,
        "LeftRiemann",
        "SinglePrecision",
        "EdgesCut",
        "EdgesHeld",
    )
    add(
        "split-a",
        "First part of a window cut in two; with the next vector it adds up to the third.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        0,
        1_200_000,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    add(
        "split-b",
        "Second part.",
        jitter,
        [210_500, 388_123, 402_999, 120_001, 118_777],
        1_200_000,
        2_000_441,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    family.invalid(
        "reversed",
        "4.2",
        "integrate_power",
        _given(even, [100_000] * 5, 2_000_000, 0),
        "A window that ends before it starts has no energy.",
    )
    family.invalid(
        "unsorted",
        "5.2",
        "integrate_power",
        _given([0, 500_000, 400_000], [100_000] * 3, 0, 500_000),
        "Samples whose time does not rise are no series.",
    )
    return family


def _edges() -> Family:
    family = Family("edges", "Ends of a window that lie between two samples.")
    add = _adder(family, "4.2")
    mono, power = [k * PERIOD for k in range(6)], [100_000, 100_000, 600_000, 600_000, 100_000, 100_000]
    add(
        "start-inside",
        "The start lies on the rise: the power there is between its neighbours'.",
        mono,
        power,
        750_000,
        1_500_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add(
        "end-inside",
        "The end lies on the fall.",
        mono,
        power,
        1_000_000,
        1_800_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add("both-inside", "Both do.", mono, power, 625_001, 1_874_999, "EdgesCut", "EdgesHeld", "LeftRiemann")
    add(
        "between-two-samples",
        "A window that no sample falls into has the line between its neighbours.",
        mono,
        power,
        600_000,
        900_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
        show=("energy_j", "samples"),
    )
    add(
        "one-microsecond",
        "The shortest window.",
        mono,
        power,
        750_000,
        750_001,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
    )
    add(
        "before-first",
        "No sample before the start: the first one is held back to it.",
        [300_000, 800_000, 1_300_000],
        [200_000, 400_000, 400_000],
        0,
        1_300_000,
        "EdgesCut",
        "LeftRiemann",
    )
    add(
        "after-last",
        "None after the end: the last one is held.",
        [0, 500_000, 1_000_000],
        [400_000, 400_000, 250_000],
        0,
        1_400_000,
        "EdgesCut",
        "LeftRiemann",
    )
    add(
        "wholly-after",
        "A window just behind the last sample.",
        [0, 500_000],
        [100_000, 300_000],
        600_000,
        900_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "wholly-before",
        "A window just before the first one.",
        [900_000, 1_400_000],
        [320_000, 100_000],
        100_000,
        700_000,
        "EdgesCut",
        show=("energy_j", "samples"),
    )
    add(
        "null-outside",
        "The neighbour outside failed: the next valid one stands at the other end of the line.",
        [0, 500_000, 1_000_000, 1_500_000],
        [100_000, None, 400_000, 400_000],
        700_000,
        1_500_000,
        "EdgesCut",
        "EdgesHeld",
        "LeftRiemann",
        "NullAsZero",
    )
    return family


def _gaps() -> Family:
    family = Family("gaps", "Stretches without a valid reading longer than gap_factor x nominal period.")
    add = _adder(family, "3.3")
    every = ("energy_j", "samples", "missed_samples", "longest_gap_us", "gap_us", "energy_in_gaps_j")
    bounds = ("energy_j", "energy_in_gaps_j", "gap_low_j", "gap_high_j")
    add(
        "exactly-two-periods",
        "1.000000 s between samples is no gap.",
        [0, 1_000_000, 1_500_000],
        [100_000, 200_000, 200_000],
        0,
        1_500_000,
        "LeftRiemann",
        show=every,
    )
    add(
        "one-microsecond-more",
        "1.000001 s is one.",
        [0, 1_000_001, 1_500_001],
        [100_000, 200_000, 200_000],
        0,
        1_500_001,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    hole = [0, 500_000, 1_000_000, 4_000_000, 4_500_000, 5_000_000]
    add(
        "inside",
        "3 s without samples inside the window.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    add(
        "bounds",
        "A gap can hold anything from nothing to the power limit.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=bounds,
        limit_mw=700_000,
    )
    add(
        "bounds-without-limit",
        "Without a known limit the largest reading of the series stands for it.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=bounds,
    )
    add(
        "cut-by-start",
        "A gap that the window's start cuts: only the part inside counts, the length of the whole decides.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        3_200_000,
        5_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "cut-by-end",
        "The same at the end.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        0,
        1_600_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "window-in-gap",
        "A window wholly inside a gap.",
        hole,
        [300_000, 300_000, 300_000, 500_000, 500_000, 500_000],
        2_000_000,
        3_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        "EdgesHeld",
        show=every,
    )
    add(
        "two-gaps",
        "Two gaps: the longest and the sum.",
        [0, 500_000, 2_500_000, 3_000_000, 6_000_000],
        [200_000, 200_000, 400_000, 400_000, 100_000],
        0,
        6_000_000,
        "LeftRiemann",
        "GapsHidden",
        "GapsDropped",
        show=every,
    )
    add(
        "late-first-sample",
        "The meter started 4 s late: a gap before the first sample.",
        [4_000_000, 4_500_000, 5_000_000],
        [300_000] * 3,
        0,
        5_000_000,
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        show=every,
    )
    add(
        "early-last-sample",
        "It died 4 s early.",
        [0, 500_000, 1_000_000],
        [300_000] * 3,
        0,
        5_000_000,
        "GapsHidden",
        "GapsDropped",
        "EdgesCut",
        show=every,
    )
    nulls: list[int | None] = [200_000, 200_000, None, None, None, 200_000, 200_000]
    add(
        "of-failed-reads",
        "Failed reads leave a gap as absent rows do.",
        [k * PERIOD for k in range(7)],
        nulls,
        0,
        3_000_000,
        "GapsHidden",
        "GapsDropped",
        "NullAsZero",
        show=every,
    )
    add(
        "one-missed-tick",
        "One tick missed: 1 s between samples, counted, no gap.",
        [0, 500_000, 1_500_000, 2_000_000],
        [200_000, 220_000, 260_000, 280_000],
        0,
        2_000_000,
        "LeftRiemann",
        show=every,
    )
    return family


def _nulls() -> Family:
    family = Family("nulls", "A failed read is a hole in the series, never a reading of zero.")
    add = _adder(family, "5.2.6")
    mono = [k * PERIOD for k in range(5)]
    some: tuple[str, ...] = ("energy_j", "samples", "missed_samples")
    add(
        "one",
        "One failed read among constant ones changes nothing.",
        mono,
        [300_000, 300_000, None, 300_000, 300_000],
        0,
        2_000_000,
        "NullAsZero",
        show=some,
    )
    add(
        "on-a-ramp",
        "On a ramp the neighbours are joined.",
        mono,
        [100_000, 200_000, None, 400_000, 500_000],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        show=some,
    )
    add(
        "first",
        "At the start.",
        mono,
        [None, 300_000, 320_000, 340_000, 360_000],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        "EdgesCut",
        show=some,
    )
    add(
        "last",
        "At the end.",
        mono,
        [300_000, 320_000, 340_000, 360_000, None],
        0,
        2_000_000,
        "NullAsZero",
        "LeftRiemann",
        "EdgesCut",
        show=some,
    )
    add(
        "every-second",
        "Every second read failed.",
        [k * PERIOD for k in range(7)],
        [100_000, None, 300_000, None, 500_000, None, 500_000],
        0,
        3_000_000,
        "NullAsZero",
        "LeftRiemann",
        show=some,
    )
    add(
        "zero-milliwatts",
        "No powered card draws 0 mW: drivers answer so when asked too fast.",
        mono,
        [300_000, 300_000, 0, 300_000, 300_000],
        0,
        2_000_000,
        "ZeroIsPower",
        show=some,
    )
    add(
        "zero-and-null",
        "Both kinds, side by side, still less than a gap apart: no, 1.5 s is one.",
        mono,
        [250_000, None, 0, 250_000, 250_000],
        0,
        2_000_000,
        "ZeroIsPower",
        "NullAsZero",
        "GapsHidden",
        "GapsDropped",
        show=(*some, "gap_us"),
    )
    return family


def _waveforms() -> Family:
    family = Family(
        "waveforms",
        "Loads with a closed form, sampled at 2 Hz: what the rule gives and how far it is from the truth.",
    )
    add = _adder(family, "4.2")
    add("constant-minute", "400 W for 60 s: 24 kJ.", ticks(60), [400_000] * 122, 0, 60_000_000)
    ramp = ticks(20)
    add(
        "ramp",
        "20 W/s from 100 W: the trapezoid is exact, 100 t + 10 t^2.",
        ramp,
        [100_000 + t // 50 for t in ramp],
        0,
        20_000_000,
        "LeftRiemann",
    )
    assert (
        expected(ramp, [100_000 + t // 50 for t in ramp], 0, 20_000_000)["energy_j"] == 100 * 20 + 10 * 20**2
    )
    cut = (3_141_592, 16_180_339)
    add(
        "ramp-cut",
        "The same between two arbitrary instants: still exact, because the ends are interpolated.",
        ramp,
        [100_000 + t // 50 for t in ramp],
        *cut,
        "LeftRiemann",
        "EdgesCut",
        "EdgesHeld",
    )
    a, b = (Fraction(x, 10**6) for x in cut)
    assert abs(
        expected(ramp, [100_000 + t // 50 for t in ramp], *cut)["energy_j"]
        - (100 * (b - a) + 10 * (b**2 - a**2))
    ) < Fraction(1, 10**9)
    beat = ticks(30)
    add(
        "square-aliased-high",
        "A load of 500 W and 100 W every 0.25 s, sampled at 2 Hz in phase, always shows 500 W. Truth: 9 kJ. The rule gives 15 kJ: |error| <= dP/2 x t. Only the energy counter tells.",
        beat,
        [500_000] * len(beat),
        0,
        30_000_000,
    )
    add(
        "square-aliased-low",
        "The same load sampled a quarter of a second later shows 100 W: 3 kJ instead of 9 kJ.",
        ticks(30, 250_000),
        [100_000] * len(beat),
        250_000,
        30_250_000,
    )
    add(
        "square-in-phase",
        "Half a second high, half a second low: every edge becomes a ramp, and the mean is right.",
        beat,
        [500_000 if k % 2 == 0 else 100_000 for k in range(len(beat))],
        0,
        30_000_000,
    )
    add(
        "square-slow",
        "10 s high, 10 s low, edges between samples: each edge is off by at most dP h / 2, here 100 J.",
        ticks(40),
        [500_000 if (k // 20) % 2 == 0 else 100_000 for k in range(len(ticks(40)))],
        0,
        40_000_000,
        "LeftRiemann",
    )
    whole = ticks(10)
    sine = [round(300_000 + 100_000 * math.sin(2 * math.pi * t / 5e6)) for t in whole]
    family.valid(
        "sine-whole-periods",
        "4.2",
        "integrate_power",
        _given(whole, sine, 0, 10_000_000),
        {"energy_j": Fraction(3000), "samples": 20},
        "300 W + 100 W sin, two periods of 5 s: over whole periods the trapezoid is exact but for the milliwatts.",
        tolerance={"abs": 0.005},
    )
    quarter = ticks(Fraction(5))
    rise = [round(300_000 - 100_000 * math.cos(2 * math.pi * t / 10e6)) for t in quarter]
    bound = 5 / 12 * 0.25 * 100 * (2 * math.pi / 10) ** 2
    family.valid(
        "sine-half-period",
        "4.2",
        "integrate_power",
        _given(quarter, rise, 0, 5_000_000),
        {"energy_j": Fraction(1500)},
        "Half a period of 10 s from trough to crest: the integral is 1500 J, and the trapezoid is within t h^2 / 12 x max|P''| = 4.11 J of it.",
        "LeftRiemann",
        tolerance={"abs": round(bound + 0.005, 3)},
    )
    eighth = ticks(Fraction(5, 2))
    crest = [round(400_000 * math.sin(2 * math.pi * t / 10e6)) for t in eighth[1:]]
    family.valid(
        "sine-quarter-period",
        "4.2",
        "integrate_power",
        _given(eighth[1:], crest, 500_000, 2_500_000),
        {"energy_j": round(400 * 10 / (2 * math.pi) * math.cos(math.pi / 10), 6)},
        "A quarter of a period without its first half second.",
        "LeftRiemann",
        tolerance={"abs": round(2 / 12 * 0.25 * 400 * (2 * math.pi / 10) ** 2 + 0.005, 3)},
    )
    return family


def _clocks() -> Family:
    family = Family("clocks", "Durations are monotonic; UTC is for people and may step.")
    mono = [10_000_000 + k * PERIOD for k in range(9)]
    power = [200_000, 200_000, 300_000, 300_000, 400_000, 400_000, 300_000, 300_000, 200_000]

    def run(name: str, text: str, steps: Sequence[int], *flags: str, base: int = DAY_US) -> None:
        utc = [base + t - mono[0] + step for t, step in zip(mono, steps, strict=True)]
        start, end = 1, 7
        given = _given(mono, power, mono[start], mono[end], t_start_us=utc[start], t_end_us=utc[end])
        given["power"]["t_us"] = utc
        energy = expected(mono, power, mono[start], mono[end])["energy_j"]
        family.valid(name, "3.2", "integrate_power", given, {"energy_j": energy}, text, *flags)

    run("agree", "The clocks agree.", [0] * 9, "LeftRiemann")
    run(
        "set-forward",
        "UTC is set forward by 90 s inside the window: 3 s stay 3 s.",
        [0] * 4 + [90_000_000] * 5,
        "WallClock",
        "LeftRiemann",
    )
    run(
        "set-back",
        "UTC is set back by 2 s: times repeat, energy does not fall.",
        [0] * 5 + [-2_000_000] * 4,
        "WallClock",
        "LeftRiemann",
    )
    run(
        "slewed",
        "NTP slews 500 ppm: half a millisecond a second is not energy.",
        [k * 250 for k in range(9)],
        "WallClock",
        "LeftRiemann",
    )
    run(
        "step-before-window",
        "A step before the window moves it in UTC and nothing else.",
        [0] + [7_200_000_000] * 8,
        "LeftRiemann",
    )
    run(
        "summer-time-begins",
        "2026-03-29, 01:00 UTC inside the window: where clocks go forward, UTC does not.",
        [0] * 9,
        "LocalTime",
        "LeftRiemann",
        base=DAY_US + 3_600_000_000 - 2_250_000,
    )
    run(
        "summer-time-ends",
        "2026-10-25, 01:00 UTC inside the window: local time repeats an hour, UTC does not.",
        [0] * 9,
        "LocalTime",
        "LeftRiemann",
        base=1_792_890_000_000_000 - 2_250_000,
    )
    run(
        "leap-smear",
        "A smeared leap second, 11.6 ppm.",
        [k * 6 for k in range(9)],
        "WallClock",
        "LeftRiemann",
    )

    def steps(name: str, text: str, offsets: Sequence[int], *flags: str) -> None:
        found = [
            {"mono_us": mono[k], "step_us": offsets[k] - offsets[k - 1]}
            for k in range(1, len(offsets))
            if abs(offsets[k] - offsets[k - 1]) >= 50_000
        ]
        worst = max((abs(step["step_us"]) for step in found), default=0)
        verdict = "error" if worst >= 500_000 else "event" if found else "ok"
        count = len(offsets)
        utc = [DAY_US + t + offset for t, offset in zip(mono[:count], offsets, strict=True)]
        given = {"t_us": utc, "mono_us": mono[:count]}
        family.valid(name, "3.2", "clock_steps", given, {"steps": found, "verdict": verdict}, text, *flags)

    steps("steps-none", "No step.", [0] * 6)
    steps("steps-slew", "A slew is no step however far it leads.", [k * 20_000 for k in range(9)])
    steps("steps-below", "49.999 ms is none.", [0, 0, 49_999, 49_999])
    steps("steps-event", "50 ms is an event.", [0, 0, 50_000, 50_000])
    steps("steps-almost-error", "0.499999 s is one still.", [0, 499_999, 499_999])
    steps("steps-error", "0.5 s makes the log wrong at level 2.", [0, 500_000, 500_000])
    steps("steps-back", "Backwards counts as forwards does.", [0, 0, -750_000, -750_000], "StepMissed")
    steps(
        "steps-two", "Forward and back again: two steps, not none.", [0, 200_000, 200_000, 0, 0], "StepMissed"
    )
    steps("steps-summer-time", "The night of the change, in UTC: nothing happens.", [0] * 9)
    return family
