"""The probe's estimators on made-up readings whose period, lag and scope are known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.gpucheck.probe.grid import find_refresh
from harness.gpucheck.probe.lag import find_lag
from harness.gpucheck.probe.record import Changes, Recording, Shown
from harness.gpucheck.probe.scope import CounterScope, find_scope
from tests.lab import Const, LabConfig, LabDevice, Refresh, Square

T0 = 5_000_000_000
NOTHING = Shown(*(np.zeros(0) for _ in range(3)))
LOADED = (Square(100.0, 500.0, 4_140_000, 0.56),)


def changes(at: list[float], half_width: float = 300.0) -> Changes:
    times = np.array(at, dtype=np.float64)
    return Changes(times, np.full(len(at), half_width), np.arange(len(at), dtype=np.float64))


def record(device: LabDevice, seconds: float, every_us: int = 1_000) -> Recording:
    """What a perfectly punctual reader would see of a lab device, from the lab's own closed forms."""
    config = LabConfig((device,), t0_us=T0)
    begin = np.arange(T0, T0 + int(seconds * 1e6), every_us)
    end = begin + 20

    def shown(refresh: Refresh, value_at: object) -> Shown:
        last = np.array([T0 + refresh.tick_us(refresh.last(int(t) + 10 - T0)) for t in begin])
        values = np.array([value_at(int(t)) for t in last])  # type: ignore[operator]
        return Shown(begin.astype(np.float64), end.astype(np.float64), values)

    def mean_mw(window_us: int) -> object:
        return lambda t: round(
            config.true_energy_j(0, t - window_us, t) / window_us * 1e9 * device.power_gain
        )

    def energy(t: int) -> float:
        extra_j = device.counter_extra_w * (t - T0) / 1e6
        return float(round((config.true_energy_j(0, T0, t) * device.counter_gain + extra_j) * 1e3))

    average = shown(device.sensor, mean_mw(device.average_us))
    module = shown(device.sensor, lambda t: 1e3 * (config.true_power_w(0, t) + device.module_extra_w))
    return Recording(
        energy=shown(device.counter, energy),
        instant=shown(device.sensor, mean_mw(device.instant_us)),
        average=average,
        usage=average,
        module=module if device.module_extra_w else NOTHING,
    )


@pytest.mark.parametrize("period", [5_000, 20_000, 37_000, 100_000, 333_000])
@pytest.mark.parametrize("jitter", [0, 5])  # per cent
def test_a_refresh_is_found_behind_jitter(period: int, jitter: int) -> None:
    refresh = Refresh(period, 1_234, jitter_us=period * jitter // 100)
    found = find_refresh(changes([T0 + refresh.tick_us(k) for k in range(150)], half_width=50.0))
    assert found is not None and found.regular
    assert found.period_us == pytest.approx(period, rel=0.002)
    assert found.jitter_us == pytest.approx(period * jitter / 100 / 3**0.5, rel=0.25, abs=1.0)


@pytest.mark.parametrize("seed", range(8))
def test_values_that_repeat_do_not_lengthen_the_period(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(rng.random(400) < 0.3)
    at = T0 + 37_000.0 * kept + rng.uniform(-300, 300, len(kept))
    found = find_refresh(changes(list(at)))
    assert found is not None and found.regular and found.period_us == pytest.approx(37_000, rel=0.001)


@pytest.mark.parametrize("seed", range(20))
def test_changes_at_random_have_no_grid(seed: int) -> None:
    at = T0 + np.cumsum(np.random.default_rng(seed).exponential(50_000.0, 60))
    found = find_refresh(changes(list(at)))
    assert found is None or not found.regular


def test_too_few_changes_give_no_period() -> None:
    assert find_refresh(changes([])) is None
    assert find_refresh(changes([T0 + 100_000.0 * k for k in range(5)])) is None


def test_one_late_look_does_not_spoil_the_period() -> None:
    at = [T0 + 20_000.0 * k for k in range(60)]
    half = np.full(60, 100.0)
    at[17], half[17] = at[17] + 4_000.0, 4_500.0
    found = find_refresh(Changes(np.array(at), half, np.arange(60.0)))
    assert found is not None and found.period_us == pytest.approx(20_000, rel=1e-6) and found.jitter_us < 1.0


@pytest.mark.parametrize("window_us", [200_000, 500_000, 1_000_000, 1_600_000])
@pytest.mark.parametrize("gain", [1.0, 0.93])
def test_a_trailing_mean_lags_by_half_its_window(window_us: int, gain: float) -> None:
    device = LabDevice(
        LOADED,
        counter=Refresh(100_000, 17_000),
        sensor=Refresh(100_000, 60_000),
        average_us=window_us,
        power_gain=gain,
        counter_extra_w=80.0,
    )
    seen = record(device, 16.0)
    lag = find_lag(seen.energy.changes(), seen.average)
    assert isinstance(lag, tuple)
    # Half a refresh of waiting on top: what a reader sees at a random moment.
    assert lag[0] == pytest.approx(window_us / 2 + 50_000, rel=0.03)


def test_a_lag_needs_power_that_moves_and_a_counter() -> None:
    flat = record(LabDevice((Const(300.0),)), 10.0)
    assert "did not change enough" in str(find_lag(flat.energy.changes(), flat.average))
    moving = record(LabDevice(LOADED), 10.0)
    assert "does not give this reading" in str(find_lag(moving.energy.changes(), NOTHING))
    assert "not seen to move" in str(find_lag(changes([]), moving.average))
    unrelated = record(LabDevice((Square(100.0, 500.0, 2_900_000, 0.3),)), 10.0)
    assert isinstance(find_lag(moving.energy.changes(), unrelated.average), str)


@pytest.mark.parametrize(
    ("device", "verdict", "ratio", "offset_w"),
    [
        (LabDevice(LOADED), "gpu", 1.0, 0.0),
        (LabDevice(LOADED, counter_extra_w=150.0), "wider", 1.3, 150.0),
        (LabDevice(LOADED, counter_extra_w=150.0, module_extra_w=150.0), "module", 1.3, 150.0),
        (LabDevice(LOADED, counter_gain=0.57), "narrower", 0.57, 0.0),
        (LabDevice(LOADED, counter_gain=1.03), "gpu", 1.03, 0.0),
        (LabDevice((Const(200.0),), counter_extra_w=90.0), "wider", 1.45, None),
    ],
)
def test_the_counters_scope(device: LabDevice, verdict: str, ratio: float, offset_w: float | None) -> None:
    seen = record(device, 14.0)
    scope = find_scope(seen.energy.changes(), seen)
    assert isinstance(scope, CounterScope) and scope.steady
    assert scope.verdict == verdict and scope.ratio == pytest.approx(ratio, rel=0.005)
    if offset_w is None:
        assert scope.offset_w is None
    else:
        assert scope.offset_w == pytest.approx(offset_w, abs=2.0)


def test_a_power_that_is_never_steady_gives_no_bold_verdict() -> None:
    seen = record(LabDevice((Square(100.0, 500.0, 330_000),), counter_gain=1.1), 10.0)
    scope = find_scope(seen.energy.changes(), seen)
    assert isinstance(scope, CounterScope) and not scope.steady and scope.verdict == "unknown"
