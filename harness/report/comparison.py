"""A distilled run against direct training of the same student: N*, T*, how sensitive they are, and ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.accounting import (
    BreakEven,
    Interval,
    ParetoPoint,
    break_even,
    pareto_frontier,
    serving_break_even,
)
from harness.accounting.amortize import student_sensitivity
from harness.accounting.rounding import break_even_sentence, break_even_text, printable
from harness.report.scores import HELD_OUT

if TYPE_CHECKING:
    from harness.report.model import RunReport
    from harness.report.scores import SuiteScores

STUDENT_REL = 0.03
"""Relative error of both students at which the sensitivity of N* is shown."""


@dataclass(frozen=True)
class Against:
    """This run beside another one.

    Attributes:
        name: of the other run.
        run_id: of the other run.
        ours: energy of this run, inherited energy included.
        theirs: energy of the other run, inherited energy included.
        even: N* of this run's teacher with the other run as direct training.
        moved: the same if both students' energies were known to `STUDENT_REL` only.
        serving: T*, the tokens to be served until what this run cost more has paid; None when not asked for.
        verdict: which run is better in energy, or in energy and Q where both have it, with an interval, of
            one suite and judge; or a tie.
        doubts: why the two figures should not be set against each other.
    """

    name: str
    run_id: str
    ours: Interval | None
    theirs: Interval | None
    even: BreakEven
    moved: BreakEven
    serving: BreakEven | None
    verdict: str
    doubts: Sequence[str] = ()


def against(report: RunReport, other: RunReport, serving: tuple[float, float] | None = None) -> Against:
    """Set a run against direct training of the same student.

    Args:
        report: the run that uses a teacher's output.
        other: the run that trains directly.
        serving: joules per served token of the other run's model and of this one's, for T*.
    """
    teacher = _with_inherited(report, report.protocol.kinds("teacher"))
    direct, distilled = (r.totals.whole_of(*r.protocol.kinds("student")) for r in (other, report))
    ours, theirs = (_with_inherited(r) for r in (report, other))
    return Against(
        name=printable(str(other.manifest.get("name", ""))),
        run_id=str(other.manifest.get("run_id", "")),
        ours=ours,
        theirs=theirs,
        even=break_even(teacher, direct, distilled),
        moved=student_sensitivity(teacher, direct, distilled, STUDENT_REL),
        serving=None if serving is None else _serving(ours, theirs, serving),
        verdict=_verdict(report, other, ours, theirs),
        doubts=_doubts(report, other),
    )


def _with_inherited(report: RunReport, kinds: Sequence[str] = ()) -> Interval | None:
    """Energy of some kinds of stages, or of all, and what others paid for; None unless all is known."""
    if report.unknown_origins or report.totals.incomplete & set(kinds or report.totals.incomplete):
        return None
    own = report.totals.whole_of(*kinds)
    known = [energy for energy in (own, report.inherited) if energy is not None]
    return known[0] + known[1] if len(known) == 2 else known[0] if known else None


def _serving(ours: Interval | None, theirs: Interval | None, joules: tuple[float, float]) -> BreakEven:
    extra = None if ours is None or theirs is None else ours - theirs
    return serving_break_even(extra, *map(Interval.exact, joules))


def _verdict(report: RunReport, other: RunReport, ours: Interval | None, theirs: Interval | None) -> str:
    if ours is None or theirs is None:
        return "not comparable: an energy is unknown"
    q, what = (Interval.exact(0.0), Interval.exact(0.0)), "energy"
    qualities = _quality(report), _quality(other)
    if qualities[0] is not None and qualities[1] is not None and _no_q(report, other) is None:
        q, what = (qualities[0], qualities[1]), "energy and Q"
    points = ParetoPoint("this run", ours, q[0]), ParetoPoint("that run", theirs, q[1])
    for standing in pareto_frontier(points):
        if standing.dominated_by:
            return f"{standing.dominated_by[0]} is better in {what}"
        if standing.ties:
            return f"a tie in {what}: the intervals overlap"
    return f"neither is better in {what}"


def _judged(report: RunReport) -> SuiteScores | None:
    """The only suite with a Q; None where there is none or more than one."""
    found = [s for s in report.scores if s.quality is not None and s.quality.q is not None]
    return found[0] if len(found) == 1 else None


def _quality(report: RunReport) -> Interval | None:
    """Q of that suite with its interval; None where either is unknown."""
    suite = _judged(report)
    return None if suite is None or suite.quality is None else suite.quality.interval


def _no_q(report: RunReport, other: RunReport) -> str | None:
    """Why the Q of two runs cannot be set against each other; None if it can, or one has none."""
    ours, theirs = _judged(report), _judged(other)
    if ours is None or theirs is None:
        return None
    if ours.suite != theirs.suite or ours.student.keys() != theirs.student.keys():
        return "Q is of different suites and left out"
    if _judges(ours) != _judges(theirs):
        return "Q is by different judges and left out"
    if _quality(report) is None or _quality(other) is None:
        return "how well Q is known is not known, and it is left out"
    return None


def _judges(suite: SuiteScores) -> set[tuple[str, str | None]]:
    """Who scored what, on either side."""
    rows = (*suite.student.items(), *suite.teacher.items())
    return {(name, row["judge_id"]) for name, row in rows}


def _doubts(report: RunReport, other: RunReport) -> list[str]:
    found = []
    for part in ("gpu", "cpu", "dram"):
        mine, yours = (set(getattr(r.totals, part).methods) for r in (report, other))
        if mine != yours:
            words = [" + ".join(sorted(m)) or "absent" for m in (mine, yours)]
            found.append(f"{part.upper()} energy is {words[0]} here and {words[1]} there")
    suites = [sorted(s.suite for s in r.scores if s.suite != HELD_OUT) for r in (report, other)]
    if suites[0] != suites[1]:
        found.append("the suites differ")
    no_q = _no_q(report, other)
    if no_q is not None:
        found.append(no_q)
    for whose, run in (("this", report), ("that", other)):
        if run.totals.incomplete:
            found.append(f"the energy of a GPU of {whose} run is unknown")
        if run.unknown_origins:
            names = printable(", ".join(run.unknown_origins))
            found.append(f"what another run paid for {names} of {whose} run is unknown")
    return found


def against_lines(found: Against) -> list[tuple[str, str]]:
    """(name, figure) for the summary."""
    lines = [
        ("against", f"{found.name}: {found.verdict}"),
        ("N*", break_even_sentence(found.even, "reuses", "until the teacher has paid for itself")),
    ]
    if found.serving is not None:
        until = "until this run's extra energy is saved"
        lines.append(("T*", break_even_sentence(found.serving, "served tokens", until)))
    return lines


def against_notes(found: Against) -> list[str]:
    """What a reader must know of the comparison."""
    notes = []
    if found.even.case in ("finite", "never"):
        notes.append(
            "N* divides the teacher's energy by a small difference of two students' energies: with "
            f"±{STUDENT_REL:.0%} on both of them it would be {break_even_text(found.moved)}."
        )
    if found.even.case == "undefined":
        notes.append("N* is not defined: the energy of a student's training or of the teacher is not known.")
    if found.doubts:
        notes.append(f"The two runs are hardly comparable: {'; '.join(found.doubts)}.")
    return notes
