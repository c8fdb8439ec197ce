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

import numpy as np

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.counter import CounterReading
from harness.accounting.device import DeviceMeter
from harness.accounting.processor import ProcessorMeter
from harness.accounting.series import NO_BOUNDARY, Int64, Sampling
from tests.accounting.simulated import LIMITS, PERIOD_US, ZONE_RANGE_UJ, Outcome, Trial, zone_series
from tests.lab.waveforms import random_waveform

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
        keep |= rows.marks != NO_BOUNDARY
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
        trial, counted = self.trial, self.what == "gpu"
        series = trial.series(counter=counted)
        ends = [trial.tick(t) if counted else trial.missing(t) for t in self.edges]
        start = 10**9
        times = np.concatenate((series.mono_us, [e.mono_us for e in ends]))
        values = np.concatenate((series.counter_mj, [e.value_mj or 0 for e in ends])) + start
        marks = np.concatenate((np.full(series.mono_us.shape, NO_BOUNDARY), np.arange(4)))
        power = np.concatenate((series.power_mw, [0] * 4)).astype(np.int64)
        order = np.argsort(times, kind="stable")
        ok = np.ones(times.shape, np.bool_)
        rows = Readings(times[order], values[order], ok, power[order], ok.copy(), marks[order])
        sampled = rows.marks == NO_BOUNDARY
        rows.power = np.rint(np.interp(rows.mono_us, rows.mono_us[sampled], rows.power[sampled])).astype(
            np.int64
        )
        self._damage(rng, rows, 1000)
        tick = rows.marks == NO_BOUNDARY
        series = replace(
            series,
            mono_us=rows.mono_us[tick], power_mw=rows.power[tick], power_valid=rows.power_valid[tick],
            counter_mj=rows.value[tick], counter_valid=rows.valid[tick] & counted,
        )  # fmt: skip
        found: dict[int, CounterReading] = {}
        for k in np.flatnonzero(~tick):
            number = int(rows.marks[k])
            value = int(rows.value[k]) if counted and rows.valid[k] else None
            found[number] = replace(ends[number], value_mj=value)
        meter = DeviceMeter(series, DeviceBoundaries(found), Sampling(), LIMITS)

        def read(a: int, b: int) -> tuple[Outcome, tuple[str, ...]]:
            energy = meter.measure(a, b)
            truth = trial.truth_j(found[a].mono_us, found[b].mono_us)
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


def test_no_fault_makes_a_figure_silently_wrong() -> None:
    table: Counter[tuple[str, str, str]] = Counter()
    silent = []
    for seed in range(SCENARIOS):
        for what, kinds, word, window, found, flags in scenario(seed):
            table[what, kinds, word] += 1
            if word == "silent":
                silent.append(f"{seed}: {what}, {kinds}, window {window}: {found} {flags}")
    print(f"\n{'instrument':20} {'fault':24} right flagged silent")
    for what, kinds in dict.fromkeys((what, kinds) for what, kinds, _ in sorted(table)):
        counts = [table[what, kinds, word] for word in ("right", "flagged", "silent")]
        print(f"{what:20} {kinds:24} {counts[0]:5} {counts[1]:7} {counts[2]:6}")
    assert not silent, "\n".join(silent)
