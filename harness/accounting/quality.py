"""Q: how much of the teacher's quality a student keeps, over exactly the benchmarks of a suite.

    r_b = score of the student / score of the teacher on benchmark b,     Q = mean of r_b

A benchmark that is missing on either side leaves no Q, never a mean over the others: that would be another
quantity. A teacher at or below a benchmark's floor leaves the ratio, and Q, undefined. One ratio with a weak
teacher can dominate a mean of ratios, so the geometric mean and the range of Q when any one benchmark is left
out stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from harness.accounting.interval import Interval

Z95 = 1.959963984540054
"""Standard errors in half a 95 % interval of a normal variable."""


class Scale(Protocol):
    """What Q needs to know of a benchmark; benchmarks of the suites are such."""

    @property
    def name(self) -> str:
        """Unique in the suite."""

    @property
    def floor(self) -> float:
        """Score of a model that knows nothing; a teacher at or below it has nothing to keep."""


class Measured(NamedTuple):
    """A score with its standard error; None where unknown."""

    score: float
    stderr: float | None = None


@dataclass(frozen=True)
class Quality:
    """Q with what it takes to judge it.

    Attributes:
        q: Mean of the ratios; None where it is not defined.
        reason: Why not; None where it is.
        ratios: Benchmark to ratio, as far as defined.
        geometric_mean: Of the ratios; None with q, or where a ratio is negative.
        leave_one_out: Least and largest mean of all ratios but one; None with q, or for one benchmark.
        stderr: Of q, by the delta method; None with q, or where any standard error is unknown.
    """

    q: float | None
    reason: str | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    geometric_mean: float | None = None
    leave_one_out: tuple[float, float] | None = None
    stderr: float | None = None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of Q by its standard error; None where Q or the error is unknown."""
        if self.q is None or self.stderr is None:
            return None
        return Interval(self.q, self.q - Z95 * self.stderr, self.q + Z95 * self.stderr)


def quality(
    scores: Mapping[str, Measured], teacher_scores: Mapping[str, Measured], suite: Sequence[Scale]
) -> Quality:
    """Q of a student.

    The standard error takes the two scores of a benchmark as independent:
    Var(s/t) = se_s^2 / t^2 + s^2 se_t^2 / t^4, and Var(Q) = sum of Var(r_b) / n^2. On the same items they are
    correlated, positively as a rule, so this is an upper estimate then. A share of 0 or 1 comes with a
    standard error of 0, as its sample does: with few items the error of Q is too small there.

    Args:
        scores: The student's, by benchmark.
        teacher_scores: The teacher's.
        suite: Its benchmarks, at least one: Q is over exactly these.
    """
    reasons = []
    ratios: dict[str, float] = {}
    variances: list[float | None] = []
    for benchmark in suite:
        name = benchmark.name
        sides = {"the student": scores, "the teacher": teacher_scores}
        missing = [whose for whose, side in sides.items() if name not in side]
        if missing:
            reasons.append(f"{name}: no score of {' and '.join(missing)}")
            continue
        student, teacher = scores[name], teacher_scores[name]
        if not (math.isfinite(student.score) and math.isfinite(teacher.score)):
            reasons.append(f"{name}: a score is no number")
        elif teacher.score <= benchmark.floor:
            floor = f"the floor {benchmark.floor:g}"
            reasons.append(f"{name}: the teacher's {teacher.score:g} is not above {floor}")
        else:
            ratios[name] = student.score / teacher.score
            variances.append(_variance(student, teacher))
    names = {benchmark.name for benchmark in suite}
    reasons += [f"{name}: not in the suite" for name in sorted({*scores, *teacher_scores} - names)]
    if reasons or not ratios:
        return Quality(None, "; ".join(reasons) or "no benchmark", ratios)
    values = list(ratios.values())
    count, total = len(values), math.fsum(values)
    without = [(total - value) / (count - 1) for value in values] if count > 1 else []
    known = [variance for variance in variances if variance is not None]
    return Quality(
        total / count,
        None,
        ratios,
        _geometric_mean(values),
        (min(without), max(without)) if without else None,
        math.sqrt(math.fsum(known)) / count if len(known) == count else None,
    )


def _variance(student: Measured, teacher: Measured) -> float | None:
    if student.stderr is None or teacher.stderr is None:
        return None
    own = (student.stderr / teacher.score) ** 2
    return own + (student.score * teacher.stderr / teacher.score**2) ** 2


def _geometric_mean(values: Sequence[float]) -> float | None:
    if min(values) < 0:
        return None
    if min(values) == 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))
