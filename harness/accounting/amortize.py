"""What reuse does to energy: marginal, amortized and full cost, the number of reuses that pays for a teacher
(N*), and the number of served tokens that pays for a training (T*).

Pure functions of energies in any one unit. Formulas: arXiv 2605.13981, section on amortisation. Bounds are by
interval arithmetic: N* and T* are monotone in every energy and every energy stands in them once, so the ends
of the result are reached at ends of the inputs and hold however the errors depend on each other. Scales that
the energies share (`shared_scales`) are taken at the corners of their ranges, so that what is common cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from harness.accounting.error_model import Z95
from harness.accounting.interval import Interval
from harness.accounting.shared_scales import Energy, Scales, alone, at, corners

Case = Literal["finite", "always", "never", "undefined"]


class Reuse(NamedTuple):
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
    """From how many uses on the dearer start has paid for itself: reuses for N*, tokens for T*.

    Attributes:
        case: finite; always (nothing has to be paid back); never (nothing pays it back); undefined (an energy
            is unknown or impossible, or both ways differ in the wrong direction).
        ratio: cost over saving; 0.0 for always, None for never and undefined.
        whole: smallest whole number of uses; None for never and undefined.
        low: least ratio inside the intervals, at least 0; inf where no value inside them pays.
        high: largest ratio inside the intervals; inf where the saving may be nothing.
        withheld: why it gets no verdict all the same (`run_spread.withheld`); None where it gets one.
    """

    case: Case
    ratio: float | None
    whole: int | None
    low: float
    high: float
    withheld: str | None = None

    @property
    def resolved(self) -> bool:
        """Whether the case is the same for every value inside the intervals, and says something."""
        if self.withheld is not None:
            return False
        if self.case == "always":
            return self.high == 0.0
        return math.isfinite(self.high) if self.case == "finite" else not math.isfinite(self.low)


UNDEFINED = BreakEven("undefined", None, None, 0.0, math.inf)


def break_even(
    teacher: Interval | Energy | None,
    baseline_student: Interval | Energy | None,
    distilled_student: Interval | Energy | None,
    *,
    scales: Scales | None = None,
) -> BreakEven:
    """N* = E_teacher / (E_student_baseline - E_student_distilled), with its interval.

    N* is ill-conditioned: a small saving divides a large energy, so that 3 % on two students can double it.

    Args:
        teacher: energy of the teacher's output; None = unknown.
        baseline_student: training energy of the student without a teacher.
        distilled_student: training energy of the student with it.
        scales: ranges of the scales that the energies name.
    """
    if teacher is None or baseline_student is None or distilled_student is None:
        return UNDEFINED
    given = [
        alone(e) if isinstance(e, Interval) else e for e in (teacher, baseline_student, distilled_student)
    ]
    paid, base, student = (at(energy, {}).best for energy in given)
    if min(paid, base, student) < 0:
        return UNDEFINED
    exact = _decimal(paid), _decimal(base) - _decimal(student)
    low, high = math.inf, 0.0
    for cost, reference, own in corners(given, scales or {}):
        ends = _bounds(Interval(cost.best, max(0.0, cost.low), cost.high), reference, own)
        low, high = min(low, ends[0]), max(high, ends[1])
    if exact[0] == 0:
        case: Case = "always" if exact[1] >= 0 else "never"
    else:
        case = "finite" if exact[1] > 0 else "never"
    return _break_even(case, exact, low, high, least=1)


def student_sensitivity(
    teacher: Interval | None,
    baseline_student: Interval | None,
    distilled_student: Interval | None,
    rel: float,
) -> BreakEven:
    """N* if the two students' energies were known to `rel` only: how far a small error carries.

    Args:
        teacher: as in `break_even`; its best value counts.
        baseline_student: as in `break_even`, and
        distilled_student: as there; their best values count.
        rel: relative half-width given to both students, such as 0.03.
    """
    if teacher is None or baseline_student is None or distilled_student is None:
        return UNDEFINED
    students = [
        Interval(e.best, e.best - rel * abs(e.best), e.best + rel * abs(e.best))
        for e in (baseline_student, distilled_student)
    ]
    return break_even(Interval.exact(teacher.best), *students)


_STUDENT = (12.706, 4.303, 3.182, 2.776)
"""95 % quantiles of Student's t for 1 to 4 degrees of freedom."""


def student_t95(free: int) -> float:
    """Two-sided 95 % quantile of Student's t; from 5 degrees of freedom on by Cornish-Fisher, within 1 %."""
    if free <= len(_STUDENT):
        return _STUDENT[free - 1]
    return Z95 + (Z95**3 + Z95) / (4 * free) + (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / (96 * free**2)


def mean_of_repeats(values: Sequence[float]) -> Interval:
    """Mean with the 95 % interval that the spread of the repeats gives; no width for a single value."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count < 2:
        return Interval.exact(mean)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_t95(count - 1) * deviation / math.sqrt(count)
    return Interval(mean, max(0.0, mean - half), mean + half)


def repeated_break_even(
    teacher: float | None, baseline: Sequence[float | None], distilled: Sequence[float | None]
) -> BreakEven | None:
    """N* of a quantity such as CPU seconds from students that were run several times.

    Args:
        teacher: of the teacher's output, which was made once.
        baseline: of each repeat of the student without a teacher.
        distilled: of each repeat of the student with it.

    Returns:
        N* of the means, with the spread of the repeats; None without two repeats of either, or where a value
        is unknown.
    """
    students = [[value for value in values if value is not None] for values in (baseline, distilled)]
    if teacher is None or None in (*baseline, *distilled) or min(map(len, students)) < 2:
        return None
    return break_even(Interval.exact(teacher), *map(mean_of_repeats, students))


def serving_break_even(
    extra_train: Interval | tuple[Energy, Energy] | None,
    j_ref: Interval | Energy | None,
    j_student: Interval | Energy | None,
    *,
    scales: Scales | None = None,
) -> BreakEven:
    """T* = E_extra_train / (j_ref - j_student): tokens to be served until a costlier training has paid.

    Args:
        extra_train: joules that the training cost more than the reference's, or both energies, its own first;
            None = unknown, negative = less.
        j_ref: joules per served token of what the student stands in for.
        j_student: joules per served token of the student.
        scales: ranges of the scales that they name.
    """
    if extra_train is None or j_ref is None or j_student is None:
        return UNDEFINED
    trained = (alone(extra_train), {}) if isinstance(extra_train, Interval) else extra_train
    given = [*trained, *(alone(e) if isinstance(e, Interval) else e for e in (j_ref, j_student))]
    ours, theirs, reference, own = (at(energy, {}).best for energy in given)
    extra = ours - theirs
    if min(reference, own) < 0:
        return UNDEFINED
    exact = _decimal(extra), _decimal(reference) - _decimal(own)
    if exact[0] <= 0 and exact[1] < 0:
        # Cheaper to train and dearer to serve: T* is where it stops to pay, which is another question.
        return UNDEFINED
    low, high = math.inf, 0.0
    for costlier, other, served, mine in corners(given, scales or {}):
        cost = costlier - other
        paid = Interval(max(0.0, cost.best), max(0.0, cost.low), max(0.0, cost.high))
        ends = _bounds(paid, served, mine)
        low, high = min(low, ends[0]), max(high, ends[1])
    case: Case = "always" if exact[0] <= 0 else "finite" if exact[1] > 0 else "never"
    return _break_even(case, exact, low, high, least=0)


def _bounds(cost: Interval, reference: Interval, own: Interval) -> tuple[float, float]:
    """Least and largest cost / (reference - own); a saving of nothing pays a cost never."""
    least, most = _decimal(reference.low) - _decimal(own.high), _decimal(reference.high) - _decimal(own.low)
    low = 0.0 if cost.low <= 0 <= most else math.inf
    if cost.low > 0 and most > 0:
        low = float(_decimal(cost.low) / most)
    if cost.high <= 0 <= least:
        return low, 0.0
    return low, float(_decimal(cost.high) / least) if least > 0 else math.inf


def _break_even(
    case: Case, exact: tuple[Fraction | float, Fraction | float], low: float, high: float, least: int
) -> BreakEven:
    if case == "never":
        return BreakEven("never", None, None, low, math.inf)
    if case == "always":
        return BreakEven("always", 0.0, least, 0.0, high)
    ratio = exact[0] / exact[1]
    best = float(ratio)
    return BreakEven("finite", best, max(1, math.ceil(ratio)), min(low, best), max(high, best))


def _decimal(value: float) -> Fraction | float:
    """The shortest decimal number that a float stands for, exactly; infinity stays what it is.

    Decimal figures such as 11.00 / (6.30 - 5.20) are 10 exactly and must not become 11 by binary rounding.
    """
    return Fraction(repr(float(value))) if math.isfinite(value) else value
