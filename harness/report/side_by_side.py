"""Several runs beside each other: the first is what the others are compared with."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.accounting import Interval
from harness.accounting.amortize import mean_of_repeats
from harness.accounting.rounding import duration, quantity, with_ends
from harness.accounting.shared_scales import ratio
from harness.accounting.stage_scales import ranges
from harness.accounting.totals import per_token
from harness.bundle.derive import scale_bars
from harness.report.comparison import finite, paired_q, q_of, same_run, stated_energy, unlike, whole_energy
from harness.report.terminal import memory
from harness.text import shown

if TYPE_CHECKING:
    from harness.accounting.item_scores import PairedQuality
    from harness.report.model import RunReport

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_SEED = re.compile(r"[-_]seed[-_]?\d+$")


@dataclass(frozen=True)
class Side:
    """One column: a run, or the repeats of one cell.

    Attributes:
        name: of the run; of repeats the name without its seed. The end of the run's path follows where two
            columns would have the same.
        reports: the run, or every repeat.
        energy: with what others paid; of repeats the mean with the 95 % interval of their spread, which holds
            what the repeats do not share. None where it is unknown.
        spread: standard deviation of the repeats' energies, joules; None without two.
        times: energy over that of the first column, what both share cancelled; None of the first, of repeats,
            or where one is unknown.
        quality: Q, in the same way.
        gap: Q less that of the first column, item by item; None where their items differ.
        differences: why energies or Q do not compare with the first column's.
    """

    name: str
    reports: Sequence[RunReport]
    energy: Interval | None
    spread: float | None
    times: Interval | None
    quality: Interval | None
    gap: PairedQuality | None
    differences: Sequence[str]

    @property
    def seconds(self) -> float:
        """Time of all stages, the mean of the repeats."""
        return statistics.fmean(
            sum(line.duration_us for line in report.lines if line.depth == 0) / 1e6 for report in self.reports
        )

    @property
    def gpu_hours(self) -> float | None:
        """Devices times time of the stages that billed them, mean of the repeats; None: none was metered."""
        if any((report.manifest.get("boundary") or {}).get("gpu") == "absent" for report in self.reports):
            return None
        return statistics.fmean(report.gpu_hours for report in self.reports)

    @property
    def throughput(self) -> float | None:
        """Tokens/s of the student's training, the mean of the repeats; None where one is unknown."""
        known = [rate for report in self.reports if (rate := report.throughput) is not None]
        return statistics.fmean(known) if len(known) == len(self.reports) else None

    @property
    def peak_gpu_mib(self) -> int | None:
        """Most memory in use on one GPU in any repeat; None where one is unknown."""
        known = [report.peak_gpu_mib for report in self.reports if report.peak_gpu_mib is not None]
        return max(known) if len(known) == len(self.reports) else None

    @property
    def co2e_kg(self) -> Interval | None:
        """By the grid asked for; None where none was, of repeats, or where an energy is unknown."""
        one = self.reports[0]
        known = one.carbon and not one.totals.incomplete and len(self.reports) == 1
        return one.carbon[0].kg if known else None

    @property
    def served(self) -> Interval | None:
        """J per served token; None of repeats, or where it was not measured."""
        one = self.reports[0].served
        return None if one is None or len(self.reports) > 1 else one.per_token

    @property
    def per_token(self) -> tuple[str, Interval] | None:
        """Energy of this column over its denominator: the reference, else unique trained tokens."""
        if len(self.reports) > 1:
            return None
        counts = self.reports[0].token_counts
        name = next((name for name in ("reference", "trained") if counts.get(name)), None)
        found = None if name is None else per_token(self.energy, counts[name])
        return None if name is None or found is None else (name, found)


def side_by_side(reports: Sequence[RunReport], folders: Sequence[Path] = ()) -> list[Side]:
    """Columns in the order given; runs of one name, but for a seed at its end, become one where they compare.

    A run that is given twice counts once. Two of the same name stay two if their logs tell different
    pipelines; of commands that a log holds as digests it does not tell.

    Args:
        reports: one or more.
        folders: where they lie, to tell columns of one name apart.
    """
    groups: list[list[RunReport]] = []
    for report in reports:
        if any(same_run(report, known) for group in groups for known in group):
            continue
        alike = (g for g in groups if _repeats(report, g) and not unlike(g[0], report))
        group = next(alike, None)
        if group is None:
            groups.append([report])
        else:
            group.append(report)
    sides = [_side(members, groups[0][0]) for members in groups]
    places = {id(report): folder for report, folder in zip(reports, folders, strict=False)}
    return _told_apart(sides, [places[id(side.reports[0])] for side in sides]) if folders else sides


def _told_apart(sides: Sequence[Side], folders: Sequence[Path]) -> list[Side]:
    """Names that are not unique, with as much of the path's end as tells the runs apart."""
    names = [side.name for side in sides]
    parts = [folder.absolute().parts for folder in folders]
    found = []
    for side, own in zip(sides, parts, strict=True):
        same = [other for other, name in zip(parts, names, strict=True) if name == side.name and other != own]
        if same:
            count = next(n for n in range(1, len(own) + 1) if all(own[-n:] != other[-n:] for other in same))
            side = replace(side, name=f"{side.name} ({shown('/'.join(own[-count:]))})")
        found.append(side)
    return found


def _cell(report: RunReport) -> tuple[str, str]:
    name = str(report.manifest.get("name", ""))
    return _SEED.sub("", name) or name, str(report.manifest.get("method"))


def _repeats(report: RunReport, group: Sequence[RunReport]) -> bool:
    """Whether a run is one more of the same: another seed, or the same pipeline again."""
    same = [one for one in group if one.manifest.get("name") == report.manifest.get("name")]
    edited = any(_pipeline(one) != _pipeline(report) for one in same)
    return _cell(group[0]) == _cell(report) and not edited


def _pipeline(report: RunReport) -> str:
    """What a log tells of its pipeline without the digests, whose key is each run's own."""
    return _DIGEST.sub("", json.dumps(report.manifest.get("pipeline"), sort_keys=True))


def _side(members: Sequence[RunReport], first: RunReport) -> Side:
    report, alone = members[0], len(members) == 1
    differing = [] if report is first else unlike(first, report)
    energies = [None if whole_energy(r) is None else stated_energy(r) for r in members]
    qualities = [q_of(r) for r in members]
    ours, theirs = whole_energy(report), whole_energy(first)
    times = None
    if alone and report is not first and not differing and ours is not None and theirs is not None:
        times = ratio(ours, theirs, ranges([ours, theirs], scale_bars(report.protocol)))
    best = [energy.best for energy in energies if energy is not None]
    return Side(
        name=shown(str(report.manifest.get("name", "")) if alone else _cell(report)[0]),
        reports=members,
        energy=energies[0] if alone else mean_of_repeats(best) if len(best) == len(members) else None,
        spread=statistics.stdev(best) if len(best) == len(members) > 1 else None,
        times=times,
        quality=qualities[0] if alone else _mean(qualities),
        gap=paired_q(report, first) if alone and report is not first else None,
        differences=differing,
    )


def _mean(qualities: Sequence[Interval | None]) -> Interval | None:
    known = [quality.best for quality in qualities if quality is not None]
    return mean_of_repeats(known) if len(known) == len(qualities) else None


def rows(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """Name of a figure and one cell a column, for a table."""
    found = [
        ("energy", [_energy(side) for side in sides]),
        ("E / first", [_times(side) for side in sides]),
        ("J/token", [_per_token(side) for side in sides]),
        ("Q", [_quality(side) for side in sides]),
        ("Q less first", [_gap(side) for side in sides]),
        ("time in stages", [duration(round(side.seconds * 1e6)) for side in sides]),
        ("GPU-hours", ["-" if side.gpu_hours is None else f"{side.gpu_hours:.3g}" for side in sides]),
        ("tokens/s, train", ["-" if s.throughput is None else f"{s.throughput:,.0f}" for s in sides]),
        ("peak GPU memory", ["-" if s.peak_gpu_mib is None else memory(s.peak_gpu_mib) for s in sides]),
        ("served", ["-" if s.served is None else f"{_rounded(s.served)}/token" for s in sides]),
        ("CO2e", ["-" if s.co2e_kg is None else quantity(s.co2e_kg.best * 1e3, "g") for s in sides]),
        ("CPU, GPU energy", [_boundary(side.reports[0]) for side in sides]),
        ("repeats", [str(len(side.reports)) for side in sides]),
    ]
    return [(name, cells) for name, cells in found if set(cells) - {"-"}]


def _energy(side: Side) -> str:
    if side.energy is None:
        return "unknown"
    if side.spread is None:
        return with_ends(side.energy, "J")
    return f"{_rounded(side.energy)}, s {quantity(side.spread, 'J')}"


def _rounded(joules: Interval) -> str:
    return quantity(joules.best, "J", joules.low, joules.high)


def _times(side: Side) -> str:
    if side.times is None:
        return "-"
    tie = ", a tie" if side.times.low <= 1 <= side.times.high else ""
    high = f"{side.times.high:.2f}" if math.isfinite(side.times.high) else "no end"
    return f"{side.times.best:.2f} ({side.times.low:.2f} to {high}){tie}"


def _per_token(side: Side) -> str:
    found = side.per_token
    return "-" if found is None else f"{_rounded(found[1])} per {found[0]}"


def _quality(side: Side) -> str:
    q = side.quality
    return "-" if q is None else f"{q.best:.3f} ({q.low:.3f} to {q.high:.3f})"


def _gap(side: Side) -> str:
    if side.gap is None:
        return "-"
    gap = side.gap.difference
    words = ", a tie" if side.gap.verdict == "tie" else ""
    return f"{gap.best:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}){words}"


def _boundary(report: RunReport) -> str:
    states = report.manifest.get("boundary") or {}
    return f"{states.get('cpu')}, {states.get('gpu')}"


def as_dicts(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """The columns for programs; energies in joules."""
    return [
        {
            "name": side.name,
            "run_ids": [str(report.manifest.get("run_id")) for report in side.reports],
            "energy_j": side.energy and finite(side.energy),
            "energy_spread_j": side.spread,
            "energy_over_first": side.times and finite(side.times),
            "quality": side.quality and finite(side.quality),
            "quality_less_first": side.gap and finite(side.gap.difference),
            "quality_verdict": side.gap and side.gap.verdict,
            "seconds": side.seconds,
            "gpu_hours": side.gpu_hours,
            "tokens_per_s": side.throughput,
            "peak_gpu_memory_mib": side.peak_gpu_mib,
            "energy_j_per_served_token": side.served and finite(side.served),
            "co2e_kg": side.co2e_kg and finite(side.co2e_kg),
            "differences": list(side.differences),
        }
        for side in sides
    ]
