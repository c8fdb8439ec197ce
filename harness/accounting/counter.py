"""Energy from a GPU's own energy counter between two boundaries.

The counter is the best instrument there is: the difference of two readings holds whatever happened between
them, sampled or not. What can go wrong is detected and bridged by the power integral: a reset (the value
falls), a jump (it rises by more than the device can draw), a counter that stands still while power flows, a
boundary at which the counter could not be read. One reading between two that agree with each other, and with
neither of which it agrees, is a glitch and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from harness.accounting.error_model import (
    COUNTER_STEP_J,
    NJ,
    NOTHING,
    STEADY,
    EdgeError,
    Roughness,
    Spread,
    cell_error,
    reading_error,
    window_error,
)
from harness.accounting.integral import PowerIntegral
from harness.accounting.series import Bools, Int64

Bridge = Callable[[int, int], PowerIntegral]
"""Power integral of a window (start_us, end_us) of the same device."""

STUCK_REFRESHES = 2
"""A counter that did not move for longer than so many refreshes ..."""

STUCK_J = 2.0
"""... while at least this much energy flowed stands still: whole millijoules cannot hide it."""

GPU_MAX_W = 5_000.0
"""More than any device draws; the bound where its power limit is unknown."""

LIMIT_FACTOR = 1.25
"""Of its power limit a device draws no more, over a refresh of its counter or longer."""

METHOD_RANK = {
    "counter_tick": 0,
    "counter_step": 1,
    "counter_linear": 2,
    "counter_sample": 3,
    "counter_split": 4,
    "power_integral": 5,
    "imported": 6,
    "absent": 7,
}
"""From best to worst; a sum carries the worst method of its parts."""

_READING_METHOD = {"tick": "counter_tick", "step": "counter_step", "linear": "counter_linear"}


@dataclass(frozen=True)
class CounterReading:
    """The counter at a stage boundary.

    Attributes:
        mono_us: when.
        value_mj: mJ as read, or as placed between two refreshes; None when neither is known.
        uncertainty_us: half-width of the bracket in which the value was true; of a moment, how long after it
            power was read.
        method: tick, moment, immediate, sample or poll; step or linear once a moment is placed.
        power_mw: power at the boundary; None when unknown.
        error: of a value that was placed.
    """

    mono_us: int
    value_mj: int | None
    uncertainty_us: int = 0
    method: str = "tick"
    power_mw: float | None = None
    error: EdgeError | None = None


@dataclass(frozen=True)
class CounterTicks:
    """Counter readings of the sampler, valid ones only, in time order, with what was found wrong in them.

    Attributes:
        mono_us: (n,) times.
        value_mj: (n,) mJ as read.
        resets: (start_us, end_us) between which the value fell, or rose by more than can have been drawn.
        stuck: (start_us, end_us) from the last reading before the counter stood still though power flowed to
            the first one after, where the rise does not make up for it; end None = to the end.
        late: (start_us, end_us) of standstills that the rise behind them made up for; their readings after
            the first are left out.
        glitches: times of readings that were left out.
        most_mw: what the device cannot exceed, and
        refresh_us: how old a reading can be.
    """

    mono_us: Int64
    value_mj: Int64
    resets: tuple[tuple[int, int], ...] = ()
    stuck: tuple[tuple[int, int | None], ...] = ()
    late: tuple[tuple[int, int], ...] = ()
    glitches: tuple[int, ...] = ()
    most_mw: float = GPU_MAX_W * 1000
    refresh_us: int = 100_000

    def can_rise(self, span_us: int, rise_mj: float, slack_mj: float = 0.0) -> bool:
        """Whether the device can have moved its counter by so much in so much time."""
        return -slack_mj <= rise_mj <= (span_us + self.refresh_us) * self.most_mw * NJ * 1000 + slack_mj

    def fits(self, reading: CounterReading, slack_mj: float, bridge: Bridge) -> bool:
        """Whether a boundary's value can lie between the readings around it, where those agree.

        A value that is still the one before, though energy flowed since, is as old as that. What was read
        within a refresh of the boundary may be older or newer than its value and says nothing of it.
        """
        i = int(np.searchsorted(self.mono_us, reading.mono_us - self.refresh_us, side="left"))
        j = int(np.searchsorted(self.mono_us, reading.mono_us + self.refresh_us, side="right"))
        if reading.value_mj is None or i < 1 or j >= self.mono_us.shape[0]:
            return True
        if self._is_old(reading, i - 1, bridge):
            return False
        (t0, v0), (t1, v1) = ((int(self.mono_us[k]), int(self.value_mj[k])) for k in (i - 1, j))
        return (
            self.can_rise(reading.mono_us - t0, reading.value_mj - v0, slack_mj)
            and self.can_rise(t1 - reading.mono_us, v1 - reading.value_mj, slack_mj)
        ) or not self.can_rise(t1 - t0, v1 - v0)

    def _is_old(self, reading: CounterReading, before: int, bridge: Bridge) -> bool:
        since = int(self.mono_us[before])
        if int(self.value_mj[before]) != reading.value_mj:
            return False
        if reading.mono_us - since <= STUCK_REFRESHES * self.refresh_us:
            return False
        return (bridge(since, reading.mono_us).energy_j or 0.0) >= STUCK_J

    def is_reset(self, t_us: int) -> bool:
        """Whether the counter fell or jumped between the readings around a time."""
        return any(a < t_us < b for a, b in self.resets)

    def broken(self, start_us: int, end_us: int) -> bool:
        """Whether a reset or a standstill touches the window."""
        if any(a < end_us and b > start_us for a, b in self.resets):
            return True
        return any(a < end_us and (b is None or b > start_us) for a, b in self.stuck)

    def is_stuck(self, start_us: int, end_us: int) -> bool:
        """Whether the counter stood still in the middle of the window."""
        middle = (start_us + end_us) / 2
        return any(a <= middle and (b is None or middle <= b) for a, b in self.stuck)


@dataclass(frozen=True)
class CounterEnergy:
    """Energy between two boundaries.

    Attributes:
        energy_mj: integer mJ; None when neither counter nor power says anything.
        boundary: 95 % interval by the two boundaries, or by the samples where the counter tells nothing.
        gap: what unmeasured time adds.
        gap_is_bound: `gap` is a bound, not a 95 % interval: around a fault of the counter, or where too much
            is missing.
        resets: falls and jumps of the counter that were bridged.
        glitches: boundaries whose value was none.
        stuck: standstills that were bridged.
        method: as in `stages.gpu_energy_method`.
    """

    energy_mj: int | None
    boundary: Spread = NOTHING
    gap: Spread = NOTHING
    resets: int = 0
    stuck: int = 0
    glitches: int = 0
    method: str = "absent"
    gap_is_bound: bool = True

    @property
    def random(self) -> Spread:
        """The part of the interval that is statistical."""
        return self.boundary if self.gap_is_bound else self.boundary.quadrature(self.gap)

    @property
    def bound(self) -> Spread:
        """The part that is a bound and comes on top."""
        return self.gap if self.gap_is_bound else NOTHING

    @property
    def energy_j(self) -> float | None:
        """Joules."""
        return None if self.energy_mj is None else self.energy_mj / 1000


def worst_method(methods: Sequence[str]) -> str:
    """The least trustworthy of several methods; absent for none."""
    return max(methods, key=lambda m: METHOD_RANK[m], default="absent")


def find_faults(
    mono_us: Int64,
    value_mj: Int64,
    valid: Bools,
    bridge: Bridge,
    *,
    limit_mw: float | None = None,
    refresh_us: int = 100_000,
) -> CounterTicks:
    """Keep the readings that can be true and find resets, jumps and standstills in them.

    Args:
        mono_us: (n,) times, increasing.
        value_mj: (n,) readings, mJ.
        valid: (n,) false where the counter could not be read.
        bridge: power integral of the same device; tells a standstill from a device without power.
        limit_mw: the device's power limit; None if unknown.
        refresh_us: of the counter.
    """
    if not valid.all():
        mono_us, value_mj = mono_us[valid], value_mj[valid]
    most_mw = LIMIT_FACTOR * limit_mw if limit_mw else GPU_MAX_W * 1000

    def possible(distance: int) -> Bools:
        rise = value_mj[distance:] - value_mj[:-distance]
        span = mono_us[distance:] - mono_us[:-distance] + refresh_us
        return (rise >= 0) & (rise <= span * (most_mw * NJ * 1000))

    glitches: tuple[int, ...] = ()
    if mono_us.shape[0] > 2 and not (step_can := possible(1)).all():
        lone = lone_readings(value_mj, step_can, possible(2))
        glitches = tuple(int(t) for t in mono_us[lone])
        mono_us, value_mj = mono_us[~lone], value_mj[~lone]
    ticks = CounterTicks(mono_us, value_mj, glitches=glitches, most_mw=most_mw, refresh_us=refresh_us)
    if mono_us.shape[0] < 2:
        return ticks
    resets = tuple((int(mono_us[i]), int(mono_us[i + 1])) for i in np.flatnonzero(~possible(1)))
    return _standstills(replace(ticks, resets=resets), np.diff(value_mj) == 0, bridge)


def lone_readings(value: Int64, step_can: Bools, over_can: Bools) -> Bools:
    """Readings that agree with neither neighbour, or that the counter falls to or from, while those agree.

    A rise that is too large beside one that is not is a jump: leaving readings out would only spread it.

    Args:
        value: (n,) readings.
        step_can: (n - 1,) whether the device can have gone from each reading to the next.
        over_can: (n - 2,) the same from each to the next but one.

    Returns:
        (n,) true where a reading is to be left out.
    """
    falls = ~step_can & (np.diff(value) < 0)
    lone = np.zeros(value.shape[0], dtype=np.bool_)
    lone[1:-1] = (falls[:-1] | falls[1:] | ~(step_can[:-1] | step_can[1:])) & over_can
    return lone


def _standstills(ticks: CounterTicks, same: Bools, bridge: Bridge) -> CounterTicks:
    """Find where the counter stood still, and whether it made up for that."""
    if not same.any():
        return ticks
    mono_us, value_mj = ticks.mono_us, ticks.value_mj
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    stuck: list[tuple[int, int | None]] = []
    late: list[tuple[int, int]] = []
    current = np.ones(mono_us.shape[0], dtype=np.bool_)
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start, stop = int(mono_us[first]), int(mono_us[last])
        if stop - start <= STUCK_REFRESHES * ticks.refresh_us:
            continue
        held = bridge(start, stop).energy_j
        if held is None or held < STUCK_J:
            continue
        before = int(mono_us[max(0, first - 1)])
        if last + 1 >= mono_us.shape[0]:
            stuck.append((before, None))
            continue
        until = int(mono_us[last + 1])
        missing = (bridge(start, until).energy_j or 0.0) - int(value_mj[last + 1] - value_mj[last]) / 1000
        # A counter that jumps by what flowed meanwhile was only slow to show it: nothing is lost.
        if missing > 0.5 * held:
            stuck.append((before, until))
        else:
            late.append((start, until))
            current[first + 1 : last + 1] = False
    return replace(
        ticks, mono_us=mono_us[current], value_mj=value_mj[current], stuck=tuple(stuck), late=tuple(late)
    )


def resolve(
    reading: CounterReading,
    ticks: CounterTicks,
    power_mw: float = 0.0,
    rough: Roughness = STEADY,
    refresh_us: int = 100_000,
    gap_us: int | None = None,
) -> tuple[CounterReading, EdgeError]:
    """Give a boundary without a value one from the sampler's readings around it: linear in time between them.

    Where the two enclose a gap, the device may have drawn anything it can on either side of the boundary:
    what stopped the sampler may have changed the load too.

    Args:
        reading: at the boundary.
        ticks: the sampler's readings.
        power_mw: power near the boundary, where the reading does not carry it.
        rough: around the boundary.
        refresh_us: of the counter.
        gap_us: longest distance of two readings that is no gap; None = none is.

    Returns:
        The reading (still without a value if there is no reading on both sides) and its error.
    """
    power = reading.power_mw or power_mw
    if reading.value_mj is not None and reading.error is not None:
        return reading, reading.error
    if reading.value_mj is not None:
        return reading, reading_error(reading.method, reading.uncertainty_us, power, rough, refresh_us)
    i = int(np.searchsorted(ticks.mono_us, reading.mono_us, side="right")) - 1
    if i >= 0 and ticks.mono_us[i] == reading.mono_us:
        found = replace(reading, value_mj=int(ticks.value_mj[i]), method="sample")
        return found, reading_error("sample", 0, power, rough, refresh_us)
    if i < 0 or i + 1 >= ticks.mono_us.shape[0]:
        return reading, EdgeError()
    t0, t1 = int(ticks.mono_us[i]), int(ticks.mono_us[i + 1])
    v0, v1 = int(ticks.value_mj[i]), int(ticks.value_mj[i + 1])
    if not ticks.can_rise(t1 - t0, v1 - v0):
        return reading, EdgeError()
    value = v0 + (v1 - v0) * (reading.mono_us - t0) // (t1 - t0)
    error = cell_error(
        t1 - t0, (reading.mono_us - t0) / (t1 - t0), (v1 - v0) / (t1 - t0) / NJ * 1e-3, rough, refresh_us
    )
    if gap_us is not None and t1 - t0 > gap_us:
        most = ticks.most_mw * NJ * 1000
        least = max(0.0, v1 - v0 - most * (t1 - reading.mono_us))
        largest = max(least, min(float(v1 - v0), most * (reading.mono_us - t0)))
        shift_j, half_j = ((least + largest) / 2 - (value - v0)) / 1000, (largest - least) / 2000
        error = EdgeError(error.shift_j + shift_j, error.uniform_j + half_j, 0.0, rough.cells)
    return replace(reading, value_mj=value, method="sample"), error


def _most_j(reading: CounterReading, power_mw: float, refresh_us: int) -> float:
    """Most joules by which a boundary between two refreshes can be off."""
    width = max(reading.uncertainty_us, refresh_us // 2)
    return width * max(power_mw, reading.power_mw or 0.0) * NJ


def counter_energy(
    start: CounterReading,
    end: CounterReading,
    ticks: CounterTicks,
    *,
    bridge: Bridge,
    hole_bridge: Bridge | None = None,
    power_mw: tuple[float, float] = (0.0, 0.0),
    rough: tuple[Roughness, Roughness] = (STEADY, STEADY),
    refresh_us: int = 100_000,
    gap_us: int | None = None,
) -> CounterEnergy:
    """Energy between two boundaries of one device in one session.

    Args:
        start: counter at the first boundary.
        end: counter at the second, not earlier.
        ticks: the sampler's readings; used only to find faults and to stand in for a missing boundary value.
        bridge: power integral of the same device, where the counter tells nothing of the whole window.
        hole_bridge: the same for the stretch around a fault of the counter: few samples lie in it, and
            its bounds must hold whatever flowed between them. `bridge` by default.
        power_mw: power near the two boundaries, where the readings do not carry it.
        rough: how much power changes around them.
        refresh_us: slowest refresh of the counter.
        gap_us: as of `resolve`.

    Returns:
        Never a negative energy; None only where neither source says anything.

    Raises:
        ValueError: if the boundaries are in the wrong order.
    """
    if end.mono_us < start.mono_us:
        raise ValueError(f"boundaries in the wrong order: {start.mono_us} > {end.mono_us}")
    read = start, end
    start, end = (
        _without_glitch(reading, ticks, 1000 * _most_j(reading, power, refresh_us), bridge)
        for reading, power in zip(read, power_mw, strict=True)
    )
    glitches = sum(a.value_mj != b.value_mj for a, b in zip(read, (start, end), strict=True))
    first, first_error = resolve(start, ticks, power_mw[0], rough[0], refresh_us, gap_us)
    last, last_error = resolve(end, ticks, power_mw[1], rough[1], refresh_us, gap_us)
    boundary = window_error(first_error, last_error, COUNTER_STEP_J)
    if first.value_mj is not None and last.value_mj is not None:
        difference = last.value_mj - first.value_mj
        possible = ticks.can_rise(end.mono_us - start.mono_us, difference)
        if possible and not ticks.broken(start.mono_us, end.mono_us):
            return CounterEnergy(difference, boundary, glitches=glitches, method=_method(first, last))
    found = _pieces(first, last, ticks, (bridge, hole_bridge or bridge), boundary, refresh_us)
    return replace(found, glitches=glitches)


def _without_glitch(
    reading: CounterReading, ticks: CounterTicks, slack_mj: float, bridge: Bridge
) -> CounterReading:
    """A boundary whose value cannot be is one that was not read."""
    return reading if ticks.fits(reading, slack_mj, bridge) else replace(reading, value_mj=None)


def _method(first: CounterReading, last: CounterReading) -> str:
    return worst_method([_READING_METHOD.get(r.method, "counter_sample") for r in (first, last)])


def _pieces(
    first: CounterReading,
    last: CounterReading,
    ticks: CounterTicks,
    bridges: tuple[Bridge, Bridge],
    boundary: Spread,
    refresh_us: int,
) -> CounterEnergy:
    """Add up what the counter tells from reading to reading and bridge the rest with the power integral."""
    bridge, hole_bridge = bridges
    knots: list[tuple[int, int]] = []
    # Closer to a boundary a reading may be older than the boundary's value and seem to fall.
    lo = int(np.searchsorted(ticks.mono_us, first.mono_us + refresh_us, side="right"))
    hi = int(np.searchsorted(ticks.mono_us, last.mono_us - refresh_us, side="left"))
    if first.value_mj is not None:
        knots.append((first.mono_us, first.value_mj))
    # Only the readings beside a fault matter: between two faults the sum telescopes.
    inner_t, inner_v = ticks.mono_us[lo:hi], ticks.value_mj[lo:hi]
    keep = np.zeros(max(0, hi - lo), dtype=np.bool_)
    if keep.size:
        keep[[0, -1]] = True
        marks = [t for pair in (*ticks.resets, *ticks.stuck) for t in pair if t is not None]
        position = np.searchsorted(inner_t, np.asarray(marks, dtype=np.int64))
        inside = position < inner_t.shape[0]
        keep[position[inside]] = True
    knots += [(int(t), int(v)) for t, v in zip(inner_t[keep], inner_v[keep], strict=True)]
    if last.value_mj is not None:
        knots.append((last.mono_us, last.value_mj))
    if not knots:
        part = bridge(first.mono_us, last.mono_us)
        if part.energy_j is None:
            return CounterEnergy(None)
        sampling = Spread.around(0.0, part.sampling_j + COUNTER_STEP_J)
        return CounterEnergy(
            round(part.energy_j * 1000),
            sampling,
            part.gap_spread,
            method="power_integral",
            gap_is_bound=part.gap_is_bound,
        )

    energy_mj = 0
    holes: list[tuple[int, int]] = []
    if knots[0][0] > first.mono_us:
        holes.append((first.mono_us, knots[0][0]))
    # A boundary that was not read, where the counter fell: power bridges the stretch to the next reading.
    resets = sum(end.value_mj is None and ticks.is_reset(end.mono_us) for end in (first, last))
    stuck = 0
    was_stuck = False
    for (t0, v0), (t1, v1) in pairwise(knots):
        standing = ticks.is_stuck(t0, t1)
        broken = not ticks.can_rise(t1 - t0, v1 - v0)
        if not broken and not standing:
            energy_mj += v1 - v0
        elif holes and holes[-1][1] == t0:
            holes[-1] = (holes[-1][0], t1)
        else:
            holes.append((t0, t1))
        resets += broken
        stuck += standing and not was_stuck
        was_stuck = standing
    if knots[-1][0] < last.mono_us:
        holes.append((knots[-1][0], last.mono_us))

    known_us = (last.mono_us - first.mono_us) - sum(b - a for a, b in holes)
    known_mj = energy_mj
    gap = NOTHING
    for a, b in holes:
        part = hole_bridge(a, b)
        if part.energy_j is None:
            # No power reading in the whole session: the counter's own mean rate is all there is.
            if known_us <= 0:
                return CounterEnergy(None, resets=resets, stuck=stuck)
            guess = known_mj * (b - a) / known_us
            energy_mj += round(guess)
            gap = gap.linear(Spread(guess / 1000, guess / 1000))
            continue
        energy_mj += round(part.energy_j * 1000)
        # Of a hole without any gap in it the sampling error is all there is.
        gap = gap.linear(part.gap_bound).linear(Spread(part.sampling_j, part.sampling_j))
    method = "counter_split" if resets or stuck else "counter_sample" if holes else _method(first, last)
    return CounterEnergy(energy_mj, boundary, gap, resets, stuck, method=method)
