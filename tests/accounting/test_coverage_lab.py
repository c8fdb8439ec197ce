"""The same coverage through the real bindings: the lab's C library, the sampler process, a sealed bundle."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.accounting import Plan
from harness.accounting.device import DeviceEnergy
from harness.bundle.derive import device_limits, sampling_rules
from harness.bundle.series import ACCOUNTED, POWER_KEY, counter_series, power_series
from tests.lab import LabConfig, LabDevice, Refresh, random_waveform
from tests.meter.runs import Sealed, run_stages

DEVICES = 8
STAGES = 24


def lab(seed: int) -> LabConfig:
    rng = random.Random(seed)
    return LabConfig(
        [
            LabDevice(
                random_waveform(rng.randrange(2**31)),
                Refresh(100_000, rng.randrange(100_000)),
                Refresh(100_000, rng.randrange(100_000)),
            )
            for _ in range(DEVICES)
        ]
    )


def energies(run: Sealed) -> Iterator[tuple[dict[str, Any], int, DeviceEnergy]]:
    """Row, device and energy of every device in every stage."""
    bundle = run.bundle
    plan = Plan(
        bundle.table("stages").to_pylist(),
        counter_series(bundle.table("counters")),
        sampling_rules(bundle.protocol, bundle.manifest),
        device_limits(bundle.manifest),
    )
    power = bundle.iter_batches("power", [*POWER_KEY, *ACCOUNTED])
    parts = {
        (rows.key.session, rows.key.device_id): plan.measure(rows.series()) for rows in power_series(power)
    }
    for row in run.stages:
        for device in row["device_ids"]:
            part = parts[row["session"], device]
            assert part is not None
            yield row, device, part.by_row[row["stage_uid"]]


def scaled_errors(config: LabConfig, run: Sealed) -> np.ndarray:
    """Truth minus best of every device in every stage, in units of the half-width on its side."""
    found = []
    for row, device, energy in energies(run):
        assert energy.energy_mj is not None and energy.low_j is not None and energy.high_j is not None
        at = row["device_ids"].index(device)
        start, end = row["device_start_us"][at], row["device_end_us"][at]
        best, truth = energy.energy_mj / 1000, config.true_energy_j(device, start, end)
        found.append(
            (truth - best) / max(1e-9, energy.high_j - best if truth > best else best - energy.low_j)
        )
    return np.array(found)


def test_intervals_of_a_real_run_cover_the_truth(lab_dir: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    config = lab(11)
    lengths = [rng.uniform(0.15, 0.4) for _ in range(STAGES)]
    run = run_stages(tmp_path / "run", config, lab_dir, lengths)
    errors = scaled_errors(config, run)
    assert errors.shape == (DEVICES * STAGES,)
    # How sharp a bracket is depends on the machine; whether the truth lies in it must not.
    assert np.mean(np.abs(errors) <= 1.0) >= 0.9
    # Not by generosity: a truth uniform in its bracket is as often in the outer half of it as in the inner.
    assert np.quantile(np.abs(errors), 0.99) > 0.3
