"""Ratios, N* and differences of energies that share scales: known figures, and every draw inside."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.accounting import Interval, break_even
from harness.accounting.shared_scales import (
    MOST_SCALES,
    absolute,
    added,
    alone,
    at,
    corners,
    difference,
    ratio,
)
from tests.accounting.scaled import MACHINES, PLACES, trial
from tests.accounting.simulated import Outcome

ESTIMATE = {"cpu": (0.0, 2.0)}
MIXED = {"gpu-0": (0.95, 1.05), "gpu-1": (0.95, 1.05), "cpu": (0.0, 2.0)}


def around(best: float, rel: float) -> Interval:
    return Interval(best, best * (1 - rel), best * (1 + rel))


def mixed(gpu: float, cpu: float, device: str = "gpu-0"):
    return {(device,): around(gpu, 0.003), ("cpu",): around(cpu, 0.2)}


def test_an_unknown_scale_cancels_in_a_ratio():
    kd, sft = ({("cpu",): around(joules, 0.2)} for joules in (280.0, 122.0))
    found = ratio(kd, sft, ESTIMATE)
    assert [round(x, 2) for x in (found.best, found.low, found.high)] == [2.30, 1.53, 3.44]
    assert absolute(kd, ESTIMATE) == Interval(280.0, 0.0, 672.0)
    assert ratio(kd, {("cpu",): Interval.exact(0.0)}, ESTIMATE) is None
    # The other is measured: nothing cancels, and nothing is invented.
    apart = ratio(kd, alone(Interval.exact(122.0)), ESTIMATE)
    assert (apart.low, apart.high) == (0.0, pytest.approx(2 * 336 / 122))


def test_break_even_of_students_that_are_one_program():
    teacher, base, student = 165.8, 122.0, 113.0
    apart = break_even(
        *({("cpu",): around(joules, 0.2)} for joules in (teacher, base, student)), scales=ESTIMATE
    )
    assert (round(apart.ratio, 1), round(apart.low, 2), apart.high) == (18.4, 2.37, math.inf)
    scales = ESTIMATE | {"logits": (0.8, 1.2), "train": (0.8, 1.2)}
    students = [{("cpu", "train"): around(joules, 0.01)} for joules in (base, student)]
    shared = break_even({("cpu", "logits"): around(teacher, 0.0)}, *students, scales=scales)
    assert (round(shared.low, 1), round(shared.high, 1), shared.resolved) == (9.7, 37.4, True)


def test_break_even_of_a_measured_gpu_and_an_estimated_cpu():
    students = mixed(9000, 600), mixed(7500, 500)
    one = break_even(mixed(16000, 900), *students, scales=MIXED)
    two = break_even(mixed(16000, 900, "gpu-1"), *students, scales=MIXED)
    assert [round(x, 2) for x in (one.ratio, one.low, one.high)] == [10.56, 7.86, 15.30]
    assert [round(x, 2) for x in (two.ratio, two.low, two.high)] == [10.56, 7.32, 16.71]


def test_a_difference_takes_a_shared_scale_once():
    one, other = {("gpu-0",): Interval.exact(200.0)}, {("gpu-0",): Interval.exact(100.0)}
    assert difference(one, other, MIXED) == Interval(100.0, 95.0, 105.0)
    other = {("gpu-1",): Interval.exact(100.0)}
    assert difference(one, other, MIXED) == Interval(100.0, 85.0, 115.0)


@pytest.mark.parametrize("seed", range(4))
def test_every_draw_lies_inside_and_the_ends_are_reached(seed):
    """Scales anywhere in their range, parts anywhere in their interval."""
    rng = np.random.default_rng(seed)
    count = 100_000
    energies = [
        mixed(rng.uniform(8000, 20000), rng.uniform(300, 900), d) for d in ("gpu-1", "gpu-0", "gpu-0")
    ]
    gains = {name: rng.uniform(low, high, count) for name, (low, high) in MIXED.items()}
    drawn = [
        sum(gains[key[0]] * rng.uniform(x.low, x.high, count) for key, x in energy.items())
        for energy in energies
    ]
    found = ratio(energies[0], energies[1], MIXED)
    seen = drawn[0] / drawn[1]
    assert found.low <= seen.min() <= seen.max() <= found.high
    assert (seen.min(), seen.max()) == pytest.approx((found.low, found.high), rel=0.03)
    even = break_even(*energies, scales=MIXED)
    saving = drawn[1] - drawn[2]
    paid = drawn[0][saving > 0] / saving[saving > 0]
    assert not paid.size or even.low <= paid.min() <= paid.max() <= even.high
    assert (saving > 0).all() == math.isfinite(even.high) or even.high == math.inf


@pytest.mark.parametrize("rel", [0.02, 0.2])
def test_coverage_of_a_ratio_of_95_per_cent_intervals(rel):
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(2000):
        gain = rng.uniform(0.05, 2.0)
        one, other = (
            around(gain * joules * (1 + rel / 1.96 * rng.standard_normal()), rel) for joules in (280.0, 122.0)
        )
        found = ratio({("cpu",): one}, {("cpu",): other}, ESTIMATE)
        inside.append(found.low <= 280 / 122 <= found.high)
    assert np.mean(inside) >= 0.95


def test_more_scales_than_corners_are_visited_for_widen_the_result():
    names = [f"gpu-{k}" for k in range(MOST_SCALES + 3)]
    scales = dict.fromkeys(names, (0.95, 1.05))
    energy = added({(name,): Interval.exact(100.0)} for name in names)
    assert len(list(corners((energy, energy), scales))) == 2**MOST_SCALES
    found = ratio(energy, energy, scales)
    # Three of thirteen parts are free by 5 % either way, in both: a tenth of what they weigh, at most.
    assert found.low < 1 < found.high < 1 + 3 * 0.1 / len(names) * 1.1
    assert at(energy, {}).best == 100 * len(names)


@pytest.mark.parametrize("name", MACHINES)
def test_ratios_and_break_even_hold_wherever_the_scales_are(name):
    """Anywhere and at the worst corner; a ratio is at most 1.5 times wider than it need be there.

    N* is formed of three residuals whose ends are taken together, as independent ones hardly ever are:
    sqrt(3) at most.
    """
    for place in PLACES:
        found = [trial(MACHINES[name], seed, place) for seed in range(600)]
        for figure, widest in (("ratio", 1.5), ("N*", math.sqrt(3))):
            outcomes = [one[figure] for one in found]
            assert np.mean([outcome.covered for outcome in outcomes]) >= 0.95, (figure, place)
            if place == PLACES[1]:
                narrowed = [narrow(outcome, widest) for outcome in outcomes]
                assert np.mean([outcome.covered for outcome in narrowed]) <= 0.955, figure


def narrow(outcome: Outcome, factor: float) -> Outcome:
    """The same with both half-widths divided by a factor."""
    low = outcome.best - (outcome.best - outcome.low) / factor
    return Outcome(outcome.best, low, outcome.best + (outcome.high - outcome.best) / factor, outcome.truth)
