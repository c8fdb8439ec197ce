"""From recordings to figures: every one with its spread, its base and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.gpucheck.probe.grid import Refresh, find_refresh
from harness.gpucheck.probe.lag import find_lag
from harness.gpucheck.probe.record import Changes, Recording, Shown
from harness.gpucheck.probe.scope import find_scope
from harness.meter.ticks import Tick

HONESTY = (
    "These figures are what the loaded libnvidia-ml.so.1 showed. Nothing a program can read proves that it "
    "belongs to a driver, nor how right the sensors are: the vendor states 5 %."
)
SCOPES = {
    "gpu": "the counter agrees with the GPU's own INSTANT power: it counts the GPU",
    "module": "the counter agrees with the module's power: it counts the whole module, not the GPU alone",
    "wider": "the counter counts more than INSTANT power shows: likely a whole module, not a GPU alone",
    "narrower": "the counter counts less than INSTANT power shows: one of the two is wrong",
    "unknown": "what the counter counts could not be told: no steady power, or a reading is missing",
}
LABELS = {
    "counter_refresh_ms": "counter refresh",
    "counter_jitter_ms": "counter jitter",
    "tick_known_us": "a tick is known to",
    "instant_refresh_ms": "INSTANT refresh",
    "average_refresh_ms": "AVERAGE refresh",
    "usage_refresh_ms": "PowerUsage refresh",
    "instant_lag_s": "INSTANT lag",
    "average_lag_s": "AVERAGE lag",
    "usage_lag_s": "PowerUsage lag",
    "counter_vs_instant_ratio": "counter / INSTANT",
    "counter_slope_ratio": "counter slope",
    "counter_offset_w": "counter offset",
    "counter_vs_module_ratio": "counter / module",
    "idle_power_w": "power without load",
    "idle_power_sd_w": "its standard deviation",
    "idle_counter_power_w": "the same by counter",
    "context_power_w": "power with context",
    "read_all_us": "read of all",
    "read_all_worst_us": "worst read of all",
    "read_counter_us": "read of counter",
    "read_counter_worst_us": "worst read of counter",
    "list_processes_us": "process list",
    "list_processes_worst_us": "worst process list",
}
"""Every figure by its key, which ends in its unit, with its name for people."""

_STEADY = 0.05
_READINGS = ("instant", "average", "usage")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        value: None when it could not be measured; `how` then says why.
        plus_minus: Standard error or half-width, in the same unit.
        n: How many observations it rests on.
        how: How it was measured.
    """

    value: float | None
    plus_minus: float | None
    n: int
    how: str


@dataclass(frozen=True)
class DeviceProbe:
    """The figures of one GPU.

    Attributes:
        counter_scope: What the counter counts, by the keys of `SCOPES`.
        figures: By the keys of `LABELS`.
        remarks: What a reader of the figures must know.
    """

    device_id: int
    model: str | None
    counter_scope: str
    figures: Mapping[str, Figure]
    remarks: Sequence[str] = ()


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
    figures = _counter(seen)
    refreshes = {name: _refresh(seen, name) for name in _READINGS}
    figures |= {f"{name}_refresh_ms": figure for name, (figure, _) in refreshes.items()}
    figures |= {f"{name}_lag_s": _lag(seen, name, refreshes[name][1]) for name in _READINGS}
    scope_figures, scope = _scope(seen)
    idle_figures, remarks = _idle(seen)
    figures |= scope_figures | idle_figures
    for name, times in seen.costs_us.items():
        count, median = len(times), float(np.median(times))
        figures[f"{name}_us"] = Figure(median, None, count, f"median of {count} calls")
        figures[f"{name}_worst_us"] = Figure(float(max(times)), None, count, "of the same calls")
    return DeviceProbe(seen.device_id, seen.model, scope, figures, remarks)


def _unmeasured(why: str, n: int = 0) -> Figure:
    return Figure(None, None, n, f"not measured: {why}")


def _counter(seen: Observed) -> dict[str, Figure]:
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
        nothing = _unmeasured(f"{len(changes)} ticks seen", len(changes))
        return {"counter_refresh_ms": nothing, "counter_jitter_ms": nothing}
    if refresh.regular:
        grid = "least squares of the ticks on a regular grid"
        jitter = "standard deviation of the ticks about that grid, less the blur of the reading"
    else:
        grid = "median distance of ticks, which follow no regular grid"
        jitter = "spread of the distances of ticks"
    n, sharp_us = refresh.count, float(np.median(changes.half_width_us))
    return {
        "counter_refresh_ms": Figure(refresh.period_us / 1e3, refresh.error_us / 1e3, n, f"{how}; {grid}"),
        "counter_jitter_ms": Figure(refresh.jitter_us / 1e3, None, n, jitter),
        "tick_known_us": Figure(sharp_us, None, n, "half the time between the reads around it"),
    }


def _refresh(seen: Observed, name: str) -> tuple[Figure, Refresh | None]:
    both: list[Shown] = [getattr(recording, name) for recording in (seen.busy, seen.idle)]
    if not any(len(shown.value) for shown in both):
        return _unmeasured("the card does not give this reading"), None
    changes = max((shown.changes() for shown in both), key=len)
    refresh, count = find_refresh(changes), len(changes)
    if refresh is None:
        return _unmeasured(f"the value changed only {count} times while it was watched", count), None
    how = "longest grid that all changes of the value lie on, read each millisecond"
    if not refresh.regular:
        how = "median time between changes of the value, which follow no regular grid"
    return Figure(refresh.period_us / 1e3, refresh.error_us / 1e3, refresh.count, how), refresh


def _lag(seen: Observed, name: str, refresh: Refresh | None) -> Figure:
    found = find_lag(seen.busy.energy.changes(), getattr(seen.busy, name))
    if isinstance(found, str):
        return _unmeasured(found + "; no load was made" * ("change" in found and not seen.loaded))
    waiting_us = refresh.period_us / 2 if refresh is not None else 0.0
    how = "shift at which the reading's integral fits the counter best"
    how += ", less half a refresh of waiting" if refresh is not None else ", waiting for the refresh included"
    lag_us, error_us = found
    return Figure((lag_us - waiting_us) / 1e6, error_us / 1e6, 1, how)


def _scope(seen: Observed) -> tuple[dict[str, Figure], str]:
    found = find_scope(seen.busy.energy.changes(), seen.busy)
    if isinstance(found, str):
        return {"counter_vs_instant_ratio": _unmeasured(found)}, "unknown"
    n = found.stretches
    how = "counter's slope over mean INSTANT power (PowerUsage if absent), stretches of 0.5 s of "
    how += "steady power" if found.steady else "power that was never steady: a hint only"
    figures = {"counter_vs_instant_ratio": Figure(found.ratio, found.spread, n, how)}
    if found.offset_w is not None and found.slope is not None:
        how = "line of counter power over INSTANT power through two power levels"
        figures["counter_slope_ratio"] = Figure(found.slope, None, n, how)
        figures["counter_offset_w"] = Figure(found.offset_w, None, n, how)
    if found.module_ratio is not None:
        how = "counter's slope over the module's INSTANT power"
        figures["counter_vs_module_ratio"] = Figure(found.module_ratio, None, n, how)
    return figures, found.verdict


def _idle(seen: Observed) -> tuple[dict[str, Figure], list[str]]:
    figures: dict[str, Figure] = {}
    remarks = []
    has_instant = bool(len(seen.idle.instant.value))
    watts = (seen.idle.instant if has_instant else seen.idle.usage).value / 1e3
    if n := len(watts):
        mean, spread = float(watts.mean()), float(watts.std())
        how = f"mean of {'INSTANT' if has_instant else 'PowerUsage'} before any load of ours"
        figures["idle_power_w"] = Figure(mean, None, n, how)
        figures["idle_power_sd_w"] = Figure(spread, None, n, "of the same reads")
        if spread > _STEADY * mean:
            remarks.append("the power without load was not steady: something else was using the GPU")
    ticks = seen.idle.energy.changes()
    if len(ticks) >= 3:
        slope = float((ticks.value[-1] - ticks.value[0]) / (ticks.at_us[-1] - ticks.at_us[0])) * 1e3
        how = "counter difference between the first and last tick of the same time"
        figures["idle_counter_power_w"] = Figure(slope, None, len(ticks), how)
    if seen.context is not None and len(seen.context.instant.value):
        watts = seen.context.instant.value / 1e3
        how = "mean of INSTANT with a CUDA context of ours and no work"
        figures["context_power_w"] = Figure(float(watts.mean()), None, len(watts), how)
    if seen.processes:
        remarks.append(
            f"{seen.processes} process(es) were on the GPU: its power without load is not idle power"
        )
    return figures, remarks
