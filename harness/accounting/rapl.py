"""Energy from RAPL zones: unwrap, tell a wrap from a reset, and count no joule twice.

Zones of one machine overlap: `core` lies inside `package`, `psys` holds everything. CPU energy is the sum of
the package zones and DRAM energy the sum of the dram zones, nothing else; a package shown twice (several
dies, one counter) counts once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.accounting.counter import lone_readings
from harness.accounting.error_model import (
    CELL_FACTOR,
    CELL_MEAN_FACTOR,
    KNOWN_CELLS,
    NJ,
    STEADY,
    EdgeError,
    Spread,
    joint,
    stale_error,
    window_error,
)
from harness.accounting.series import NO_BOUNDARY, Bools, CounterSeries, Int64

ZONE_MAX_W = 1000.0
"""More than any CPU package or memory domain draws; the bound by which a second, unseen wrap is possible."""

ZONE_REFRESH_US = 1_000
"""RAPL refreshes about once a millisecond."""

RATE_US = 20 * ZONE_REFRESH_US
"""Shortest distance of two readings whose difference tells a power."""

STILL_US = 100_000
"""A zone that shows one value for longer stands still: an idle package moves by its unit in a millisecond."""

SLOW_SHARE = 0.25
"""Where more of the readings repeat the one before, the zone refreshes slowly: it stands still from ..."""

SLOW_STILL_US = 5_000_000
"""... this time on."""

CAUGHT_UP = 0.75
"""Of the mean rate: a rise behind a standstill that makes up for so much was late, less was lost."""

ZONE_RESOLUTION_UJ = 61
"""Coarsest energy unit of RAPL (2^-14 J)."""


class Unwrapped(NamedTuple):
    """A cumulative counter without its wraps, failed reads and glitches taken out.

    Attributes:
        mono_us: (n,) times.
        cumulative: (n,) energy since the first reading, in the counter's unit, never falling.
        wraps: wraps undone.
        resets: falls too large to be a wrap and rises that no zone draws, bridged by the mean rate of others.
        ambiguous: (m,) index i of steps (i, i + 1) in which one more wrap would have gone unseen.
        ambiguous_extra: (m,) energy those unseen wraps would add at most.
        bridged: (k,) index i of steps that were bridged over a reset.
        stuck: (start_us, end_us, lost) of standstills and the energy put in for them.
        glitches: times of readings that were left out.
    """

    mono_us: Int64
    cumulative: Int64
    wraps: int
    resets: int
    ambiguous: Int64
    ambiguous_extra: Int64
    bridged: Int64
    stuck: tuple[tuple[int, int, int], ...] = ()
    glitches: tuple[int, ...] = ()

    def at(self, times: Int64) -> Int64:
        """Cumulative energy at any time, linear between readings and held outside them."""
        return np.rint(np.interp(times, self.mono_us, self.cumulative)).astype(np.int64)


def unwrap(mono_us: Int64, value: Int64, wrap_range: int | None) -> Unwrapped:
    """Undo the wraps of a cumulative counter in microjoules.

    Args:
        mono_us: (n,) times, increasing.
        value: (n,) uJ as read.
        wrap_range: the counter wraps past this value; None = never, so that any fall is a reset.
    """

    def steps(distance: int) -> tuple[Int64, Bools]:
        """Energy from reading to reading, a wrap undone, and whether the zone can have drawn it."""
        rise = value[distance:] - value[:-distance]
        if wrap_range is not None:
            rise = np.where(rise < 0, rise + wrap_range, rise)
        span = mono_us[distance:] - mono_us[:-distance] + ZONE_REFRESH_US
        # A wrap that would need more power than the zone can draw is no wrap: the counter was reset.
        return rise, (rise >= 0) & (rise <= span * ZONE_MAX_W)

    step, can = steps(1)
    glitches: tuple[int, ...] = ()
    if value.shape[0] > 2 and not can.all():
        over, over_can = steps(2)
        glitch = lone_readings(value, can, over_can)
        # A failed read of 0 just before a wrap is no impossible fall, but with it the counter wraps again.
        zero = (value[1:-1] == 0) & can[:-1] & ~can[1:]
        glitch[1:-1] |= zero & over_can & (step[:-1] + step[1:] > over)
        glitches = tuple(int(t) for t in mono_us[glitch])
        mono_us, value = mono_us[~glitch], value[~glitch]
    dt = np.diff(mono_us)
    step, can = steps(1)
    falls = np.diff(value) < 0
    bridged = np.flatnonzero(~can)
    wraps = int(np.count_nonzero(falls & can))
    if bridged.size:
        span = int(dt[can].sum())
        rate = float(step[can].sum()) / span if span else 0.0
        step[bridged] = np.rint(rate * dt[bridged]).astype(np.int64)
    stuck = _standstills(mono_us, step)
    ambiguous = extra = np.zeros(0, dtype=np.int64)
    if wrap_range and dt.size and float(dt.max()) * ZONE_MAX_W > wrap_range:
        room = dt * ZONE_MAX_W - step
        ambiguous = np.flatnonzero(room > wrap_range)
        extra = (room[ambiguous] // wrap_range).astype(np.int64) * wrap_range
    cumulative = np.zeros(mono_us.shape[0], dtype=np.int64)
    np.cumsum(step, out=cumulative[1:])
    return Unwrapped(
        mono_us, cumulative, wraps, int(bridged.size), ambiguous, extra, bridged, stuck, glitches
    )


def _standstills(mono_us: Int64, step: Int64) -> tuple[tuple[int, int, int], ...]:
    """Stretches around readings that repeat the one before; the energy lost there is put into `step`.

    The rise behind a standstill either holds what was used meanwhile or not; no second instrument tells.
    """
    same = step == 0
    if not same.any() or same.all():
        return ()
    least_us = SLOW_STILL_US if same.mean() > SLOW_SHARE else STILL_US
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    moving_us = int(mono_us[-1] - mono_us[0])
    runs = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        held_us = int(mono_us[last] - mono_us[first])
        if held_us > least_us:
            runs.append((int(first), int(last), held_us))
            moving_us -= held_us
    rate = int(step.sum()) / moving_us if moving_us > 0 else 0.0
    found = []
    for first, last, _ in runs:
        start, until = int(mono_us[max(0, first - 1)]), int(mono_us[min(last + 1, mono_us.shape[0] - 1)])
        rise = int(step[last]) if last < step.shape[0] else 0
        behind_us = until - int(mono_us[first])
        lost = 0
        if rise < CAUGHT_UP * rate * behind_us:
            step[first:last] = np.rint(rate * np.diff(mono_us[first : last + 1])).astype(np.int64)
            lost = int(step[first:last].sum())
        found.append((start, until, lost))
    return tuple(found)


def mirrored(zones: Sequence[CounterSeries]) -> list[int]:
    """Indices of zones that show the counter of an earlier zone once more.

    Two packages that are truly two started counting at different loads and never agree for long; a mirror
    agrees in every reading, but for the energy of the moment between the two reads.
    """
    copies: list[int] = []
    for i, zone in enumerate(zones):
        for j in range(i):
            if j not in copies and _same_counter(zones[j], zone):
                copies.append(i)
                break
    return copies


def _same_counter(a: CounterSeries, b: CounterSeries) -> bool:
    if a.wrap_range != b.wrap_range:
        return False
    ta, va = a.mono_us[a.valid], a.value[a.valid]
    tb, vb = b.mono_us[b.valid], b.value[b.valid]
    if ta.shape[0] < 3 or tb.shape[0] < 3:
        return False
    i = np.clip(np.searchsorted(ta, tb), 1, ta.shape[0] - 1)
    i -= (tb - ta[i - 1]) < (ta[i] - tb)
    apart = np.abs(tb - ta[i])
    near = apart <= 20_000
    if np.count_nonzero(near) < 3:
        return False
    moved = int(va.max() - va.min())
    slack = (apart[near] + ZONE_REFRESH_US) * ZONE_MAX_W
    difference = np.abs(vb[near] - va[i][near])
    # Loads small against the slack tell nothing: the counter must have moved further than it may differ.
    return bool(np.all(difference <= slack)) and moved > 0 and bool(np.median(difference) <= 0.1 * moved)


class ZoneEnergy(NamedTuple):
    """Energy of a set of zones in one window, microjoules, bounds included."""

    energy_uj: int
    low_uj: float
    high_uj: float
    ambiguous: bool
    reset: bool
    glitch: bool = False
    stuck: bool = False
    unread: bool = False


class ZoneMeter:
    """Answers for the energy of the zones of one kind in one session."""

    def __init__(self, zones: Sequence[CounterSeries]) -> None:
        usable = [z for z in zones if np.unique(z.value[z.valid]).shape[0] >= 2]
        copies = mirrored(usable)
        self.mirrors = [usable[i].zone or "" for i in copies]
        self.incomplete = len(usable) < len(zones)
        self._zones = [(z, unwrap(*_known(z), z.wrap_range)) for i, z in enumerate(usable) if i not in copies]

    def __bool__(self) -> bool:
        return bool(self._zones)

    def energy(self, start_us: int, end_us: int, start: int | None, end: int | None) -> ZoneEnergy | None:
        """Energy between two boundaries, each drawn straight between the readings around it.

        Args:
            start_us: window start.
            end_us: window end.
            start: boundary number, where one is known: it tells whether the zone was read beside it.
            end: the same.

        Returns:
            None if the window lies wholly outside the readings.
        """
        total = 0
        random: list[Spread] = []
        bounds: list[Spread] = []
        ambiguous = reset = glitch = stuck = unread = False
        for zone, curve in self._zones:
            t0, t1 = start_us, max(start_us, end_us)
            if t1 <= curve.mono_us[0] or t0 >= curve.mono_us[-1]:
                if t1 > t0:
                    return None
                continue
            c0, c1 = (int(c) for c in curve.at(np.array([t0, t1])))
            energy = c1 - c0
            # Readings stop short of the window: the mean rate of what was seen stands in, and all of it is in
            # doubt.
            unseen = max(0, int(curve.mono_us[0]) - t0) + max(0, t1 - int(curve.mono_us[-1]))
            filled = energy * unseen / (t1 - t0 - unseen) if unseen else 0.0
            energy += round(filled)
            bounds.append(Spread(filled, filled))
            # Microjoules per microsecond are watts: the model's joules and milliwatts hold a million times.
            first, last = (_edge_error(zone, curve, number, t) for number, t in ((start, t0), (end, t1)))
            random.append(window_error(first, last, ZONE_RESOLUTION_UJ / 2e6))
            for i, extra in zip(curve.ambiguous, curve.ambiguous_extra, strict=True):
                if curve.mono_us[i] < t1 and curve.mono_us[i + 1] > t0:
                    ambiguous = True
                    bounds.append(Spread(0.0, float(extra)))
            for i in curve.bridged:
                a, b = max(t0, int(curve.mono_us[i])), min(t1, int(curve.mono_us[i + 1]))
                if a < b:
                    reset = True
                    inside = float(np.diff(curve.at(np.array([a, b])))[0])
                    bounds.append(Spread(inside, (b - a) * ZONE_MAX_W))
            for a, b, lost in curve.stuck:
                if a < t1 and b > t0:
                    stuck = True
                    inside = float(np.diff(curve.at(np.array([max(a, t0), min(b, t1)])))[0])
                    bounds.append(Spread(inside, (min(b, t1) - max(a, t0)) * ZONE_MAX_W if lost else inside))
            glitch |= any(t0 <= t <= t1 for t in curve.glitches)
            for number, t in ((start, t0), (end, t1)):
                if _unread(zone, number):
                    unread = True
                    cell = np.clip(np.searchsorted(curve.mono_us, t), 1, curve.mono_us.shape[0] - 1)
                    most = float(curve.cumulative[cell] - curve.cumulative[cell - 1])
                    bounds.append(Spread(most, most))
            total += energy
        spread = joint([Spread(1e6 * s.low_j, 1e6 * s.high_j) for s in random], bounds)
        low, high = max(0.0, total - spread.low_j), total + spread.high_j
        return ZoneEnergy(total, low, high, ambiguous, reset, glitch, stuck, unread)


def _known(zone: CounterSeries) -> tuple[Int64, Int64]:
    """Times and values of the reads that succeeded, without a copy when all did."""
    if zone.valid.all():
        return zone.mono_us, zone.value
    return zone.mono_us[zone.valid], zone.value[zone.valid]


def _edge_error(zone: CounterSeries, curve: Unwrapped, number: int | None, t: int) -> EdgeError:
    """Error of a zone at a boundary: age of its readings, and what power does between the two around it."""
    age = ZONE_REFRESH_US
    if number is not None and number != NO_BOUNDARY:
        for i in np.flatnonzero((zone.boundary == number) & zone.valid):
            age = int(zone.uncertainty_us[i]) or ZONE_REFRESH_US
    # Microjoules per microsecond are watts: the model's milliwatts hold a thousand.
    power_mw = 1000 * _rate(curve, t)
    stale = stale_error(age, power_mw, STEADY)
    i = int(np.searchsorted(curve.mono_us, t))
    if not 0 < i < curve.mono_us.shape[0]:
        return stale
    width = int(curve.mono_us[i] - curve.mono_us[i - 1])
    share = (t - int(curve.mono_us[i - 1])) / width
    reach_j = share * (1 - share) * width * power_mw * NJ
    return EdgeError(stale.shift_j, stale.uniform_j, (CELL_FACTOR * reach_j) ** 2, KNOWN_CELLS)


def _unread(zone: CounterSeries, number: int | None) -> bool:
    """Whether the zone was asked at a boundary and did not answer."""
    asked = zone.boundary == number if number not in (None, NO_BOUNDARY) else np.zeros(1, np.bool_)
    return bool(asked.any()) and not bool((asked & zone.valid).any())


def _rate(curve: Unwrapped, t: int) -> float:
    """Power next to a time as a root mean square, in uJ per us (= watts).

    What is known is the mean over each of the two neighbouring cells; power may change inside them.
    """
    i = int(np.clip(np.searchsorted(curve.mono_us, t), 1, curve.mono_us.shape[0] - 1))
    squares = []
    for j in (i, i + 1):
        if j < curve.mono_us.shape[0]:
            dt = int(curve.mono_us[j] - curve.mono_us[j - 1])
            # Over a few refreshes the age of the two values is all that a rate shows.
            if dt >= RATE_US:
                squares.append((float(curve.cumulative[j] - curve.cumulative[j - 1]) / dt) ** 2)
    if not squares:
        span = int(curve.mono_us[-1] - curve.mono_us[0])
        squares = [(float(curve.cumulative[-1]) / span) ** 2] if span else [0.0]
    return CELL_MEAN_FACTOR * math.sqrt(sum(squares) / len(squares))
