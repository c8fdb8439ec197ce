"""From the bundles of a reproduction to the figures of its cells. No joule comes from anywhere else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.accounting import UNATTRIBUTED, BreakEven, Interval, break_even
from harness.accounting.amortize import student_sensitivity
from harness.accounting.interval import total
from harness.accounting.quality import Measured, Quality, quality
from harness.accounting.shared_scales import Energy, Scales, added, alone, ratio
from harness.accounting.stage_scales import Bars, Sharing, ranges
from harness.accounting.totals import per_token, roots, row_energy, tokens
from harness.bundle import Bundle
from harness.bundle.derive import scale_bars, sharing
from harness.errors import KitError
from harness.evaluation.suites import suite_named
from harness.experiments.grid import Cell
from harness.experiments.lineage import Row, energy_of, parts_of, stage_rows
from harness.experiments.pipelines import SHARED, Layout, charged_stages
from harness.experiments.profile import Profile
from harness.experiments.reproduce import reference_tokens
from harness.report.words import method_words
from harness.spec import load_protocol

PARTS = ("preprocess", "teacher", "student_train", "evaluate")
"""What a cell's total is the sum of, in the order of the paper's stage table."""


@dataclass(frozen=True)
class Basis:
    """What the joules of a cell are made of.

    Attributes:
        methods: Component (gpu, cpu, dram) to the methods used, sorted; `absent` where nothing measured it.
    """

    methods: Mapping[str, tuple[str, ...]]

    @property
    def gpu(self) -> bool:
        """Whether GPU energy was measured in every stage."""
        return "absent" not in self.methods["gpu"]

    @property
    def estimated(self) -> bool:
        """Whether an estimate is in it."""
        states = load_protocol().method_states()
        return any(states.get(method) == "estimated" for m in self.methods.values() for method in m)

    @property
    def words(self) -> str:
        """In words, for a table."""
        gpu = f"GPU measured ({', '.join(self.methods['gpu'])})" if self.gpu else "no GPU metered"
        cpu = ", ".join(method_words(method) for method in self.methods["cpu"])
        return f"{gpu}; CPU: {cpu}"


@dataclass(frozen=True)
class CellResult:
    """The figures of one cell.

    Attributes:
        parts: Each of PARTS to joules, all attempts; None where unknown, 0 where the cell has no such stage.
        failed: Joules of attempts that did not complete, in `parts` already; None without any.
        unattributed: Joules of the cell's own run between its stages, in no part.
        students: Number of students that share the teacher's output in this grid.
        trained: Unique label tokens trained on.
        reference: Declared denominator.
        quality: Q; None with the reason in `quality_note`.
        quality_stderr: Its standard error; None where unknown.
        scores: Benchmark to score.
        heldout_loss: Nats a label token; None where evaluate gives none.
        training: What `student_train` says of itself, without energies.
        basis: What the joules are made of.
        scaled: Each of `parts` by the scales that it shares with others; a part that is missing shares none.
    """

    cell: Cell
    run_id: str
    parts: Mapping[str, Interval | None]
    failed: Interval | None
    unattributed: Interval | None
    students: int
    trained: int | None
    reference: int
    quality: float | None
    quality_stderr: float | None
    quality_note: str
    scores: Mapping[str, float]
    heldout_loss: float | None
    training: Mapping[str, Any]
    basis: Basis
    scaled: Mapping[str, Energy | None] = field(default_factory=dict)

    def by_scales(self, *parts: str) -> Energy | None:
        """Energy of some parts by the scales they share; None unless all are known."""
        found = []
        for part in parts:
            energy = self.parts[part]
            if energy is None:
                return None
            found.append(self.scaled.get(part) or alone(energy))
        return added(found)

    @property
    def total(self) -> Interval | None:
        """The one-off total: the teacher is charged in full."""
        known = [energy for energy in self.parts.values() if energy is not None]
        return total(known) if len(known) == len(PARTS) else None

    @property
    def quality_interval(self) -> Interval | None:
        """Q with its 95 % interval, of no width where the standard error is unknown; None without Q."""
        if self.quality is None:
            return None
        measured = Quality(self.quality, stderr=self.quality_stderr).interval
        return measured or Interval.exact(self.quality)

    @property
    def amortized(self) -> Interval | None:
        """The total with the teacher's stage divided among the students of this grid."""
        parts = dict(self.parts)
        teacher = parts.pop("teacher")
        known = [energy for energy in parts.values() if energy is not None]
        if teacher is None or len(known) < len(parts):
            return None
        return total([*known, teacher.scale(1.0 / self.students)])

    @property
    def per_reference_token(self) -> Interval | None:
        """J/token over the declared denominator: the paper's definition."""
        return per_token(self.total, self.reference)

    @property
    def per_trained_token(self) -> Interval | None:
        """J of the student's training per unique label token."""
        return per_token(self.parts["student_train"], self.trained)


@dataclass(frozen=True)
class Results:
    """All figures of a reproduction.

    Attributes:
        cells: In the order of the request.
        teacher_scores: Benchmark to the teacher's score.
        teacher_heldout_loss: Nats a label token.
        uncharged: Stage of the shared run that no cell is charged for -> joules.
        shared_run_id: The run that paid for data and teacher.
        not_forked: Stages in these figures that were not forked, by their logs, in a profile that forks.
        bars: Ranges of the scales that energies share.
    """

    profile: Profile
    cells: Sequence[CellResult]
    teacher_scores: Mapping[str, float]
    teacher_heldout_loss: float | None
    uncharged: Mapping[str, Interval | None] = field(default_factory=dict)
    shared_run_id: str = ""
    not_forked: Sequence[str] = ()
    bars: Bars = field(default_factory=lambda: scale_bars(load_protocol()))

    @property
    def deviations(self) -> tuple[str, ...]:
        """What differs from the paper: the profile's, and where the logs say otherwise of imports."""
        if not self.not_forked:
            return self.profile.deviations
        return (
            *self.profile.deviations,
            f"Not forked, so that their own imports are in the figures: {', '.join(self.not_forked)}.",
        )

    def cell(self, regime: str, size: str, seed: int = 0) -> CellResult | None:
        """The cell of the main grid; None if it was not run."""
        for result in self.cells:
            cell = result.cell
            if (cell.regime, cell.size, cell.seed, cell.is_default) == (regime, size, seed, True):
                return result
        return None

    def break_even(self, result: CellResult, student_rel: float | None = None) -> BreakEven | None:
        """N* of a distilled cell against direct SFT of the same size; None without such a baseline.

        Args:
            result: A distilled cell.
            student_rel: Relative error to give both students instead of their own intervals.
        """
        baseline = self.cell("sft", result.cell.size, result.cell.seed)
        if baseline is None or result.cell.regime == "sft":
            return None
        if student_rel is not None:
            students = baseline.parts["student_train"], result.parts["student_train"]
            return student_sensitivity(result.parts["teacher"], *students, student_rel)
        teacher, distilled = result.by_scales("teacher"), result.by_scales("student_train")
        direct = baseline.by_scales("student_train")
        return break_even(teacher, direct, distilled, scales=self.scales(teacher, direct, distilled))

    def relative(self, result: CellResult) -> Interval | None:
        """E of a cell over that of SFT of the same size, what both share cancelled; None where unknown."""
        baseline = self.cell("sft", result.cell.size, result.cell.seed)
        if baseline is None or result.cell.regime == "sft":
            return None
        ours, theirs = result.by_scales(*PARTS), baseline.by_scales(*PARTS)
        return None if ours is None or theirs is None else ratio(ours, theirs, self.scales(ours, theirs))

    def scales(self, *energies: Energy | None) -> Scales:
        """Ranges of the scales that some energies name."""
        return ranges([energy for energy in energies if energy is not None], self.bars)


def collect(profile: Profile, cells: Sequence[Cell], layout: Layout) -> Results:
    """Read the bundles of a complete reproduction.

    Raises:
        KitError: A bundle or a product is missing.
    """
    shared_run = layout.run(SHARED)
    shared, shared_scales = stage_rows(shared_run), sharing(Bundle.open(shared_run))
    teacher_scores, teacher_loss, teacher = read_scores(layout.product(SHARED, "teacher-scores"))
    reference = reference_tokens(profile, layout)
    charged = {name for cell in cells for names in charged_stages(cell).values() for name in names}
    uncharged: dict[str, Interval | None] = {
        str(row["name"]): energy_of(shared, [str(row["name"])])
        for row in shared
        if row["stage"] != UNATTRIBUTED and row["name"] not in charged
    }
    results = []
    for cell in cells:
        students = len({c.size for c in cells if c.regime == cell.regime and c.variant == cell.variant})
        results.append(_cell(cell, layout, shared, shared_scales, teacher, reference, students))
    run_id = str(Bundle.open(shared_run).manifest["run_id"])
    not_forked: list[str] = []
    if profile.fork_stages:
        not_forked += _not_forked(shared_run, SHARED, charged)
        for cell in cells:
            not_forked += _not_forked(layout.run(cell.name), cell.name, ("student_train", "evaluate"))
    return Results(profile, results, teacher_scores, teacher_loss, uncharged, run_id, not_forked)


def _not_forked(run: Path, name: str, stages: Collection[str]) -> list[str]:
    """Of the named stages of a run those of which an attempt began without being forked."""
    bundle = Bundle.open(run)
    rows = bundle.table("events", ["stage_uid", "kind"]).to_pylist()
    known = {row["stage_uid"] for row in rows if row["kind"] in ("x-forked", "x-not_started")}
    attempts = bundle.table("stages", ["stage_uid", "name"]).to_pylist()
    found = (row["name"] for row in attempts if row["name"] in stages and row["stage_uid"] not in known)
    return [f"{name} {stage}" for stage in dict.fromkeys(found)]


def _cell(
    cell: Cell,
    layout: Layout,
    shared: Sequence[Row],
    shared_scales: Sharing,
    teacher: Mapping[str, Any],
    reference: int,
    students: int,
) -> CellResult:
    run = layout.run(cell.name)
    own, own_scales = stage_rows(run), sharing(Bundle.open(run))
    charged = charged_stages(cell)
    teacher_names = charged["teacher"]
    parts: dict[str, Interval | None] = {
        "preprocess": energy_of(shared, charged["preprocess"]),
        "teacher": energy_of(shared, teacher_names) if teacher_names else Interval.exact(0.0),
        "student_train": energy_of(own, ["student_train"]),
        "evaluate": energy_of(own, ["evaluate"]),
    }
    scaled: dict[str, Energy | None] = {
        part: parts_of(shared, charged[part], shared_scales) for part in ("preprocess", "teacher")
    }
    scaled |= {part: parts_of(own, [part], own_scales) for part in ("student_train", "evaluate")}
    names = {*charged["preprocess"], *teacher_names}
    rows = [row for row in shared if row["name"] in names]
    rows += [row for row in own if row["stage"] != UNATTRIBUTED]
    scores, loss, details = read_scores(layout.product(cell.name, "scores"))
    found = _quality(details, teacher)
    students_rows = [row for row in own if row["stage"] == "student_train"]
    return CellResult(
        cell=cell,
        run_id=str(Bundle.open(run).manifest["run_id"]),
        parts=parts,
        failed=_sum(row for row in rows if row["status"] != "completed"),
        unattributed=_sum(row for row in own if row["stage"] == UNATTRIBUTED),
        students=students,
        trained=tokens(students_rows, "trained"),
        reference=reference,
        quality=found.q,
        quality_stderr=found.stderr,
        quality_note=found.reason or "",
        scores=scores,
        heldout_loss=loss,
        training=_json(layout.product(cell.name, "student/summary.json")),
        basis=_basis(rows),
        scaled=scaled,
    )


def _sum(rows: Iterable[Row]) -> Interval | None:
    known = [energy for energy in map(row_energy, roots(rows)) if energy is not None]
    return total(known) if known else None


def _basis(rows: Sequence[Row]) -> Basis:
    parts = ("gpu", "cpu", "dram")
    return Basis({part: tuple(sorted({str(row[f"{part}_energy_method"]) for row in rows})) for part in parts})


def read_scores(folder: Path) -> tuple[dict[str, float], float | None, dict[str, Any]]:
    """Scores by benchmark, held-out loss and everything else of an evaluation's `results.json`.

    Raises:
        KitError: It is missing or damaged.
    """
    found = _json(folder / "results.json")
    try:
        scores = {b["name"]: float(b["score"]) for b in found["benchmarks"] if b["score"] is not None}
    except (KeyError, TypeError, ValueError):
        raise KitError("holds no benchmarks", where=str(folder / "results.json")) from None
    return scores, found.get("heldout_loss"), found


def _quality(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Quality:
    """Q from two `results.json`; undefined where they are of different suites."""
    if student.get("suite") != teacher.get("suite"):
        return Quality(None, f"suite {student.get('suite')}, the teacher's {teacher.get('suite')}")
    scores, teacher_scores = (
        {
            b["name"]: Measured(float(b["score"]), b.get("stderr"))
            for b in side["benchmarks"]
            if b["score"] is not None
        }
        for side in (student, teacher)
    )
    return quality(scores, teacher_scores, suite_named(str(student["suite"])).benchmarks)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise KitError("holds no JSON object", where=str(path))
    return found
