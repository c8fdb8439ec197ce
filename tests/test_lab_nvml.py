"""The fake NVML plays what its Python truth says, seen through the real pynvml in a process of its own."""

from __future__ import annotations

import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.lab import (
    Const,
    LabConfig,
    LabDevice,
    Noise,
    Ramp,
    Refresh,
    Sine,
    Square,
    Steps,
    Trace,
    mono_us,
    random_waveform,
)
from tests.lab.fixtures import RunInLab, lab_dir, nvml_child  # noqa: F401
from tests.lab.waveforms import AnyWaveform, lab_hash

# Microseconds after the origin; it reaches before it because an average at the origin does too.
WINDOW_US = (-700_003, 2_900_017)

WAVES: dict[str, tuple[AnyWaveform, ...]] = {
    "const": (Const(312.5),),
    "steps": (Steps(((-400_000, 80.0), (500_001, 500.0), (1_000_003, 90.25), (2_100_000, 333.0))),),
    "square": (Square(100.0, 500.0, 130_001, 0.37, 40_003),),
    "ramp": (Ramp(80.0, 650.0, 300_007, 1_900_003),),
    "sine": (Sine(300.0, 220.0, 770_003, 0.7),),
    "noise": (Noise(70.0, 690.0, 25_003, seed=7, count=64),),
    "trace": (Trace(((100, 90.0), (400_000, 480.0), (400_001, 120.0), (1_500_000, 700.0))),),
    "looped trace": (Trace(((10_000, 90.0), (200_000, 480.0), (390_000, 120.0)), repeat_us=410_001),),
    "sum": (Const(60.0), Square(0.0, 250.0, 330_000), Sine(150.0, 150.0, 90_001), Ramp(0.0, 90.0, 0, 999)),
    **{f"random {seed}": random_waveform(seed) for seed in range(12)},
}


def dense_power_w(wave: AnyWaveform, tau_us: np.ndarray) -> np.ndarray:
    """Each waveform's definition spelled a third time, elementwise, without an antiderivative."""
    match wave:
        case Const(watts):
            return np.full(tau_us.shape, watts)
        case Square(low, high, period, _, phase):
            return np.where(np.mod(tau_us - phase, period) < wave.high_us, high, low)
        case Ramp(a, b, start, end):
            return np.interp(tau_us, [start, end], [a, b])
        case Sine(mean, amplitude, period, phase):
            return mean + amplitude * np.sin(2 * np.pi * tau_us / period + phase)
        case Noise(low, high, segment, seed, count):
            levels = [low + (high - low) * (lab_hash(seed, i) >> 11) / 2**53 for i in range(count)]
            return np.array(levels)[np.floor(tau_us / segment).astype(int) % count]
        case Steps(points):
            at, watts = np.array(points).T
            return watts[np.clip(np.searchsorted(at, tau_us, side="right") - 1, 0, None)]
        case Trace(points, repeat):
            at, watts = np.array(points).T
            return np.interp(np.mod(tau_us, repeat) if repeat else tau_us, at, watts)
    raise AssertionError(wave)


def quadrature_j(waves: tuple[AnyWaveform, ...], start_us: int, end_us: int) -> float:
    """Midpoint rule, a cell a microsecond: exact if power is linear between whole microseconds."""
    middles = np.arange(start_us, end_us) + 0.5
    return math.fsum(float(dense_power_w(wave, middles).sum()) for wave in waves) / 1e6


@pytest.mark.parametrize("name", WAVES)
def test_python_truth_is_the_integral_of_the_power(name: str) -> None:
    config = LabConfig((LabDevice(WAVES[name]),), t0_us=10**12)
    for start_us, end_us in (WINDOW_US, (0, 1), (123_457, 1_234_577), (2_000_000, 2_300_001)):
        truth_j = config.true_energy_j(0, config.t0_us + start_us, config.t0_us + end_us)
        assert truth_j == pytest.approx(quadrature_j(WAVES[name], start_us, end_us), rel=1e-11, abs=1e-9)
    taus = np.linspace(*WINDOW_US, 999).round() + 0.5
    power_w = [config.true_power_w(0, config.t0_us + tau) for tau in taus]
    assert power_w == pytest.approx(sum(dense_power_w(wave, taus) for wave in WAVES[name]), rel=1e-9)


def test_c_truth_is_the_python_truth(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig(tuple(LabDevice(waves) for waves in WAVES.values()))
    rng = np.random.default_rng(5)
    windows = [sorted(map(int, rng.integers(-3_000_000, 30_000_000, 2))) for _ in range(50)]
    code = """
import ctypes
lib = nvml.nvmlLib
lib.lab_truth_mj.restype = lib.lab_power_w_at.restype = ctypes.c_double
t0, windows = json.loads(sys.argv[1])
at = lambda us: ctypes.c_int64(t0 + us)
print(json.dumps([[(lib.lab_truth_mj(i, at(a), at(b)), lib.lab_power_w_at(i, at(a))) for a, b in windows]
                  for i in range(len(handles))]))
"""
    answers = json.loads(nvml_child(config, code, json.dumps([config.t0_us, windows])))
    for device, rows in enumerate(answers):
        for (start_us, end_us), (truth_mj, power_w) in zip(windows, rows, strict=True):
            truth_j = config.true_energy_j(device, config.t0_us + start_us, config.t0_us + end_us)
            assert truth_mj / 1000 == pytest.approx(truth_j, rel=1e-12, abs=1e-8)
            assert power_w == pytest.approx(config.true_power_w(device, config.t0_us + start_us), rel=1e-12)


SENSORS = """
import ctypes
lib = nvml.nvmlLib
lib.lab_counter_mj_at.restype = ctypes.c_uint64
lib.lab_sensor_mw_at.restype = ctypes.c_uint32
read = lambda d, t: [lib.lab_counter_mj_at(d, t), *(lib.lab_sensor_mw_at(d, kind, t) for kind in range(3))]
print(json.dumps([read(d, ctypes.c_int64(t)) for d, t in json.loads(sys.argv[1])]))
"""


def test_counter_is_the_closed_form_at_every_tick_and_flat_between(nvml_child: RunInLab) -> None:  # noqa: F811
    refreshes = (
        Refresh(),
        Refresh(20_000, 7_001),
        Refresh(100_000, 33_333, 49_999, seed=4),
        Refresh(37_003, 5, 9_000, seed=8),
    )
    devices = [LabDevice(waves, counter=refreshes[i % 4]) for i, waves in enumerate(WAVES.values())]
    config = LabConfig(devices)
    start_us, end_us = config.t0_us, config.t0_us + 1_500_000
    asked, expected = [], []
    for d, device in enumerate(devices):
        ticks = config.tick_times(d, start_us, end_us)
        assert ticks == sorted(set(ticks)) and len(ticks) >= 1_400_000 // device.counter.period_us
        for tick, following in pairwise(ticks):
            mj = device.counter_offset_mj + 1000 * config.true_energy_j(d, config.t0_us, tick)
            asked += [(d, tick), (d, (tick + following) // 2), (d, following - 1)]
            expected += [mj] * 3
    answers = json.loads(nvml_child(config, SENSORS, json.dumps(asked)))
    for (counter_mj, *_), mj in zip(answers, expected, strict=True):
        assert counter_mj <= mj + 1e-4 and mj - counter_mj < 1 + 1e-4


def test_power_sensors_average_over_their_windows(nvml_child: RunInLab) -> None:  # noqa: F811
    square = (Square(100.0, 500.0, 310_000, 0.4, 12_345),)
    config = LabConfig(
        (
            LabDevice(square, sensor=Refresh(100_000, 17_000, 20_000, seed=2)),
            LabDevice(square, instant_us=0, average_us=250_000, usage_is_instant=1, power_gain=1.05),
            LabDevice(square, noise_mw=2_000, noise_seed=9),
        )
    )
    asked, expected = [], []
    for d, device in enumerate(config.devices):
        ticks = config.sensor_times(d, config.t0_us + 2_000_000, config.t0_us + 6_000_000)
        for tick, following in pairwise(ticks):
            mean_w = config.true_energy_j(d, tick - device.average_us, tick) / (device.average_us / 1e6)
            instant_w = config.true_power_w(d, tick)
            if device.instant_us:
                instant_w = config.true_energy_j(d, tick - device.instant_us, tick) / (
                    device.instant_us / 1e6
                )
            for at in (tick, following - 1):
                asked.append((d, at))
                usage_w = instant_w if device.usage_is_instant else mean_w
                expected.append([1000 * device.power_gain * w for w in (usage_w, mean_w, instant_w)])
    answers = json.loads(nvml_child(config, SENSORS, json.dumps(asked)))
    errors_mw: list[float] = []
    for (d, _), (_, *read_mw), true_mw in zip(asked, answers, expected, strict=True):
        for read, true in zip(read_mw, true_mw, strict=True):
            if config.devices[d].noise_mw:
                errors_mw.append(read - true)
            else:
                assert abs(read - true) <= 0.5 + 1e-6
    assert max(map(abs, errors_mw)) <= 2_000.6
    assert 900 < float(np.std(errors_mw)) < 1_400 and abs(float(np.mean(errors_mw))) < 400


def test_field_values_agree_with_the_truth_when_read_live(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig([LabDevice(random_waveform(seed)) for seed in range(100, 106)])
    code = """
rows = []
for _ in range(25):
    for d, h in enumerate(handles):
        before = time.monotonic_ns() // 1000
        f = nvml.nvmlDeviceGetFieldValues(h, [83, (185, 0), 186, 191])
        total = nvml.nvmlDeviceGetTotalEnergyConsumption(h)
        usage = nvml.nvmlDeviceGetPowerUsage(h)
        after = time.monotonic_ns() // 1000
        assert [x.nvmlReturn for x in f] == [0, 0, 0, nvml.NVML_ERROR_NOT_SUPPORTED]
        assert abs(f[0].timestamp - time.time_ns() // 1000) < 1_000_000
        rows.append((d, before, after, f[0].value.ullVal, total, usage, f[1].value.uiVal, f[2].value.uiVal))
    time.sleep(0.037)
print(json.dumps(rows))
"""
    checked = 0
    for d, before, after, field_mj, total_mj, usage, average, instant in json.loads(nvml_child(config, code)):
        first = config.tick_times(d, before - 100_000, before)[-1]
        if config.tick_times(d, before - 100_000, after)[-1] != first:
            continue
        mj = 600_000_000 + 1000 * config.true_energy_j(d, config.t0_us, first)
        assert field_mj == total_mj and 0 <= mj - field_mj + 1e-4 < 1.001
        assert (
            usage == average == pytest.approx(1000 * config.true_energy_j(d, first - 1_000_000, first), abs=1)
        )
        assert instant == pytest.approx(1000 * config.true_energy_j(d, first - 25_000, first) / 0.025, abs=1)
        checked += 1
    assert checked > 100


def test_two_processes_see_one_machine(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig(
        (LabDevice((Square(100.0, 500.0, 1_000_000),), counter_gain=0.57, counter_extra_w=10.0),)
    )
    code = "print(time.monotonic_ns() // 1000, nvml.nvmlDeviceGetTotalEnergyConsumption(handles[0]))"
    reads = [tuple(map(int, nvml_child(config, code).split())) for _ in range(2)]
    elapsed_us = reads[1][0] - reads[0][0]
    gained_mj = reads[1][1] - reads[0][1]
    expected_mj = 570 * config.true_energy_j(0, reads[0][0], reads[1][0]) + elapsed_us / 100
    assert gained_mj == pytest.approx(expected_mj, abs=0.1 * 500 * 1000)


def test_a_config_is_read_again_at_each_init(nvml_child: RunInLab, tmp_path: Path) -> None:  # noqa: F811
    path = LabConfig((LabDevice(name="Old"),)).write(tmp_path / "machine.conf")
    LabConfig((LabDevice(name="New"), LabDevice())).write(tmp_path / "next.conf")
    code = """
import os
names = [nvml.nvmlDeviceGetName(handles[0])]
os.replace(sys.argv[1], os.environ["KIT_LAB_NVML"])
names.append(nvml.nvmlDeviceGetName(handles[0]))
nvml.nvmlInit()
names += [nvml.nvmlDeviceGetName(handles[0]), nvml.nvmlDeviceGetCount()]
nvml.nvmlShutdown(); nvml.nvmlShutdown()
try:
    nvml.nvmlDeviceGetCount()
except nvml.NVMLError_Uninitialized:
    names.append("gone")
print(json.dumps(names))
"""
    out = nvml_child(LabConfig(), code, str(tmp_path / "next.conf"), env={"KIT_LAB_NVML": str(path)})
    assert json.loads(out) == ["Old", "Old", "New", 2, "gone"]


def test_the_cost_of_a_call_is_reported(nvml_child: RunInLab, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    code = """
fields, n = [83, 186, 185], 5000
start = time.perf_counter()
for _ in range(n):
    nvml.nvmlDeviceGetFieldValues(handles[0], fields)
print((time.perf_counter() - start) / n * 1e6)
"""
    cost_us = float(nvml_child(LabConfig((LabDevice(random_waveform(1)),)), code))
    with capsys.disabled():
        print(f"\n  fake nvmlDeviceGetFieldValues of 3 fields through pynvml: {cost_us:.1f} us a call")
    assert cost_us < 1000


def test_truth_windows_add_up() -> None:
    config = LabConfig([LabDevice(random_waveform(seed)) for seed in range(40)])
    cuts = [config.t0_us + at for at in (0, 17, 900_001, 5_000_000, 86_400_000_000)]
    for d in range(40):
        parts = [config.true_energy_j(d, a, b) for a, b in pairwise(cuts)]
        whole_j = config.true_energy_j(d, cuts[0], cuts[-1])
        assert math.fsum(parts) == pytest.approx(whole_j, rel=1e-12)
        assert all(part >= 0 for part in parts)


def test_random_waveforms_are_repeatable_and_bounded() -> None:
    assert random_waveform(11) == random_waveform(11) != random_waveform(12)
    for seed in range(300):
        waves = random_waveform(seed)
        assert sum(wave.bounds_w()[0] for wave in waves) >= 60.0
        assert sum(wave.bounds_w()[1] for wave in waves) <= 700.0 + 1e-9


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 0 W"):
        LabDevice((Sine(10.0, 11.0, 1000),))
    with pytest.raises(ValueError, match="jitter"):
        Refresh(1000, jitter_us=500)


def test_the_origin_is_now() -> None:
    assert abs(LabConfig().t0_us - time.monotonic_ns() // 1000) < 1_000_000
    assert abs(mono_us() - time.monotonic_ns() // 1000) < 1_000_000
