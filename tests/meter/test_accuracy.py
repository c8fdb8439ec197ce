"""Stage energies against the closed form of waveforms the meter has not seen, through the real pynvml."""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

import pytest

from tests.lab import LabConfig, LabDevice, Refresh, Steps, random_waveform
from tests.meter.runs import (
    Sealed,
    busy_machine,
    environment,
    kit,
    run_stages,
    without_realtime,
    write_pipeline,
)
from tests.meter.truth import (
    assert_honest_sample,
    assert_interval_holds,
    assert_placed,
    assert_ticks_honest,
    assert_tiled,
    assert_windows,
    bar,
    device_figures,
)

LENGTHS_S = (0.3, 1.05, 0.3, 1.6, 0.32)

SEED = int(os.environ.get("LAB_SEED", secrets.randbits(31)))
"""Drawn each time; set LAB_SEED to play a failure again."""


def lab(count: int, salt: int, *counters: Refresh) -> LabConfig:
    """`count` devices with random waveforms; counters of random phase and 100 ms unless given."""
    rng = random.Random(SEED + salt)
    print(f"LAB_SEED={SEED}")
    devices = []
    for i in range(count):
        counter = counters[i] if counters else Refresh(100_000, rng.randrange(100_000))
        sensor = Refresh(100_000, rng.randrange(100_000))
        devices.append(LabDevice(random_waveform(rng.randrange(2**31)), counter, sensor))
    return LabConfig(devices)


def assert_all(config: LabConfig, run: Sealed, stages: int = len(LENGTHS_S)) -> None:
    assert [row["status"] for row in run.stages] == ["completed"] * stages
    assert_placed(config, run, *run.stages)
    assert_ticks_honest(config, run)
    assert_tiled(run)


def test_stages_of_a_program(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(1, 1)
    run = run_stages(tmp_path / "run", config, lab_dir, LENGTHS_S)
    assert_all(config, run)
    assert_windows(run, run.stamps)


def test_steps_beside_boundaries_are_placed_where_they_were(lab_dir: Path, tmp_path: Path) -> None:
    """A step every half second and a sensor in phase: one step a cell at most, so the bar itself holds.

    Device by device: what is placed at both ends is exact, however late a busy machine hears of a boundary;
    what it hears of too late is read between samples, and the interval holds the truth.
    """
    rng = random.Random(SEED)
    devices = []
    for period_us in (100_000, 20_000):
        for _ in range(2):
            marks = [(t * 500_000 + rng.randrange(150_000), rng.uniform(75.0, 700.0)) for t in range(120)]
            refresh = Refresh(period_us, rng.randrange(period_us))
            devices.append(LabDevice((Steps(tuple(marks)),), refresh, refresh))
    config = LabConfig(tuple(devices))
    run = run_stages(tmp_path / "run", config, lab_dir, LENGTHS_S)
    figures = list(device_figures(config, run))
    assert len(figures) == len(devices) * len(LENGTHS_S)
    for one in figures:
        if one.placed:
            # The sensor's mean of 25 ms is longer than a cell of 20 ms: a step inside of one is blurred.
            blurred = devices[one.device].counter.period_us < 25_000
            allowed_j = one.allowed_j if blurred else bar(one.length_us) * one.truth_j
            assert one.energy_j == pytest.approx(one.truth_j, abs=allowed_j), one
        else:
            assert_honest_sample(one)
    assert sum(one.placed for one in figures) >= len(devices)


def test_stages_of_a_program_on_a_busy_machine(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(3, 2)
    with busy_machine():
        run = run_stages(tmp_path / "run", config, lab_dir, LENGTHS_S, busy=True)
    assert_all(config, run)


def test_stages_without_realtime_scheduling(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(2, 3)
    with busy_machine():
        options = {"preexec_fn": without_realtime}
        run = run_stages(tmp_path / "run", config, lab_dir, LENGTHS_S, busy=True, popen=options)
    assert run.manifest["sampling"]["sessions"][0]["scheduling"] == "normal"
    assert_all(config, run)


def test_work_between_stages_is_unattributed(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(2, 4)
    run = run_stages(tmp_path / "run", config, lab_dir, (0.3, 1.0, 0.3), between_s=0.35)
    assert_all(config, run, 3)
    assert_windows(run, run.stamps)
    holes = [row for row in run.all_stages if row["stage"] == "unattributed"]
    assert len(holes) == 2
    for hole in holes:
        assert_interval_holds(config, hole)


PROCESS_STAGES = tuple({"command": f"sleep {seconds}"} for seconds in LENGTHS_S)

# Busy on every core from its first moment to its last, in processes and threads.
HOG = """
import os, sys, threading, time
until = time.monotonic() + float(sys.argv[1])
def spin():
    while time.monotonic() < until:
        pass
for _ in range(os.cpu_count() or 1):
    if os.fork() == 0:
        spin()
        os._exit(0)
threads = [threading.Thread(target=spin) for _ in range(4)]
for thread in threads:
    thread.start()
spin()
"""


def test_process_stages(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(1, 5)
    pipeline = write_pipeline(tmp_path, PROCESS_STAGES)
    done = kit(
        "audit", pipeline, "--out", tmp_path / "run", "--cpu", "none", env=environment(config, lab_dir)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Sealed(tmp_path / "run")
    assert_all(config, run)


def test_process_stages_that_hog_every_core(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(2, 6)
    stages = [{"command": ["python", "-c", HOG, str(seconds)]} for seconds in (0.3, 1.1, 0.3, 1.4)]
    done = kit(
        "audit",
        write_pipeline(tmp_path, stages),
        "--out",
        tmp_path / "run",
        "--cpu",
        "none",
        env=environment(config, lab_dir),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_all(config, Sealed(tmp_path / "run"), 4)


def test_counters_that_refresh_irregularly_or_fast(lab_dir: Path, tmp_path: Path) -> None:
    config = lab(
        4,
        7,
        Refresh(100_000, 30_000, jitter_us=8_000, seed=3),
        Refresh(100_000, 70_000, jitter_us=300, seed=4),
        Refresh(20_000, 11_000),
        Refresh(25_300, 7_000, jitter_us=1_000, seed=5),
    )
    run = run_stages(tmp_path / "run", config, lab_dir, LENGTHS_S)
    assert_ticks_honest(config, run)
    assert_tiled(run)
    for one in device_figures(config, run):
        if one.placed:
            assert one.energy_j == pytest.approx(one.truth_j, abs=one.allowed_j + one.doubt_j), one
        else:  # heard of behind a refresh that nobody could foresee
            assert_honest_sample(one)


def test_a_counter_with_an_error_of_its_own_is_billed_as_it_counts(lab_dir: Path, tmp_path: Path) -> None:
    """The meter reports what the instrument shows: a gain error is the instrument's."""
    gain = 1.2
    plain = lab(1, 20)
    device = plain.devices[0]
    config = LabConfig((LabDevice(device.waves, device.counter, device.sensor, counter_gain=gain),))
    run = run_stages(tmp_path / "run", config, lab_dir, (3.0,))
    row = run.stages[0]
    assert_placed(config, run, row)
    assert row["gpu_energy_counter_j"] == row["gpu_energy_j"]
    assert row["gpu_energy_integral_j"] is not None
