"""The same coverage through the real bindings: the lab's C library, the sampler process, a sealed bundle."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from harness.accounting import Plan
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


def scaled_errors(config: LabConfig, run: Sealed) -> np.ndarray:
    """Truth minus best of every device in every stage, in units of the half-width on its side."""
    bundle = run.bundle
    plan = Plan(
        bundle.table("stages").to_pylist(),
        counter_series(bundle.table("counters")),
        sampling_rules(bundle.protocol, bundle.manifest),
        device_limits(bundle.manifest),
    )
    power = bundle.iter_batches("power", [*POWER_KEY, *ACCOUNTED])
    parts = {rows.key.device_id: plan.measure(rows.series()) for rows in power_series(power)}
    found = []
    for row in run.stages:
        for device, start, end in zip(
            row["device_ids"], row["device_start_us"], row["device_end_us"], strict=True
        ):
            part = parts[device]
            assert part is not None
            energy = part.by_row[row["stage_uid"]]
            assert energy.energy_mj is not None and energy.low_j is not None and energy.high_j is not None
            best, truth = energy.energy_mj / 1000, config.true_energy_j(device, start, end)
            found.append(
                (truth - best) / max(1e-9, energy.high_j - best if truth > best else best - energy.low_j)
            )
    return np.array(found)


@pytest.mark.parametrize(("boundary", "seed"), [("tick", 11), ("interpolate", 12)])
def test_intervals_of_a_real_run_cover_the_truth(
    lab_dir: Path, tmp_path: Path, boundary: str, seed: int
) -> None:
    rng = random.Random(seed)
    config = lab(seed)
    lengths = [rng.uniform(0.15, 0.4) for _ in range(STAGES)]
    run = run_stages(tmp_path / "run", config, lab_dir, lengths, boundary=boundary)
    errors = scaled_errors(config, run)
    assert errors.shape == (DEVICES * STAGES,)
    # How sharp a bracket is depends on the machine; whether the truth lies in it must not.
    assert np.mean(np.abs(errors) <= 1.0) >= 0.9
    # Not by generosity: a truth uniform in its bracket is as often in the outer half of it as in the inner.
    assert np.quantile(np.abs(errors), 0.99) > 0.3
