"""CodeCarbon's emissions.csv (2.x and 3.x): its rows, and `import_codecarbon`, which makes a bundle of them.

Columns are found by name. CodeCarbon adds a row at each flush() and at stop(), each with the figures since
start(): only the last row of a run counts. Rows of tasks (start_task() to stop_task()) each hold their own
figures. It multiplies energies by its PUE where one is set; an IT energy is kept here.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.accounting.rounding import J_PER_KWH
from harness.bundle import scrub
from harness.errors import KitError
from harness.interop.bounds import bound_codecarbon_total, bound_estimate
from harness.interop.imported import (
    Doubt,
    ImportedRun,
    ImportedStage,
    LoggedGpu,
    Machines,
    StatedEnergy,
    error,
    guess_kind,
    info,
    safe_name,
    seconds_to_us,
    warning,
)
from harness.interop.log_files import FIX_ROW, MAX_UNIX_S, MIN_UNIX_S, Fields, read_text
from harness.interop.write import ImportResult, refuse_used, sampling_of, write_bundle
from harness.spec import load_protocol

EMISSIONS_NAME = re.compile(r"emissions\w*\.csv(_\d+)?(\.bak)?")
"""Names of the file and of the copies that CodeCarbon makes of it."""
_COUNTED_MODEL = re.compile(r"(\d+) x (.+)")
SAME_START_S = 60.0
"""Rows of one run start together but for what writing a row takes, s; and 1 % of what they last."""
POWER_FACTOR = 30.0
"""A mean power is within this factor of the power that the row states, which may be the last reading alone;
units are a thousand apart."""


@dataclass(frozen=True, slots=True)
class Emission:
    """A row of emissions.csv: a run from its start to the row's time.

    Attributes:
        task: Name of the task that the row is of; None in a row of a whole run.
        run_id: CodeCarbon's own; None in a row that has none.
        ended_local: Time of the row, mostly without a time zone.
        cpu_kwh: IT energy of the CPU, kWh; as `gpu_kwh`, `ram_kwh` and `total_kwh`.
        stated_w: Power of CPU, GPU and RAM as the row states it, W; of the last moment in some releases.
        pue: What the file's energies were divided by to get there; None where nothing was.
        rows: Rows of the run in the file, this one being the last.
    """

    project: str
    task: str | None
    run_id: str | None
    ended_local: str
    duration_s: float | None
    cpu_kwh: float | None
    gpu_kwh: float | None
    ram_kwh: float | None
    total_kwh: float | None
    version: str | None
    tracking_mode: str | None
    cpu_model: str | None
    gpu_count: int | None
    gpu_model: str | None
    stated_w: tuple[float | None, ...] = (None, None, None)
    pue: float | None = None
    rows: int = 1

    @property
    def key(self) -> tuple[object, ...]:
        """Equal in rows of one run, in copies of the file too."""
        end = (self.project, self.ended_local, self.duration_s)
        if not self.run_id:
            return end
        return (self.run_id,) if self.task is None else (self.run_id, self.task, *end)

    @property
    def kwh(self) -> tuple[float | None, ...]:
        """CPU, GPU, RAM and total, kWh."""
        return self.cpu_kwh, self.gpu_kwh, self.ram_kwh, self.total_kwh

    @property
    def starts_s(self) -> float | None:
        """Start of the row's window, unix seconds as by `ended_if_utc_s`; None where unknown."""
        ended_s = self.ended_if_utc_s
        return None if ended_s is None or self.duration_s is None else ended_s - self.duration_s

    @property
    def ended_if_utc_s(self) -> float | None:
        """`ended_local` in its own time zone, in UTC where it names none, unix seconds; None if it is no
        time."""
        try:
            ended = datetime.fromisoformat(self.ended_local)
        except ValueError:
            return None
        return (ended if ended.tzinfo else ended.replace(tzinfo=UTC)).timestamp()

    @property
    def zoned(self) -> bool:
        """Whether `ended_local` names its time zone."""
        return self.ended_if_utc_s is not None and datetime.fromisoformat(self.ended_local).tzinfo is not None

    @property
    def gpus(self) -> tuple[LoggedGpu, ...]:
        """Cards, from a text such as "1 x NVIDIA H100 80GB HBM3" or from the count; empty without a GPU."""
        match = _COUNTED_MODEL.fullmatch(self.gpu_model or "")
        count, model = (int(match[1]), match[2]) if match else (self.gpu_count or 0, self.gpu_model)
        if match and self.gpu_count:
            count = self.gpu_count  # of the cards named those that are tracked
        if _COUNTED_MODEL.search(model or ""):
            model = None  # several models written together: which card is which is not said
        return tuple(LoggedGpu(index, model) for index in range(max(0, min(count, 64))))

    @property
    def without_gpu(self) -> bool:
        """Whether the tracker found no GPU, so that its 0 kWh stand for none."""
        return not self.gpu_kwh and not self.gpu_model and not self.gpu_count


def last_of_each_run(emissions: Iterable[Emission]) -> list[Emission]:
    """The longest row of each run, in the order in which the runs appear.

    Raises:
        KitError: A later row of a run has less energy or started at another time: then the rows do not add up
            to what this reader takes them for.
    """
    found: dict[tuple[object, ...], Emission] = {}
    for row in emissions:
        known = found.setdefault(row.key, row)
        if known is row or (known.duration_s, known.total_kwh) == (row.duration_s, row.total_kwh):
            continue
        first, last = sorted((known, row), key=lambda one: one.duration_s or 0.0)
        starts = first.starts_s, last.starts_s
        apart_s = math.inf if starts[0] is None or starts[1] is None else abs(starts[1] - starts[0])
        pairs = zip(first.kwh, last.kwh, strict=True)
        less = any((now or 0.0) < 0.999 * (then or 0.0) for then, now in pairs)
        if less or apart_s > max(SAME_START_S, 0.01 * (last.duration_s or 0.0)):
            apart = "an unknown time" if math.isinf(apart_s) else f"{apart_s:.0f} s"
            raise KitError(
                f"run {row.run_id} has {first.total_kwh} kWh after {first.duration_s} s "
                f"and {last.total_kwh} kWh after {last.duration_s} s, {apart} between their starts",
                expected="rows of one run_id that go on counting from one start",
                fix="keep the row of that run that holds its whole energy, or give each run its own run_id, "
                "and import again",
            )
        found[row.key] = replace(last, rows=known.rows + 1)
    return list(found.values())


def read_emissions(path: Path) -> tuple[Emission, ...]:
    """The runs of an emissions.csv or of one of its copies.

    Raises:
        KitError: The header is not CodeCarbon's, or a row has another number of cells, no time, an unreadable
            number, or does not go on from an earlier row of its run.
    """
    rows = csv.reader(io.StringIO(read_text(path, expected="a CSV file", fix=FIX_ROW), newline=""))
    try:
        table = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise KitError(
            f"not CSV: {error}", where=f"{path}:{rows.line_num}", expected="an emissions.csv", fix=FIX_ROW
        ) from error
    if not table:
        return ()
    header = table[0][1]
    twice = len(set(header)) < len(header)
    if twice or "project_name" not in header or "energy_consumed" not in header:
        raise KitError(
            f"header {','.join(header)[:80]!r}",
            where=f"{path}:1",
            expected="CodeCarbon's columns, each once, among them project_name and energy_consumed",
            fix="restore the header CodeCarbon wrote",
        )
    emissions = []
    for number, cells in table[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            expected = f"{len(header)} cells as in the header"
            raise KitError(f"{len(cells)} cells", where=where, expected=expected, fix=FIX_ROW)
        row = Fields(dict(zip(header, cells, strict=True)), where, FIX_ROW)
        emissions.append(_emission(row, where))
    return tuple(last_of_each_run(emissions))


def _emission(row: Fields, where: str) -> Emission:
    parts = {name: row.number(f"{name}_energy", minimum=0.0) for name in ("cpu", "gpu", "ram")}
    total, pue = row.number("energy_consumed", minimum=0.0), row.number("pue")
    found = Emission(
        project=row.text("project_name") or "",
        task=row.text("task_name"),
        run_id=row.text("run_id"),
        ended_local=row.text("timestamp") or "",
        duration_s=row.number("duration"),
        cpu_kwh=parts["cpu"],
        gpu_kwh=parts["gpu"],
        ram_kwh=parts["ram"],
        total_kwh=total,
        version=row.text("codecarbon_version"),
        tracking_mode=row.text("tracking_mode"),
        cpu_model=row.text("cpu_model"),
        gpu_count=row.count("gpu_count"),
        gpu_model=row.text("gpu_model"),
        stated_w=tuple(row.number(f"{name}_power") for name in parts),
    )
    ended_s, starts_s = found.ended_if_utc_s, found.starts_s
    first_s = ended_s if starts_s is None else starts_s
    if ended_s is None or first_s is None or not (first_s > MIN_UNIX_S and MIN_UNIX_S < ended_s < MAX_UNIX_S):
        raise KitError(
            f"timestamp is {found.ended_local!r}, duration {found.duration_s} s",
            where=where,
            expected="a time such as 2026-01-25T23:01:40 and the seconds before it",
            fix="restore the row; its cells may belong to other columns than the header's",
        )
    if pue is None or pue == 1 or not (total or any(parts.values())):
        return found
    if not total:
        expected = "energy_consumed, which tells whether the parts hold the PUE"
        raise KitError(f"pue is {pue:g} without a total", where=where, expected=expected, fix=FIX_ROW)
    # Releases differ: where the parts add up to the total they hold the PUE, else the total has it on top.
    whole = math.isclose(sum(value or 0.0 for value in parts.values()), total, rel_tol=0.01)
    if pue < 1:
        raise KitError(f"pue is {pue:g}", where=where, expected="a PUE of at least 1", fix=FIX_ROW)
    if whole:
        parts = {name: None if value is None else value / pue for name, value in parts.items()}
    return replace(
        found,
        cpu_kwh=parts["cpu"],
        gpu_kwh=parts["gpu"],
        ram_kwh=parts["ram"],
        total_kwh=total / pue,
        pue=pue,
    )


def import_codecarbon(
    path: Path, out: Path, *, name: str | None = None, utc_offset_h: float = 0.0
) -> ImportResult:
    """Turn an emissions.csv into a bundle: each run of a tracker is a stage.

    Args:
        path: The file.
        out: Folder of the bundle; must be empty or absent.
        name: Name of the run in the manifest; the file's by default.
        utc_offset_h: Hours by which the times that name no zone are ahead of UTC.

    Raises:
        KitError: The file cannot be read, holds no run with a duration, or `out` holds something already.
    """
    refuse_used(out)
    runs = read_emissions(path)
    machines = Machines()
    timed = [run for run in runs if run.duration_s and run.duration_s > 0]
    if not timed:
        raise KitError(
            "holds no run with a duration",
            where=str(path),
            expected="rows below the header of an emissions.csv",
        )
    stages = sorted(
        (_stage(run, machines, utc_offset_h) for run in timed),
        key=lambda stage: (stage.start_us, stage.end_us),
    )
    versions = sorted({run.version for run in runs if run.version})
    protocol = load_protocol()
    imported = ImportedRun(
        source="CodeCarbon",
        sampler=f"CodeCarbon {', '.join(versions)}".strip(),
        scheduling="thread of the measured process",
        method="other",
        stages=stages,
        devices=machines.devices,
        unplaced=tuple(
            warning("record_without_time", stage=safe_name(run.project), recorded_kwh=run.total_kwh)
            for run in runs
            if run not in timed
        ),
    )
    return write_bundle(
        imported, out, safe_name(scrub(name or path.resolve().stem)), sampling_of(protocol, []), protocol
    )


def _stage(run: Emission, machines: Machines, utc_offset_h: float) -> ImportedStage:
    """One run as a stage, with what is doubtful about it."""
    ended_s, duration_s = run.ended_if_utc_s, run.duration_s
    assert ended_s is not None
    assert duration_s
    doubts = [*emission_doubts(run), warning("tokens_unknown", recorded_tokens=None)]
    if not run.zoned:
        ended_s -= 3600 * utc_offset_h
        doubts += [] if utc_offset_h else [warning("time_zone_unknown", assumed="UTC")]
    kind, evidence = guess_kind([run.task or "", run.project])
    doubts.append(warning("kind_guessed", evidence=evidence and safe_name(evidence)))
    key = repr((run.cpu_model, run.gpu_model, run.gpu_count))
    node_id, devices = machines.place(key, run.gpus, tuple(gpu.index for gpu in run.gpus))
    gpu = None
    if run.gpu_kwh:
        doubts += [] if run.gpus else [warning("gpus_not_named", gpu_count=run.gpu_count)]
        doubts.append(warning("gpu_from_codecarbon", codecarbon_gpu_kwh=run.gpu_kwh))
        gpu = bound_codecarbon_total(run.gpu_kwh * J_PER_KWH, duration_s)
    elif not run.without_gpu:
        doubts.append(error("gpu_unknown", recorded_gpu_energy_j=run.gpu_kwh))
    if run.cpu_kwh:
        doubts.append(info("cpu_from_codecarbon", mean_w=run.cpu_kwh * J_PER_KWH / duration_s))
        doubts += [warning("cpu_of_whole_node", tracking_mode="machine")] * (run.tracking_mode == "machine")
    end_us = seconds_to_us(ended_s)
    return ImportedStage(
        name=safe_name(run.task or run.project or "codecarbon"),
        kind=kind,
        status="completed",
        node_id=node_id,
        devices=devices,
        start_us=end_us - seconds_to_us(duration_s),
        end_us=end_us,
        gpu=gpu,
        cpu=_estimate(run.cpu_kwh),
        dram=_estimate(run.ram_kwh),
        doubts=tuple(doubts),
    )


def _estimate(kwh: float | None) -> StatedEnergy | None:
    return bound_estimate(kwh * J_PER_KWH) if kwh else None


def emission_doubts(run: Emission) -> list[Doubt]:
    """What is doubtful about a row by itself, whoever imports it."""
    doubts = [info("codecarbon_version", version=run.version, tracking_mode=run.tracking_mode)]
    parts = sum(value or 0.0 for value in run.kwh[:3])
    if run.total_kwh is not None and not math.isclose(parts, run.total_kwh, rel_tol=0.01):
        doubts.append(warning("parts_differ_from_total", parts_kwh=parts, total_kwh=run.total_kwh))
    for part, kwh, stated_w in zip(("cpu", "gpu", "ram"), run.kwh[:3], run.stated_w, strict=True):
        if kwh and stated_w and run.duration_s:
            mean_w = kwh * J_PER_KWH / run.duration_s
            if not 1 / POWER_FACTOR < mean_w / stated_w < POWER_FACTOR:
                seen = {"part": part, "mean_w": mean_w, "stated_w": stated_w}
                doubts.append(warning("energy_contradicts_power", **seen))
    if run.rows > 1:
        # The last row may be a flush of a run that went on: then what came after it is in no row.
        doubts.append(info("codecarbon_flushed", rows=run.rows))
    if run.pue is not None:
        doubts.append(info("pue_removed", pue=run.pue))
    return doubts
