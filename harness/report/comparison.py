"""A distilled run against direct training of the same student: their ratio, N*, T*, and ties."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.accounting import (
    BreakEven,
    Interval,
    ParetoPoint,
    break_even,
    pareto_frontier,
    serving_break_even,
)
from harness.accounting.amortize import UNDEFINED, repeated_break_even, student_sensitivity
from harness.accounting.interval import total
from harness.accounting.rounding import break_even_sentence, break_even_text
from harness.accounting.run_spread import RunSpread, chance, withheld
from harness.accounting.shared_scales import Energy, Scales, at, difference, ratio
from harness.accounting.stage_scales import ranges
from harness.bundle.derive import scale_bars
from harness.errors import KitError
from harness.report.scores import HELD_OUT, paired
from harness.report.serving import not_compared

if TYPE_CHECKING:
    from harness.accounting.item_scores import PairedQuality
    from harness.report.model import RunReport
    from harness.report.scores import SuiteScores

STUDENT_REL = 0.03
"""Relative error of both students at which the sensitivity of N* is shown."""


SAME_BYTES = 1.01
"""Checkpoints of one architecture and type differ by no more."""

STUDENT_BYTES = 1.5
"""Checkpoints of one student are alike in size; those of 1B and 7B differ more than this."""


@dataclass(frozen=True)
class Against:
    """This run beside another one.

    Attributes:
        name: of the other run.
        run_id: of the other run.
        ours: energy of this run, inherited energy included.
        theirs: energy of the other run, inherited energy included.
        times: `ours` over `theirs`, what both share cancelled; None where one is unknown.
        even: N* of this run's teacher with the other run as direct training.
        moved: the same if both students' energies were known to `STUDENT_REL` only.
        even_cpu: N* in CPU seconds of the processes, where both runs repeat their student; None elsewhere.
        repeats: how often each does.
        serving: T*, the tokens to be served until what this run cost more has paid; None where the joules per
            served token are neither measured nor given.
        no_serving: why not.
        served_measured: whether `serving` is of measured joules per served token.
        verdict: which run is better in energy, or in energy and Q where both have it, with an interval, of
            one suite and judge; or a tie; None where the two may not be compared.
        doubts: what a reader must know of the comparison.
        differences: why the two may not be compared.
        spread: how far equal work differs from run to run; None where that is not known.
        q_gap: this run's Q less the other's over the same items; None where they were not asked the same.
    """

    name: str
    run_id: str
    ours: Interval | None
    theirs: Interval | None
    times: Interval | None
    even: BreakEven
    moved: BreakEven
    serving: BreakEven | None
    verdict: str | None
    doubts: Sequence[str] = ()
    differences: Sequence[str] = ()
    even_cpu: BreakEven | None = None
    repeats: int = 0
    q_gap: PairedQuality | None = None
    no_serving: str | None = None
    served_measured: bool = False
    spread: RunSpread | None = None


def against(
    report: RunReport,
    other: RunReport,
    serving: tuple[float, float] | None = None,
    spread: RunSpread | None = None,
) -> Against:
    """Set a run against direct training of the same student.

    Args:
        report: the run that uses a teacher's output.
        other: the run that trains directly.
        serving: joules per served token of the other run's model and of this one's, for T*; None: what the
            runs' serve stages measured.
        spread: from run to run of equal work (`spread_beside`); None = not measured.
    """
    ours, theirs = whole_energy(report), whole_energy(other)
    teacher = None if ours is None else _teacher(report, other)
    direct, distilled = (_student(r) for r in (other, report))
    known = [energy for energy in (ours, theirs, teacher, direct, distilled) if energy is not None]
    scales = ranges(known, scale_bars(report.protocol))
    differing = differences_between(report, other)
    even = moved = UNDEFINED
    if not differing:
        even = break_even(teacher, direct, distilled, scales=scales)
        even = replace(even, withheld=no_verdict(report, other, spread))
        moved = student_sensitivity(_at_best(teacher), _at_best(direct), _at_best(distilled), STUDENT_REL)
        moved = replace(moved, withheld=even.withheld)
    seconds = [_cpu_seconds(r, r.protocol.kinds("student")) for r in (other, report)]
    even_cpu = None
    if not differing and len(seconds[0]) == len(seconds[1]):
        even_cpu = _even_cpu(report, *seconds)
    return Against(
        name=str(other.manifest.get("name", "")),
        run_id=str(other.manifest.get("run_id", "")),
        ours=None if ours is None else stated_energy(report),
        theirs=None if theirs is None else stated_energy(other),
        times=None if ours is None or theirs is None else ratio(ours, theirs, scales),
        even=even,
        moved=moved,
        serving=None if differing and serving is None else _serving(report, other, serving, scales, spread),
        served_measured=serving is None,
        spread=spread,
        no_serving=None if serving else not_compared(report.served, other.served),
        verdict=None if differing else _verdict(report, other, ours, theirs, scales),
        doubts=_doubts(report, other),
        differences=differing,
        even_cpu=even_cpu,
        repeats=len(seconds[0]),
        q_gap=None if differing else paired_q(report, other),
    )


def no_verdict(report: RunReport, other: RunReport, spread: RunSpread | None) -> str | None:
    """Why N* of a distilled run against direct training says nothing; None where it does."""
    pair = other, report
    energies = [_at_best(_student(one)) for one in pair]
    return withheld([one.token_counts.get("positions") for one in pair], energies, spread)


def serving_no_verdict(report: RunReport, other: RunReport, spread: RunSpread | None) -> str | None:
    """The same of T* by measured joules: students of one architecture do equal work at one workload."""
    sizes = [one.student_bytes or 0 for one in (other, report)]
    if spread is None and not 0 < max(sizes) <= SAME_BYTES * min(sizes):
        return None  # perhaps of two architectures
    energies = [None if one is None else one.per_token for one in (other.served, report.served)]
    return chance(energies, spread)


def repeated(folder: Path) -> Path | None:
    """The run that one repeats with all equal, by its name, `NAME-again1`; None where it repeats none."""
    found = re.fullmatch(r"(.+)-again\d+", folder.name)
    return None if found is None else folder.with_name(found[1])


def spread_beside(folder: Path) -> RunSpread | None:
    """`spreads_beside` of one run."""
    return spreads_beside([folder])[0]


def spreads_beside(folders: Sequence[Path]) -> list[RunSpread | None]:
    """Run-to-run spread for each run, from runs in its folder that repeat one of them with all equal.

    A repeat is told by its name, `NAME-again1` beside `NAME`, and is another run of the same method that went
    through as many positions. Of several the one with most repeats counts, on the same devices and with the
    same reference tokens as the run itself, where those are known.

    Returns:
        None for a run without one in its folder, or where what is there cannot be read.
    """
    from harness.report.model import build

    built: dict[Path, RunReport | None] = {}

    def read(path: Path) -> RunReport | None:
        if path not in built:
            try:
                built[path] = build(path)
            except KitError:
                built[path] = None  # a neighbour that cannot be read is none of this run's faults
        return built[path]

    found: list[RunSpread | None] = []
    for folder in folders:
        groups: dict[Path, list[Path]] = {}
        for path in sorted(folder.absolute().parent.glob("*-again*/manifest.json")):
            first = repeated(path.parent)
            if first is not None and (first / "manifest.json").exists():
                groups.setdefault(first, [first]).append(path.parent)
        known = (_spread(name, [read(path) for path in paths]) for name, paths in groups.items())
        fit = [(one, first) for one, first in filter(None, known) if _fits(read(folder.absolute()), first)]
        found.append(max(fit, key=lambda pair: len(pair[0].energies_j))[0] if fit else None)
    return found


def _spread(name: Path, runs: Sequence[RunReport | None]) -> tuple[RunSpread, RunReport] | None:
    """Spread of a run and its repeats, with its first; None where they say nothing."""
    by_id = {str(run.manifest.get("run_id")): run for run in runs if run is not None}
    alike = [(run.manifest.get("method"), run.token_counts.get("positions")) for run in by_id.values()]
    energies = [_at_best(_student(run)) for run in by_id.values()]
    known = tuple(energy.best for energy in energies if energy is not None and energy.best > 0)
    if None in runs or len(known) < max(2, len(by_id)) or len(set(alike)) > 1 or alike[0][1] is None:
        return None
    seconds = [_cpu_seconds(run, run.protocol.kinds("student")) for run in by_id.values()]
    cpu_s = tuple(math.fsum(s for s in one if s) for one in seconds if one and None not in one)
    first = next(iter(by_id.values()))
    return RunSpread(name.name, known, cpu_s if len(cpu_s) == len(by_id) else None), first


def _fits(report: RunReport | None, other: RunReport) -> bool:
    """Whether a run may be of the study and the machine of another one."""
    if report is None:
        return False
    tokens = [run.token_counts.get("reference") for run in (report, other)]
    return _devices(report) == _devices(other) and (None in tokens or tokens[0] == tokens[1])


def _serving(
    report: RunReport,
    other: RunReport,
    given: tuple[float, float] | None,
    scales: Scales,
    spread: RunSpread | None,
) -> BreakEven | None:
    """T* from given or measured joules per served token; None where there are neither."""
    ours, theirs = whole_energy(report), whole_energy(other)
    if given is not None:
        extra = None if ours is None or theirs is None else difference(ours, theirs, scales)
        return serving_break_even(extra, *map(Interval.exact, given))
    one, two = report.served, other.served
    if one is None or two is None or not_compared(one, two) or ours is None or theirs is None:
        return None
    scales = {**scales, **ranges([one.scaled, two.scaled], scale_bars(report.protocol))}
    even = serving_break_even((ours, theirs), two.scaled, one.scaled, scales=scales)
    return replace(even, withheld=serving_no_verdict(report, other, spread))


def break_even_parts(
    report: RunReport, other: RunReport
) -> tuple[Energy | None, Energy | None, Energy | None]:
    """What N* is formed of: teacher's output, direct training, distilled student; None = unknown."""
    return _teacher(report, other), _student(other), _student(report)


def _cpu_seconds(report: RunReport, kinds: Sequence[str]) -> list[float | None]:
    """CPU seconds of each completed stage of some kinds; None where they are unknown."""
    rows = [line.row for line in report.lines if line.depth == 0]
    return [row["process_cpu_s"] for row in rows if row["stage"] in kinds and row["status"] == "completed"]


def _even_cpu(
    report: RunReport, direct: Sequence[float | None], distilled: Sequence[float | None]
) -> BreakEven | None:
    """N* in CPU seconds, the teacher shared by as many students as each run has."""
    teacher = _cpu_seconds(report, report.protocol.kinds("teacher"))
    known = [seconds for seconds in teacher if seconds is not None]
    if not known or len(known) < len(teacher) or report.inherited is not None or report.unknown_origins:
        return None  # what others spent on the teacher's output is known in joules only
    return repeated_break_even(math.fsum(known) / len(direct or [0]), direct, distilled)


def whole_energy(report: RunReport) -> Energy | None:
    """Energy of a run and of what others paid for it; None unless all of it is known."""
    if report.costs is None or report.unknown_origins or report.made.whole_of() is None:
        return None
    return report.costs.whole


def stated_energy(report: RunReport) -> Interval:
    """The same with its interval; a sensor's gain stands beside it, not in it (4.4)."""
    known = [energy for energy in (report.made.it, report.inherited) if energy is not None]
    return total(known)


def _student(report: RunReport) -> Energy | None:
    kinds = report.protocol.kinds("student")
    if report.costs is None or report.totals.whole_of(*kinds) is None:
        return None
    return report.costs.of(kinds)


def _teacher(report: RunReport, other: RunReport) -> Energy | None:
    return (
        None if report.costs is None else report.costs.teacher(report.protocol.kinds("teacher"), other.costs)
    )


def _at_best(energy: Energy | None) -> Interval | None:
    return None if energy is None else at(energy, {})


def _verdict(
    report: RunReport, other: RunReport, ours: Energy | None, theirs: Energy | None, scales: Scales
) -> str:
    if ours is None or theirs is None:
        return "not comparable: an energy is unknown"
    q, what = (Interval.exact(0.0), Interval.exact(0.0)), "energy"
    qualities = q_of(report), q_of(other)
    if qualities[0] is not None and qualities[1] is not None and _no_q(report, other) is None:
        q, what = (qualities[0], qualities[1]), "energy and Q"
        pair = paired_q(report, other)
        if pair is not None:
            # On the same items the difference is known far better than either Q.
            q = (pair.difference, Interval.exact(0.0))
    points = (
        ParetoPoint("this run", stated_energy(report), q[0], ours),
        ParetoPoint("that run", stated_energy(other), q[1], theirs),
    )
    for standing in pareto_frontier(points, scales):
        if standing.dominated_by:
            return f"{standing.dominated_by[0]} is better in {what}"
        if standing.ties:
            return f"no order in {what}: within the intervals neither is better for certain"
    return f"neither is better in {what}"


def differences_between(report: RunReport, other: RunReport) -> list[str]:
    """Why N* and a verdict make no sense of two runs (9), in words; none where they may be formed."""
    runs = report, other
    if same_run(report, other):
        return ["they are one run"]
    found = []
    taught = report.protocol.taught_methods
    methods = [str(r.manifest.get("method")) for r in runs]
    if methods[0] not in taught or methods[1] in taught:
        found.append(
            f"the methods are {methods[0]} here and {methods[1]} there, "
            "not one with a teacher against one without"
        )
    sizes = [r.student_bytes for r in runs]
    if sizes[0] and sizes[1] and max(sizes[0], sizes[1]) > STUDENT_BYTES * min(sizes[0], sizes[1]):
        found.append(f"the students' checkpoints have {sizes[0]} bytes here and {sizes[1]} there")
    return found + unlike(report, other)


def same_run(report: RunReport, other: RunReport) -> bool:
    """Whether two bundles are of one run."""
    mine, yours = (r.manifest.get("run_id") for r in (report, other))
    return mine is not None and mine == yours


def unlike(report: RunReport, other: RunReport) -> list[str]:
    """What differs between two runs so that their energies do not compare (9), in words."""
    runs, found = (report, other), []
    counts = [r.token_counts.get("reference") for r in runs]
    which = "reference"
    if counts == [None, None]:
        counts, which = [r.token_counts.get("trained") for r in runs], "trained"
    if counts[0] != counts[1]:
        words = ["unknown" if c is None else str(c) for c in counts]
        found.append(f"{which} tokens are {words[0]} here and {words[1]} there")
    suites = [sorted(s.suite for s in r.scores if s.suite != HELD_OUT) for r in runs]
    if suites[0] != suites[1]:
        words = [", ".join(names) or "none" for names in suites]
        found.append(f"the suites are {words[0]} here and {words[1]} there")
    devices = [_devices(r) for r in runs]
    if devices[0] != devices[1]:
        found.append(f"the devices are {devices[0]} here and {devices[1]} there")
    for part in ("gpu", "cpu", "dram"):
        states = [str((r.manifest.get("boundary") or {}).get(part)) for r in runs]
        if states[0] != states[1]:
            found.append(f"{part.upper()} energy is {states[0]} here and {states[1]} there")
    return found


def _devices(report: RunReport) -> str:
    """Models of GPUs and CPU."""
    hardware = report.manifest.get("hardware") or {}
    models = Counter(str(device.get("model")) for device in hardware.get("devices") or ())
    gpus = [f"{count} x {model}" for model, count in sorted(models.items())] or ["no GPU"]
    return ", ".join([*gpus, str(hardware.get("cpu_model") or "an unknown CPU")])


def judged(report: RunReport) -> SuiteScores | None:
    """The only suite with a Q; None where there is none or more than one."""
    found = [s for s in report.scores if s.quality is not None and s.quality.q is not None]
    return found[0] if len(found) == 1 else None


def q_of(report: RunReport) -> Interval | None:
    """Q of that suite with its interval; None where either is unknown."""
    suite = judged(report)
    return None if suite is None or suite.quality is None else suite.quality.interval


def _no_q(report: RunReport, other: RunReport) -> str | None:
    """Why the Q of two runs cannot be set against each other; None if it can, or one has none."""
    ours, theirs = judged(report), judged(other)
    if ours is None or theirs is None:
        return None
    if ours.suite != theirs.suite or ours.student.keys() != theirs.student.keys():
        return "Q is of different suites and left out"
    if _judges(ours) != _judges(theirs):
        return "Q is by different judges and left out"
    if q_of(report) is None or q_of(other) is None:
        return "how well Q is known is not known, and it is left out"
    return None


def paired_q(report: RunReport, other: RunReport) -> PairedQuality | None:
    """This run's Q less that run's, item by item; None where their items, judge or teacher differ."""
    ours, theirs = judged(report), judged(other)
    return None if ours is None or theirs is None else paired(ours, theirs)


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
    no_q = _no_q(report, other)
    if no_q is not None:
        found.append(no_q)
    for whose, run in (("this", report), ("that", other)):
        if run.totals.incomplete:
            found.append(f"the energy of a GPU of {whose} run is unknown")
        if run.unknown_origins:
            names = ", ".join(run.unknown_origins)
            found.append(f"what another run paid for {names} of {whose} run is unknown")
    return found


def finite(value: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no infinity: null is an end that is not known."""
    return {**vars(value), "high": value.high if math.isfinite(value.high) else None}


def against_lines(found: Against) -> list[tuple[str, str]]:
    """(name, figure) for the summary."""
    if found.differences:
        lines = [("against", f"{found.name}: no verdict, the two may not be compared")]
        return lines + [("differs", words) for words in found.differences]
    lines = [("against", f"{found.name}: {found.verdict}")]
    if found.q_gap is not None:
        gap = found.q_gap.difference
        words = {"better": "better", "worse": "worse", "tie": "a tie"}[found.q_gap.verdict]
        lines.append(
            ("Q less that", f"{gap.best:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) item by item: {words}")
        )
    if found.times is not None:
        times = found.times
        high = f"{times.high:.3g}" if math.isfinite(times.high) else "no end"
        lines.append(
            ("E over that", f"{times.best:.3g} ({times.low:.3g} to {high}), what both share cancelled")
        )
    lines.append(("N*", break_even_sentence(found.even, "reuses", "until the teacher has paid for itself")))
    if found.even_cpu is not None:
        words = break_even_sentence(found.even_cpu, "reuses", "until the teacher has paid for itself")
        lines.append(("N* by CPU time", f"{words}; CPU seconds, {found.repeats} repeats of each student"))
    if found.serving is not None:
        until = "until this run's extra energy is saved"
        lines.append(("T*", break_even_sentence(found.serving, "served tokens", until)))
    else:
        lines.append(("T*", f"not measured: {found.no_serving}"))
    return lines


def against_notes(found: Against) -> list[str]:
    """What a reader must know of the comparison."""
    notes = []
    if found.even.case in ("finite", "never") and found.even.withheld is None:
        notes.append(
            "N* is of training alone, without data preparation and scoring. It divides the teacher's energy "
            "by a small difference of two students' energies: with "
            f"±{STUDENT_REL:.0%} on both of them it would be {break_even_text(found.moved)}."
        )
    if found.spread is not None and found.even.case in ("finite", "never"):
        notes.append(f"Intervals hold what the meters may be off. {found.spread.words}")
    if found.serving is not None and found.served_measured and found.spread is None:
        notes.append(
            "T* divides by the difference of two measured J per served token; what differs run to run of "
            "equal work is not in its interval, and two students of one architecture do equal work."
        )
    if found.even.case == "undefined" and not found.differences:
        notes.append("N* is not defined: the energy of a student's training or of the teacher is not known.")
    if found.doubts:
        notes.append(f"Of the comparison: {'; '.join(found.doubts)}.")
    return notes
