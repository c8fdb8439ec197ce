"""From the bundles of a reproduction to the figures of its cells. No joule comes from anywhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from harness.accounting import UNATTRIBUTED, BreakEven, Interval, break_even, serving_break_even
from harness.accounting.amortize import repeated_break_even, student_sensitivity
from harness.accounting.interval import total
from harness.accounting.quality import Quality
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.run_spread import RunSpread, chance, withheld
from harness.accounting.shared_scales import Energy, Scales, added, alone, ratio
from harness.accounting.stage_scales import Bars, Sharing, ranges
from harness.accounting.totals import co2e_kg, per_token, roots, row_energy, tokens
from harness.bundle import Bundle
from harness.bundle.derive import scale_bars, sharing
from harness.errors import KitError
from harness.evaluation.results import quality_of, scores_of
from harness.evaluation.suites import suite_named
from harness.experiments.grid import Cell
from harness.experiments.lineage import Row, energy_of, parts_of, stage_rows
from harness.experiments.pipelines import SHARED, Layout, charged_stages, judged, scored
from harness.experiments.profile import Profile
from harness.experiments.reproduce import reference_tokens
from harness.experiments.teacher import teacher_words
from harness.report.comparison import spread_beside
from harness.report.serving import Served, not_compared, served
from harness.report.words import method_words
from harness.spec import load_protocol
from harness.spec.factors import GridFactor

PARTS = ("preprocess", "teacher", "student_train", "evaluate", "judge", UNATTRIBUTED)
"""What a cell's total is the sum of, in the order of the paper's stage table; then its own run's energy
between stages, which the paper has in no stage."""

OWN_STAGES = ("student_train", "evaluate", "judge")
"""Those that a cell's own run has."""


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
        students: Number of students that share the teacher's output in this grid.
        trained: Unique label tokens trained on.
        reference: Declared denominator.
        quality: Q; None with the reason in `quality_note`.
        quality_stderr: Its standard error; None where unknown.
        scores: Benchmark to score.
        heldout_loss: Nats a label token; None where evaluate gives none.
        training: What `student_train` says of itself, without energies, and its `max_steps`.
        basis: What the joules are made of.
        cpu_s: CPU seconds of `teacher` and `student_train`, all attempts; None where one is unknown.
        served: J per served token; None where it was not measured.
        gpu_hours: devices times time of the stages in `parts`.
        tokens_per_s: real tokens through the student for each second of its training; None where unknown.
        peak_gpu_mib: most memory in use on one GPU in the cell's own run; None where no GPU says.
        scaled: Each of `parts` by the scales that it shares with others; a part that is missing shares none.
    """

    cell: Cell
    run_id: str
    parts: Mapping[str, Interval | None]
    failed: Interval | None
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
    cpu_s: Mapping[str, float | None] = field(default_factory=dict)
    served: Served | None = None
    gpu_hours: float = 0.0
    tokens_per_s: float | None = None
    peak_gpu_mib: int | None = None

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
    def positions(self) -> int | None:
        """Positions through the student in its training, evaluations included; None where unknown."""
        counts = [self.training.get(name) for name in ("positions", "eval_positions")]
        known = [count for count in counts if isinstance(count, int)]
        return sum(known) if len(known) == len(counts) else None

    @property
    def per_position(self) -> Interval | None:
        """J of the student's training a position."""
        return per_token(self.parts["student_train"], self.positions)

    @property
    def ended(self) -> str:
        """How the training ended, in words."""
        step, total = self.training.get("step"), self.training.get("total_steps")
        if self.training.get("stopped") == "early":
            return f"stopped early at step {step:,} of {total:,}"
        limit = "steps" if self.training.get("max_steps") else "epochs"
        return f"ran out of {limit} at step {step:,}" if isinstance(step, int) else "unknown"

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
        spread: From run to run; None where no cell was repeated with everything equal.
        grid: The reader's factor for CO2e; None: not asked for.
    """

    profile: Profile
    cells: Sequence[CellResult]
    teacher_scores: Mapping[str, float]
    teacher_heldout_loss: float | None
    uncharged: Mapping[str, Interval | None] = field(default_factory=dict)
    shared_run_id: str = ""
    not_forked: Sequence[str] = ()
    bars: Bars = field(default_factory=lambda: scale_bars(load_protocol()))
    spread: RunSpread | None = None
    grid: GridFactor | None = None

    @property
    def unit(self) -> tuple[str, float]:
        """Unit of energies in tables and what joules are multiplied by: kWh, or J where all are small."""
        most = max((cell.total.best for cell in self.cells if cell.total is not None), default=0.0)
        small = self.profile.is_pocket or (self.profile.own and most < J_PER_KWH)
        return ("J", 1.0) if small else ("kWh", 1.0 / J_PER_KWH)

    @property
    def deviations(self) -> tuple[str, ...]:
        """What differs from the paper: the profile's, the teacher's, and imports where the logs say so."""
        found = list(self.profile.deviations)
        teacher = teacher_words(self.profile)
        if teacher is not None:
            found.insert(1, teacher)
        if self.not_forked:
            names = ", ".join(self.not_forked)
            found.append(f"Not forked, so that their own imports are in the figures: {names}.")
        return tuple(found)

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
        even = break_even(teacher, direct, distilled, scales=self.scales(teacher, direct, distilled))
        pair = baseline, result
        energies = [one.parts["student_train"] for one in pair]
        return replace(even, withheld=withheld([one.positions for one in pair], energies, self.spread))

    def co2e_kg(self, result: CellResult) -> Interval | None:
        """Emissions of a cell's energy by the reader's factor, at a PUE of 1; None without one."""
        if result.total is None or self.grid is None:
            return None
        return co2e_kg(result.total, self.grid.g_co2e_per_kwh)

    def repeats(self, result: CellResult) -> list[CellResult]:
        """The cells that differ from this one by their seed alone, itself included."""
        same = replace(result.cell, seed=0)
        return [other for other in self.cells if replace(other.cell, seed=0) == same]

    def break_even_cpu(self, result: CellResult) -> BreakEven | None:
        """N* in CPU seconds, from the repeats of a distilled cell and of direct SFT; None without repeats."""
        baseline = self.cell("sft", result.cell.size, result.cell.seed)
        if baseline is None or result.cell.regime == "sft":
            return None
        students = [[r.cpu_s.get("student_train") for r in self.repeats(c)] for c in (baseline, result)]
        return repeated_break_even(result.cpu_s.get("teacher"), *students)

    def relative(self, result: CellResult) -> Interval | None:
        """E of a cell over that of SFT of the same size, what both share cancelled; None where unknown."""
        baseline = self.cell("sft", result.cell.size, result.cell.seed)
        if baseline is None or result.cell.regime == "sft":
            return None
        ours, theirs = result.by_scales(*PARTS), baseline.by_scales(*PARTS)
        return None if ours is None or theirs is None else ratio(ours, theirs, self.scales(ours, theirs))

    def serving(self, result: CellResult) -> BreakEven | None:
        """T* of a distilled cell against direct SFT of the same size; None where either was not measured."""
        baseline = self.cell("sft", result.cell.size, result.cell.seed)
        if baseline is None or result.cell.regime == "sft":
            return None
        one, two = result.served, baseline.served
        ours, theirs = result.by_scales(*PARTS), baseline.by_scales(*PARTS)
        if one is None or two is None or not_compared(one, two) or ours is None or theirs is None:
            return None
        scales = self.scales(ours, theirs, one.scaled, two.scaled)
        even = serving_break_even((ours, theirs), two.scaled, one.scaled, scales=scales)
        return replace(even, withheld=chance([two.per_token, one.per_token], self.spread))

    def scales(self, *energies: Energy | None) -> Scales:
        """Ranges of the scales that some energies name."""
        return ranges([energy for energy in energies if energy is not None], self.bars)


def collect(profile: Profile, cells: Sequence[Cell], layout: Layout) -> Results:
    """Read the bundles of a complete reproduction.

    Args:
        profile: The profile.
        cells: Those of the tables.
        layout: Where everything is.

    Raises:
        KitError: A bundle or a product is missing.
    """
    shared_run = layout.run(SHARED)
    shared, shared_scales = stage_rows(shared_run), sharing(Bundle.open(shared_run))
    teacher_scores, teacher_loss, teacher = read_scores(layout.product(SHARED, scored(profile, SHARED)))
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
        results.append(_cell(profile, cell, layout, shared, shared_scales, teacher, reference, students))
    run_id = str(Bundle.open(shared_run).manifest["run_id"])
    not_forked: list[str] = []
    if profile.fork_stages:
        not_forked += _not_forked(shared_run, SHARED, charged)
        for cell in cells:
            not_forked += _not_forked(layout.run(cell.name), cell.name, OWN_STAGES)
    spread = spread_beside(shared_run)
    return Results(
        profile, results, teacher_scores, teacher_loss, uncharged, run_id, not_forked, spread=spread
    )


def _not_forked(run: Path, name: str, stages: Collection[str]) -> list[str]:
    """Of the named stages of a run those of which an attempt began without being forked."""
    bundle = Bundle.open(run)
    rows = bundle.table("events", ["stage_uid", "kind"]).to_pylist()
    known = {row["stage_uid"] for row in rows if row["kind"] in ("x-forked", "x-not_started")}
    attempts = bundle.table("stages", ["stage_uid", "name"]).to_pylist()
    found = (row["name"] for row in attempts if row["name"] in stages and row["stage_uid"] not in known)
    return [f"{name} {stage}" for stage in dict.fromkeys(found)]


def _cell(
    profile: Profile,
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
        "judge": energy_of(own, ["judge"]) if judged(profile) else Interval.exact(0.0),
        UNATTRIBUTED: Interval.exact(0.0),
    }
    if any(row["stage"] == UNATTRIBUTED for row in own):
        parts[UNATTRIBUTED] = energy_of(own, [UNATTRIBUTED])
    scaled: dict[str, Energy | None] = {
        part: parts_of(shared, charged[part], shared_scales) for part in ("preprocess", "teacher")
    }
    scaled |= {part: parts_of(own, [part], own_scales) for part in (*OWN_STAGES, UNATTRIBUTED)}
    names = {*charged["preprocess"], *teacher_names}
    rows = [row for row in shared if row["name"] in names]
    rows += [row for row in own if row["stage"] != UNATTRIBUTED]
    scores, loss, details = read_scores(layout.product(cell.name, scored(profile, cell.name)))
    found = _quality(details, teacher)
    students_rows = [row for row in own if row["stage"] == "student_train"]
    billed = [row for row in roots(rows) if row["stage"] not in load_protocol().kinds("serves")]
    finished_us = sum(_length_us(row) for row in students_rows if row["status"] == "completed")
    processed = tokens(students_rows, "processed")
    return CellResult(
        cell=cell,
        run_id=str(Bundle.open(run).manifest["run_id"]),
        parts=parts,
        failed=_sum(row for row in rows if row["status"] != "completed"),
        students=students,
        trained=tokens(students_rows, "trained"),
        reference=reference,
        quality=found.q,
        quality_stderr=found.stderr,
        quality_note=found.reason or "",
        scores=scores,
        heldout_loss=loss,
        training={
            **_json(layout.product(cell.name, "student/summary.json")),
            "max_steps": _json(layout.product(cell.name, "student/config.json")).get("max_steps"),
        },
        basis=_basis(rows),
        scaled=scaled,
        cpu_s={
            "teacher": _cpu_seconds(shared, teacher_names) if teacher_names else 0.0,
            "student_train": _cpu_seconds(own, ["student_train"]),
        },
        gpu_hours=sum(_length_us(row) * len(row["device_ids"]) for row in billed) / 3.6e9,
        tokens_per_s=processed * 1e6 / finished_us if processed and finished_us else None,
        peak_gpu_mib=pc.max(Bundle.open(run).table("power", ["mem_used_mib"]).column(0)).as_py(),
        served=served(
            own, Bundle.open(run).table("events").to_pylist(), load_protocol().kinds("serves"), own_scales
        ),
    )


def _length_us(row: Row) -> int:
    return int(row["mono_end_us"] - row["mono_start_us"])


def _cpu_seconds(rows: Iterable[Row], names: Collection[str]) -> float | None:
    """CPU seconds of stages by name, all attempts together; None where one is unknown, or there is none."""
    found = [row["process_cpu_s"] for row in roots(rows) if row["name"] in names]
    return math.fsum(found) if found and None not in found else None


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
        suite = suite_named(str(found["suite"]).partition(" ")[0])
        rows = scores_of(found, suite.benchmarks)
        scores = {name: float(row["score"]) for name, row in rows.items()}
    except (KeyError, TypeError, ValueError):
        raise KitError("holds no benchmarks", where=str(folder / "results.json")) from None
    return scores, found.get("heldout_loss"), found


def _quality(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> Quality:
    """Q from two `results.json`; undefined where they are of different suites."""
    return quality_of(suite_named(str(student["suite"]).partition(" ")[0]), dict(student), dict(teacher))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise KitError("holds no JSON object", where=str(path))
    return found
