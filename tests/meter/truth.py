"""Comparison of a bundle with the closed form that the lab played."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.accounting.test_coverage_lab import energies
from tests.lab import LabConfig
from tests.meter.runs import Sealed

PLACED = ("counter_step", "counter_linear")
"""Methods of a figure whose ends both lie in a cell of the counter."""


def bar(length_us: int) -> float:
    """Relative error of a window whose ends lie in steady power: 0.1 % from one second on, else 0.5 %."""
    return 1e-3 if length_us >= 1_000_000 else 5e-3


def bend_j(config: LabConfig, device: int, at_us: int) -> float:
    """How far true energy is from a straight line in the counter's cell around a moment.

    Of a counter that keeps no time nobody knows where the cell began: what flows in its jitter comes on top.
    """
    first, last = _cells(config, device, at_us)[1]
    whole_j, apart_j = config.true_energy_j(device, first, last), 0.0
    for step in range(1, 50):
        part_j = config.true_energy_j(device, first, first + (last - first) * step / 50)
        apart_j = max(apart_j, abs(part_j - whole_j * step / 50))
    return apart_j + whole_j * config.devices[device].counter.jitter_us / (last - first)


def misled_j(config: LabConfig, device: int, at_us: int) -> float:
    """What a sensor as slow as the counter may cost beside that, however steady the cell itself is.

    It may still show the power of the cell before, and the cells behind tell what follows a boundary: a step
    is then seen where there was none, and its energy is at most that of the cell at the wrong power.
    """
    cells = _cells(config, device, at_us)
    first, last = cells[1]
    mean_w = config.true_energy_j(device, first, last) / (last - first) * 1e6
    moments = range(cells[0][0], cells[-1][1], 1_000)
    wrong_w = max(abs(config.true_power_w(device, at) - mean_w) for at in moments)
    return wrong_w * min(at_us - first, last - at_us) / 1e6


def _cells(config: LabConfig, device: int, at_us: int) -> list[tuple[int, int]]:
    """The counter's cell around a moment, between the one before and the two behind."""
    period_us = config.devices[device].counter.period_us
    ticks = config.tick_times(device, at_us - 3 * period_us, at_us + 4 * period_us)
    own = next(i for i, (a, b) in enumerate(pairwise(ticks)) if a <= at_us < b)
    return list(pairwise(ticks))[own - 1 : own + 3]


def allowed_j(config: LabConfig, row: dict[str, Any], position: int) -> float:
    """The bar, and what placing the two ends inside their cells may cost: one step there draws a triangle."""
    device, ends = row["device_ids"][position], (row["mono_start_us"], row["mono_end_us"])
    gain = config.devices[device].counter_gain
    bends_j = sum(bend_j(config, device, at_us) for at_us in ends)
    return bar(ends[1] - ends[0]) * gain * config.true_energy_j(device, *ends) + 3 * gain * bends_j


def doubt_j(config: LabConfig, run: Sealed, device: int, at_us: int) -> float:
    """What the ticks around a moment may cost, which the log knows to within its own uncertainty only."""
    ticks = [r for r in run.rows("counters") if (r["method"], r["device_id"]) == ("tick", device)]
    ticks.sort(key=lambda tick: tick["mono_us"])
    before = [t for t in ticks if t["mono_us"] <= at_us][-1:]
    after = [t for t in ticks if t["mono_us"] > at_us][:1]
    doubt_us = max((t["uncertainty_us"] for t in before + after), default=0)
    period_us, step_us = config.devices[device].counter.period_us, 1_000
    moments = range(at_us - 2 * period_us, at_us + 2 * period_us, step_us)
    watts = 1e6 * max(config.true_energy_j(device, at, at + step_us) for at in moments) / step_us
    return watts * doubt_us / 1e6


def device_truth_j(config: LabConfig, row: dict[str, Any]) -> list[float]:
    """True joules of each device in its own billed window of a row of `stages`."""
    windows = zip(row["device_ids"], row["device_start_us"], row["device_end_us"], strict=True)
    return [config.true_energy_j(device, start, end) for device, start, end in windows]


@dataclass(frozen=True)
class DeviceFigure:
    """One device in one stage, beside the closed form.

    Attributes:
        truth_j: What its counter counts.
        placed: Whether both ends lie in a cell of the counter; else one was read between samples.
        allowed_j: As of `allowed_j`.
        doubt_j: What the ticks' own uncertainty may cost beside it, where both ends are placed.
        flags: Of the device's own figure.
    """

    stage_uid: int
    device: int
    placed: bool
    length_us: int
    energy_j: float
    low_j: float
    high_j: float
    truth_j: float
    allowed_j: float
    doubt_j: float
    flags: tuple[str, ...]


def device_figures(config: LabConfig, run: Sealed) -> Iterator[DeviceFigure]:
    """Every device of every stage by itself: the method of a row is that of its worst device."""
    for row, device, found in energies(run):
        assert found.energy_mj is not None and found.low_j is not None and found.high_j is not None
        at = row["device_ids"].index(device)
        start_us, end_us = row["device_start_us"][at], row["device_end_us"][at]
        assert found.energy_mj / 1000 == row["device_energy_j"][at]
        placed = found.method in PLACED
        doubts_j = sum(doubt_j(config, run, device, at_us) for at_us in (start_us, end_us)) if placed else 0.0
        yield DeviceFigure(
            row["stage_uid"],
            device,
            placed,
            end_us - start_us,
            found.energy_mj / 1000,
            found.low_j,
            found.high_j,
            config.devices[device].counter_gain * config.true_energy_j(device, start_us, end_us),
            allowed_j(config, row, at),
            doubts_j,
            found.faults,
        )


def assert_honest_sample(one: DeviceFigure) -> None:
    """What was read between samples says so, and its interval, which is a bound, holds the truth."""
    assert one.low_j <= one.truth_j <= one.high_j, one
    assert "counter_boundary_missing" in one.flags, one


def held_up(config: LabConfig, run: Sealed, device: int, at_us: int) -> bool:
    """Whether the machine kept the meter from what it needs to place the boundary at a moment.

    The counter had ticked again before it was read for the boundary: what it showed is nowhere. Or the tick
    behind the moment was missed, or seen so vaguely that the one before it does not follow.
    """
    read = [r for r in run.gpu_boundaries() if (r["device_id"], r["mono_us"]) == (device, at_us)]
    assert read, (device, at_us)
    if config.tick_times(device, at_us, at_us + max(r["uncertainty_us"] for r in read)):
        return True
    period_us = config.devices[device].counter.period_us
    (true_us, *_) = config.tick_times(device, at_us, at_us + 2 * period_us)
    seen = [r for r in run.rows("counters") if (r["method"], r["device_id"]) == ("tick", device)]
    behind = min((r for r in seen if r["mono_us"] > at_us), key=lambda r: r["mono_us"], default=None)
    if behind is None:
        return False  # a meter that sees no tick at all is no victim of the machine
    doubt_us = behind["uncertainty_us"]
    return doubt_us >= period_us / 4 or behind["mono_us"] - doubt_us > true_us + 1


def assert_placed(config: LabConfig, run: Sealed, *rows: dict[str, Any]) -> None:
    """Both ends of these stages are placed in their cells, and right, unless the machine held up the meter.

    A row is the sum of its devices, and its interval is no empty promise.
    """
    for row in rows:
        assert abs(row["gpu_energy_j"] - sum(row["device_energy_j"])) < 1e-6
        assert row["gpu_energy_j_low"] <= row["gpu_energy_j"] <= row["gpu_energy_j_high"]
    ends = {row["stage_uid"]: (row["mono_start_us"], row["mono_end_us"]) for row in rows}
    figures = [one for one in device_figures(config, run) if one.stage_uid in ends]
    assert {one.stage_uid for one in figures} == set(ends)
    for one in figures:
        if one.placed:
            allowed_j = one.allowed_j
            if (
                one.low_j <= one.truth_j <= one.high_j
            ):  # a step that was none is no fault where it is in doubt
                gain = config.devices[one.device].counter_gain
                allowed_j += gain * sum(misled_j(config, one.device, at_us) for at_us in ends[one.stage_uid])
            assert one.energy_j == pytest.approx(one.truth_j, abs=allowed_j), one
        else:
            assert any(held_up(config, run, one.device, at_us) for at_us in ends[one.stage_uid]), one
            assert "counter_boundary_missing" in one.flags, one
            width_j = one.high_j - one.low_j  # two standard errors on each side: a rare truth lies outside
            assert one.low_j - width_j <= one.truth_j <= one.high_j + width_j, one


def assert_interval_holds(config: LabConfig, row: dict[str, Any]) -> None:
    """The truth lies in the 95 % interval or, one time in twenty, no further from it than it is wide.

    How often it lies inside is asserted over many windows by tests/accounting; where it lies further out,
    power did something inside a cell of the counter that nobody could see (`allowed_j`).
    """
    truth_j = sum(device_truth_j(config, row))
    bounds = row["gpu_energy_j_low"], row["gpu_energy_j_high"]
    width_j = bounds[1] - bounds[0]
    width_j += sum(allowed_j(config, row, position) for position in range(len(row["device_ids"])))
    assert bounds[0] - width_j <= truth_j <= bounds[1] + width_j, (row["name"], bounds, truth_j)
    assert bounds[0] <= row["gpu_energy_j"] <= bounds[1]


def assert_windows(run: Sealed, stamps: Sequence[Sequence[int]]) -> None:
    """The billed window is the caller's: between the moments that its program stamped around both ends.

    Args:
        run: A run of in-process stages.
        stamps: For each stage: before it began, at its first statement, at its last, after it ended.
    """
    for row, (before, first, last, after) in zip(run.stages, stamps, strict=True):
        assert before <= row["mono_start_us"] <= first, (row["name"], row["mono_start_us"] - before)
        assert last <= row["mono_end_us"] <= after, (row["name"], row["mono_end_us"] - last)
        assert set(row["device_start_us"]) == {row["mono_start_us"]}
        assert set(row["device_end_us"]) == {row["mono_end_us"]}


def assert_ticks_honest(config: LabConfig, run: Sealed) -> None:
    """Every tick in the log is a true refresh of the counter, to within the uncertainty that it states.

    A tick that was not seen is told from the one behind it and from how far ticks lay apart: of a counter
    that keeps no time one in a hundred lies further off (`harness.meter.ticks._FEW`), so one may, a little.

    """
    seen = [row for row in run.rows("counters") if row["method"] == "tick"]
    assert seen
    beyond = []
    for reading in seen:
        device, at, doubt = reading["device_id"], reading["mono_us"], reading["uncertainty_us"]
        lab = config.devices[device]
        ticks = config.tick_times(device, at - doubt - 1, at + doubt + 1)
        if not ticks and reading["power_mw"] is None and lab.counter.jitter_us:
            beyond.append(reading)
            ticks = config.tick_times(device, at - 2 * doubt, at + 2 * doubt)
        assert ticks, (device, at, doubt)
        joules = [lab.counter_gain * config.true_energy_j(device, config.t0_us, tick) for tick in ticks]
        values = {int(lab.counter_offset_mj + 1000 * energy_j) for energy_j in joules}
        assert any(abs(reading["value"] - value) <= 1 for value in values), (reading, values)
    assert len(beyond) <= 1, beyond


def assert_tiled(run: Sealed) -> None:
    """The rows of a device lie end to end from the first boundary to the last one, in whole millijoules."""
    boundaries = run.gpu_boundaries()
    for key in {(r["device_id"], r["session"]) for r in boundaries}:
        moments = sorted(r["mono_us"] for r in boundaries if (r["device_id"], r["session"]) == key)
        edges = []
        for row in run.all_stages:
            if row["session"] == key[1] and key[0] in row["device_ids"]:
                joules = row["device_energy_j"][row["device_ids"].index(key[0])]
                assert abs(joules * 1000 - round(joules * 1000)) < 1e-3
                edges.append((row["mono_start_us"], row["mono_end_us"]))
        edges.sort()
        assert all(a[1] == b[0] for a, b in pairwise(edges)), edges
        assert (edges[0][0], edges[-1][1]) == (moments[0], moments[-1])
