"""Q against closed forms and a simulation, and every way it must not exist."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from harness.accounting.quality import Measured, Quality, quality


@dataclass(frozen=True)
class Scale:
    name: str
    floor: float = 0.0


BENCHMARKS = tuple(Scale(name) for name in ("a", "b", "c"))


def measured(*scores: float, stderr: float | None = None) -> dict[str, Measured]:
    return {name: Measured(score, stderr) for name, score in zip("abc", scores, strict=False)}


def test_the_mean_of_ratios_and_what_stands_beside_it() -> None:
    found = quality(measured(0.2, 0.3, 0.9), measured(0.4, 0.3, 0.6), BENCHMARKS)
    assert found.ratios == pytest.approx({"a": 0.5, "b": 1.0, "c": 1.5})
    assert found.q == pytest.approx(1.0) and found.reason is None
    assert found.geometric_mean == pytest.approx(math.cbrt(0.5 * 1.0 * 1.5))
    assert found.leave_one_out == pytest.approx((0.75, 1.25))
    assert found.stderr is None
    teacher = measured(0.4, 0.3, 0.6, stderr=0.01)
    own = quality(teacher, teacher, BENCHMARKS)
    assert (own.q, own.geometric_mean) == pytest.approx((1.0, 1.0))
    assert own.leave_one_out == pytest.approx((1.0, 1.0))


def test_the_standard_error_is_that_of_a_simulation() -> None:
    student = {"a": Measured(0.30, 0.02), "b": Measured(0.55, 0.03), "c": Measured(0.8, 0.01)}
    teacher = {"a": Measured(0.60, 0.02), "b": Measured(0.70, 0.02), "c": Measured(0.9, 0.02)}
    found = quality(student, teacher, BENCHMARKS)
    random = np.random.default_rng(0)
    draws = np.zeros(200_000)
    for name in "abc":
        above, below = student[name], teacher[name]
        assert above.stderr is not None and below.stderr is not None
        draws += random.normal(above.score, above.stderr, draws.size) / random.normal(
            below.score, below.stderr, draws.size
        )
    assert found.stderr == pytest.approx(float((draws / 3).std()), rel=0.01)
    interval = found.interval
    assert interval is not None and np.mean((draws / 3 > interval.low) & (draws / 3 < interval.high)) == (
        pytest.approx(0.95, abs=0.003)
    )
    without = quality({**student, "a": Measured(0.3)}, teacher, BENCHMARKS)
    assert without.q is not None and without.stderr is None and without.interval is None


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        (measured(0.2, 0.3), measured(0.4, 0.3, 0.6), "c: no score of the student"),
        (measured(0.2, 0.3, 0.4), measured(0.4, 0.3), "c: no score of the teacher"),
        ({}, measured(0.4, 0.3), "c: no score of the student and the teacher"),
        (measured(0.2, 0.3, 0.4), measured(0.4, 0.0, 0.6), "b: the teacher's 0 is not above the floor 0"),
        (measured(0.2, math.nan, 0.4), measured(0.4, 0.3, 0.6), "b: a score is no number"),
        (measured(0.2, 0.3, 0.4), measured(0.4, math.inf, 0.6), "b: a score is no number"),
        ({**measured(1, 1, 1), "d": Measured(1.0)}, measured(1, 1, 1), "d: not in the suite"),
    ],
)
def test_no_q_and_the_reason(student: dict[str, Measured], teacher: dict[str, Measured], reason: str) -> None:
    found = quality(student, teacher, BENCHMARKS)
    assert found.q is None and found.reason is not None and reason in found.reason
    assert (found.geometric_mean, found.leave_one_out, found.stderr) == (None, None, None)


def test_a_floor_above_zero_and_edge_cases() -> None:
    guess = (Scale("a", floor=0.25),)
    assert quality(measured(0.5), measured(0.25), guess).q is None
    one = quality(measured(0.13), measured(0.26), guess)
    assert one.q == pytest.approx(0.5) and one.leave_one_out is None
    nothing = quality(measured(0.0, 0.5, 1.0), measured(1, 1, 1), BENCHMARKS)
    assert nothing.q == pytest.approx(0.5) and nothing.geometric_mean == 0.0
    below = quality(measured(-0.5, 0.5, 1.0), measured(1, 1, 1), BENCHMARKS)
    assert below.q == pytest.approx(1 / 3) and below.geometric_mean is None
    assert quality({}, {}, ()) == Quality(None, "no benchmark")
