"""Totals of a run from its stages: sums that add up exactly, joules per token, facility energy and CO2e.

Energies are summed as integers (mJ for GPUs, uJ for CPU and DRAM), so the parts and the whole agree to the
last digit. Rows with a parent are part of it and are not summed again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.accounting.boundaries import UNATTRIBUTED, Row
from harness.accounting.interval import Interval
from harness.accounting.interval import total as interval_total
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.stages import SessionTotal

DENOMINATORS = {
    "trained": "tokens_trained",
    "processed": "tokens_processed",
    "positions": "tokens_positions",
    "generated": "tokens_generated",
    "reference": "token_denominator",
}
"""Name of a denominator -> column of `stages`."""

_UNITS_PER_J = {"gpu": 1_000, "cpu": 1_000_000, "dram": 1_000_000}


@dataclass(frozen=True)
class PartTotal:
    """Energy of one component (gpu, cpu or dram) over some stages.

    Attributes:
        energy_j: sum of the known rows; None if no row knows.
        interval: bounds; None if no row knows.
        unknown_rows: rows that should have this component and do not.
        methods: methods used, sorted.
    """

    energy_j: float | None
    interval: Interval | None
    unknown_rows: int
    methods: tuple[str, ...]


@dataclass(frozen=True)
class RunTotals:
    """Energy of a whole run.

    Attributes:
        gpu: GPU energy of all stages, unattributed included.
        cpu: same for CPU packages.
        dram: same for DRAM.
        it: sum of what is known, joules; None if nothing is.
        unattributed: the part of `it` that no stage owns; None if unknown.
        teacher: the part of `it` in teacher stages.
        by_kind: kind of stage -> energy, as far as known.
        incomplete: kinds of stages where energy of a GPU or a service is unknown: theirs, and the run's, is a
            lower bound, and no ratio is formed from it.
    """

    gpu: PartTotal
    cpu: PartTotal
    dram: PartTotal
    it: Interval | None
    unattributed: Interval | None
    teacher: Interval | None
    by_kind: Mapping[str, Interval]
    incomplete: frozenset[str] = frozenset()

    def whole_of(self, *kinds: str) -> Interval | None:
        """Energy of all stages of some kinds, of the run if none is named; None unless all of it is known."""
        if self.incomplete & set(kinds or self.incomplete):
            return None
        known = [self.by_kind[kind] for kind in kinds if kind in self.by_kind]
        return (interval_total(known) if known else None) if kinds else self.it


def roots(rows: Iterable[Row]) -> list[Row]:
    """Rows that are not part of another one."""
    return [row for row in rows if row.get("parent_uid") is None]


def part_total(rows: Sequence[Row], part: str) -> PartTotal:
    """Sum one component exactly over rows without a parent.

    Args:
        rows: rows of `stages`.
        part: gpu, cpu or dram.
    """
    scale = _UNITS_PER_J[part]
    name = f"{part}_energy_j"
    known = [row for row in rows if row.get(name) is not None]
    units = sum(round(row[name] * scale) for row in known)
    methods = {str(row[f"{part}_energy_method"]) for row in known}
    expected = [r for r in rows if (r["device_ids"] if part == "gpu" else r["stage"] != UNATTRIBUTED)]
    unknown = sum(row.get(name) is None for row in expected)
    if not known:
        return PartTotal(None, None, unknown, ())
    bounds = interval_total(part_interval(row, part) for row in known)
    energy = units / scale
    interval = Interval(energy, min(energy, bounds.low), max(energy, bounds.high))
    return PartTotal(energy, interval, unknown, tuple(sorted(methods)))


def part_interval(row: Row, part: str) -> Interval:
    """Energy of one component of a row that has it."""
    best = float(row[f"{part}_energy_j"])
    low, high = row.get(f"{part}_energy_j_low"), row.get(f"{part}_energy_j_high")
    return Interval(best, best if low is None else min(best, low), best if high is None else max(best, high))


def row_energy(row: Row) -> Interval | None:
    """GPU + CPU + DRAM of one row, as far as known; None if nothing is."""
    parts = [part_interval(row, p) for p in _UNITS_PER_J if row.get(f"{p}_energy_j") is not None]
    return interval_total(parts) if parts else None


def lower_bound(row: Row) -> bool:
    """Whether a row's energy lacks that of a GPU it ran on, or of a service: it took more than is known."""
    unmeasured = bool(row["device_ids"]) and row.get("gpu_energy_j") is None
    return unmeasured or "work_elsewhere" in row.get("flags", ())


def _sum(rows: Iterable[Row]) -> Interval | None:
    parts = [e for e in map(row_energy, rows) if e is not None]
    return interval_total(parts) if parts else None


def run_totals(
    rows: Iterable[Row], sessions: Sequence[SessionTotal] = (), *, teacher_kinds: Collection[str]
) -> RunTotals:
    """Totals of a run.

    Args:
        rows: rows of `stages`, `unattributed` rows included.
        sessions: totals measured from first to last boundary; where they cover the same energy, their bounds
            replace the sum of the stages' bounds, because the error of a tick that two stages share cancels.
        teacher_kinds: kinds of stages whose energy is the teacher's.
    """
    top = roots(rows)
    gpu, cpu, dram = (part_total(top, part) for part in ("gpu", "cpu", "dram"))
    if gpu.interval is not None and sessions and not gpu.unknown_rows:
        parts = [mj for s in sessions for mj in s.gpu_mj.values()]
        if None not in parts and sum(p for p in parts if p is not None) == round(gpu.interval.best * 1000):
            best = gpu.interval.best
            low = max(gpu.interval.low, sum(s.low_j for s in sessions))
            high = min(gpu.interval.high, sum(s.high_j for s in sessions))
            interval = Interval(best, min(best, low), max(best, high))
            gpu = PartTotal(gpu.energy_j, interval, gpu.unknown_rows, gpu.methods)
    known = [p.interval for p in (gpu, cpu, dram) if p.interval is not None]
    kinds = dict.fromkeys(str(row["stage"]) for row in top)
    by_kind = {kind: _sum(row for row in top if row["stage"] == kind) for kind in kinds}
    return RunTotals(
        gpu=gpu,
        cpu=cpu,
        dram=dram,
        it=interval_total(known) if known else None,
        unattributed=by_kind.get(UNATTRIBUTED),
        teacher=_sum(row for row in top if row["stage"] in teacher_kinds),
        by_kind={kind: energy for kind, energy in by_kind.items() if energy is not None},
        incomplete=frozenset(str(row["stage"]) for row in top if lower_bound(row)),
    )


def per_token(energy: Interval | None, tokens: int | None) -> Interval | None:
    """Joules per token; None when the energy or the count is unknown, or nothing was counted."""
    return None if energy is None or not tokens or tokens < 0 else energy.scale(1.0 / tokens)


def tokens(rows: Iterable[Row], denominator: str) -> int | None:
    """Sum of a named token count over finished stages without a parent; None unless all of them know it.

    Tokens of failed attempts are trained again by the attempt that succeeds and are not counted twice, nor
    are those of an attempt whose command was changed and run again; the energy of both stays in the total.
    """
    column = DENOMINATORS[denominator]
    finished = [row for row in roots(rows) if row["status"] == "completed"]
    # A command that completed runs again only where it was changed: the later attempt takes its place. Stages
    # without a command are blocks of a program, which may have one name several times.
    latest = {(row.get("node_id"), row.get("name")): row for row in sorted(finished, key=_attempt)}
    counts = [
        row[column]
        for row in finished
        if row.get("command_sha256") is None or latest[row.get("node_id"), row.get("name")] is row
    ]
    return None if not counts or None in counts else sum(counts)


def _attempt(row: Row) -> int:
    return int(row.get("attempt") or 1)


def student_tokens(rows: Iterable[Row], denominator: str, student_kinds: Collection[str]) -> int | None:
    """Tokens that a run's joules are divided by: those of its student stages, not its teacher's.

    Args:
        rows: all rows of `stages`.
        denominator: name of a count, a key of `DENOMINATORS`.
        student_kinds: kinds of stages that train the student.
    """
    return tokens([row for row in rows if row["stage"] in student_kinds], denominator)


def facility(it: Interval, pue: float) -> Interval:
    """Energy drawn by the building for this IT energy.

    Args:
        it: IT energy.
        pue: power usage effectiveness (ISO/IEC 30134-2), at least 1.

    Raises:
        ValueError: if `pue` is below 1.
    """
    if pue < 1.0:
        raise ValueError(f"PUE is total energy over IT energy and cannot be {pue}")
    return it.scale(pue)


def co2e_kg(facility_energy: Interval, g_per_kwh: float) -> Interval:
    """Location-based emissions in kg: joules / 3.6e6 x g/kWh / 1000.

    Args:
        facility_energy: joules drawn by the building.
        g_per_kwh: grid intensity, grams CO2e per kWh.
    """
    return facility_energy.scale(g_per_kwh / J_PER_KWH / 1000.0)


def inherited_energy(artifacts: Iterable[Mapping[str, Any]]) -> Interval | None:
    """Energy of consumed artifacts that another run paid for, each counted once; None if there are none, or
    if what one of them cost is unknown.

    Two outputs of one stage carry the energy of that stage both. A log does not name the other run's stage,
    so artifacts of one run with the very same energy count as one: measured joules of two stages do not agree
    to the last digit. What the making of a data set cost is not told apart from what a teacher did.

    Args:
        artifacts: rows of `artifacts`.
    """
    rows = list(artifacts)
    if unknown_origins(rows):
        return None
    paid: dict[str, float] = {}
    stages: dict[tuple[str, float], str] = {}
    for row in rows:
        if row["role"] == "consumed" and row.get("origin_energy_j") is not None:
            artifact, joules = str(row["artifact_id"]), float(row["origin_energy_j"])
            if row.get("origin_run_id") is not None:
                artifact = stages.setdefault((str(row["origin_run_id"]), joules), artifact)
            paid[artifact] = joules
    return interval_total(Interval.exact(joules) for joules in paid.values()) if paid else None


def unknown_origins(artifacts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of consumed artifacts that another run paid for without saying how much, in their order.

    Args:
        artifacts: rows of `artifacts`.
    """
    rows = [row for row in artifacts if row["role"] == "consumed" and row.get("origin_run_id") is not None]
    return list(dict.fromkeys(str(row["name"]) for row in rows if row.get("origin_energy_j") is None))
