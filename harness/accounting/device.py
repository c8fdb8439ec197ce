"""GPU energy of every window of one device in one session: counter first, power integral beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.counter import (
    GPU_MAX_W,
    LIMIT_FACTOR,
    CounterEnergy,
    CounterReading,
    CounterTicks,
    counter_energy,
    find_faults,
    worst_method,
)
from harness.accounting.error_model import (
    INDEPENDENT,
    NEIGHBOURS,
    NJ,
    NOTHING,
    RARE_STEPS,
    Z95,
    EdgeError,
    Roughness,
    Spread,
    lag_error,
    window_error,
)
from harness.accounting.integral import PowerIntegral, first_valid, integrate_power, last_valid
from harness.accounting.series import DeviceLimits, Int64, PowerSeries, Sampling

BLOCK_SAMPLES = 32
"""Shortest stretch over which counter and integral are compared: a dip that no sample sees is below 3 %."""

TELLING_SAMPLES = 8
"""Fewer samples may all miss a stage's steps: an integral of them contradicts no counter."""

SUM_BLOCK = 1 << 16
"""Samples that are added up at a time."""

AVERAGING_LAG_US = 500_000
"""A trailing mean of one second shows what happened half a second ago."""


class DeviceEnergy(NamedTuple):
    """One device in one window.

    Attributes:
        energy_mj: best estimate in integer mJ; None when nothing was measured.
        counter_mj: by the counter alone; None where it could not tell.
        integral: by power samples alone.
        method: where `energy_mj` came from.
        boundary: 95 % interval by the boundaries, or by sampling where the counter tells nothing.
        gap: what unmeasured time adds.
        random: statistical part of the whole interval.
        bound: part of it that is a bound and comes on top.
        doubt: what reaches to the power integral where it contradicts the counter; comes on top too.
        faults: flags, one word each.
    """

    energy_mj: int | None
    counter_mj: int | None
    integral: PowerIntegral
    method: str
    boundary: Spread
    gap: Spread
    random: Spread
    bound: Spread
    doubt: Spread
    faults: tuple[str, ...]

    @property
    def low_j(self) -> float | None:
        """Lower end of the 95 % interval, never below zero."""
        if self.energy_mj is None:
            return None
        return max(0.0, self.energy_mj / 1000 - self.random.low_j - self.bound.low_j - self.doubt.low_j)

    @property
    def high_j(self) -> float | None:
        """Upper end of the 95 % interval."""
        if self.energy_mj is None:
            return None
        return self.energy_mj / 1000 + self.random.high_j + self.bound.high_j + self.doubt.high_j


class DeviceMeter:
    """Accounts for one device in one session; windows are given by boundary numbers.

    Args:
        series: samples of the device; may be empty.
        boundaries: its readings at the boundaries.
        sampling: rules of the protocol.
        limits: what is known of the device.
    """

    def __init__(
        self, series: PowerSeries, boundaries: DeviceBoundaries, sampling: Sampling, limits: DeviceLimits
    ) -> None:
        self._series = series
        self._sampling = sampling
        self._limits = limits
        self._near: dict[int, tuple[float, Roughness]] = {}
        self._integrals: dict[tuple[int, int], PowerIntegral] = {}
        self._readings = boundaries.readings
        # Drivers answer 0 mW when asked too fast; no powered card draws nothing, so a zero is a failed read.
        zero = series.power_valid & (series.power_mw <= 0)
        self._zeros = series.mono_us[zero]
        self._valid = series.power_valid & ~zero if self._zeros.size else series.power_valid
        most_mw = LIMIT_FACTOR * limits.max_mw if limits.max_mw else GPU_MAX_W * 1000
        excess = self._valid & (series.power_mw > most_mw)
        self._excesses = series.mono_us[excess]
        self._valid = self._valid & ~excess if self._excesses.size else self._valid
        observed = float(series.power_mw[self._valid].max()) if self._valid.any() else 0.0
        self._max_mw = max(observed, float(limits.max_mw or 0))
        self._ticks: CounterTicks = find_faults(
            series.mono_us,
            series.counter_mj,
            series.counter_valid,
            self.integral,
            limit_mw=limits.max_mw,
            refresh_us=sampling.counter_refresh_us,
        )
        self._disputes = self._disputed_blocks()
        self._order = boundaries.ordered()
        self._readings = self._placed(boundaries, most_mw)
        self._place = {number: i for i, number in enumerate(self._order)}
        self._links = [self._between(a, b) for a, b in pairwise(self._order)]

    def _placed(self, boundaries: DeviceBoundaries, most_mw: float) -> dict[int, CounterReading]:
        """The boundaries, those between two refreshes with the value they have there; it never falls."""
        found: list[CounterReading] = []
        refreshes = boundaries.refreshes.believed(most_mw)
        for number in self._order:
            reading = boundaries.readings[number]
            if reading.value_mj is None:
                _, rough = self._around(reading.mono_us)
                reading = refreshes.place(
                    reading, rough, most_mw, earlier=found, instant=self._limits.instant
                )
            found.append(reading)
        return dict(zip(self._order, found, strict=True))

    def integral(self, start_us: int, end_us: int, gap_us: int | None = None) -> PowerIntegral:
        """Power integral of any window of this device; `gap_us` is the protocol's by default."""
        return integrate_power(
            self._series.mono_us,
            self._series.power_mw,
            self._valid,
            start_us,
            max(start_us, end_us),
            gap_us=self._sampling.gap_us if gap_us is None else gap_us,
            max_mw=self._max_mw or None,
            period_us=self._sampling.nominal_period_us,
        )

    def _over(self, start: int, end: int) -> PowerIntegral:
        """Power integral between two boundaries: of a stage, and again as a part of a longer window."""
        if (start, end) not in self._integrals:
            window = self._readings[start].mono_us, self._readings[end].mono_us
            self._integrals[start, end] = self.integral(*window)
        return self._integrals[start, end]

    def _disputed_blocks(self) -> Int64:
        """(n, 2) stretches between sampler's readings over which counter and integral contradict each other.

        Looked at in blocks of 32, 64, 128 ... readings that overlap by half: a gain that changes, or a step
        that the device could have drawn, is a small share of a long stage.
        """
        at, value = self._ticks.mono_us, self._ticks.value_mj
        found = [np.zeros((0, 2), np.int64)]
        if np.count_nonzero(self._valid) < 2:
            return found[0]
        count = at.shape[0]
        sizes = [BLOCK_SAMPLES << k for k in range(count.bit_length()) if BLOCK_SAMPLES << k < count]
        if not sizes:
            return found[0]
        # Where any block begins or ends; a month's sums at every reading would be most of the memory in use.
        last_ones = [count - 1, *(count - 1 - size for size in sizes)]
        edges = np.union1d(np.arange(0, count, BLOCK_SAMPLES // 2), last_ones)
        energy, variance, blind = self._running_sums(at[edges])
        edge_us = self._sampling.counter_refresh_us + (0 if self._limits.instant else 2 * AVERAGING_LAG_US)
        for size in sizes:
            first = np.append(np.arange(0, count - 1 - size, size // 2), count - 1 - size)
            last = first + size
            i, j = np.searchsorted(edges, first), np.searchsorted(edges, last)
            by_power = energy[j] - energy[i]
            spread = Z95 * (1 + 2 / size) * np.sqrt(np.maximum(0.0, variance[j] - variance[i]))
            doubt = 2 * (spread + edge_us * self._max_mw * NJ) + blind[j] - blind[i]
            apart = np.abs((value[last] - value[first]) / 1000 - by_power)
            bad = apart > np.maximum(doubt, self._sampling.disagreement_rel * by_power)
            if not bad.any():
                continue
            stretch = np.stack((at[first[bad]], at[last[bad]]), axis=1)
            # What is bridged is known to be wrong; what is left of it is not.
            known = np.array([self._ticks.broken(int(a), int(b)) for a, b in stretch], dtype=np.bool_)
            found.append(stretch[~known])
        return np.concatenate(found)

    def _running_sums(self, at: Int64) -> npt.NDArray[np.float64]:
        """(3, n) sums from the first valid sample up to each time: energy by the samples in J, its variance
        in J^2, and what gaps can have held at most in J.

        Samples are taken a block at a time, and added up in their order.
        """
        sums, total, done = np.empty((3, at.shape[0])), np.zeros((3, 1)), 0
        times, power = np.zeros(0, np.int64), np.zeros(0)
        for start in range(0, self._valid.shape[0], SUM_BLOCK):
            part = slice(start, start + SUM_BLOCK)
            good = self._valid[part]
            times = np.append(times[-1:], self._series.mono_us[part][good])
            power = np.append(power[-1:], self._series.power_mw[part][good].astype(np.float64))
            if times.shape[0] < 2:
                continue
            width, change = np.diff(times).astype(np.float64), np.diff(power)
            unseen = np.where(width > self._sampling.gap_us, width, 0.0)
            cells = (
                (power[1:] + power[:-1]) / 2 * width * NJ,
                INDEPENDENT * (change * np.where(unseen > 0, 0.0, width) * NJ) ** 2,
                unseen * self._max_mw * NJ,
            )
            running = np.cumsum(np.concatenate((total, np.stack(cells)), axis=1), axis=1)
            upto = int(np.searchsorted(at, times[-1]))
            for row, known in zip(sums, running, strict=True):
                row[done:upto] = np.interp(at[done:upto], times, known)
            total, done = running[:, -1:], upto
        sums[:, done:] = total
        return sums

    def _hole(self, start_us: int, end_us: int) -> PowerIntegral:
        """Power integral around a fault of the counter, bounded as a gap: two samples do not show a step."""
        return self.integral(start_us, end_us, gap_us=0)

    def _around(self, t: int) -> tuple[float, Roughness]:
        """Power next to a boundary, where its reading does not carry it, and how much it changes there.

        The power is the root mean square of the two neighbours.
        """
        if t not in self._near:
            i = int(self._series.mono_us.searchsorted(t))
            beside = [last_valid(self._valid, i), first_valid(self._valid, i)]
            squares = [float(self._series.power_mw[k]) ** 2 for k in beside if k >= 0]
            power = math.sqrt(sum(squares) / len(squares)) if squares else self._max_mw
            near = slice(max(0, i - NEIGHBOURS), i + NEIGHBOURS)
            step = np.diff(self._series.power_mw[near][self._valid[near]].astype(np.float64))
            rough = Roughness(float(np.dot(step, step)) / step.size, step.size) if step.size else Roughness()
            self._near[t] = power, rough
        return self._near[t]

    def _between(self, start: int, end: int) -> CounterEnergy:
        first, last = self._readings[start], self._readings[end]
        (power, rough), (last_power, last_rough) = self._around(first.mono_us), self._around(last.mono_us)
        return counter_energy(
            first,
            last,
            self._ticks,
            bridge=self.integral,
            hole_bridge=self._hole,
            power_mw=(power, last_power),
            rough=(rough, last_rough),
            refresh_us=self._sampling.counter_refresh_us,
            gap_us=self._sampling.gap_us,
        )

    def _lag(self, reading: CounterReading) -> EdgeError:
        """What a trailing mean moves across an end of a window."""
        # The sensor's own refresh comes on top of the mean's half second.
        lag_us = AVERAGING_LAG_US + self._sampling.counter_refresh_us // 2
        return lag_error(lag_us, *self._around(reading.mono_us))

    def _of_means(self, sampling: Spread, first: CounterReading, last: CounterReading) -> Spread:
        """The interval of an integral of 1 s means: they overlap and miss nothing, but they lag."""
        known = sampling.half_j * math.sqrt(RARE_STEPS / INDEPENDENT)
        lag = window_error(self._lag(first), self._lag(last))
        shift = (lag.high_j - lag.low_j) / 2
        return Spread.around(shift, math.hypot(lag.half_j, known))

    def measure(self, start: int, end: int) -> DeviceEnergy:
        """Energy between two boundaries; sums of neighbouring windows are exact in integer mJ."""
        first, last = self._readings[start], self._readings[end]
        integral = self._over(start, end)
        links = self._links[self._place[start] : self._place[end]]
        whole, method = self._whole(links, start, end)
        parts = [link.energy_mj for link in links]
        known = [p for p in parts if p is not None]
        energy = sum(known) if len(known) == len(parts) else None
        faults = self._faults(links, whole, integral, energy, start, end)
        whole = self._with_lag(whole, method, first, last)
        return DeviceEnergy(
            energy_mj=energy,
            counter_mj=None if method in ("power_integral", "absent") else energy,
            integral=integral,
            method="absent" if energy is None else method,
            boundary=whole.boundary,
            gap=whole.gap,
            random=whole.random,
            bound=whole.bound,
            doubt=self._doubt(whole, energy, integral, start, end),
            faults=tuple(faults),
        )

    def total(self) -> tuple[int | None, Spread, Spread]:
        """The first boundary to the last one as one window: integer mJ, statistical part, bounds on top."""
        if len(self._order) < 2:
            return None, NOTHING, NOTHING
        parts = [link.energy_mj for link in self._links]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts):
            return None, NOTHING, NOTHING
        start, end = self._order[0], self._order[-1]
        whole = self.measure(start, end)
        return whole.energy_mj, whole.random, whole.bound.linear(whole.doubt)

    def _whole(self, links: Sequence[CounterEnergy], start: int, end: int) -> tuple[CounterEnergy, str]:
        """A window measured as one, for its interval, and the method of its energy, the sum of its links."""
        whole = links[0] if len(links) == 1 else self._between(*self._by_time(start, end))
        return whole, whole.method if len(links) < 2 else worst_method([link.method for link in links])

    def _with_lag(
        self, whole: CounterEnergy, method: str, first: CounterReading, last: CounterReading
    ) -> CounterEnergy:
        """Its interval with what a sensor that shows means of 1 s moves across the two ends."""
        if method != "power_integral" or self._limits.instant:
            return whole
        return replace(whole, boundary=self._of_means(whole.boundary, first, last))

    def _in_dispute(self, start: int, end: int) -> bool:
        """Whether counter and integral contradict each other somewhere in a window."""
        if not self._disputes.size:
            return False
        first, last = (self._readings[number].mono_us for number in (start, end))
        return bool(np.any((self._disputes[:, 0] < last) & (self._disputes[:, 1] > first)))

    def _disagrees(
        self, whole: CounterEnergy, energy_mj: int | None, integral: PowerIntegral, ends: tuple[int, int]
    ) -> bool:
        """Whether counter and integral are further apart than chance explains."""
        if whole.method == "power_integral" or energy_mj is None or not integral.energy_j:
            return False
        if self._in_dispute(*ends):
            return True
        if integral.samples < TELLING_SAMPLES:
            return False
        # Twice what either is known to.
        doubt_j = 2.0 * (whole.boundary.half_j + integral.sampling_j)
        doubt_j += integral.gap_high_j - integral.gap_low_j
        allowed = max(self._sampling.disagreement_rel * integral.energy_j, doubt_j)
        return abs(energy_mj / 1000 - integral.energy_j) > allowed

    def _doubt(
        self, whole: CounterEnergy, energy_mj: int | None, integral: PowerIntegral, start: int, end: int
    ) -> Spread:
        """What reaches to a contradicting integral: of the window, or of the pieces it is the sum of."""
        mine = (
            _reach(energy_mj, integral)
            if self._disagrees(whole, energy_mj, integral, (start, end))
            else NOTHING
        )
        pieces = NOTHING
        inner = self._order[self._place[start] : self._place[end] + 1]
        for a, b in pairwise(inner) if len(inner) > 2 else ():
            link = self._links[self._place[a]]
            part = self._over(a, b)
            if self._disagrees(link, link.energy_mj, part, (a, b)):
                pieces = pieces.linear(_reach(link.energy_mj, part))
        return Spread(max(mine.low_j, pieces.low_j), max(mine.high_j, pieces.high_j))

    def _by_time(self, start: int, end: int) -> tuple[int, int]:
        return (start, end) if self._place[start] <= self._place[end] else (end, start)

    def _faults(
        self,
        links: Sequence[CounterEnergy],
        whole: CounterEnergy,
        integral: PowerIntegral,
        energy_mj: int | None,
        start: int,
        end: int,
    ) -> list[str]:
        found = []
        if any(link.resets for link in links):
            found.append("counter_reset")
        if any(link.stuck for link in links):
            found.append("counter_stuck")
        if energy_mj is None:
            return [*found, "gpu_unmeasured"]
        if whole.method == "power_integral":
            found.append("counter_missing")
        elif any(self._readings[n].value_mj is None for n in (start, end)):
            found.append("counter_boundary_missing")
        first, last = window = [self._readings[n].mono_us for n in (start, end)]
        if _any_in(self._ticks.glitches, window) or any(link.glitches for link in links):
            found.append("counter_glitch")
        if any(a < last and b > first for a, b in self._ticks.late):
            found.append("counter_late")
        if self._disagrees(whole, energy_mj, integral, (start, end)):
            found.append("counter_disagrees")
        if integral.gap_us:
            found.append("gap")
        if _any_in(self._zeros, window):
            found.append("zero_power_readings")
        if _any_in(self._excesses, window):
            found.append("excess_power_readings")
        return found


def _any_in(times: Int64 | tuple[int, ...], window: Sequence[int]) -> bool:
    """Whether one of the times lies in a window."""
    if not len(times):
        return False
    first, end = np.searchsorted(times, window)
    return bool(end > first)


def _reach(energy_mj: int | None, integral: PowerIntegral) -> Spread:
    """From a counter's energy to the far end of a power integral that contradicts it: either may be wrong."""
    if energy_mj is None or integral.energy_j is None:
        return NOTHING
    apart = integral.energy_j - energy_mj / 1000
    known = integral.gap_bound.linear(Spread(integral.sampling_j, integral.sampling_j))
    return Spread(max(0.0, known.low_j - apart), 0.0) if apart < 0 else Spread(0.0, apart + known.high_j)
