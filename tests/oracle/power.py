"""Power samples to energy, and the two clocks."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.oracle.faults import need, wrong

Json = dict[str, Any]
Row = tuple[int, Any, bool]
"""Time, value, and whether it is a reading."""

PERIOD = 500_000
GAP_FACTOR = 2
NJ = Fraction(1, 10**9)
"""Joules in one mW x us."""

SUMMER_2026 = (1_774_746_000_000_000, 1_792_890_000_000_000)
"""Summer time in Europe, UTC microseconds."""


def single(value: int) -> int:
    """As a 32-bit float keeps it, where the fault wants so."""
    return int(struct.unpack("f", struct.pack("f", value))[0]) if wrong("SinglePrecision") else value


def _summer_us(t_us: int) -> int:
    """What a clock on the wall adds in summer."""
    return 3_600_000_000 if SUMMER_2026[0] <= t_us < SUMMER_2026[1] else 0


def readings(block: Json, name: str = "power_mw", clock: str = "mono_us") -> list[Row]:
    """A column of samples: nulls, and power of 0 mW, are no readings."""
    times = block[clock]
    if wrong("LocalTime") and "t_us" in block:
        times = [t + _summer_us(utc) for t, utc in zip(times, block["t_us"], strict=True)]
    need(all(a < b for a, b in pairwise(times)) or "t_us" in block, "time does not rise")
    rows = []
    for t, value in zip(times, block.get(name) or [None] * len(times), strict=True):
        ok = True
        if value is None:
            ok = wrong("NullAsZero")
        elif value == 0 and name == "power_mw":
            ok = wrong("ZeroIsPower")
        rows.append((single(t), 0 if value is None else value, ok))
    return rows


def most_mw(limit_mw: int | None) -> Fraction:
    """More than a device draws: 1.25 times its power limit, 5 kW where none is known."""
    return Fraction(5 * limit_mw, 4) if limit_mw else Fraction(5_000_000)


def powered(given: Json, block: Json, clock: str = "mono_us") -> list[Row]:
    """Power samples; more than the device can draw is a failed read."""
    most = most_mw(given.get("power_limit_mw"))
    rows = readings(block, clock=clock)
    return [(t, p, ok and (p <= most or wrong("SpikeBelieved"))) for t, p, ok in rows]


class Curve:
    """Values by the protocol: linear between readings, held before the first and after the last."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.knots = [(t, p) for t, p, ok in rows if ok]
        self.times = [t for t, _ in self.knots]

    def at(self, t: int) -> Fraction:
        """The value at a time."""
        if t <= self.times[0]:
            return Fraction(self.knots[0][1])
        if t >= self.times[-1]:
            return Fraction(self.knots[-1][1])
        k = bisect.bisect_right(self.times, t) - 1
        (t0, p0), (t1, p1) = self.knots[k], self.knots[k + 1]
        return Fraction(p0 + Fraction((p1 - p0) * (t - t0), t1 - t0))

    def _held(self, t: int) -> Fraction:
        return Fraction(self.knots[max(0, bisect.bisect_right(self.times, t) - 1)][1])

    def energy(self, start: int, end: int) -> Fraction:
        """Joules of [start, end] under milliwatts: the trapezoid between its ends and the readings inside."""
        inside = [t for t in self.times if start <= t <= end]
        cuts = [start, *(t for t in self.times if start < t < end), end]
        value = self.at
        if wrong("EdgesCut"):
            cuts = inside
        if wrong("EdgesHeld"):

            def value(t: int) -> Fraction:
                return self.at(min(max(t, inside[0]), inside[-1])) if inside else self._held(t)

        area = Fraction(0)
        for a, b in pairwise(cuts):
            area += (b - a) * (self._held(a) if wrong("LeftRiemann") else (value(a) + value(b)) / 2)
        return area * NJ

    def gaps(self, start: int, end: int, limit: int) -> list[tuple[int, int]]:
        """Parts of the window inside stretches without a reading longer than `limit`."""
        if wrong("GapsHidden"):
            return []
        ends = [(start, self.times[0]), (self.times[-1], end)]
        cells = [(a, b) for a, b in [*pairwise(self.times), *ends] if b - a > limit]
        found = [(max(a, start), min(b, end)) for a, b in cells]
        return [(a, b) for a, b in found if b > a]


def _missed(rows: Sequence[Row], start: int, end: int, period: int) -> int:
    """Failed reads and ticks that left no row, inside [start, end)."""
    times = [t for t, _, _ in rows]
    if not times:
        return (end - start) // period
    ticks: list[Any] = [t for t, _, ok in rows if not ok]
    for a, b in pairwise(times):
        count = (2 * (b - a) + period) // (2 * period) - 1 if 2 * (b - a) > 3 * period else 0
        ticks += [a + Fraction(k * (b - a), count + 1) for k in range(1, count + 1)]
    ticks += range(times[0] - period, start - 1, -period)
    ticks += range(times[-1] + period, end, period)
    return sum(start <= tick < end for tick in ticks)


def integrate_power(given: Json) -> Json:
    """Energy of a window from power samples, with what is missing in it."""
    clock, start, end = "mono_us", given["mono_start_us"], given["mono_end_us"]
    if wrong("WallClock") and "t_us" in given["power"]:
        clock, start, end = "t_us", given["t_start_us"], given["t_end_us"]
    if wrong("LocalTime") and "t_us" in given["power"]:
        start, end = start + _summer_us(given["t_start_us"]), end + _summer_us(given["t_end_us"])
    need(start <= end, "window ends before it starts")
    start, end = single(start), single(end)
    period = given.get("nominal_period_us", PERIOD)
    rows = powered(given, given["power"], clock)
    curve = Curve(rows)
    missed = _missed(rows, start, end, period)
    if not curve.knots:
        width = 0 if wrong("GapsHidden") else end - start
        found = {"energy_j": 0 if wrong("GapsDropped") else None, "samples": 0, "missed_samples": missed}
        return found | {"gap_us": width, "longest_gap_us": width}
    gaps = curve.gaps(start, end, GAP_FACTOR * period)
    bridged = sum((curve.energy(a, b) for a, b in gaps), Fraction(0))
    length = sum(b - a for a, b in gaps)
    seen = [p for t, p in curve.knots if start <= t < end or not wrong("WindowIsSeries")]
    most = max([*seen, given.get("power_limit_mw") or 0])
    return {
        "energy_j": curve.energy(start, end) - (bridged if wrong("GapsDropped") else 0),
        "samples": sum(start <= t < end for t in curve.times),
        "missed_samples": missed,
        "longest_gap_us": max((b - a for a, b in gaps), default=0),
        "gap_us": length,
        "energy_in_gaps_j": Fraction(0) if wrong("GapsDropped") else bridged,
        "gap_low_j": Fraction(0),
        "gap_high_j": max(bridged, length * most * NJ),
    }


def clock_steps(given: Json) -> Json:
    """Steps of UTC against the monotonic clock: an event from 50 ms, an error from 0.5 s."""
    offsets = [t - m for t, m in zip(given["t_us"], given["mono_us"], strict=True)]
    steps = []
    for mono, (before, after) in zip(given["mono_us"][1:], pairwise(offsets), strict=True):
        step = after - before
        if (step if wrong("StepMissed") else abs(step)) >= 50_000:
            steps.append({"mono_us": mono, "step_us": step})
    worst = max((abs(step["step_us"]) for step in steps), default=0)
    return {"steps": steps, "verdict": "error" if worst >= 500_000 else "event" if steps else "ok"}
