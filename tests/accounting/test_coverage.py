"""How often a 95 % interval holds the truth: every method, random waveforms and windows, fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from harness.accounting.error_model import (
    NOTHING,
    Z95,
    Spread,
    gap_error,
    joint,
    student_95,
    uniform_pair_95,
)
from tests.accounting.simulated import BOUNDED, METHODS, Outcome, Trial
from tests.lab.waveforms import Const, Square

TRIALS = 900
LEAST, MOST = 0.93, 0.99


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    return {name: [run(Trial(seed)) for seed in range(TRIALS)] for name, run in METHODS.items()}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_covers_the_truth(outcomes: dict[str, list[Outcome]], name: str) -> None:
    share = np.mean([outcome.covered for outcome in outcomes[name]])
    assert LEAST <= share <= MOST, (name, share)


def test_all_methods_together_cover_the_truth(outcomes: dict[str, list[Outcome]]) -> None:
    found = [outcome for one in outcomes.values() for outcome in one]
    assert LEAST <= np.mean([outcome.covered for outcome in found]) <= MOST
    # Neither end carries the misses alone: no method is biased by more than its interval shows.
    sides = np.array([outcome.side for outcome in found if not outcome.covered])
    assert 0.25 < np.mean(sides > 0) < 0.75


@pytest.mark.parametrize("name", METHODS)
def test_intervals_are_no_wider_than_they_need_be(outcomes: dict[str, list[Outcome]], name: str) -> None:
    """Halved, each would miss the bar: what covers is the size of the terms, not their generosity."""
    halved = [
        o.best - (o.best - o.low) / 2 <= o.truth <= o.best + (o.high - o.best) / 2 for o in outcomes[name]
    ]
    assert np.mean(halved) < LEAST


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_hold_all_but_always(name: str) -> None:
    found = [BOUNDED[name](Trial(seed)) for seed in range(200)]
    assert np.mean([outcome.covered for outcome in found]) >= LEAST
    assert all(outcome.low >= 0 for outcome in found)


@pytest.mark.parametrize("refresh_us", [20_000, 50_000])
def test_a_faster_counter_than_assumed_leaves_the_intervals_true(refresh_us: int) -> None:
    """Readings that do not tell their refresh are taken to be 100 ms old at most: wide, never too narrow."""
    for name in ("counter_tick", "counter_sample, between samples"):
        found = [METHODS[name](Trial(seed, refresh_us=refresh_us)) for seed in range(TRIALS)]
        assert np.mean([outcome.covered for outcome in found]) >= LEAST, name


def test_the_known_weakness_of_power_without_a_counter() -> None:
    """A load in step with the sampler shows one phase only: samples agree and are wrong. A counter is not."""
    aliased = (Const(100.0), Square(0.0, 400.0, 500_000, 0.3, 90_000))
    power = [METHODS["power_integral, calm"](Trial(seed, aliased, least_s=20)) for seed in range(60)]
    counter = [METHODS["counter_tick"](Trial(seed, aliased, least_s=20)) for seed in range(60)]
    assert np.mean([outcome.covered for outcome in power]) < 0.5
    assert np.mean([outcome.covered for outcome in counter]) >= 0.85


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 0.4), (1.0, 0.06), (1.0, 0.04), (3.0, 0.0)])
def test_two_uniform_errors_have_the_half_width_of_a_simulation(a: float, b: float) -> None:
    rng = np.random.default_rng(1)
    total = rng.uniform(-a, a, 400_000) + rng.uniform(-b, b, 400_000)
    assert np.mean(np.abs(total) <= uniform_pair_95(b, a)) == pytest.approx(0.95, abs=0.002)


@pytest.mark.parametrize("cells", [7, 14, 60])
def test_students_factor_is_that_of_a_variance_from_differences(cells: int) -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(100_000, cells + 2))
    square = np.mean(np.diff(draws[:, :-1], axis=1) ** 2, axis=1)
    assert np.mean(np.abs(draws[:, -1]) <= student_95(cells) * np.sqrt(square / 2)) == pytest.approx(
        0.95, abs=0.012
    )
    assert student_95(10**9) == pytest.approx(Z95)


def test_independent_devices_add_in_quadrature_and_bounds_on_top() -> None:
    rng = np.random.default_rng(3)
    halves = (2.0, 3.0, 6.0)
    total = sum(rng.normal(0, half / Z95, 400_000) for half in halves)
    whole = joint([Spread(half, half) for half in halves])
    assert whole.low_j == pytest.approx(7.0)
    assert np.mean(np.abs(total) <= whole.low_j) == pytest.approx(0.95, abs=0.002)
    assert joint([Spread(3, 1)], [Spread(5, 2), Spread(1, 0)]) == Spread(9, 3)
    assert joint([]) == NOTHING


def test_a_gap_is_as_doubtful_as_what_was_seen_and_more_with_its_share() -> None:
    second = 1e12
    assert gap_error(second, 0.0, 100_000.0**2, 7e5) == pytest.approx(Z95 * 100 / np.sqrt(2))
    assert gap_error(second, 0.1, 0.0, 6e5) == pytest.approx(Z95 * np.sqrt(0.1 * 600**2 / 12 / 2))
