"""RAPL: wraps, resets, ambiguity, mirrors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.accounting.rapl import ZoneMeter, mirrored, unwrap
from harness.accounting.series import NO_BOUNDARY, CounterSeries

RANGE = 65_532_610_987  # uJ, the 32-bit counter of a common server part


def zone(t, v, name="package-0", wrap=RANGE, boundary=None):
    t, v = np.asarray(t, np.int64), np.asarray(v, np.int64)
    n = t.shape[0]
    marks = np.full(n, NO_BOUNDARY, np.int64) if boundary is None else np.asarray(boundary, np.int64)
    return CounterSeries(
        "rapl",
        "node-00",
        None,
        name,
        0,
        "uJ",
        wrap,
        t,
        t,
        v,
        np.ones(n, bool),
        marks,
        np.zeros(n, np.int64),
        np.full(n, -1, np.int64),
        ["immediate"] * n,
    )


GRID = np.arange(0, 1200 * 10**6, 500_000)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 400_000_000), min_size=2, max_size=200), st.integers(0, RANGE - 1))
def test_unwrap_gives_back_what_was_counted(steps, start):
    true = np.cumsum(np.array([0, *steps], dtype=np.int64))
    t = np.arange(true.shape[0]) * 500_000
    got = unwrap(t, (true + start) % RANGE, RANGE)
    assert got.cumulative.tolist() == true.tolist()
    assert got.resets == 0
    assert got.ambiguous.size == 0


def test_many_wraps_at_200_watts():
    got = unwrap(GRID, (200 * GRID) % RANGE, RANGE)
    assert got.wraps == 3
    assert got.cumulative[-1] == 200 * (GRID[-1] - GRID[0])


def test_a_fall_no_wrap_can_explain_is_a_reset():
    v = 100 * GRID
    v[1000:] -= v[1000] - 5  # falls to nearly nothing far below the range
    got = unwrap(GRID[:2000], v[:2000], RANGE)
    assert (got.wraps, got.resets) == (0, 1)
    assert got.cumulative[-1] == pytest.approx(100 * GRID[1999], rel=1e-9)


@pytest.mark.parametrize("wrap_range", [RANGE, None])
@pytest.mark.parametrize(("kind", "resets"), [("low", 0), ("high", 0), ("step", 1)])
def test_a_reading_that_cannot_be_moves_no_energy(kind: str, resets: int, wrap_range: int | None) -> None:
    t = GRID[:2000]
    v = 100 * t + 10_000_000_000
    if kind == "step":
        v[1000:] += 64_852_000_000
    else:
        v[1000] = 5 if kind == "low" else v[1000] + 64_852_000_000
    got = unwrap(t, v if wrap_range is None else v % wrap_range, wrap_range)
    assert got.resets == resets
    assert got.cumulative[-1] == pytest.approx(100 * (t[-1] - t[0]), rel=1e-9)


@pytest.mark.parametrize("to_wrap", [3, 2, 1, 0, -1, -2])
def test_a_failed_read_beside_a_wrap_is_no_wrap_of_its_own(to_wrap: int) -> None:
    """A failed read shows 0, which near the end of the range a wrap can explain, until the next reading."""
    t = GRID[:40]
    v = (RANGE - 2_030_000_000 + 300 * t) % RANGE
    (wrap,) = np.flatnonzero(np.diff(v) < 0) + 1
    v[wrap - to_wrap] = 0
    got = unwrap(t, v, RANGE)
    assert (got.wraps, got.resets) == (1, 0)
    assert got.cumulative[-1] == pytest.approx(300 * (t[-1] - t[0]), abs=1)


@pytest.mark.parametrize(
    ("t_s", "v_j", "truth_j"),
    [
        ((0, 0.5, 1, 1.5, 2, 2.5), (-RANGE / 1e6, -100, 50, 200, 350, 500), 750),
        ((0, 0.5, 60.5, 61), (-9150, -9000, 9000, -100), 18_300),
    ],
)
def test_a_good_reading_between_a_bad_one_and_a_wrap_stays(t_s: Any, v_j: Any, truth_j: float) -> None:
    """Which of the two is the bad one, a reading at an end cannot tell: a reset, and wide enough."""
    t = np.array([round(1e6 * s) for s in t_s])
    v = np.array([round(1e6 * j) for j in v_j]) % RANGE
    got = ZoneMeter([zone(t, v)]).energy(int(t[0]), int(t[-1]), None, None)
    assert got.low_uj <= truth_j * 1e6 <= got.high_uj


def test_a_silence_longer_than_a_wrap_can_take_is_ambiguous():
    t = np.concatenate((GRID[:100], GRID[:100] + 200 * 10**6))
    meter = ZoneMeter([zone(t, (150 * t) % RANGE)])
    got = meter.energy(int(t[50]), int(t[150]), None, None)
    assert got.ambiguous
    assert got.energy_uj == pytest.approx(150 * (t[150] - t[50]), rel=1e-6)
    assert got.high_uj > got.energy_uj + RANGE
    assert not meter.energy(int(t[0]), int(t[50]), None, None).ambiguous


def test_a_boundary_lies_on_the_line_between_the_readings_beside_it():
    """A zone read a millisecond behind the boundary is no boundary of its own: the moment counts."""
    t = np.array([0, 400_000, 500_000, 1_000_000])
    meter = ZoneMeter([zone(t, [0, 90_000_000, 100_000_000, 150_000_000], boundary=[-1, 7, -1, 8])])
    start, end = 90_000_000 * 399 // 400, 100_000_000 + 50_000_000 * 499 // 500
    assert meter.energy(399_000, 999_000, 7, 8).energy_uj == end - start == 60_125_000
    # Cut in the middle of a cell it is as unsure as a line can be, on a reading hardly at all.
    widths = [
        found.high_uj - found.low_uj for found in (meter.energy(s, 500_000, 7, 8) for s in (200_000, 399_000))
    ]
    assert widths[0] > 5 * widths[1]


def test_packages_that_are_one_count_once():
    load = np.cumsum(np.random.default_rng(3).integers(20, 180, GRID.shape[0]) * 500_000)
    a, b = zone(GRID, load % RANGE), zone(GRID + 40, (load + 4_000) % RANGE, "package-1")
    other = zone(GRID, (load * 2 + 10**9) % RANGE, "package-2")
    assert mirrored([a, b, other]) == [1]
    meter = ZoneMeter([a, b])
    assert meter.mirrors == ["package-1"]
    assert meter.energy(int(GRID[10]), int(GRID[20]), None, None).energy_uj == load[20] - load[10]


def test_two_idle_packages_are_not_taken_for_one():
    slow = np.arange(GRID.shape[0]) * 10
    assert mirrored([zone(GRID, slow), zone(GRID, slow + 20_000, "package-1")]) == []


def test_outside_the_readings_nothing_is_known():
    meter = ZoneMeter([zone(GRID[:10], 100 * GRID[:10])])
    assert meter.energy(10**9, 2 * 10**9, None, None) is None
    assert not ZoneMeter([zone([], [])])
