"""Decides what was one run of one stage: which record speaks for it, and which samples belong to it.

Each run becomes one attempt. The harness overwrites records but appends samples, keeps partial records
beside final ones, repeats every stage in up to three summaries, and never says which of them belong
together; the start time does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from harness.interop.codecarbon import Emission
from harness.interop.imported import US_PER_S, Doubt, Samples, error, info, seconds_to_us, warning
from harness.interop.reference.power_log import EDGE_US, PowerRuns
from harness.interop.reference.records import ReferenceStage, StageFolder

_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of one stage.

    Attributes:
        record: The record that speaks for it; None when only samples or a CodeCarbon row are left.
        snapshots: Partial records of the same run, by step.
        power: Its samples with times; None when the log keeps only a total.
        start_us: Unix microseconds of the recorded window; `end_us` is its end.
        codecarbon_only: Nothing of the harness was found beside it: CodeCarbon ran by itself.
        tail_end_us: Last sample after the recorded window of a run that went on until it was killed, or None.
    """

    folder: StageFolder
    record: ReferenceStage | None
    start_us: int
    end_us: int
    snapshots: tuple[ReferenceStage, ...] = ()
    power: Samples | None = None
    tail_end_us: int | None = None
    emission: Emission | None = None
    codecarbon_only: bool = False
    doubts: tuple[Doubt, ...] = ()

    @property
    def stage_id(self) -> str:
        """The id the harness filed the run under."""
        named = self.record or self.folder.config
        return self.folder.name if named is None else named.stage_id

    @property
    def status(self) -> Literal["completed", "partial"]:
        """`completed` if the harness closed the stage, or CodeCarbon its run where there is no harness."""
        closed = self.codecarbon_only or (self.record is not None and self.record.closed)
        return "completed" if closed else "partial"

    @property
    def duration_s(self) -> float:
        """Length of the recorded window."""
        return (self.end_us - self.start_us) / US_PER_S

    def with_doubts(self, *doubts: Doubt) -> StageRun:
        """The same attempt with more doubts."""
        return replace(self, doubts=self.doubts + doubts)


def attempts_of(folder: StageFolder) -> tuple[list[StageRun], list[ReferenceStage]]:
    """The attempts of one stage folder in time order, and the records that cannot be placed in time."""
    runs, unplaced = _runs(folder)
    if folder.power_log is None:
        return sorted(runs, key=lambda a: a.start_us), unplaced
    power = PowerRuns(folder.power_log)
    log_doubts = _log_doubts(folder, power)
    attempts: list[StageRun] = []
    for position, run in enumerate(runs):
        following = runs[position + 1].start_us if position + 1 < len(runs) else None
        attempts.extend(_with_samples(run, power, following))
    leftover, stray = power.rest()
    if stray:
        log_doubts.append(info("stray_samples", samples=stray))
    for series in leftover:
        record = unplaced.pop(0) if unplaced and len(leftover) == 1 else None
        attempts.append(_from_samples(folder, series, record))
    in_log = len(leftover) + len(runs)
    if in_log > 1:
        log_doubts.insert(0, warning("several_runs_in_log", runs_in_power_log=in_log))
    attempts = [a.with_doubts(*log_doubts) if a.power is not None else a for a in attempts]
    return sorted(attempts, key=lambda a: a.start_us), unplaced


def _runs(folder: StageFolder) -> tuple[list[StageRun], list[ReferenceStage]]:
    """Records with the same start as attempts without samples, and the records without times."""
    placed = [record for record in folder.records if record.window is not None]
    groups: list[list[ReferenceStage]] = []
    for record in sorted(placed, key=lambda r: r.start_s or 0.0):
        home = next((group for group in groups if _same_run(group[0], record)), None)
        if home is None:
            groups.append([record])
        else:
            home.append(record)
    unplaced: list[ReferenceStage] = []
    for record in folder.records:
        # A stage file and its summary are copies of each other.
        copy = any(record.stage_id == other.stage_id and same_figures(record, other) for other in unplaced)
        if record.window is None and record.gpu_energy_j and not copy:
            unplaced.append(record)
    return [_speak(folder, group) for group in groups], unplaced


def _same_run(first: ReferenceStage, other: ReferenceStage) -> bool:
    """Same start; a rebuilt record starts at the first sample, so it also joins a run that it overlaps."""
    if first.stage_id != other.stage_id or first.window is None or other.window is None:
        return False
    if abs(first.window[0] - other.window[0]) <= _SAME_START_S:
        return True
    if "reconstructed" not in (first.kind, other.kind):
        return False
    shared = min(first.window[1], other.window[1]) - max(first.window[0], other.window[0])
    shorter = min(window[1] - window[0] for window in (first.window, other.window))
    return shorter > 0 and shared > 0.5 * shorter


def _speak(folder: StageFolder, group: list[ReferenceStage]) -> StageRun:
    """Choose the record that speaks for a run: closed by the harness, else the last partial one, else
    rebuilt."""
    # Step order, not file-name order: the text order of names puts step_9800 behind step_22200.
    snapshots = sorted(
        (r for r in group if r.kind == "snapshot"), key=lambda r: (r.end_s or 0.0, r.snapshot_step or -1)
    )
    final = [record for record in group if record.kind == "final"]
    closed = final + [record for record in group if record.kind == "summary"]
    rebuilt = [record for record in group if record.kind == "reconstructed"]
    doubts: list[Doubt] = []
    if closed or not snapshots:
        record = max(final or closed or rebuilt, key=lambda r: (r.end_s or 0.0, len(r.watts)))
    else:
        record = snapshots[-1]
        doubts.extend(_rebuilt_ignored(record, other) for other in rebuilt[:1])
    if closed:
        copies = [other for other in closed + rebuilt if other is not record]
        differs = (r for r in copies if r.kind == "reconstructed" or not same_figures(record, r))
        doubts.extend(_differs(record, other) for other in list(differs)[:1])
        if not final:
            doubts.append(info("from_summary", copies_in_summaries=len(closed)))
    assert record.window is not None
    start_us, end_us = map(seconds_to_us, record.window)
    return StageRun(folder, record, start_us, end_us, snapshots=tuple(snapshots), doubts=tuple(doubts))


def same_figures(first: ReferenceStage, other: ReferenceStage) -> bool:
    """Whether two records state the same energies and tokens."""
    pairs = [(first.gpu_energy_j, other.gpu_energy_j), (first.cpu_energy_j, other.cpu_energy_j)]
    close = all(math.isclose(a or 0.0, b or 0.0, rel_tol=1e-6) for a, b in pairs)
    return close and (first.tokens or 0) == (other.tokens or 0)


def _differs(record: ReferenceStage, other: ReferenceStage) -> Doubt:
    return warning(
        "records_differ",
        used=record.kind,
        other=other.kind,
        used_gpu_energy_j=record.gpu_energy_j,
        other_gpu_energy_j=other.gpu_energy_j,
        used_tokens=record.tokens,
        other_tokens=other.tokens,
    )


def _rebuilt_ignored(record: ReferenceStage, rebuilt: ReferenceStage) -> Doubt:
    return warning(
        "reconstructed_ignored",
        partial_step=record.snapshot_step,
        partial_tokens=record.tokens,
        partial_gpu_energy_j=record.gpu_energy_j,
        reconstructed_tokens=rebuilt.tokens,
        reconstructed_gpu_energy_j=rebuilt.gpu_energy_j,
    )


def _with_samples(run: StageRun, power: PowerRuns, next_start_us: int | None) -> list[StageRun]:
    """Attach samples to a run; a rebuilt record that spans several runs is taken apart."""
    record = run.record
    assert record is not None
    if record.kind == "reconstructed" and power.count_between(run.start_us, run.end_us) > 1:
        pieces = []
        while (piece := _first_piece(power, run)) is not None:
            pieces.append(piece)
        doubt = error(
            "reconstructed_over_several_runs", runs=len(pieces), recorded_gpu_energy_j=record.gpu_energy_j
        )
        return [_from_samples(run.folder, piece, None).with_doubts(doubt, *run.doubts) for piece in pieces]
    until_us = None
    if record.kind == "snapshot":
        until_us = 2**62 if next_start_us is None else next_start_us - EDGE_US
    series = power.take(run.start_us, run.end_us, until_us=until_us)
    if series is None:
        return [run.with_doubts(warning("log_of_another_run", samples_in_window=0))]
    last_us = int(series.t_us[-1])
    tail_us = last_us if until_us is not None and last_us > run.end_us else None
    return [replace(run, power=series, tail_end_us=tail_us)]


def _first_piece(power: PowerRuns, run: StageRun) -> Samples | None:
    """The earliest stretch of samples inside a rebuilt record's window, cut where runs are cut."""
    for piece in power.rest()[0]:
        if run.start_us - EDGE_US <= int(piece.t_us[0]) <= run.end_us:
            return power.take(int(piece.t_us[0]), int(piece.t_us[-1]))
    return None


def _from_samples(folder: StageFolder, series: Samples, record: ReferenceStage | None) -> StageRun:
    """A run that no record with times speaks for: its window is its samples."""
    doubt = warning("no_stage_record", samples=len(series.t_us))
    start_us, end_us = int(series.t_us[0]), int(series.t_us[-1])
    return StageRun(folder, record, start_us, end_us, power=series, doubts=(doubt,))


def _log_doubts(folder: StageFolder, power: PowerRuns) -> list[Doubt]:
    """What is odd about the file itself; it concerns every run in it."""
    log = folder.power_log
    assert log is not None
    doubts = []
    if log.header_missing:
        doubts.append(warning("header_missing", assumed_columns=len(log.blocks[0].gpus) + 2))
    if log.truncated_line is not None:
        doubts.append(info("truncated_line", line=log.truncated_line))
    if log.unusable_readings:
        doubts.append(warning("readings_unusable", readings=log.unusable_readings))
    if log.total_mismatch:
        doubts.append(warning("total_differs_from_gpus", rows=log.total_mismatch))
    if power.column_changes:
        gpus = [len(block.gpus) for block in log.blocks]
        doubts.append(warning("gpu_columns_changed", changes=power.column_changes, gpus_by_block=gpus))
    return doubts
