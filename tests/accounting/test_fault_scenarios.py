"""200 seeded faults of two GPUs and a RAPL package, one and two at a time: no figure is silently wrong.

Silently wrong: the truth lies outside the interval by more than one further half-width and by more than 1 %,
and no flag says so. Left out is what one instrument cannot show: a gain of RAPL or of a device that has no
counter, a step that the device could have drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.device import DeviceMeter
from harness.accounting.placement import Refreshes
from harness.accounting.processor import ProcessorMeter
from harness.accounting.series import NO_BOUNDARY, Int64, Sampling
from tests.accounting.simulated import LIMITS, PERIOD_US, ZONE_RANGE_UJ, Outcome, Trial, zone_series
from tests.accounting.test_coverage_lab import energies
from tests.lab import (
    Fault,
    LabConfig,
    LabDevice,
    counter_jump,
    counter_reset,
    counter_shows,
    counter_stuck,
    error_burst,
    gpu_lost,
    not_supported,
    power_shows,
)
from tests.lab.waveforms import random_waveform
from tests.meter.runs import run_stages

SCENARIOS = 200
WINDOWS = ((0, 1), (1, 2), (2, 3), (0, 3))

CHANGED = ("step", "freeze", "slow", "gain", "wrap")
"""Kinds that change what a counter shows at any time ..."""

READ = ("glitch", "spike", "missing", "lost", "late", "duplicate", "reordered")
"""... and kinds that change single readings."""

POSSIBLE = {
    "gpu": (*CHANGED, *READ),
    "gpu without counter": tuple(kind for kind in READ if kind != "glitch"),
    "rapl": tuple(kind for kind in (*CHANGED, *READ) if kind not in ("gain", "spike")),
}


@dataclass
class Readings:
    """What was read of an instrument: rows of the sampler, and of the boundaries.

    Attributes:
        at: (n,) index of the true reading that a row shows; its time may be another one.
        value: (n,) of the counter; power: (n,) mW.
    """

    mono_us: Int64
    value: Int64
    valid: np.ndarray
    power: Int64
    power_valid: np.ndarray
    marks: np.ndarray


def changed(kind: str, rng: random.Random, begin: int, unit: int) -> Callable[[Int64, Int64], Int64]:
    """A counter, given times and true values, as it shows itself from `begin` on; `unit` is a joule."""
    until = begin + int(rng.uniform(0.6e6, 8e6)) if rng.random() < 0.7 else 10**12
    size = int(unit * 10 ** rng.uniform(3, 8))
    gain = rng.choice((0.57, 0.8, 1.3, 2.0))

    def show(times: Int64, values: Int64) -> Int64:
        before = int(np.interp(begin, times, values))
        if kind == "step":
            return values + size * (times >= begin)
        if kind == "gain":
            return np.where(times >= begin, before + np.rint(gain * (values - before)), values).astype(
                np.int64
            )
        if kind == "wrap":
            return np.where(times >= begin, values - before, values)
        stop = min(until, begin + 8_000_000) if kind == "slow" else until
        held = np.where((times >= begin) & (times < stop), before, values)
        lost = int(np.interp(stop, times, values)) - before if kind == "freeze" else 0
        return held - lost * (times >= stop)

    return show


def misread(kind: str, rng: random.Random, rows: Readings, begin: int, unit: int) -> None:
    """Change single readings from `begin` on."""
    size = rows.mono_us.shape[0]
    i = int(np.clip(np.searchsorted(rows.mono_us, begin), 1, size - 4))
    count = rng.randint(1, 3)
    if kind == "glitch":
        rows.value[i] = rng.choice((0, 5, int(rows.value[i]) + int(unit * 10 ** rng.uniform(3.5, 8))))
    elif kind == "spike":
        rows.power[i : i + count] = rng.choice((950_000, 6_000_000, 65_000_000))
    elif kind == "missing":
        count = rng.choice((1, 3, 12))
        rows.valid[i : i + count] = False
        if rng.random() < 0.5:
            rows.power_valid[i : i + count] = False
    elif kind == "duplicate":
        for column in (rows.value, rows.power):
            column[i : i + count] = column[i - 1]
    elif kind == "reordered":
        for column in (rows.value, rows.power):
            column[[i, i + 1]] = column[[i + 1, i]]
    elif kind == "lost":
        keep = np.ones(size, np.bool_)
        keep[i : i + rng.choice((1, 4, 16))] = False
        for name in ("mono_us", "value", "valid", "power", "power_valid", "marks"):
            setattr(rows, name, getattr(rows, name)[keep])


class Instrument:
    """A device or a package that plays a waveform, with its faults.

    Args:
        what: gpu, gpu without counter, or rapl.
        rng: of the scenario.
        faults: by kind.
    """

    def __init__(self, what: str, rng: random.Random, faults: list[str]) -> None:
        self.what, self.faults = what, faults
        high = 250.0 if what == "rapl" else 700.0
        waves = random_waveform(rng.randrange(10**9), 0.1 * high, high)
        self.trial = trial = Trial(rng.randrange(10**9), waves, least_s=16.0, most_s=90.0)
        cuts = sorted(rng.sample(range(int(trial.start_us + 4e6), int(trial.end_us - 4e6), 100_000), 2))
        self.edges = [trial.start_us, *cuts, trial.end_us]
        self.begins = []
        for kind in faults:
            near = rng.choice(self.edges) + int(rng.uniform(-3e6, 1e6))
            begin = near if rng.random() < 0.5 else rng.randrange(trial.start_us, trial.end_us)
            self.begins.append(begin)
            if kind == "late":
                i = int(np.searchsorted(trial.mono_us, begin))
                trial.mono_us[i : i + 1] += rng.randrange(PERIOD_US - 30_000)
        self.read = self._zone(rng) if what == "rapl" else self._gpu(rng)

    def _damage(self, rng: random.Random, rows: Readings, unit: int) -> None:
        for kind, begin in zip(self.faults, self.begins, strict=True):
            if kind in CHANGED:
                rows.value = changed(kind, rng, begin, unit)(rows.mono_us, rows.value)
            else:
                misread(kind, rng, rows, begin, unit)

    def _gpu(self, rng: random.Random) -> Callable[[int, int], tuple[Outcome, tuple[str, ...]]]:
        """A sampler's rows and refreshes of the counter beside boundaries, all of them open to faults."""
        trial, counted = self.trial, self.what == "gpu"
        series = trial.series(counter=counted)
        ends = trial.boundaries(self.edges)
        if not counted:
            ends = DeviceBoundaries({n: replace(e, method="sample") for n, e in ends.readings.items()})
        seen = ends.refreshes.seen
        times = np.concatenate((series.mono_us, [one.mono_us for one in seen])).astype(np.int64)
        values = np.concatenate((series.counter_mj, [one.value_mj for one in seen])).astype(np.int64) + 10**9
        power = np.concatenate((series.power_mw, [one.power_mw or 0 for one in seen])).astype(np.int64)
        marks = np.concatenate((np.full(series.mono_us.shape, NO_BOUNDARY), np.arange(len(seen))))
        order = np.argsort(times, kind="stable")
        ok = np.ones(times.shape, np.bool_)
        rows = Readings(times[order], values[order], ok, power[order], ok.copy(), marks[order])
        self._damage(rng, rows, 1000)
        sampled = rows.marks == NO_BOUNDARY
        series = replace(
            series,
            mono_us=rows.mono_us[sampled], power_mw=rows.power[sampled],
            power_valid=rows.power_valid[sampled],
            counter_mj=rows.value[sampled], counter_valid=rows.valid[sampled] & counted,
        )  # fmt: skip
        found = [
            replace(
                seen[rows.marks[k]],
                value_mj=int(rows.value[k]),
                power_mw=int(rows.power[k]) if rows.power_valid[k] and rows.power[k] > 0 else None,
            )
            for k in np.flatnonzero(~sampled & rows.valid)
        ]
        meter = DeviceMeter(series, replace(ends, refreshes=Refreshes(found)), Sampling(), LIMITS)

        def read(a: int, b: int) -> tuple[Outcome, tuple[str, ...]]:
            energy = meter.measure(a, b)
            truth = trial.truth_j(self.edges[a], self.edges[b])
            flags = energy.faults
            if "gain" in self.faults and energy.integral.samples < Sampling().min_samples:
                # A gain is found by the power samples alone, and such a row says that they are too few.
                flags += ("short_stage",)
            if energy.energy_mj is None or energy.low_j is None or energy.high_j is None:
                return Outcome(truth, truth, truth, truth), flags
            return Outcome(energy.energy_mj / 1000, energy.low_j, energy.high_j, truth), flags

        return read

    def _zone(self, rng: random.Random) -> Callable[[int, int], tuple[Outcome, tuple[str, ...]]]:
        trial = self.trial
        plain = zone_series(trial, self.edges)
        start = rng.choice((10**9, ZONE_RANGE_UJ - 10**9))
        ok = np.ones(plain.mono_us.shape, np.bool_)
        rows = Readings(plain.mono_us, plain.value + start, ok, plain.value * 0, ok.copy(), plain.boundary)
        self._damage(rng, rows, 1_000_000)
        series = replace(
            plain,
            mono_us=rows.mono_us, t_us=rows.mono_us, value=rows.value % ZONE_RANGE_UJ, valid=rows.valid,
            boundary=rows.marks, uncertainty_us=rows.value * 0 + 1000, power_mw=rows.value * 0 - 1,
            method=["sample"] * rows.value.shape[0],
        )  # fmt: skip
        meter = ProcessorMeter([series])

        def read(a: int, b: int) -> tuple[Outcome, tuple[str, ...]]:
            part = meter.measure("cpu", (self.edges[a], self.edges[b]), (a, b))
            truth = trial.truth_j(self.edges[a], self.edges[b])
            if part.energy_j is None or part.low_j is None or part.high_j is None:
                return Outcome(truth, truth, truth, truth), part.faults
            return Outcome(part.energy_j, part.low_j, part.high_j, truth), part.faults

        return read


def verdict(found: Outcome, flags: tuple[str, ...]) -> str:
    """Of one figure: right, flagged, or silently wrong."""
    if found.covered:
        return "right"
    outside = max(found.low - found.truth, found.truth - found.high)
    wrong = outside > (found.high - found.low) / 2 and abs(found.best - found.truth) > 0.01 * found.truth
    if not wrong:
        return "right"
    return "flagged" if flags else "silent"


def scenario(seed: int) -> list[tuple[str, str, str, tuple[int, int], Outcome, tuple[str, ...]]]:
    """Two devices and a package, one or two faults: a line a figure of every instrument with a fault."""
    rng = random.Random(f"faults {seed}")
    whats = ["gpu", "gpu without counter" if rng.random() < 0.25 else "gpu", "rapl"]
    faults: list[list[str]] = [[], [], []]
    for _ in range(1 + seed % 2):
        target = rng.randrange(3)
        faults[target].append(rng.choice(POSSIBLE[whats[target]]))
    lines = []
    for what, kinds in zip(whats, faults, strict=True):
        if not kinds:
            continue
        instrument = Instrument(what, rng, kinds)
        for window in WINDOWS:
            found, flags = instrument.read(*window)
            lines.append((what, " + ".join(sorted(kinds)), verdict(found, flags), window, found, flags))
    return lines


def show_table(table: Counter[tuple[str, str, str]]) -> None:
    print(f"\n{'instrument':20} {'fault':24} right flagged silent")
    for what, kinds in dict.fromkeys((what, kinds) for what, kinds, _ in sorted(table)):
        counts = [table[what, kinds, word] for word in ("right", "flagged", "silent")]
        print(f"{what:20} {kinds:24} {counts[0]:5} {counts[1]:7} {counts[2]:6}")


def test_no_fault_makes_a_figure_silently_wrong() -> None:
    table: Counter[tuple[str, str, str]] = Counter()
    silent = []
    for seed in range(SCENARIOS):
        for what, kinds, word, window, found, flags in scenario(seed):
            table[what, kinds, word] += 1
            if word == "silent":
                silent.append(f"{seed}: {what}, {kinds}, window {window}: {found} {flags}")
    show_table(table)
    assert not silent, "\n".join(silent)


S = 1_000_000
STAGES_S = (1.5, 6.0, 1.5)
MIDDLE = 7 * S  # after the lab's origin: in the second stage, as far as the machine keeps up
NO_COUNTER = not_supported("nvmlDeviceGetTotalEnergyConsumption"), not_supported("field:83")
THROUGH_PYNVML: dict[str, tuple[tuple[Fault, ...], dict[str, Any]]] = {
    "glitch low": ((counter_shows(200_000, MIDDLE, MIDDLE + 150_000),), {}),
    "glitch high": ((counter_shows(10**12, MIDDLE, MIDDLE + 150_000),), {}),
    "step": ((counter_jump(22_543_283_000, MIDDLE),), {}),
    "small step": ((counter_jump(400_000, MIDDLE),), {}),
    "step there and back": ((counter_jump(5_000_000, MIDDLE, MIDDLE + 2 * S),), {}),
    "reset": ((counter_reset(MIDDLE),), {}),
    "freeze": ((counter_stuck(MIDDLE, MIDDLE + 2 * S),), {}),
    "freeze for good": ((counter_stuck(MIDDLE),), {}),
    "gain": ((), {"counter_gain": 0.573}),
    "spike": ((*NO_COUNTER, power_shows(65_000_000, MIDDLE, MIDDLE + 700_000)), {}),
    "missing": ((error_burst(MIDDLE, MIDDLE + S),), {}),
    "lost": ((gpu_lost(MIDDLE, MIDDLE + 3 * S),), {}),
}
"""Fault of one device and how it is built; 12 devices are metered in one run."""


def test_nor_does_one_that_is_read_through_pynvml(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig(
        [
            LabDevice(random_waveform(seed, 70, 600), faults=faults, **options)
            for seed, (faults, options) in enumerate(THROUGH_PYNVML.values())
        ]
    )
    run = run_stages(tmp_path / "run", config, lab_dir, STAGES_S, period_ms=100)
    table: Counter[tuple[str, str, str]] = Counter()
    silent = []
    for row, device, energy in energies(run):
        kind = list(THROUGH_PYNVML)[device]
        at = row["device_ids"].index(device)
        truth = config.true_energy_j(device, row["device_start_us"][at], row["device_end_us"][at])
        found = Outcome(truth, truth, truth, truth)
        if energy.energy_mj is not None and energy.low_j is not None and energy.high_j is not None:
            found = Outcome(energy.energy_mj / 1000, energy.low_j, energy.high_j, truth)
        word = verdict(found, energy.faults)
        table["gpu, pynvml", kind, word] += 1
        if word == "silent":
            silent.append(f"{row['name']}, {kind}: {found} {energy.faults}")
    show_table(table)
    assert not silent, "\n".join(silent)
    assert sum(table.values()) == len(STAGES_S) * len(THROUGH_PYNVML)
    if not run.stages[0]["mono_start_us"] < config.t0_us + MIDDLE < run.stages[-1]["mono_end_us"] - 3 * S:
        pytest.skip("the machine is so slow that nothing was measured when the faults came")
    noticed = {device for _, device, energy in energies(run) if energy.faults}
    assert noticed == set(range(len(THROUGH_PYNVML)))
