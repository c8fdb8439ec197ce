"""CPU and DRAM energy of a window: the best source that was read (RAPL before an estimate), else absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.accounting.rapl import ZoneMeter
from harness.accounting.series import ZONE_SOURCES, CounterSeries, ZoneSource

ESTIMATE_HIGH = 2.0
"""Upper bound of an estimate over its best value.

CodeCarbon's process mode gives TDP x the process's share of the load. Against external meters its errors
reach 40 % (arXiv 2509.22092), on multi-die machines nearly a factor of two (codecarbon issue 788); below, a
process whose load is not computation draws next to nothing. So an estimate is stated as 0 ... 2 x itself, a
figure of one digit.
"""


UNSEEN_US = 5_000_000
"""An estimate whose readings stop further than this from an end of a window is no estimate of it."""


class PartEnergy(NamedTuple):
    """Energy of CPU packages or of DRAM in one window, joules; None values when absent."""

    energy_j: float | None
    low_j: float | None
    high_j: float | None
    method: str
    faults: tuple[str, ...] = ()


ABSENT = PartEnergy(None, None, None, "absent")


class _Estimate:
    """An estimator's component: cumulative microjoules that it thinks were used."""

    def __init__(self, series: CounterSeries, method: str) -> None:
        self._method = method
        self._mono = series.mono_us[series.valid]
        value = series.value[series.valid]
        # A worker that was restarted counts from zero again; what it had counted is kept.
        step = np.diff(value)
        self._cumulative = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.where(step < 0, 0, step))))
        self._restart = self._mono[1:][step < 0]

    def energy(self, start_us: int, end_us: int) -> PartEnergy:
        if end_us <= self._mono[0] or start_us >= self._mono[-1]:
            return ABSENT
        if max(self._mono[0] - start_us, end_us - self._mono[-1]) > UNSEEN_US:
            return ABSENT
        low, high = np.rint(np.interp([start_us, end_us], self._mono, self._cumulative)).astype(np.int64)
        energy = int(max(0, high - low)) / 1e6
        lost = np.any((self._restart > start_us) & (self._restart <= end_us))
        faults = ("cpu_estimate_restarted",) if lost else ()
        return PartEnergy(energy, 0.0, ESTIMATE_HIGH * energy, self._method, faults)


class ProcessorMeter:
    """Accounts for CPU and DRAM of one node in one session."""

    def __init__(
        self, counters: Sequence[CounterSeries], sources: Sequence[ZoneSource] = ZONE_SOURCES
    ) -> None:
        self._meters: dict[str, list[tuple[str, ZoneMeter | _Estimate]]] = {"cpu": [], "dram": []}
        for source in sources:
            for part, prefix in source.parts.items():
                zones = [c for c in counters if c.source == source.name and (c.zone or "").startswith(prefix)]
                if source.measured:
                    self._add(part, source, ZoneMeter(zones) if zones else None)
                else:
                    readable = [zone for zone in zones if np.count_nonzero(zone.valid) >= 2]
                    self._add(part, source, _Estimate(readable[0], source.method) if readable else None)

    def _add(self, part: str, source: ZoneSource, meter: ZoneMeter | _Estimate | None) -> None:
        if meter and part in self._meters:
            self._meters[part].append((source.method, meter))

    def measure(self, part: str, window: tuple[int, int], numbers: tuple[int, int]) -> PartEnergy:
        """Energy of `part` (cpu or dram) between two boundaries.

        Args:
            part: cpu or dram.
            window: start and end time, for zones that have no reading at the boundary.
            numbers: the two boundary numbers.
        """
        for method, zones in self._meters[part]:
            if isinstance(zones, _Estimate):
                return zones.energy(*window)
            found = zones.energy(*window, *numbers)
            if found is not None:
                # The words are RAPL's, whose counters wrap, restart and mirror each other.
                faults = [
                    word
                    for word, holds in (
                        ("rapl_wrap_ambiguous", found.ambiguous),
                        ("rapl_reset", found.reset),
                        ("rapl_glitch", found.glitch),
                        ("rapl_stuck", found.stuck),
                        ("rapl_boundary_missing", found.unread),
                        ("rapl_mirror", bool(zones.mirrors)),
                        ("rapl_zone_missing", zones.incomplete),
                    )
                    if holds
                ]
                return PartEnergy(
                    found.energy_uj / 1e6, found.low_uj / 1e6, found.high_uj / 1e6, method, tuple(faults)
                )
        return ABSENT
