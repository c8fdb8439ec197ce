"""Energy counter: differences, resets, standstills, missing boundaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.accounting.counter import CounterReading, counter_energy, find_faults
from harness.accounting.error_model import Spread, uniform_pair_95
from harness.accounting.integral import integrate_power


def power_bridge(t, p, max_mw=700_000):
    t, p = np.asarray(t, np.int64), np.asarray(p, np.int64)
    ok = np.ones(t.shape, bool)
    return lambda a, b: integrate_power(t, p, ok, a, b, gap_us=1_000_000, max_mw=max_mw)


def no_power(a, b):
    empty = np.zeros(0, np.int64)
    return integrate_power(empty, empty, empty.astype(bool), a, b, gap_us=1_000_000)


def faults(t, v, bridge=no_power, valid=None):
    t, v = np.asarray(t, np.int64), np.asarray(v, np.int64)
    return find_faults(t, v, np.ones(t.shape, bool) if valid is None else np.asarray(valid), bridge)


def reading(t, v, **more):
    return CounterReading(t, v, **more)


SECOND = 1_000_000
GRID = np.arange(0, 60 * SECOND, SECOND // 2)


def test_difference_of_two_ticks():
    got = counter_energy(
        reading(0, 5_000, uncertainty_us=1000, power_mw=300_000.0),
        reading(10 * SECOND, 3_005_000, uncertainty_us=2000, power_mw=500_000.0),
        faults([], []),
        bridge=no_power,
    )
    assert (got.energy_mj, got.method, got.resets) == (3_000_000, "counter_tick", 0)
    # Two uniform errors of +-0.3 and +-1.0 J: the tail (1.3 - s)^2 / (4 0.3) outside is 5 % at s = 1.055.
    assert got.boundary.half_j == pytest.approx(1.3 - math.sqrt(0.2 * 0.3), abs=1e-3)
    assert got.boundary.low_j == got.boundary.high_j and got.gap == Spread()


@pytest.mark.parametrize(
    ("method", "name", "uncertainty_us", "half"),
    [
        ("tick", "counter_tick", 1_000, uniform_pair_95(0.4, 0.4)),
        # A refresh of 100 ms: +-20 J at each end, as old as 0 to 100 ms, 40 J at most.
        ("sample", "counter_sample", 100_000, uniform_pair_95(20, 20)),
    ],
)
def test_a_boundary_read_worse_has_a_wider_interval(method, name, uncertainty_us, half):
    edges = [
        reading(t, v, uncertainty_us=uncertainty_us, method=method, power_mw=400_000.0)
        for t, v in ((0, 0), (10**6, 9))
    ]
    got = counter_energy(*edges, faults([], []), bridge=no_power)
    assert got.method == name
    assert got.boundary.half_j == pytest.approx(half, rel=0.01)


def test_a_stale_reading_is_low_where_power_is_higher_than_it_was():
    edges = [
        reading(t, v, uncertainty_us=100_000, method="immediate", power_mw=p)
        for t, v, p in ((0, 0, 100_000.0), (10**6, 9, 500_000.0))
    ]
    got = counter_energy(*edges, faults([], []), bridge=no_power)
    # 0 to 10 J are missing at the start, 0 to 50 J at the end: 20 J more on average.
    half = uniform_pair_95(5, 25)
    assert (got.boundary.low_j, got.boundary.high_j) == pytest.approx((half - 20, half + 20), abs=1e-3)


def test_reset_is_bridged_by_power():
    v = np.where(GRID < 20.25 * SECOND, 1_000_000 + GRID * 3 // 10, (GRID - 20 * SECOND) * 3 // 10)
    bridge = power_bridge(GRID, np.full(GRID.shape, 300_000))
    ticks = faults(GRID, v, bridge)
    got = counter_energy(
        reading(5 * SECOND, 2_500_000), reading(30 * SECOND, 3_000_000), ticks, bridge=bridge
    )
    assert (got.resets, got.method) == (1, "counter_split")
    assert got.energy_j == pytest.approx(25 * 300, abs=0.01)
    before = counter_energy(
        reading(5 * SECOND, 2_500_000), reading(15 * SECOND, 5_500_000), ticks, bridge=bridge
    )
    assert (before.energy_mj, before.method) == (3_000_000, "counter_tick")


def test_a_reset_that_ends_above_the_start_is_still_seen():
    """The difference alone looks fine: only the sampler's readings show the fall."""
    v = np.where(GRID < 10 * SECOND, 1_000 + GRID // 10, (GRID - 10 * SECOND) // 10)
    bridge = power_bridge(GRID, np.full(GRID.shape, 100_000))
    got = counter_energy(
        reading(0, 1_000), reading(40 * SECOND, 3_000_000), faults(GRID, v, bridge), bridge=bridge
    )
    assert got.resets == 1
    assert got.energy_j == pytest.approx(4000, abs=1)


def test_a_reset_without_any_tick_between_is_seen_by_the_boundaries():
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    got = counter_energy(
        reading(SECOND, 900_000), reading(SECOND + 300_000, 5_000), faults([], []), bridge=bridge
    )
    assert got.resets == 1
    assert got.energy_j == pytest.approx(60.0)


def test_a_reset_without_power_uses_the_counters_own_rate():
    v = np.where(GRID < 10 * SECOND, GRID // 10, (GRID - 10 * SECOND) // 10)
    got = counter_energy(reading(0, 0), reading(20 * SECOND, 1_000_000), faults(GRID, v), bridge=no_power)
    assert got.energy_j == pytest.approx(2000, rel=0.01)
    assert got.gap.high_j == pytest.approx(50, rel=0.05)


def test_a_counter_that_stands_still_is_bridged():
    v = np.minimum(GRID, 10 * SECOND) // 5 + np.maximum(0, GRID - 20 * SECOND) // 5
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    got = counter_energy(
        reading(5 * SECOND, 1_000_000),
        reading(30 * SECOND, 4_000_000),
        faults(GRID, v, bridge),
        bridge=bridge,
    )
    assert (got.stuck, got.method) == (1, "counter_split")
    assert got.energy_j == pytest.approx(5000, rel=1e-6)


def test_a_counter_that_catches_up_is_left_alone():
    v = np.where((GRID > 10 * SECOND) & (GRID < 14 * SECOND), 2_000_000, GRID // 5)
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    ticks = faults(GRID, v, bridge)
    assert ticks.stuck == ()
    got = counter_energy(reading(0, 0), reading(30 * SECOND, 6_000_000), ticks, bridge=bridge)
    assert got.method == "counter_tick"


def test_a_device_without_power_may_keep_its_counter():
    bridge = power_bridge(GRID, np.zeros(GRID.shape))
    assert faults(GRID, np.zeros(GRID.shape), bridge).stuck == ()


def test_standing_still_to_the_end_is_bridged_to_the_end():
    v = np.minimum(GRID, 10 * SECOND) // 5
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    got = counter_energy(
        reading(20 * SECOND, 2_000_000),
        reading(40 * SECOND, 2_000_000),
        faults(GRID, v, bridge),
        bridge=bridge,
    )
    assert got.energy_j == pytest.approx(4000, rel=1e-6)
    assert got.stuck == 1


def test_missing_boundary_value_lies_between_its_neighbours():
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    ticks = faults(GRID, GRID // 5, bridge)
    got = counter_energy(
        reading(0, 0), reading(10 * SECOND + 100_000, None), ticks, bridge=bridge, power_mw=(200_000, 200_000)
    )
    assert got.method == "counter_sample"
    assert got.energy_j == pytest.approx(2020.0)
    # Steady power: what is left is the age of the values, 0 to 100 ms x 200 W = 20 J; the first is a tick.
    assert (got.boundary.low_j, got.boundary.high_j) == pytest.approx((0.0, 10 + 9.5), abs=0.01)


@pytest.mark.parametrize("before_w", [0, 100, 320, 525, 625])
def test_a_boundary_while_nobody_looked_is_as_wide_as_the_load_may_have_changed(before_w):
    """The sampler was away for 2 s; the boundary lies 0.5 s before it came back, 640 J flowed in all."""
    truth_j = 1.5 * min(before_w, 640 / 1.5)
    behind_w = (640 - truth_j) / 0.5
    times = [0, 500_000, 2_500_000, 3_000_000]
    watts = [320_000, 320_000, 320_000, 320_000]
    ticks = find_faults(
        np.asarray(times),
        np.asarray([0, 160_000, 800_000, 960_000]),
        np.ones(4, bool),
        power_bridge(times, watts),
        limit_mw=700_000,
    )
    options = {"bridge": power_bridge(times, watts), "power_mw": (320_000, 320_000)}
    start, end = reading(500_000, 160_000, uncertainty_us=10), reading(2_000_000, None)
    got = counter_energy(start, end, ticks, gap_us=1_000_000, **options)
    assert got.energy_j == pytest.approx(480.0) and got.method == "counter_sample"
    low, high = got.energy_j - got.boundary.low_j, got.energy_j + got.boundary.high_j
    if behind_w <= 1.25 * 700:
        # Of a uniform error the 95 % interval leaves out a fortieth of its width at each end.
        assert low - 0.03 * (high - low) <= truth_j <= high + 0.03 * (high - low)
    assert low >= 640 - 0.5 * 875 - 35 and high <= 640 + 35
    narrow = counter_energy(start, end, ticks, gap_us=3_000_000, **options)
    assert narrow.boundary.half_j < got.boundary.half_j / 5


def test_boundary_after_the_last_reading_is_reached_by_power():
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    short = GRID[GRID <= 10 * SECOND]
    got = counter_energy(
        reading(0, 0), reading(15 * SECOND, None), faults(short, short // 5, bridge), bridge=bridge
    )
    assert got.energy_j == pytest.approx(3000.0, rel=1e-6)
    assert got.method == "counter_sample"


def test_no_counter_falls_back_to_power_and_says_so():
    bridge = power_bridge(GRID, np.full(GRID.shape, 200_000))
    got = counter_energy(reading(0, None), reading(10 * SECOND, None), faults([], []), bridge=bridge)
    assert (got.energy_mj, got.method) == (2_000_000, "power_integral")
    nothing = counter_energy(reading(0, None), reading(SECOND, None), faults([], []), bridge=no_power)
    assert (nothing.energy_mj, nothing.energy_j, nothing.method) == (None, None, "absent")


def test_boundaries_backwards_are_refused():
    with pytest.raises(ValueError, match="wrong order"):
        counter_energy(reading(2, 0), reading(1, 0), faults([], []), bridge=no_power)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 400_000), min_size=2, max_size=40),
    st.sets(st.integers(0, 39)),
)
def test_inserted_samples_do_not_change_a_counter_difference(steps, kept):
    t = np.arange(len(steps)) * 500_000
    v = np.cumsum(steps)
    some = [i for i in range(len(steps)) if i in kept]
    edges = reading(0, int(v[0])), reading(int(t[-1]), int(v[-1]))
    full = counter_energy(*edges, faults(t, v), bridge=no_power)
    thin = counter_energy(*edges, faults(t[some], v[some]), bridge=no_power)
    assert full.energy_mj == thin.energy_mj == int(v[-1] - v[0])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 2_000_000)), min_size=1, max_size=30),
    st.one_of(st.none(), st.integers(0, 2_000_000)),
    st.one_of(st.none(), st.integers(0, 2_000_000)),
    st.integers(0, 15_000_000),
    st.integers(0, 15_000_000),
)
def test_whatever_the_counter_says_energy_is_never_negative(values, first, last, start, width):
    t = np.arange(len(values)) * 500_000
    v = np.array([0 if x is None else x for x in values])
    ok = np.array([x is not None for x in values])
    bridge = power_bridge(t, np.full(t.shape, 250_000))
    ticks = faults(t, v, bridge, ok)
    got = counter_energy(reading(start, first), reading(start + width, last), ticks, bridge=bridge)
    assert got.energy_mj is not None
    assert got.energy_mj >= 0
    assert min(got.boundary.low_j, got.boundary.high_j, got.gap.low_j, got.gap.high_j) >= 0


FLAT = np.arange(0, 60 * SECOND + 1, SECOND // 2)
LIMIT_MW = 700_000.0


def _damaged(kind: str, at: int) -> np.ndarray:
    """A counter at a constant 300 W with one fault at reading `at`."""
    v = 1_000_000_000 + FLAT * 3 // 10
    if kind == "low":
        v[at] = 200_000
    elif kind == "high":
        v[at] += 999_000_000
    elif kind == "jump":
        v[at:] += 22_543_283_000
    elif kind == "small jump":
        v[at:] += 700_000  # 700 J within half a second, on a card of 700 W
    elif kind == "reset":
        v[at:] -= v[at]
    return v


@pytest.mark.parametrize("at", [1, 2, 60, 118, 119])
@pytest.mark.parametrize("kind", ["low", "high", "jump", "small jump", "reset"])
def test_a_reading_that_cannot_be_moves_no_energy(kind: str, at: int) -> None:
    v = _damaged(kind, at)
    bridge = power_bridge(FLAT, np.full(FLAT.shape, 300_000))
    ticks = find_faults(FLAT, v, np.ones(FLAT.shape, bool), bridge, limit_mw=LIMIT_MW)
    got = counter_energy(reading(0, int(v[0])), reading(60 * SECOND, int(v[-1])), ticks, bridge=bridge)
    assert got.energy_j == pytest.approx(18_000, abs=0.01)
    assert bool(ticks.glitches) == (kind in ("low", "high"))
    assert got.resets == (kind not in ("low", "high"))
    # The bounds of half a second that was bridged; nothing of it otherwise.
    width = got.boundary.low_j + got.gap.low_j + got.boundary.high_j + got.gap.high_j
    assert width < (360 if got.resets else 0.1)


@pytest.mark.parametrize("bad", [200_000, 5_000_000_000])
def test_a_boundary_that_cannot_be_was_not_read(bad: int) -> None:
    v = 1_000_000_000 + FLAT * 3 // 10
    bridge = power_bridge(FLAT, np.full(FLAT.shape, 300_000))
    ticks = find_faults(FLAT, v, np.ones(FLAT.shape, bool), bridge, limit_mw=LIMIT_MW)
    ends = reading(10 * SECOND + 1, int(v[20])), reading(40 * SECOND + 1, int(v[80]))
    for start, end in ((reading(10 * SECOND + 1, bad), ends[1]), (ends[0], reading(40 * SECOND + 1, bad))):
        got = counter_energy(start, end, ticks, bridge=bridge, power_mw=(300_000, 300_000))
        assert (got.glitches, got.resets, got.method) == (1, 0, "counter_sample")
        assert got.energy_j == pytest.approx(9_000, abs=0.001)


def test_without_a_limit_a_jump_is_what_no_device_draws() -> None:
    bridge = power_bridge(FLAT, np.full(FLAT.shape, 300_000))
    v = _damaged("jump", 60)
    ticks = find_faults(FLAT, v, np.ones(FLAT.shape, bool), bridge)
    got = counter_energy(reading(0, int(v[0])), reading(60 * SECOND, int(v[-1])), ticks, bridge=bridge)
    assert got.energy_j == pytest.approx(18_000, abs=0.01) and got.resets == 1
