"""Power integrals against closed forms, and the properties that every window must keep."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.accounting.integral import integrate_power

GAP = 1_000_000


def run(t, p, start, end, valid=None, **options):
    t = np.asarray(t, dtype=np.int64)
    p = np.asarray(p, dtype=np.int32)
    valid = np.ones(t.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    return integrate_power(t, p, valid, start, end, **{"gap_us": GAP, **options})


def test_constant_power_is_power_times_time():
    t = np.arange(0, 20_000_001, 500_000)
    got = run(t, np.full(t.shape, 300_000), 1_234_567, 11_234_567)
    assert got.energy_j == pytest.approx(3000.0, rel=1e-12)
    assert (got.samples, got.missed, got.gap_us, got.longest_gap_us) == (20, 0, 0, 0)
    # A constant power may be half a milliwatt from what its readings all say.
    assert got.sampling_j == pytest.approx(0.95 * 0.5e-3 * 10)


def test_ramp_is_exact_also_at_cut_edges():
    t = np.arange(0, 10_000_001, 500_000)
    got = run(t, t // 20, 1_300_000, 7_700_000)  # 50 mW per ms
    assert got.energy_j == pytest.approx((7.7**2 - 1.3**2) / 2 * 50, rel=1e-12)


def test_sine_finely_sampled_meets_its_closed_form():
    t = np.arange(0, 30_000_000, 1_000)
    omega = 2 * math.pi * 0.7
    p = np.rint(300_000 + 200_000 * np.sin(omega * t / 1e6))
    a, b = 3.217, 21.6543
    truth = 300 * (b - a) - 200 / omega * (math.cos(omega * b) - math.cos(omega * a))
    assert run(t, p, round(a * 1e6), round(b * 1e6)).energy_j == pytest.approx(truth, rel=1e-6)


def test_square_wave_error_stays_inside_the_stated_terms():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        phase, period = rng.uniform(0, 2), rng.uniform(3, 7)
        t = np.arange(0, 200_000_000, 500_000)
        p = np.where(((t / 1e6 + phase) % period) < period / 2, 500_000, 100_000)
        fine = np.arange(10_037_000, 150_000_000, 1_000) + 500
        truth = np.where(((fine / 1e6 + phase) % period) < period / 2, 500.0, 100.0).sum() / 1000
        got = run(t, p, 10_037_000, 150_000_000)
        inside += abs(got.energy_j - truth) <= got.sampling_j
    assert inside >= 186  # 95 %


def test_a_window_between_two_samples_interpolates_both_ends():
    got = run([0, 500_000], [100_000, 200_000], 100_000, 300_000)
    assert got.energy_j == pytest.approx(0.2 * 140, rel=1e-12)
    assert got.samples == 0


def test_no_valid_sample_is_unknown_not_zero():
    got = run([0, 500_000], [0, 0], 0, 500_000, valid=[False, False])
    assert got.energy_j is None
    assert got.missed == 1
    assert run([], [], 0, 5_000_000, period_us=500_000).missed == 10


def test_failed_reads_are_bridged_counted_and_bounded():
    t = np.arange(0, 10_500_000, 500_000)
    p = np.full(t.shape, 400_000)
    valid = np.ones(t.shape, bool)
    valid[5:12] = False  # between 2.0 s and 6.0 s
    p[~valid] = 0
    got = run(t, p, 0, 10_000_000, valid=valid, max_mw=700_000)
    assert got.energy_j == pytest.approx(4000.0)
    assert got.missed == 7
    assert got.gap_us == got.longest_gap_us == 4_000_000
    assert got.energy_in_gaps_j == pytest.approx(1600.0)
    assert (got.gap_low_j, got.gap_high_j) == (0.0, pytest.approx(2800.0))
    assert got.low_j == pytest.approx(2400.0)
    assert got.high_j == pytest.approx(5200.0)


def test_a_gap_cut_by_the_window_counts_with_its_part():
    got = run([0, 500_000, 10_500_000, 11_000_000], [100_000] * 4, 8_500_000, 11_000_000, min_mw=60_000)
    assert got.gap_us == 2_000_000
    assert got.gap_low_j == pytest.approx(120.0)
    assert got.gap_high_j == pytest.approx(200.0)


def test_a_window_that_outlives_the_samples_ends_in_a_gap():
    got = run([0, 500_000, 1_000_000], [100_000, 100_000, 300_000], 0, 6_000_000, max_mw=500_000)
    assert got.gap_us == 5_000_000
    assert got.energy_j == pytest.approx(50 + 100 + 1500)
    assert got.high_j == pytest.approx(150 + 2500)


@pytest.mark.parametrize(
    ("rows", "start", "end", "missed"),
    [
        ([0, 500_000, 2_500_000, 3_000_000], 0, 3_000_000, 3),
        ([0, 500_000, 2_500_000, 3_000_000], 1_200_000, 1_900_000, 1),
        ([2_000_000, 2_500_000], 0, 5_000_000, 4 + 4),
        ([2_000_000, 2_500_000], 0, 1_000_000, 2),
        ([2_000_000, 2_500_000], 3_900_000, 5_000_000, 2),
        ([0, 700_000, 1_400_000], 0, 1_400_000, 0),
    ],
)
def test_ticks_that_never_came_are_missed(rows, start, end, missed):
    assert run(rows, [1000] * len(rows), start, end, period_us=500_000).missed == missed


def test_a_window_backwards_is_refused():
    with pytest.raises(ValueError, match="before it starts"):
        run([0], [1], 2, 1)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    t = np.cumsum(rng.integers(1, 1_400_000, 5000))
    p = rng.integers(0, 700_000, 5000)
    valid = rng.random(5000) > 0.3
    valid[100:400] = False
    whole = run(t, p, int(t[3]) + 7, int(t[-4]) - 5, valid=valid)
    monkeypatch.setattr("harness.accounting.integral._BLOCK", 16)
    small = run(t, p, int(t[3]) + 7, int(t[-4]) - 5, valid=valid)
    assert small.energy_j == pytest.approx(whole.energy_j, rel=1e-12)
    assert small.energy_in_gaps_j == pytest.approx(whole.energy_in_gaps_j, rel=1e-12)
    assert (small.gap_us, small.longest_gap_us) == (whole.gap_us, whole.longest_gap_us)
    assert small.sampling_j == pytest.approx(whole.sampling_j, rel=1e-9)


@st.composite
def series(draw):
    steps = draw(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=30))
    t = np.cumsum([draw(st.integers(0, 10_000_000)), *steps])
    p = draw(st.lists(st.integers(0, 800_000), min_size=len(t), max_size=len(t)))
    valid = draw(st.lists(st.booleans(), min_size=len(t), max_size=len(t)))
    return t, p, valid


@settings(max_examples=300, deadline=None)
@given(series(), st.lists(st.integers(0, 60_000_000), min_size=3, max_size=6))
def test_splitting_a_window_never_changes_the_sum(data, cuts):
    t, p, valid = data
    cuts = sorted(cuts)
    whole = run(t, p, cuts[0], cuts[-1], valid=valid, period_us=500_000)
    parts = [run(t, p, a, b, valid=valid, period_us=500_000) for a, b in pairwise(cuts)]
    if whole.energy_j is None:
        assert all(part.energy_j is None for part in parts)
        return
    assert math.fsum(part.energy_j for part in parts) == pytest.approx(whole.energy_j, rel=1e-9, abs=1e-9)
    assert sum(part.samples for part in parts) == whole.samples
    assert sum(part.missed for part in parts) == whole.missed


@settings(max_examples=300, deadline=None)
@given(series(), st.integers(0, 30_000_000), st.integers(0, 30_000_000))
def test_bounds_hold_and_nothing_is_negative(data, start, width):
    t, p, valid = data
    got = run(t, p, start, start + width, valid=valid)
    if got.energy_j is None:
        assert not any(valid)
        return
    assert -1e-9 <= got.low_j <= got.energy_j + 1e-9
    assert got.energy_j <= got.high_j + 1e-9
    assert 0 <= got.longest_gap_us <= got.gap_us <= width
    assert got.gap_low_j <= got.energy_in_gaps_j <= got.gap_high_j
    assert got.energy_j <= max(p) * width * 1e-9 * (1 + 1e-9) + 1e-9
