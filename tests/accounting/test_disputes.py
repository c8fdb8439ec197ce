"""Where counter and integral contradict each other: found in blocks, with the memory of a block."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from harness.accounting import DeviceLimits, PowerSeries, Sampling, device
from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.device import DeviceMeter


def series(size: int, seed: int, *, gain: float = 0.6, failed: float = 0.02) -> PowerSeries:
    """Noise of 50 to 600 W with a gap and failed reads, and a counter whose gain changes halfway."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(480_000, 520_000, size))
    times[size // 3 :] += 20_000_000
    power = rng.integers(50_000, 600_000, size).astype(np.int32)
    cells = (power[1:] + power[:-1]) / 2 * np.diff(times) * 1e-6
    counter = np.concatenate(([0], np.cumsum(cells * np.where(np.arange(1, size) > size // 2, gain, 1.0))))
    valid, counted = rng.random(size) >= failed, rng.random(size) >= failed
    return PowerSeries("node-00", 0, 0, times, power, valid, counter.astype(np.int64) + 10**9, counted)


def meter(rows: PowerSeries) -> DeviceMeter:
    return DeviceMeter(rows, DeviceBoundaries({}), Sampling(), DeviceLimits(max_mw=700_000))


@pytest.mark.parametrize("size", [33, 65, 1000, 5000])
def test_the_length_of_a_block_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        found = []
        for block in (1, 7, 1024, 1 << 16):
            monkeypatch.setattr(device, "SUM_BLOCK", block)
            found.append(meter(series(size, seed))._disputes)
        assert all(np.array_equal(found[0], other) for other in found)
    if size == 5000:
        # Half the energy after the change is missing: it is found there and not before it.
        change = series(size, 2).mono_us[size // 2]
        assert len(found[0]) > 100
        assert (found[0][:, 1] > change).all()


def test_a_long_series_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "SUM_BLOCK", 4096)
    rows = series(400_000, 1, gain=1.0, failed=0.0)
    found = meter(rows)
    tracemalloc.start()
    found._disputed_blocks()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.mono_us.nbytes
