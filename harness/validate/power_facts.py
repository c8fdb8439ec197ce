"""What a power series shows beside its energy: steps of the clock, falls of the counter, boundaries that do
not fit between the samples, and the shape of the signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from harness.bundle import SeriesKey
from harness.bundle.series import ACCOUNTED, PowerRows
from harness.validate.likeness import Trace, power_and_rises
from harness.validate.power_signal import SignalFacts, look_at

WATCHED = (*ACCOUNTED, "t_us", "util_pct", "power_limit_mw")
"""Columns of power that are looked at."""

REFRESH_US = 100_000
"""Slowest refresh of an energy counter seen on real cards: how old a value can be."""


@dataclass(frozen=True)
class Mark:
    """A counter reading at a stage boundary, to be held against the samples around it."""

    boundary: int
    mono_us: int
    value_mj: int


@dataclass(frozen=True)
class Watch:
    """What to look for in the series beside their energy.

    Attributes:
        step_us: clock steps of at least this size.
        period_us: nominal sampling period.
        marks: counter readings at boundaries, by series.
        idle: windows of idle stages, by series.
        limits_mw: power limit of a device by the manifest.
    """

    step_us: int
    period_us: int = 500_000
    marks: Mapping[SeriesKey, Sequence[Mark]] = field(default_factory=dict)
    idle: Mapping[SeriesKey, Sequence[tuple[int, int]]] = field(default_factory=dict)
    limits_mw: Mapping[int, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Misfit:
    """A boundary reading that does not lie between the samples before and after it, all in mJ."""

    mark: Mark
    low_mj: int
    high_mj: int


@dataclass(frozen=True)
class SeriesFacts:
    """What a series shows beside its energy.

    Attributes:
        key: node, device, session.
        first_us: first sample, CLOCK_MONOTONIC.
        last_us: last sample.
        steps: (mono_us, step_us) where UTC jumped against the monotonic clock.
        falls: mono_us at which the energy counter was lower than before.
        misfits: boundary readings outside the samples around them.
        signal: what the power readings look like.
        negative: power readings below 0, which no instrument shows.
        traces: what a copy of the power readings, and of the rises of the counter, is recognised by.
    """

    key: SeriesKey
    first_us: int
    last_us: int
    steps: tuple[tuple[int, int], ...] = ()
    falls: tuple[int, ...] = ()
    misfits: tuple[Misfit, ...] = ()
    signal: SignalFacts | None = None
    negative: int = 0
    traces: tuple[Trace, ...] = ()


def look(rows: PowerRows, watch: Watch) -> SeriesFacts:
    """What the rows of a series (columns `WATCHED`) show."""
    key, series = rows.key, rows.series()
    mono = series.mono_us
    apart = np.diff(rows.array("t_us") - mono)
    jumps = np.flatnonzero((apart >= watch.step_us) | (apart <= -watch.step_us))
    counter, times = series.counter_mj, mono
    watts, there = rows.pair("power_mw")
    if not series.counter_valid.all():
        counter, times = counter[series.counter_valid], mono[series.counter_valid]
    falls = np.flatnonzero(counter[1:] < counter[:-1])
    peak = float(series.power_mw[series.power_valid].max()) if series.power_valid.any() else 0.0
    return SeriesFacts(
        key=key,
        first_us=int(mono[0]),
        last_us=int(mono[-1]),
        steps=tuple((int(mono[i + 1]), int(apart[i])) for i in jumps),
        falls=tuple(int(times[i + 1]) for i in falls),
        misfits=tuple(_misfits(times, counter, watch.marks.get(key, ()), peak)),
        signal=look_at(
            mono,
            series.power_mw,
            series.power_valid,
            period_us=watch.period_us,
            limit_mw=rows.pair("power_limit_mw"),
            util_pct=rows.pair("util_pct"),
            device_limit_mw=watch.limits_mw.get(key.device_id),
            idle_windows=watch.idle.get(key, ()),
        ),
        negative=int((watts[there] < 0).sum()),
        traces=power_and_rises(series.power_mw[series.power_valid], counter),
    )


def _misfits(
    times: npt.NDArray[np.int64], counter: npt.NDArray[np.int64], marks: Sequence[Mark], peak_mw: float
) -> Iterator[Misfit]:
    """Boundary readings that no rising counter can have shown between the samples around them.

    A boundary's value may be newer than the sample behind it by what one refresh holds, hence the slack.
    """
    slack = peak_mw * REFRESH_US * 1e-6 + 1
    for mark in marks:
        before = int(np.searchsorted(times, mark.mono_us, side="right")) - 1
        after = int(np.searchsorted(times, mark.mono_us, side="left"))
        if before < 0 or after >= times.shape[0]:
            continue
        low, high = int(counter[before]), int(counter[after])
        if low <= high and not low - slack <= mark.value_mj <= high + slack:
            yield Misfit(mark, low, high)
