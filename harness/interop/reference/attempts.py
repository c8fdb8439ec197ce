"""Decides what was one run of one stage: which record speaks for it, which samples and CodeCarbon row
belong to it.

Each run becomes one attempt. The harness overwrites records but appends samples, keeps partial records
beside final ones, repeats every stage in up to three summaries, and never says which of them belong
together; the start time does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.interop.reference.power_runs import EDGE_S, SPLIT_S, PowerRuns, PowerSeries
from harness.interop.reference.records import (
    US_PER_S,
    Doubt,
    Emission,
    ReferenceStage,
    StageFolder,
    seconds_to_us,
)

Status = Literal["completed", "partial"]
_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of one stage.

    Attributes:
        record: The record that speaks for it; None when only samples or a CodeCarbon row are left.
        snapshots: Partial records of the same run, by step.
        power: Its samples with times; None when the log keeps only a total.
        start_us: Unix microseconds of the recorded window.
        end_us: End of the recorded window.
        tail_end_us: Last sample after the recorded window of a run that went on until it was killed, or None.
    """

    folder: StageFolder
    record: ReferenceStage | None
    snapshots: tuple[ReferenceStage, ...]
    power: PowerSeries | None
    start_us: int
    end_us: int
    tail_end_us: int | None = None
    emission: Emission | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def status(self) -> Status:
        """`completed` only if the harness itself closed the stage."""
        closed = self.record is not None and self.record.kind in ("final", "summary")
        return "completed" if closed else "partial"

    @property
    def duration_s(self) -> float:
        """Length of the recorded window."""
        return (self.end_us - self.start_us) / US_PER_S

    def with_doubts(self, *doubts: Doubt) -> Attempt:
        """The same attempt with more doubts."""
        return replace(self, doubts=self.doubts + doubts)


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A record that gives an energy but no time, and no samples to place it by."""

    folder: StageFolder
    record: ReferenceStage


def attempts_of(folder: StageFolder, *, split_s: float = SPLIT_S) -> tuple[list[Attempt], list[Unplaced]]:
    """The attempts of one stage folder in time order, and the records that cannot be placed in time."""
    runs, unplaced = _runs(folder.records)
    power = PowerRuns(folder.power_log, split_s) if folder.power_log is not None else None
    log_doubts = _log_doubts(folder, power)
    attempts: list[Attempt] = []
    for position, run in enumerate(runs):
        following = runs[position + 1].start_us if position + 1 < len(runs) else None
        attempts.extend(_with_samples(folder, run, power, following))
    if power is not None:
        leftover, stray = power.rest()
        if stray:
            log_doubts.append(Doubt("stray_samples", "info", {"samples": stray}))
        for series in leftover:
            record = unplaced.pop(0) if unplaced and len(leftover) == 1 else None
            attempts.append(_from_samples(folder, series, record))
        if len(leftover) + len(runs) > 1 and any(a.power is not None for a in attempts):
            several = Doubt(
                "several_runs_in_log", "warning", {"runs_in_power_log": len(leftover) + len(runs)}
            )
            attempts = [a.with_doubts(several) if a.power is not None else a for a in attempts]
    attempts = [a.with_doubts(*log_doubts) if a.power is not None else a for a in attempts]
    return sorted(attempts, key=lambda a: a.start_us), [Unplaced(folder, record) for record in unplaced]


@dataclass(frozen=True, slots=True)
class _Run:
    """Records with the same start."""

    record: ReferenceStage
    snapshots: tuple[ReferenceStage, ...]
    start_us: int
    end_us: int
    doubts: tuple[Doubt, ...]


def _runs(records: Sequence[ReferenceStage]) -> tuple[list[_Run], list[ReferenceStage]]:
    placed = [record for record in records if record.window is not None]
    unplaced = [record for record in records if record.window is None and record.gpu_energy_j]
    groups: list[list[ReferenceStage]] = []
    for record in sorted(placed, key=_start):
        home = next((group for group in groups if _same_run(group[0], record)), None)
        if home is None:
            groups.append([record])
        else:
            home.append(record)
    return [_speak(group) for group in groups], _distinct(unplaced)


def _start(record: ReferenceStage) -> float:
    assert record.start_s is not None
    return record.start_s


def _same_run(first: ReferenceStage, other: ReferenceStage) -> bool:
    """Same start; a rebuilt record starts at the first sample, so it also joins a run that it overlaps."""
    if first.stage_id != other.stage_id:
        return False
    if abs(_start(first) - _start(other)) <= _SAME_START_S:
        return True
    if "reconstructed" not in (first.kind, other.kind) or first.window is None or other.window is None:
        return False
    shared = min(first.window[1], other.window[1]) - max(first.window[0], other.window[0])
    shorter = min(record.window[1] - record.window[0] for record in (first, other) if record.window)
    return shorter > 0 and shared > 0.5 * shorter


def _speak(group: list[ReferenceStage]) -> _Run:
    """Choose the record that speaks for a run: closed by the harness, else the last partial one, else
    rebuilt."""
    by_kind = {
        kind: [record for record in group if record.kind == kind]
        for kind in ("final", "summary", "snapshot", "reconstructed")
    }
    # Step order, not file-name order: the text order of names puts step_9800 behind step_22200.
    snapshots = tuple(sorted(by_kind["snapshot"], key=lambda r: (r.end_s or 0.0, r.snapshot_step or -1)))
    doubts: list[Doubt] = []
    closed = by_kind["final"] + by_kind["summary"]
    if closed:
        record = max(by_kind["final"] or closed, key=lambda r: (r.end_s or 0.0, len(r.watts)))
        copies = [other for other in closed + by_kind["reconstructed"] if other is not record]
        if by_kind["reconstructed"] or any(not _same_figures(record, other) for other in copies):
            doubts.append(_differs(record, copies))
        if not by_kind["final"]:
            doubts.append(Doubt("from_summary", "info", {"copies_in_summaries": len(closed)}))
    elif snapshots:
        record = snapshots[-1]
        doubts.extend(_rebuilt_differs(record, other) for other in by_kind["reconstructed"][:1])
    else:
        record = max(by_kind["reconstructed"], key=lambda r: (r.end_s or 0.0, len(r.watts)))
    window = record.window
    assert window is not None
    return _Run(record, snapshots, seconds_to_us(window[0]), seconds_to_us(window[1]), tuple(doubts))


def _same_figures(first: ReferenceStage, other: ReferenceStage) -> bool:
    pairs = [(first.gpu_energy_j, other.gpu_energy_j), (first.cpu_energy_j, other.cpu_energy_j)]
    close = all(math.isclose(a or 0.0, b or 0.0, rel_tol=1e-6) for a, b in pairs)
    return close and (first.tokens or 0) == (other.tokens or 0)


def _differs(record: ReferenceStage, copies: Sequence[ReferenceStage]) -> Doubt:
    other = next(copy for copy in copies if copy.kind == "reconstructed" or not _same_figures(record, copy))
    return Doubt(
        "records_differ",
        "warning",
        {
            "used": record.kind,
            "other": other.kind,
            "used_gpu_energy_j": record.gpu_energy_j,
            "other_gpu_energy_j": other.gpu_energy_j,
            "used_tokens": record.tokens,
            "other_tokens": other.tokens,
        },
    )


def _rebuilt_differs(record: ReferenceStage, rebuilt: ReferenceStage) -> Doubt:
    return Doubt(
        "reconstructed_ignored",
        "warning",
        {
            "partial_step": record.snapshot_step,
            "partial_tokens": record.tokens,
            "partial_gpu_energy_j": record.gpu_energy_j,
            "reconstructed_tokens": rebuilt.tokens,
            "reconstructed_gpu_energy_j": rebuilt.gpu_energy_j,
        },
    )


def _distinct(records: Sequence[ReferenceStage]) -> list[ReferenceStage]:
    """Drop copies of the same unplaced record (a stage file and its summary)."""
    kept: list[ReferenceStage] = []
    for record in records:
        if not any(record.stage_id == other.stage_id and _same_figures(record, other) for other in kept):
            kept.append(record)
    return kept


def _with_samples(
    folder: StageFolder, run: _Run, power: PowerRuns | None, next_start_us: int | None
) -> list[Attempt]:
    """Attach samples to a run; a rebuilt record that spans several runs is taken apart."""
    bare = Attempt(folder, run.record, run.snapshots, None, run.start_us, run.end_us, doubts=run.doubts)
    if power is None:
        return [bare]
    if run.record.kind == "reconstructed" and power.count_between(run.start_us, run.end_us) > 1:
        pieces = []
        while (piece := _first_piece(power, run)) is not None:
            pieces.append(piece)
        doubt = Doubt(
            "reconstructed_over_several_runs",
            "error",
            {"runs": len(pieces), "recorded_gpu_energy_j": run.record.gpu_energy_j},
        )
        return [_from_samples(folder, piece, None).with_doubts(doubt, *run.doubts) for piece in pieces]
    until_us = None
    if run.record.kind == "snapshot":
        until_us = 2**62 if next_start_us is None else next_start_us - round(EDGE_S * US_PER_S)
    series = power.take(run.start_us, run.end_us, until_us=until_us)
    if series is None:
        return [bare.with_doubts(Doubt("log_of_another_run", "warning", {"samples_in_window": 0}))]
    last_us = int(series.t_us[-1])
    tail_us = last_us if until_us is not None and last_us > run.end_us else None
    return [replace(bare, power=series, tail_end_us=tail_us)]


def _first_piece(power: PowerRuns, run: _Run) -> PowerSeries | None:
    """The earliest stretch of samples inside a rebuilt record's window, cut where runs are cut."""
    leftover, _ = power.rest()
    for piece in leftover:
        if run.start_us - round(EDGE_S * US_PER_S) <= int(piece.t_us[0]) <= run.end_us:
            return power.take(int(piece.t_us[0]), int(piece.t_us[-1]))
    return None


def _from_samples(folder: StageFolder, series: PowerSeries, record: ReferenceStage | None) -> Attempt:
    """A run that no record with times speaks for: its window is its samples."""
    doubt = Doubt("no_stage_record", "warning", {"samples": len(series.t_us)})
    return Attempt(folder, record, (), series, int(series.t_us[0]), int(series.t_us[-1]), doubts=(doubt,))


def _log_doubts(folder: StageFolder, power: PowerRuns | None) -> list[Doubt]:
    """What is odd about the file itself; it concerns every run in it."""
    log = folder.power_log
    if log is None or power is None:
        return []
    doubts = []
    if log.header_missing:
        doubts.append(Doubt("header_missing", "warning", {"assumed_columns": len(log.blocks[0].gpus) + 2}))
    if log.truncated_line is not None:
        doubts.append(Doubt("truncated_line", "info", {"line": log.truncated_line}))
    if log.unusable_readings:
        doubts.append(Doubt("readings_unusable", "warning", {"readings": log.unusable_readings}))
    if log.total_mismatch:
        doubts.append(Doubt("total_differs_from_gpus", "warning", {"rows": log.total_mismatch}))
    if power.column_changes:
        observed = {
            "changes": power.column_changes,
            "gpus_by_block": [len(block.gpus) for block in log.blocks],
        }
        doubts.append(Doubt("gpu_columns_changed", "warning", observed))
    return doubts
