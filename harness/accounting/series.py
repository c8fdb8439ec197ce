"""The shapes in which raw readings reach the accounting: numpy columns of one instrument, in time order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

NO_BOUNDARY = -1
"""Stands for null in `CounterSeries.boundary`."""


def _no_ints() -> Int64:
    return np.zeros(0, dtype=np.int64)


def _no_bools() -> Bools:
    return np.zeros(0, dtype=np.bool_)


@dataclass(frozen=True)
class PowerSeries:
    """All samples of one device in one session.

    Attributes:
        mono_us: (n,) strictly increasing.
        power_mw: (n,) mW; meaningless where `power_valid` is false.
        counter_mj: (n,) energy counter as read, mJ; meaningless where `counter_valid` is false.
    """

    node_id: str
    device_id: int
    session: int
    mono_us: Int64 = field(default_factory=_no_ints)
    power_mw: Ints = field(default_factory=_no_ints)
    power_valid: Bools = field(default_factory=_no_bools)
    counter_mj: Int64 = field(default_factory=_no_ints)
    counter_valid: Bools = field(default_factory=_no_bools)


@dataclass(frozen=True)
class CounterSeries:
    """All readings of one cumulative counter (a GPU, a RAPL zone, a CodeCarbon component) in one session.

    Attributes:
        value: (n,) as read, in `unit`; meaningless where `valid` is false.
        boundary: (n,) number of the stage boundary the reading belongs to, `NO_BOUNDARY` for a tick.
        uncertainty_us: (n,) half-width of the bracket in which the value was true.
        power_mw: (n,) power at the boundary, -1 where unknown.
        method: (n,) tick, moment, immediate, sample or poll.
        wrap_range: the counter wraps past this value, in `unit`; None if it never does.
    """

    source: str
    node_id: str
    device_id: int | None
    zone: str | None
    session: int
    unit: str
    wrap_range: int | None
    mono_us: Int64
    t_us: Int64
    value: Int64
    valid: Bools
    boundary: Int64
    uncertainty_us: Int64
    power_mw: Int64
    method: Sequence[str]


@dataclass(frozen=True)
class DeviceLimits:
    """What is known of a device beforehand; bounds what it can have drawn while nobody looked.

    Attributes:
        max_mw: power limit; None if unknown (the largest reading is used instead).
        instant: whether `power_mw` is the instantaneous field; a 1 s mean lags and needs a wider interval.
    """

    max_mw: int | None = None
    instant: bool = True


class ZoneSource(NamedTuple):
    """A source of CPU or DRAM energy, as the protocol declares it.

    Attributes:
        parts: "cpu" or "dram" -> how the names of the zones begin that are added up to it.
        method: what the part's method column says.
        measured: whether its zones count joules; else they hold an estimate.
    """

    name: str
    parts: Mapping[str, str]
    method: str
    measured: bool = True


ZONE_SOURCES = (
    ZoneSource("rapl", {"cpu": "package", "dram": "dram"}, "rapl"),
    ZoneSource("codecarbon", {"cpu": "cpu", "dram": "ram"}, "codecarbon_process", measured=False),
)


class Sampling(NamedTuple):
    """Sampling rules of the protocol that the accounting needs.

    Attributes:
        nominal_period_us: distance of two ticks as planned.
        gap_factor: neighbouring samples further apart than this many periods leave a gap.
        min_samples: a stage with fewer samples is short.
        counter_refresh_us: slowest refresh of an energy counter seen on real cards (20-100 ms); how old a
            value can be that was read without waiting for a refresh.
        disagreement_rel: counter and integral further apart than this share are remarked upon.
        zone_sources: sources of CPU and DRAM energy, the preferred one first.
    """

    nominal_period_us: int = 500_000
    gap_factor: float = 2.0
    min_samples: int = 60
    counter_refresh_us: int = 100_000
    disagreement_rel: float = 0.03
    zone_sources: Sequence[ZoneSource] = ZONE_SOURCES

    @property
    def gap_us(self) -> int:
        """Longest distance of two samples that is not a gap, in microseconds."""
        return round(self.nominal_period_us * self.gap_factor)
