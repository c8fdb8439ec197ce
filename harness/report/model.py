"""A bundle as one object: every number that any format of the report prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.accounting import UNATTRIBUTED, Interval
from harness.accounting.amortize import Reuse, reuse
from harness.accounting.interval import total as interval_total
from harness.accounting.totals import (
    DENOMINATORS,
    RunTotals,
    co2e_kg,
    facility,
    lower_bound,
    per_token,
    roots,
    row_energy,
    run_totals,
    student_tokens,
    unknown_origins,
)
from harness.accounting.unused import unused_devices
from harness.bundle import Bundle
from harness.bundle.derive import Derived, derive_bundle, sharing
from harness.bundle.series import ACCOUNTED, PowerRows
from harness.errors import KitError
from harness.report.lineage import Costs, costs, gpu_costs
from harness.report.scores import Baseline, SuiteScores, idle_baseline, suite_scores
from harness.report.serving import Served, served
from harness.report.traces import Trace, counter_traces, power_trace
from harness.spec import Protocol
from harness.validate.compare import Difference, differences, stage_key

if TYPE_CHECKING:
    from harness.report.comparison import Against
    from harness.spec.factors import GridFactor, Pue

Row = Mapping[str, Any]
Utilisation = tuple[int, int, int]
"""Device, readings of its utilisation, the highest of them in %."""


@dataclass(frozen=True)
class Options:
    """What the reader chose.

    Attributes:
        pue: facility energy over IT energy; None = not applied.
        region: code or name of a grid's region, or id of a grid factor; None = no CO2e.
        amortize: number of students that use the teacher's output; None = not asked.
        reference_tokens: declared denominator; None = the manifest's.
        pue_factor: where `pue` comes from; None = a number of the reader's own.
    """

    pue: float | None = None
    region: str | None = None
    amortize: int | None = None
    reference_tokens: int | None = None
    pue_factor: Pue | None = None


@dataclass(frozen=True)
class StageLine:
    """One row of the report.

    Attributes:
        row: all columns of the stage, derived ones recomputed.
        energy: GPU + CPU + DRAM as far as known.
        share: of the run's IT energy; None when unknown.
        per_token: name of a denominator -> J/token.
        depth: 0 for a stage of its own, 1 for a child, ...
    """

    row: Row
    energy: Interval | None
    share: float | None
    per_token: Mapping[str, Interval]
    depth: int = 0

    @property
    def duration_us(self) -> int:
        """Length of the billed window."""
        return int(self.row["mono_end_us"] - self.row["mono_start_us"])


@dataclass(frozen=True)
class Carbon:
    """Emissions by one grid factor, kg CO2e, location-based."""

    factor: GridFactor
    kg: Interval


@dataclass(frozen=True)
class RunReport:
    """Everything a report says.

    Attributes:
        protocol: the version that the bundle was written by.
        unattributed: the `unattributed` rows together; None without any.
        per_token: name of a denominator -> J/token of the whole run.
        token_counts: name of a denominator -> tokens of the whole run.
        facility: energy drawn by the building; None when no PUE was given.
        carbon: by the factor to use, then by other years of its series from new to old; the base is facility
            energy, or IT energy when no PUE was given.
        reuse: marginal, amortized and full (4.6) of a distilled student, by `options.amortize` or 1; of
            another run when asked for; None elsewhere, or where it cannot be told.
        no_reuse: why there is no `reuse` although it was asked for; None where there is.
        inherited: energy of artifacts another run paid for; None without any, or where it is unknown.
        unknown_origins: names of artifacts another run paid for without saying how much.
        changed: stored derived values that the raw rows do not give.
        lost_rows: rows of `unattributed` that the bundle lacks or has too many.
        scores: what was scored, with Q, by suite.
        baseline: energy above idle, beside the totals; None where no idle stage was measured.
        against: this run beside direct training of the same student; None when not asked for.
        costs: the same energies by what they were for and by the scales they share; None of a made-up report.
        student_bytes: size of what the student's stages produced; None where nothing is declared.
        unused_devices: devices that no kernel was seen on, with their part of the total.
        gpu_costs: `costs` of the GPUs alone; None without any, or where what others paid is not split.
        artifacts: rows of `artifacts`: what each stage read and made.
        traces: power over time for a picture; empty unless asked for.
        made: totals without serving: what training and scoring the model took.
        served: J per served token; None where it was not measured.
        peak_gpu_mib: most memory in use on one GPU at a sample; None where no GPU says.
    """

    manifest: Mapping[str, Any]
    protocol: Protocol
    lines: Sequence[StageLine]
    unattributed: StageLine | None
    holes: int
    totals: RunTotals
    made: RunTotals
    sensor_rel: float
    per_token: Mapping[str, Interval]
    token_counts: Mapping[str, int]
    options: Options
    facility: Interval | None = None
    carbon: Sequence[Carbon] = ()
    reuse: Reuse | None = None
    no_reuse: str | None = None
    inherited: Interval | None = None
    unknown_origins: Sequence[str] = ()
    changed: Sequence[Difference] = ()
    lost_rows: int = 0
    events: Sequence[Row] = field(default=())
    scores: Sequence[SuiteScores] = ()
    baseline: Baseline | None = None
    against: Against | None = None
    costs: Costs | None = None
    student_bytes: int | None = None
    unused_devices: Mapping[int, float | None] = field(default_factory=dict)
    gpu_costs: Costs | None = None
    artifacts: Sequence[Row] = ()
    traces: Sequence[Trace] = ()
    served: Served | None = None
    peak_gpu_mib: int | None = None

    @property
    def all_lines(self) -> list[StageLine]:
        """The stages, and `unattributed` after them where there is any."""
        return [*self.lines, *([self.unattributed] if self.unattributed else [])]

    @property
    def parts(self) -> list[str]:
        """Components of which anything was measured: gpu, cpu, dram."""
        return [name for name in ("gpu", "cpu", "dram") if getattr(self.totals, name).energy_j is not None]

    def states(self, *parts: str) -> set[str]:
        """What the figures of some components are, of all if none is named: measured or not."""
        known = self.protocol.method_states()
        methods = [m for part in parts or self.parts for m in getattr(self.totals, part).methods]
        return {known.get(method, "measured") for method in methods}

    @property
    def gpu_hours(self) -> float:
        """Devices times time of the stages that billed them."""
        rows = [(line.duration_us, line.row["device_ids"]) for line in self.lines if line.depth == 0]
        return sum(length_us * len(devices) for length_us, devices in rows) / 3.6e9

    @property
    def throughput(self) -> float | None:
        """Real tokens through the student in its training for each second of it; None where unknown."""
        student = self.protocol.kinds("student")
        lines = [line for line in self.lines if line.depth == 0 and line.row["stage"] in student]
        length_us = sum(line.duration_us for line in lines if line.row["status"] == "completed")
        count = self.token_counts.get("processed")
        return count * 1e6 / length_us if count and length_us else None


def opened(folder: Path | str) -> Bundle:
    """A bundle whose manifest a report can look into.

    Raises:
        KitError: it cannot be read, or an object or a list of it is something else.
    """
    bundle = Bundle.open(folder)
    for problem in bundle.written.manifest.problems(bundle.manifest):
        # A report looks into objects and lists; another odd value is shown as it is.
        if problem.observed not in ("missing", "null") and problem.expected.startswith(
            ("an object", "a list")
        ):
            raise KitError(
                f"{problem.path} is {problem.observed}",
                where=str(bundle.folder / "manifest.json"),
                expected=problem.expected,
                fix=f"kit validate {folder}",
            )
    return bundle


def build(folder: Path | str, options: Options | None = None, *, points: int = 0) -> RunReport:
    """Read a bundle, recompute it, and work out every figure of the report.

    Args:
        folder: run folder with manifest.json.
        options: what the reader chose.
        points: slices of time of each device's power to keep for a picture; 0 keeps none.

    Raises:
        KitError: the bundle or a factor cannot be read.
    """
    options = options or Options()
    if options.region:
        _factors(options.region)  # a slip is told before the work
    bundle = opened(folder)
    try:
        look, columns = (
            _look(bundle.manifest, points),
            (*ACCOUNTED, "util_pct", "mem_used_mib", *(("t_us",) if points else ())),
        )
        result: Derived[tuple[Utilisation, Trace | None, int | None]] = derive_bundle(
            bundle, columns=columns, look=look, threads=min(4, os.cpu_count() or 2)
        )
    except KitError:
        raise
    except Exception as error:
        # Values no schema admits break arithmetic in more ways than can be listed; validate names them all.
        raise KitError(
            f"the rows cannot be accounted for ({type(error).__name__}: {str(error)[:120]})",
            where=str(folder),
            fix=f"kit validate {folder}",
        ) from error
    period_us = int(bundle.manifest["sampling"]["nominal_period_us"])
    drawn = [trace for _, trace, _ in result.seen if trace is not None]
    peaks = [mib for _, _, mib in result.seen if mib is not None]
    drawn += counter_traces(result.counters, points, period_us) if points else []
    used = [used for used, _, _ in result.seen]
    return report_of(bundle, result, used, options, traces=drawn, peak_gpu_mib=max(peaks, default=None))


def report_of(
    bundle: Bundle,
    result: Derived[Any],
    used: Iterable[Utilisation],
    options: Options | None = None,
    *,
    traces: Sequence[Trace] = (),
    peak_gpu_mib: int | None = None,
) -> RunReport:
    """Every figure of the report from a recomputation that was done already; arguments as of `build`.

    Args:
        bundle: the bundle.
        result: what its raw rows give.
        used: utilisation of each series.
        options: what the reader chose.
        traces: power over time for a picture.
        peak_gpu_mib: most memory in use on one GPU.
    """
    options = options or Options()
    factors = _factors(options.region) if options.region else ()
    fresh = result.stages
    stored = bundle.records("stages")
    protocol = bundle.written
    totals = run_totals(fresh, result.sessions, teacher_kinds=protocol.kinds("teacher"))
    whole = totals.it
    # No training is charged for what answering a workload took (4.7).
    serves = protocol.kinds("serves")
    trained = [row for row in fresh if row["stage"] not in serves]
    made = (
        totals if len(trained) == len(fresh) else run_totals(trained, teacher_kinds=protocol.kinds("teacher"))
    )
    artifacts, events = bundle.records("artifacts"), bundle.records("events")
    unknown = unknown_origins(artifacts)
    found = costs(trained, artifacts, events, sharing(bundle), made.gpu.interval)
    inherited = None if unknown or not found.paid else interval_total(paid.stated for paid in found.paid)
    taught = bundle.manifest.get("method") in protocol.taught_methods
    asked = options.amortize is not None
    no_reuse = _no_reuse(made, found, protocol, unknown, taught) if asked or taught else "not asked for"
    reference = options.reference_tokens or _count(bundle.manifest.get("reference_tokens"))
    counts = _token_counts(fresh, reference, protocol.kinds("student"))
    building = None if whole is None or options.pue is None else facility(whole, options.pue)
    base = building or whole
    holes = [row for row in fresh if row["stage"] == UNATTRIBUTED]
    return RunReport(
        manifest=bundle.manifest,
        protocol=protocol,
        lines=_lines(fresh, whole, reference),
        unattributed=_unattributed(holes, whole),
        holes=len(holes),
        totals=totals,
        made=made,
        sensor_rel=protocol.tolerances.sensor_rel,
        per_token={n: e for n, c in counts.items() if (e := per_token(made.whole_of(), c)) is not None},
        token_counts=counts,
        options=options,
        facility=building,
        carbon=[Carbon(f, co2e_kg(base, f.g_co2e_per_kwh)) for f in factors] if base else [],
        reuse=None if no_reuse else _reuse(made, found, options.amortize or 1, protocol.kinds("teacher")),
        no_reuse=no_reuse if asked else None,
        inherited=inherited,
        unknown_origins=unknown,
        changed=list(differences(stored, fresh, protocol)),
        lost_rows=len({stage_key(r) for r in stored} ^ {stage_key(r) for r in fresh}),
        events=[e for e in events if e["severity"] != "info"],
        scores=suite_scores(bundle.records("evals"), bundle.records("eval_items"), events),
        baseline=idle_baseline(fresh, protocol.sampling.idle_min_us, protocol.kinds("idle")),
        costs=found,
        student_bytes=_student_bytes(fresh, artifacts, protocol.kinds("student")),
        unused_devices=unused_devices(fresh, used, protocol.kinds("idle")),
        gpu_costs=gpu_costs(trained, artifacts, events, sharing(bundle), made.gpu.interval),
        artifacts=artifacts,
        traces=traces,
        peak_gpu_mib=peak_gpu_mib,
        served=served(fresh, events, serves, sharing(bundle)),
    )


def _factors(region: str) -> tuple[GridFactor, ...]:
    from harness.spec.factors import region_factors, same_series

    return same_series(region_factors(region, "--region"))


def _look(
    manifest: Mapping[str, Any], points: int
) -> Callable[[PowerRows], tuple[Utilisation, Trace | None, int | None]]:
    """What is kept of each power series beside its energy."""

    def look(rows: PowerRows) -> tuple[Utilisation, Trace | None, int | None]:
        percent, known = rows.pair("util_pct")
        device = rows.key.device_id
        used = device, int(known.sum()), int(percent[known].max(initial=0))
        mib, read = rows.pair("mem_used_mib")
        peak = int(mib[read].max()) if read.any() else None
        if not points:
            return used, None, peak
        power = rows.pair("power_mw")
        return used, power_trace(rows.key, manifest, rows.array("t_us").copy(), *power, points), peak

    return look


def _student_bytes(rows: Sequence[Row], artifacts: Sequence[Row], student: Sequence[str]) -> int | None:
    uids = {row["stage_uid"] for row in rows if row["stage"] in student}
    made = [a["bytes"] for a in artifacts if a["role"] == "produced" and a["stage_uid"] in uids]
    return max(made) if made else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _token_counts(rows: Sequence[Row], reference: int | None, student: Sequence[str]) -> dict[str, int]:
    """Counts of the run by the name of the denominator, as far as known."""
    found = {name: student_tokens(rows, name, student) for name in ("trained", "processed", "positions")}
    return {name: count for name, count in {**found, "reference": reference}.items() if count}


def _lines(rows: Sequence[Row], whole: Interval | None, reference: int | None) -> list[StageLine]:
    """Recorded stages in the order of time, children below their parent."""
    recorded = [row for row in rows if row["stage"] != UNATTRIBUTED]
    recorded.sort(key=lambda r: (r["session"], r["mono_start_us"], -r["mono_end_us"], r["stage_uid"]))
    known = {row["stage_uid"] for row in recorded}
    children: dict[int | None, list[Row]] = {}
    for row in recorded:
        parent = row["parent_uid"] if row["parent_uid"] in known else None
        children.setdefault(parent, []).append(row)
    lines: list[StageLine] = []

    def add(parent: int | None, depth: int) -> None:
        for row in children.pop(parent, ()):
            energy = row_energy(row)
            share = energy.best / whole.best if energy is not None and whole and whole.best > 0 else None
            counts = {name: row[column] for name, column in DENOMINATORS.items()}
            counts["reference"] = counts["reference"] or reference
            base = None if lower_bound(row) else energy
            given = {n: e for n, c in counts.items() if (e := per_token(base, c)) is not None}
            lines.append(StageLine(row, energy, share, given, depth))
            add(row["stage_uid"], depth + 1)

    add(None, 0)
    return lines


def _unattributed(holes: Sequence[Row], whole: Interval | None) -> StageLine | None:
    """All holes as one line; its window is as long as they are together."""
    if not holes:
        return None
    energies = [e for e in map(row_energy, holes) if e is not None]
    energy = interval_total(energies) if energies else None
    length = sum(
        r["mono_end_us"] - r["mono_start_us"] for r in holes if "outside_device_list" not in r["flags"]
    )
    row: dict[str, Any] = {"name": UNATTRIBUTED, "stage": UNATTRIBUTED, "attempt": 1, "status": "completed"}
    row |= {
        "mono_start_us": 0,
        "mono_end_us": length,
        "flags": sorted({f for r in holes for f in r["flags"]}),
    }
    for part in ("gpu", "cpu", "dram"):
        known = [r for r in holes if r[f"{part}_energy_j"] is not None]
        for end in ("", "_low", "_high"):
            name = f"{part}_energy_j{end}"
            row[name] = sum(r[name] for r in known) if known else None
        methods = {r[f"{part}_energy_method"] for r in known}
        row[f"{part}_energy_method"] = (
            methods.pop() if len(methods) == 1 else "mixed" if methods else "absent"
        )
    share = energy.best / whole.best if energy is not None and whole and whole.best > 0 else None
    return StageLine(row, energy, share, {})


def _no_reuse(
    totals: RunTotals, found: Costs, protocol: Protocol, unknown: Sequence[str], taught: bool
) -> str | None:
    """Why no figure of reuse can be given; None if it can."""
    if totals.it is None:
        return "nothing was measured"
    if totals.incomplete:
        return "the energy of a GPU or of a service elsewhere is unknown"
    if unknown:
        return f"what another run paid for {', '.join(unknown)} is unknown"
    if found.teacher(protocol.kinds("teacher")) is None:
        if taught:
            return "the teacher's energy cannot be told from the student's"
        return "the run uses no teacher's output"
    return None


def _reuse(totals: RunTotals, found: Costs, reuses: int, teacher_kinds: Sequence[str]) -> Reuse:
    """The three figures; what others paid for anything but a teacher's output is this run's own."""
    teachers = found.teachers(teacher_kinds)
    others = [paid for paid in found.paid if paid not in teachers]
    own = [e for kind, e in totals.by_kind.items() if kind not in teacher_kinds]
    teacher = [totals.teacher] if totals.teacher is not None else []
    return reuse(
        interval_total([*own, *(paid.stated for paid in others)]),
        interval_total([*teacher, *(paid.stated for paid in teachers)]),
        reuses,
    )


def unmeasured(report: RunReport) -> list[str]:
    """Components of the boundary that no stage measures."""
    return [name.upper() for name in ("gpu", "cpu", "dram") if name not in report.parts]


def failed_energy(report: RunReport) -> Interval | None:
    """Energy of attempts that did not complete; None without any."""
    rows = [line.row for line in report.lines if line.row["status"] != "completed"]
    energies = [e for e in map(row_energy, roots(rows)) if e is not None]
    return interval_total(energies) if energies else None
