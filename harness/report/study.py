"""Runs side by side as figures and tables take them: one entry a run or a published cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from harness.accounting import BreakEven, Interval, ParetoPoint, break_even, pareto_frontier
from harness.accounting.amortize import UNDEFINED
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.run_spread import RunSpread
from harness.accounting.shared_scales import Energy, Scales, at, difference, ratio
from harness.accounting.stage_scales import ranges, stated
from harness.bundle.derive import scale_bars
from harness.report.comparison import (
    break_even_parts,
    differences_between,
    judged,
    no_verdict,
    whole_energy,
)
from harness.report.model import RunReport
from harness.report.palette import role_of
from harness.spec import load_protocol
from harness.text import shown

SETTINGS = ("alpha", "temperature", "max_new_tokens", "prompts")
"""What the paper's sweeps vary, as options of the kit's own stages."""

WIDE_KWH = 0.1
"""From here on a figure is in kilowatt-hours, below in joules."""


@dataclass(frozen=True)
class Entry:
    """One run, or one published cell.

    Attributes:
        name: unique in its group.
        method: sft, kd, synthetic_sft or other.
        size: of the student, such as 7b; empty where the name holds none.
        group: what it may stand in one panel with; the panel's title.
        energy: all of it, the teacher in full, by the scales it shares; None where a part is unknown.
        roles: what energy was for -> joules, by the best values.
        quality: Q with its interval.
        tokens: declared denominator.
        parts: teacher, direct training and distilled student, for N*; None with nothing to compare with.
        extra: joules that it cost more than direct training; None likewise.
        withheld: why N* gets no verdict; None where it gets one.
        setting: settings of a sweep, as far as known.
        served: J per served token; None where no stage measured it.
    """

    name: str
    method: str
    size: str
    group: str
    energy: Energy | None
    roles: Mapping[str, float]
    quality: Interval | None = None
    tokens: int | None = None
    parts: tuple[Energy | None, Energy | None, Energy | None] | None = None
    extra: Interval | None = None
    withheld: str | None = None
    setting: Mapping[str, float] = field(default_factory=dict)
    served: Interval | None = None

    @property
    def even(self) -> BreakEven:
        """N*."""
        if self.parts is None:
            return UNDEFINED
        even = break_even(*self.parts, scales=scales_of([p for p in self.parts if p is not None]))
        return replace(even, withheld=self.withheld)

    @property
    def total(self) -> Interval | None:
        """Energy as a report states it."""
        return None if self.energy is None else stated(self.energy, scales_of([self.energy]))


@dataclass(frozen=True)
class Placed:
    """An entry on the plane of energy and quality.

    Attributes:
        x: joules; the interval holds what differs from the cheapest entry: what all share moves all together.
        state: frontier, tie or dominated.
        others: names of the entries that tie or dominate it.
    """

    entry: Entry
    x: Interval
    y: Interval
    state: str
    others: tuple[str, ...]


def scales_of(energies: Sequence[Energy]) -> Scales:
    """Ranges of the scales that energies name, by the current protocol."""
    return ranges(energies, scale_bars(load_protocol()))


def place(entries: Sequence[Entry]) -> list[Placed]:
    """The entries that have both figures, by rising energy, each with its standing."""
    known = [(e, e.energy, e.total, e.quality) for e in entries]
    points = [
        (e, parts, ParetoPoint(e.name, whole, q, parts))
        for e, parts, whole, q in known
        if parts is not None and whole is not None and q is not None
    ]
    points.sort(key=lambda p: (p[2].cost.best, -p[2].quality.best))
    scales = scales_of([parts for _, parts, _ in points])
    standings = pareto_frontier([point for _, _, point in points], scales)
    found = []
    for (entry, parts, point), standing in zip(points, standings, strict=True):
        x = at(parts, {})
        if parts is not points[0][1]:
            times = ratio(parts, points[0][1], scales)
            x = x if times is None else times.scale(points[0][2].cost.best)
        state = "dominated" if standing.dominated_by else "tie" if standing.ties else "frontier"
        found.append(Placed(entry, x, point.quality, state, standing.dominated_by or standing.ties))
    return found


def entries(reports: Sequence[RunReport], spreads: Sequence[RunSpread | None] | None = None) -> list[Entry]:
    """Entries of runs; each distilled one beside the first direct training that it may be compared with.

    Args:
        reports: of the runs.
        spreads: beside each run, from run to run of equal work (`comparison.spreads_beside`); None = not
            measured.
    """
    taught = [report.manifest.get("method") in report.protocol.taught_methods for report in reports]
    names = [shown(str(report.manifest.get("name", ""))) for report in reports]
    beside = {id(r): spread for r, spread in zip(reports, spreads or (), strict=False)}
    found = []
    for number, report in enumerate(reports):
        energy = whole_energy(report)
        entry = Entry(
            name=names[number]
            if names.count(names[number]) == 1
            else f"{names[number]} {str(report.manifest.get('run_id', ''))[-4:]}",
            method=str(report.manifest.get("method") or "other"),
            size=size_in(names[number]),
            group=f"this study ({basis(report)})",
            energy=energy,
            roles=_roles(report),
            quality=_quality(report),
            tokens=report.token_counts.get("reference"),
            setting=_setting(report),
            served=None if report.served is None else report.served.per_token,
        )
        direct = next((r for r in directs(reports, number) if not differences_between(report, r)), None)
        if taught[number] and direct is not None:
            base = whole_energy(direct)
            extra = None
            if energy is not None and base is not None:
                extra = difference(energy, base, scales_of([energy, base]))
            entry = replace(
                entry,
                parts=break_even_parts(report, direct),
                extra=extra,
                withheld=no_verdict(report, direct, beside.get(id(direct))),
            )
        found.append(entry)
    return found


def directs(reports: Sequence[RunReport], number: int) -> list[RunReport]:
    """The direct trainings beside a run, those of a student of the same name of size first."""

    def size(report: RunReport) -> str:
        return size_in(str(report.manifest.get("name", "")))

    report = reports[number]
    taught = report.protocol.taught_methods
    others = [r for r in reports if r is not report and r.manifest.get("method") not in taught]
    return sorted(others, key=lambda r: size(r) != size(report))


def size_in(name: str) -> str:
    """Size of the student as a name gives it: 7b in kd-7b; empty without one."""
    match = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?[bm])(?![a-z0-9])", name.lower())
    return match[1] if match else ""


def size_order(size: str) -> float:
    """Parameters that a size stands for, for sorting."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([bm])", size)
    return float(match[1]) * (1e9 if match[2] == "b" else 1e6) if match else 0.0


def unit_of(joules: Sequence[float]) -> tuple[str, float]:
    """Unit for figures of one panel, and what a joule is in it."""
    kwh = max(joules, default=0.0) / J_PER_KWH
    return ("kWh", 1 / J_PER_KWH) if kwh >= WIDE_KWH else ("J", 1.0)


def basis(report: RunReport) -> str:
    """What the figures of a run are, in words: a reader never takes an estimate for a measurement."""
    labels = report.manifest.get("labels") or []
    words = [label for label in ("pocket", "simulated", "imported") if label in labels]
    return ", ".join([*words, "estimate" if "estimated" in report.states() else "measured"])


def _roles(report: RunReport) -> dict[str, float]:
    found: dict[str, float] = {}
    if report.costs is None:
        return found
    for kind, energy in report.costs.own.items():
        role = role_of(kind, report.protocol)
        found[role] = found.get(role, 0.0) + at(energy, {}).best
    teachers = report.costs.teachers(report.protocol.kinds("teacher"))
    for paid in report.costs.paid:
        role = "teacher" if paid in teachers else "data"
        found[role] = found.get(role, 0.0) + paid.stated.best
    return found


def _quality(report: RunReport) -> Interval | None:
    suite = judged(report)
    if suite is None or suite.quality is None or suite.quality.q is None:
        return None
    return suite.quality.interval or Interval.exact(suite.quality.q)


def _setting(report: RunReport) -> dict[str, float]:
    """Settings of a sweep by the options of the run's own commands, or by the names of what they read."""
    found: dict[str, float] = {}
    pipeline = report.manifest.get("pipeline") or {}
    stages = pipeline.get("stages") if isinstance(pipeline, Mapping) else None
    for stage in stages if isinstance(stages, list) else []:
        words = [str(word) for word in stage.get("command") or []] if isinstance(stage, Mapping) else []
        for option, value in pairwise(words):
            name = option.removeprefix("--").replace("-", "_")
            if option.startswith("--") and name in SETTINGS and re.fullmatch(r"\d+(\.\d+)?", value):
                found[name] = float(value)
        match = re.search(r"tokens(\d+)-prompts(\d+)", " ".join(words))
        if match:
            found |= {"max_new_tokens": float(match[1]), "prompts": float(match[2])}
    return found
