"""What reuse does to energy: marginal, amortized and full cost, and the number of reuses that pays for a
teacher.

Pure functions of energies in any one unit. Formulas: arXiv 2605.13981, section on amortisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from harness.accounting.interval import Interval


@dataclass(frozen=True)
class Reuse:
    """One run's energy seen three ways, all in the unit of the input.

    Attributes:
        marginal: what this run adds once the teacher's output exists.
        amortized: marginal plus the teacher's share when `reuses` students use its output.
        full: marginal plus the whole teacher.
        reuses: the N of `amortized`.
    """

    marginal: Interval
    amortized: Interval
    full: Interval
    reuses: int


def reuse(own: Interval, teacher: Interval, reuses: int) -> Reuse:
    """Charge the teacher's output once, to all who use it.

    Args:
        own: energy of the run without its teacher stages.
        teacher: energy of the teacher's output, wherever it was made.
        reuses: number of students that use it, at least 1.

    Raises:
        ValueError: if `reuses` is less than 1.
    """
    if reuses < 1:
        raise ValueError(f"a teacher's output is used at least once, not {reuses} times")
    return Reuse(own, own + teacher.scale(1.0 / reuses), own + teacher, reuses)


@dataclass(frozen=True)
class BreakEven:
    """Number of reuses N* from which distillation costs no more than the baseline.

    Attributes:
        ratio: E_teacher / (E_student_baseline - E_student_distilled); None = never, no reuse helps.
        whole: smallest whole number of reuses, at least 1; None = never.
        low: least ratio inside the intervals.
        high: largest ratio inside the intervals; inf when the saving may be nothing.
    """

    ratio: float | None
    whole: int | None
    low: float
    high: float


def break_even(teacher: Interval, baseline_student: Interval, distilled_student: Interval) -> BreakEven:
    """N* = E_teacher / (E_student_baseline - E_student_distilled), with its interval.

    N* is ill-conditioned: a small saving divides a large energy, so that 3 % on two students can double it.

    Args:
        teacher: energy of the teacher's output.
        baseline_student: training energy of the student without a teacher.
        distilled_student: training energy of the student with it.
    """
    saving = baseline_student - distilled_student
    low = max(0.0, teacher.low) / saving.high if saving.high > 0 else math.inf
    high = teacher.high / saving.low if saving.low > 0 else math.inf
    # Decimal figures such as 11.00 / (6.30 - 5.20) are 10 exactly and must not become 11 by binary rounding.
    exact = _decimal(teacher.best), _decimal(baseline_student.best) - _decimal(distilled_student.best)
    if exact[1] <= 0:
        return BreakEven(None, None, low, math.inf)
    ratio = exact[0] / exact[1]
    return BreakEven(float(ratio), max(1, math.ceil(ratio)), min(low, float(ratio)), max(high, float(ratio)))


def _decimal(value: float) -> Fraction:
    """The shortest decimal number that a float stands for, exactly."""
    return Fraction(repr(float(value)))
