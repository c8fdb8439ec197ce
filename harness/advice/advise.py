"""Which student to build: what a budget and a number of reuses allow, and which choice beats which.

A choice is said to be better only where that holds for every value inside the intervals
(`harness.accounting.pareto`); else the data cannot decide, and the cheaper of the two is named as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from harness.accounting import Interval, ParetoPoint, pareto_frontier
from harness.accounting.pareto import Standing
from harness.accounting.shared_scales import Energy, absolute, added, at
from harness.accounting.stage_scales import stated
from harness.advice.choices import Choice, Choices, share
from harness.errors import KitError

Fit = Literal["within", "may be over", "over"]


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        reuses: how many students each teacher's output serves in all.
        budget_j: IT joules to spend; None = no limit.
        sizes: sizes to choose from, one wins; empty = all.
        need: sizes that must all be built; each teacher's output is paid once for them. Empty = one student.
    """

    reuses: int = 1
    budget_j: float | None = None
    sizes: Sequence[str] = ()
    need: Sequence[str] = ()


@dataclass(frozen=True)
class Option:
    """One way to answer: a student, or one of each size needed.

    Attributes:
        cost: with the teachers' shares.
        stated: the same as a report states it (4.4).
        absolute: the same with all that is not known of its scales in the interval, as a budget needs.
        quality: Q, or the mean Q of several students.
        fit: whether the budget allows it, by the interval of `absolute`.
    """

    name: str
    choices: tuple[Choice, ...]
    cost: Energy
    stated: Interval
    absolute: Interval
    quality: Interval
    fit: Fit


@dataclass(frozen=True)
class Answer:
    """What the data say.

    Attributes:
        options: all that have both figures, by rising energy.
        standings: of each option of `options`, in the same order.
        best: the affordable option of the highest Q; None where none is affordable.
        rivals: affordable options that may be as good or better in Q, for all the intervals say.
        undecided: choices without a figure, which could be the best.
    """

    options: Sequence[Option]
    standings: Sequence[Standing]
    best: Option | None
    rivals: Sequence[Option]
    undecided: Sequence[Choice]


def advise(given: Choices, question: Question) -> Answer:
    """Set the choices against the question.

    Raises:
        KitError: a size is asked for that is not among the choices, or nothing has both figures.
    """
    grid = given.grid
    known = dict.fromkeys(choice.size for choice in grid)
    for size in (*question.sizes, *question.need):
        if size not in known:
            raise KitError(f"no student of size {size!r}", expected=f"one of {', '.join(known)}")
    sizes = question.need or question.sizes or tuple(known)
    asked = [choice for choice in grid if choice.size in sizes]
    usable = [choice for choice in asked if choice.unknown is None]
    options = (
        [_together(given, ways, question) for ways in product(*(_of(usable, s) for s in question.need))]
        if question.need
        else [_together(given, (choice,), question) for choice in usable]
    )
    if not options:
        raise KitError(
            "no choice has both energy and Q", where=given.source, expected="at least one measured student"
        )
    options.sort(key=lambda option: (option.absolute.best, -option.quality.best))
    points = [ParetoPoint(o.name, at(o.cost, {}), o.quality, o.cost) for o in options]
    allowed = [option for option in options if option.fit != "over"]
    best = max(allowed, key=lambda option: (option.quality.best, -option.absolute.best), default=None)
    rivals = [o for o in allowed if best is not None and o is not best and o.quality.high > best.quality.low]
    return Answer(
        options,
        pareto_frontier(points, given.scales),
        best,
        rivals,
        [choice for choice in asked if choice.unknown is not None],
    )


def _of(choices: Sequence[Choice], size: str) -> list[Choice]:
    return [choice for choice in choices if choice.size == size]


def _together(given: Choices, ways: tuple[Choice, ...], question: Question) -> Option:
    """One student, or one of each size: the output of a teacher is paid once for all that use it."""
    energies: list[Energy] = []
    for choice in ways:
        if choice.own is not None:
            energies.append(choice.own)
    for regime in dict.fromkeys(choice.regime for choice in ways):
        users = [choice for choice in ways if choice.regime == regime]
        teacher = users[0].teacher
        if teacher:
            # All students of the grid learn from one output of their regime.
            energies.append(share(teacher, min(1.0, len(users) / max(question.reuses, len(users)))))
    cost = added(energies)
    whole = absolute(cost, given.scales)
    count = len(ways)
    quality = Interval(
        *(
            sum(getattr(c.quality, end) for c in ways if c.quality is not None) / count
            for end in ("best", "low", "high")
        )
    )
    fit: Fit = "within"
    if question.budget_j is not None and whole.high > question.budget_j:
        fit = "over" if whole.best > question.budget_j else "may be over"
    name = " + ".join(choice.name for choice in ways)
    return Option(name, ways, cost, stated(cost, given.scales), whole, quality, fit)
