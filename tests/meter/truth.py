"""Comparison of a bundle with the closed form that the lab played."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.lab import LabConfig
from tests.meter.runs import Sealed


def bar(length_us: int) -> float:
    """Relative error allowed for a billed window: 0.1 % from one second on, 0.5 % at 0.3 s."""
    return 1e-3 if length_us >= 1_000_000 else 5e-3


def device_truth_j(config: LabConfig, row: dict[str, Any]) -> list[float]:
    """True joules of each device in its own billed window of a row of `stages`."""
    windows = zip(row["device_ids"], row["device_start_us"], row["device_end_us"], strict=True)
    return [config.true_energy_j(device, start, end) for device, start, end in windows]


def relative_errors(config: LabConfig, run: Sealed) -> list[tuple[int, float]]:
    """(length of the billed window in us, relative error) of each stage and device."""
    found = []
    for row in run.stages:
        for position, truth_j in enumerate(device_truth_j(config, row)):
            length_us = row["device_end_us"][position] - row["device_start_us"][position]
            found.append((length_us, row["device_energy_j"][position] / truth_j - 1))
    return found


def assert_within_bar(config: LabConfig, run: Sealed) -> None:
    """Every stage of every device is within the bar, and its interval is no empty promise."""
    for row in run.stages:
        truths_j = device_truth_j(config, row)
        for position, truth_j in enumerate(truths_j):
            length_us = row["device_end_us"][position] - row["device_start_us"][position]
            error = row["device_energy_j"][position] / truth_j - 1
            assert abs(error) <= bar(length_us), (row["name"], position, length_us, error)
        if len(truths_j) == 1:
            # What a reader does with the row: the joules of [mono_start_us, mono_end_us].
            assert row["device_start_us"] == [row["mono_start_us"]]
            assert row["device_end_us"] == [row["mono_end_us"]]
        assert (
            row["gpu_energy_j"] == sum(row["device_energy_j"])
            or abs(row["gpu_energy_j"] - sum(row["device_energy_j"])) < 1e-6
        )
        assert_interval_holds(config, row)


def assert_interval_holds(config: LabConfig, row: dict[str, Any]) -> None:
    """The truth lies in the 95 % interval or, one time in twenty, no further from it than it is wide.

    How often it lies inside is asserted over many windows by tests/accounting/test_coverage.py; the hard ends
    of a tick's bracket are at most 1.3 half-widths away for one device.
    """
    truth_j = sum(device_truth_j(config, row))
    bounds = row["gpu_energy_j_low"], row["gpu_energy_j_high"]
    width_j = bounds[1] - bounds[0]
    assert bounds[0] - width_j <= truth_j <= bounds[1] + width_j, (row["name"], bounds, truth_j)
    assert bounds[0] <= row["gpu_energy_j"] <= bounds[1]


def assert_windows(config: LabConfig, run: Sealed) -> None:
    """The billed window holds the work and reaches at most one refresh beyond it, at each end and device.

    A boundary is complete with the tick of its last device, so the slowest device's refresh is the measure.
    """
    slowest = max(range(len(config.devices)), key=lambda d: config.devices[d].counter.period_us)
    for row in run.stages:
        assert row["mono_start_us"] <= row["work_start_us"] <= row["work_end_us"] <= row["mono_end_us"]
        for device, start, end in zip(
            row["device_ids"], row["device_start_us"], row["device_end_us"], strict=True
        ):
            assert start <= row["work_start_us"]
            assert row["work_end_us"] <= end
            # No refresh between the work and the billed edge, save one that comes while the answer is on its
            # way.
            doubt_us = 1000
            before = config.tick_times(slowest, start + doubt_us, row["work_start_us"])
            after = config.tick_times(slowest, row["work_end_us"], end - doubt_us)
            assert len(before) <= 1, (row["name"], device, row["work_start_us"] - start)
            assert len(after) <= 1, (row["name"], device, end - row["work_end_us"])


def assert_ticks_honest(config: LabConfig, run: Sealed) -> None:
    """Every tick in the log is a true refresh of the counter, to within the uncertainty that it states."""
    boundaries = run.gpu_boundaries()
    assert boundaries
    for reading in boundaries:
        assert reading["method"] == "tick"
        device, at, doubt = reading["device_id"], reading["mono_us"], reading["uncertainty_us"]
        ticks = config.tick_times(device, at - doubt - 1, at + doubt + 1)
        assert ticks, (device, at, doubt)
        lab = config.devices[device]
        joules = [lab.counter_gain * config.true_energy_j(device, config.t0_us, tick) for tick in ticks]
        values = {int(lab.counter_offset_mj + 1000 * energy_j) for energy_j in joules}
        assert any(abs(reading["value"] - value) <= 1 for value in values), (reading, values)


def assert_tiled(run: Sealed) -> None:
    """All rows of a device add up to its last boundary minus its first one, in whole millijoules."""
    readings = run.gpu_boundaries()
    for key in {(r["device_id"], r["session"]) for r in readings}:
        mine = sorted(
            (r for r in readings if (r["device_id"], r["session"]) == key), key=lambda r: r["boundary"]
        )
        total_mj, edges = 0, []
        for row in run.all_stages:
            if row["session"] == key[1] and key[0] in row["device_ids"]:
                position = row["device_ids"].index(key[0])
                joules = row["device_energy_j"][position]
                assert abs(joules * 1000 - round(joules * 1000)) < 1e-3
                total_mj += round(joules * 1000)
                edges.append((row["device_start_us"][position], row["device_end_us"][position]))
        assert total_mj == mine[-1]["value"] - mine[0]["value"]
        edges.sort()
        assert all(a[1] == b[0] for a, b in pairwise(edges)), edges
        assert edges[0][0] == mine[0]["mono_us"] and edges[-1][1] == mine[-1]["mono_us"]
