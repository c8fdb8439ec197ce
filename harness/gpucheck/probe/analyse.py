"""From recordings to figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.gpucheck.probe.figures import DeviceProbe, Figure
from harness.gpucheck.probe.grid import Refresh, find_refresh
from harness.gpucheck.probe.lag import find_lag
from harness.gpucheck.probe.record import Changes, Recording, Shown
from harness.gpucheck.probe.scope import find_scope
from harness.meter.ticks import Tick

_STEADY = 0.05
_READINGS = {"instant": "INSTANT", "average": "AVERAGE", "usage": "PowerUsage"}


@dataclass(frozen=True)
class Observed:
    """All that was observed of one GPU.

    Attributes:
        ticks: Counter ticks from `watch_ticks`.
        idle: Recording before any load of ours.
        busy: Recording under the load, or simply later when there is none.
        context: Recording with a context of ours and no work, None without load.
        costs_us: Durations of calls by name.
        processes: Processes on the GPU before the load; None when they are not listed.
    """

    device_id: int
    model: str | None
    ticks: Sequence[Tick]
    idle: Recording
    busy: Recording
    context: Recording | None
    costs_us: dict[str, list[int]]
    processes: int | None
    loaded: bool


def analyse(seen: Observed) -> DeviceProbe:
    """The figures of one GPU."""
    figures: list[Figure] = []
    remarks: list[str] = []
    figures += _counter(seen)
    refreshes: dict[str, Refresh | None] = {}
    for name, title in _READINGS.items():
        figure, refreshes[name] = _refresh(seen, name, title)
        figures.append(figure)
    for name, title in _READINGS.items():
        figures.append(_lag(seen, name, title, refreshes[name]))
    scope_figures, scope = _scope(seen)
    figures += scope_figures
    idle, remark = _idle(seen)
    figures += idle
    remarks += remark
    for name, times in seen.costs_us.items():
        figures += _cost(name, times)
    return DeviceProbe(seen.device_id, seen.model, tuple(figures), scope, tuple(remarks))


def _counter(seen: Observed) -> list[Figure]:
    changes = Changes(
        np.array([tick.mono_us for tick in seen.ticks], dtype=np.float64),
        np.array([tick.uncertainty_us for tick in seen.ticks], dtype=np.float64),
        np.array([tick.energy_mj or 0 for tick in seen.ticks], dtype=np.float64),
    )
    refresh, how = find_refresh(changes), "burst reading of the counter"
    if refresh is None:
        changes = seen.busy.energy.changes()
        refresh, how = find_refresh(changes), "the counter read each millisecond"
    if refresh is None:
        reason = f"not measured: {len(changes)} ticks seen"
        return [
            Figure("counter_refresh_ms", "counter refresh", None, None, len(changes), reason),
            Figure("counter_jitter_ms", "counter jitter", None, None, len(changes), reason),
        ]
    sharp_us = float(np.median(changes.half_width_us))
    if refresh.regular:
        grid = "least squares of the ticks on a regular grid"
        jitter = "standard deviation of the ticks about that grid, less the blur of the reading"
    else:
        grid = "median distance of ticks, which follow no regular grid"
        jitter = "spread of the distances of ticks"
    n = refresh.count
    error_ms = refresh.error_us / 1e3
    return [
        Figure(
            "counter_refresh_ms", "counter refresh", refresh.period_us / 1e3, error_ms, n, f"{how}; {grid}"
        ),
        Figure("counter_jitter_ms", "counter jitter", refresh.jitter_us / 1e3, None, n, jitter),
        Figure(
            "tick_known_us",
            "a tick is known to",
            sharp_us,
            None,
            n,
            "half the time between the reads around it",
        ),
    ]


def _shown(recording: Recording, name: str) -> Shown:
    shown: Shown = getattr(recording, name)
    return shown


def _refresh(seen: Observed, name: str, title: str) -> tuple[Figure, Refresh | None]:
    key, label = f"{name}_refresh_ms", f"{title} refresh"
    both = [_shown(recording, name) for recording in (seen.busy, seen.idle)]
    if not any(len(shown.value) for shown in both):
        return Figure(key, label, None, None, 0, "not measured: the card does not give this reading"), None
    changes = max((shown.changes() for shown in both), key=len)
    refresh = find_refresh(changes)
    if refresh is None:
        reason = f"not measured: the value changed only {len(changes)} times while it was watched"
        return Figure(key, label, None, None, len(changes), reason), None
    how = "longest grid that all changes of the value lie on, read each millisecond"
    if not refresh.regular:
        how = "median time between changes of the value, which follow no regular grid"
    error_ms = refresh.error_us / 1e3
    return Figure(key, label, refresh.period_us / 1e3, error_ms, refresh.count, how), refresh


def _lag(seen: Observed, name: str, title: str, refresh: Refresh | None) -> Figure:
    key, label = f"{name}_lag_s", f"{title} lag"
    found = find_lag(seen.busy.energy.changes(), _shown(seen.busy, name))
    if isinstance(found, str):
        without = "; no load was made" if "change" in found and not seen.loaded else ""
        return Figure(key, label, None, None, 0, f"not measured: {found}{without}")
    waiting_us = refresh.period_us / 2 if refresh is not None else 0.0
    how = "shift at which the reading's integral fits the counter best"
    how += ", less half a refresh of waiting" if refresh is not None else ", waiting for the refresh included"
    return Figure(key, label, (found.lag_us - waiting_us) / 1e6, found.error_us / 1e6, 1, how)


def _scope(seen: Observed) -> tuple[list[Figure], str]:
    found = find_scope(seen.busy.energy.changes(), seen.busy)
    if isinstance(found, str):
        reason = f"not measured: {found}"
        return [Figure("counter_vs_instant_ratio", "counter / INSTANT", None, None, 0, reason)], "unknown"
    state = "steady power" if found.steady else "power that was never steady: a hint only"
    figures = [
        Figure(
            "counter_vs_instant_ratio",
            "counter / INSTANT",
            found.ratio,
            found.spread,
            found.stretches,
            f"counter's slope over mean INSTANT power (PowerUsage if absent), stretches of 0.5 s of {state}",
        )
    ]
    if found.offset_w is not None and found.slope is not None:
        how = "line of counter power over INSTANT power through two power levels"
        figures.append(
            Figure("counter_slope_ratio", "counter slope", found.slope, None, found.stretches, how)
        )
        figures.append(
            Figure("counter_offset_w", "counter offset", found.offset_w, None, found.stretches, how)
        )
    if found.module_ratio is not None:
        how = "counter's slope over the module's INSTANT power"
        figures.append(
            Figure(
                "counter_vs_module_ratio", "counter / module", found.module_ratio, None, found.stretches, how
            )
        )
    return figures, found.verdict


def _idle(seen: Observed) -> tuple[list[Figure], list[str]]:
    figures, remarks = [], []
    shown = seen.idle.instant if len(seen.idle.instant.value) else seen.idle.usage
    count = len(shown.value)
    if count:
        watts = shown.value / 1e3
        mean, spread = float(watts.mean()), float(watts.std())
        source = "INSTANT" if shown is seen.idle.instant else "PowerUsage"
        how = f"mean of {source} before any load of ours"
        figures.append(Figure("idle_power_w", "power without load", mean, None, count, how))
        figures.append(
            Figure("idle_power_sd_w", "its standard deviation", spread, None, count, "of the same reads")
        )
        if spread > _STEADY * mean:
            remarks.append("the power without load was not steady: something else was using the GPU")
    ticks = seen.idle.energy.changes()
    if len(ticks) >= 3:
        slope = float((ticks.value[-1] - ticks.value[0]) / (ticks.at_us[-1] - ticks.at_us[0])) * 1e3
        how = "counter difference between the first and last tick of the same time"
        figures.append(Figure("idle_counter_power_w", "the same by counter", slope, None, len(ticks), how))
    if seen.context is not None and len(seen.context.instant.value):
        watts = seen.context.instant.value / 1e3
        how = "mean of INSTANT with a CUDA context of ours and no work"
        figures.append(
            Figure("context_power_w", "power with context", float(watts.mean()), None, len(watts), how)
        )
    if seen.processes:
        remarks.append(
            f"{seen.processes} process(es) were on the GPU: its power without load is not idle power"
        )
    return figures, remarks


def _cost(name: str, times: list[int]) -> list[Figure]:
    labels = {
        "read_all": "read of all",
        "read_counter": "read of counter",
        "list_processes": "process list",
    }
    count = len(times)
    return [
        Figure(f"{name}_us", labels[name], float(np.median(times)), None, count, f"median of {count} calls"),
        Figure(
            f"{name}_worst_us", f"worst {labels[name]}", float(max(times)), None, count, "of the same calls"
        ),
    ]
