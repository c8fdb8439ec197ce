"""GPU energy of every window of one device in one session: counter first, power integral beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.counter import (
    CounterEnergy,
    CounterReading,
    CounterTicks,
    counter_energy,
    find_faults,
    worst_method,
)
from harness.accounting.integral import NJ, PowerIntegral, first_valid, integrate_power, last_valid
from harness.accounting.series import DeviceLimits, PowerSeries, Sampling

AVERAGING_LAG_US = 500_000
"""A trailing mean of one second shows what happened half a second ago."""


@dataclass(frozen=True)
class DeviceEnergy:
    """One device in one window.

    Attributes:
        energy_mj: best estimate in integer mJ; None when nothing was measured.
        counter_mj: by the counter alone; None where it could not tell.
        integral: by power samples alone.
        method: where `energy_mj` came from.
        boundary_j: half-width of the boundary term.
        gap_low_j: how much lower unmeasured time can make it.
        gap_high_j: how much higher unmeasured time can make it.
        faults: flags, one word each.
    """

    energy_mj: int | None
    counter_mj: int | None
    integral: PowerIntegral
    method: str
    boundary_j: float
    gap_low_j: float
    gap_high_j: float
    faults: tuple[str, ...]

    @property
    def low_j(self) -> float | None:
        """Lower bound, never below zero."""
        return (
            None
            if self.energy_mj is None
            else max(0.0, self.energy_mj / 1000 - self.boundary_j - self.gap_low_j)
        )

    @property
    def high_j(self) -> float | None:
        """Upper bound."""
        return None if self.energy_mj is None else self.energy_mj / 1000 + self.boundary_j + self.gap_high_j


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
        self._readings = boundaries.readings
        # Drivers answer 0 mW when asked too fast; no powered card draws nothing, so a zero is a failed read.
        zero = series.power_valid & (series.power_mw <= 0)
        self._zeros = series.mono_us[zero]
        self._valid = series.power_valid & ~zero if self._zeros.size else series.power_valid
        observed = float(series.power_mw[self._valid].max()) if self._valid.any() else 0.0
        self._max_mw = max(observed, float(limits.max_mw or 0))
        self._ticks: CounterTicks = find_faults(
            series.mono_us, series.counter_mj, series.counter_valid, self.integral
        )
        self._order = boundaries.ordered()
        self._place = {number: i for i, number in enumerate(self._order)}
        self._links = [self._between(a, b) for a, b in pairwise(self._order)]

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

    def _hole(self, start_us: int, end_us: int) -> PowerIntegral:
        """Power integral around a fault of the counter, bounded as a gap: two samples do not show a step."""
        return self.integral(start_us, end_us, gap_us=0)

    def _power_near(self, t: int) -> float:
        """Largest power next to a time: what a boundary's uncertainty is multiplied with."""
        i = int(np.searchsorted(self._series.mono_us, t))
        around = [last_valid(self._valid, i), first_valid(self._valid, i)]
        return max((float(self._series.power_mw[k]) for k in around if k >= 0), default=self._max_mw)

    def _between(self, start: int, end: int) -> CounterEnergy:
        first, last = self._readings[start], self._readings[end]
        return counter_energy(
            first,
            last,
            self._ticks,
            bridge=self.integral,
            hole_bridge=self._hole,
            power_mw=(self._power_near(first.mono_us), self._power_near(last.mono_us)),
            refresh_us=self._sampling.counter_refresh_us,
        )

    def _lag_j(self, reading: CounterReading) -> float:
        """What a trailing mean can have moved across a window's edge."""
        if self._limits.instant:
            return 0.0
        near = slice(
            *np.searchsorted(self._series.mono_us, [reading.mono_us - 10**6, reading.mono_us + 10**6])
        )
        power = self._series.power_mw[near][self._valid[near]]
        swing = float(power.max() - power.min()) if power.size > 1 else self._power_near(reading.mono_us)
        return swing * AVERAGING_LAG_US * NJ

    def measure(self, start: int, end: int) -> DeviceEnergy:
        """Energy between two boundaries; sums of neighbouring windows are exact in integer mJ."""
        first, last = self._readings[start], self._readings[end]
        integral = self.integral(first.mono_us, last.mono_us)
        links = self._links[self._place[start] : self._place[end]]
        whole = links[0] if len(links) == 1 else self._between(*self._by_time(start, end))
        parts = [link.energy_mj for link in links]
        known = [p for p in parts if p is not None]
        energy = sum(known) if len(known) == len(parts) else None
        method = whole.method if len(links) < 2 else worst_method([link.method for link in links])
        faults = self._faults(links, whole, integral, energy, start, end)
        boundary = whole.boundary_term_j
        if method == "power_integral":
            boundary += self._lag_j(first) + self._lag_j(last)
        return DeviceEnergy(
            energy_mj=energy,
            counter_mj=None if method in ("power_integral", "absent") else energy,
            integral=integral,
            method="absent" if energy is None else method,
            boundary_j=boundary,
            gap_low_j=whole.gap_low_j,
            gap_high_j=whole.gap_high_j,
            faults=tuple(faults),
        )

    def total(self) -> tuple[int | None, float, float]:
        """The first boundary to the last one as one window: integer mJ, lower and upper bound in joules."""
        if len(self._order) < 2:
            return None, 0.0, 0.0
        parts = [link.energy_mj for link in self._links]
        known = [p for p in parts if p is not None]
        if len(known) < len(parts):
            return None, 0.0, 0.0
        whole = self._links[0] if len(parts) == 1 else self._between(self._order[0], self._order[-1])
        energy = sum(known) / 1000
        low = max(0.0, energy - whole.boundary_term_j - whole.gap_low_j)
        return sum(known), low, energy + whole.boundary_term_j + whole.gap_high_j

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
        if whole.method != "power_integral" and integral.energy_j:
            doubt_j = whole.boundary_term_j + integral.edge_j + integral.sampling_j
            doubt_j += integral.gap_high_j - integral.gap_low_j
            allowed = max(self._sampling.disagreement_rel * integral.energy_j, doubt_j)
            if abs(energy_mj / 1000 - integral.energy_j) > allowed:
                found.append("counter_disagrees")
        if integral.gap_us:
            found.append("gap")
        lo, hi = np.searchsorted(self._zeros, [self._readings[n].mono_us for n in (start, end)])
        if hi > lo:
            found.append("zero_power_readings")
        return found
