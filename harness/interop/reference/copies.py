"""From everything found below a path to the attempts a bundle holds: each run once, in time order, with the
CodeCarbon row of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from harness.errors import KitError
from harness.interop.codecarbon import Emission, last_of_each_run
from harness.interop.imported import US_PER_S, seconds_to_us, warning
from harness.interop.reference.attempts import StageRun, attempts_of, same_figures
from harness.interop.reference.records import LogTree, ReferenceStage, StageFolder

_ZONE_STEP_S = 900
"""Offsets of time zones are multiples of a quarter of an hour."""


def distinct_attempts(tree: LogTree) -> tuple[list[StageRun], list[ReferenceStage], int]:
    """Turn the files of a tree into attempts.

    Returns:
        The attempts, records without a time, and how many copies of attempts were left out.

    Raises:
        KitError: Nothing in the tree can be placed in time.
    """
    found: list[StageRun] = []
    unplaced: list[ReferenceStage] = []
    for folder in tree.folders:
        attempts, lost = attempts_of(folder)
        found.extend(attempts)
        unplaced.extend(lost)
    kept = _without_copies(found)
    copies = len(found) - len(kept)
    kept = _with_emissions(kept, tree.emissions)
    if not kept:
        raise KitError(
            "records were found, but none says when its stage ran",
            where=str(tree.root),
            expected="start_time and end_time in a stage JSON, or a power_log.csv beside it",
            fix="import the folder that also holds power_log.csv",
        )
    kept.sort(key=lambda a: (a.start_us, a.end_us, a.folder.name))
    return kept, unplaced, copies


def _without_copies(attempts: list[StageRun]) -> list[StageRun]:
    """Drop copies of the same run in another folder; the copy that knows most stays.

    The same stage id over the same hours is the same run: the harness keeps one process a stage id.
    """
    kept: list[StageRun] = []
    for attempt in sorted(attempts, key=_knowledge, reverse=True):
        twin = next((index for index, other in enumerate(kept) if _same_hours(attempt, other)), None)
        if twin is None:
            kept.append(attempt)
            continue
        record, used = attempt.record, kept[twin].record
        if record is not None and used is not None and not same_figures(record, used):
            doubt = warning(
                "records_differ",
                other=record.kind,
                other_gpu_energy_j=record.gpu_energy_j,
                other_tokens=record.tokens,
                other_duration_s=attempt.duration_s,
            )
            kept[twin] = kept[twin].with_doubts(doubt)
    return kept


def _knowledge(attempt: StageRun) -> tuple[int, int, int, int]:
    trust = {"final": 3, "snapshot": 2, "summary": 2, "reconstructed": 1}
    return (
        0 if attempt.record is None else trust[attempt.record.kind],
        0 if attempt.power is None else len(attempt.power.t_us),
        0 if attempt.record is None else len(attempt.record.watts),
        (attempt.folder.environment is not None) + (attempt.folder.config is not None),
    )


def _same_hours(first: StageRun, other: StageRun) -> bool:
    if first.stage_id != other.stage_id:
        return False
    if abs(first.start_us - other.start_us) < US_PER_S and abs(first.end_us - other.end_us) < US_PER_S:
        return True
    shared = min(first.end_us, other.end_us) - max(first.start_us, other.start_us)
    return 2 * shared > min(first.end_us - first.start_us, other.end_us - other.start_us) > 0


def _with_emissions(attempts: list[StageRun], emissions: list[tuple[Path, Emission]]) -> list[StageRun]:
    """Give each attempt the CodeCarbon row of its own run: same project, same length, same day.

    The tracker starts up to a few seconds before the stage and stops after it; its clock time has no zone.
    A match shows the zone, in which the rows of no attempt are then placed.
    """
    # CodeCarbon copies its file to .bak whenever its columns change, and folders are copied: each run once.
    home: dict[tuple[object, ...], Path] = {}
    for run_dir, row in emissions:
        home.setdefault(row.key, run_dir)
    unused = [(home[row.key], row) for row in last_of_each_run(row for _, row in emissions)]
    matched = []
    offsets: dict[Path, int] = {}
    for attempt in attempts:
        names = {attempt.stage_id, attempt.folder.name}
        candidates = []
        for position, (_, row) in enumerate(unused):
            offset = _zone_offset(row, attempt.end_us)
            if row.project in names and row.duration_s is not None and offset is not None:
                candidates.append((abs(row.duration_s - attempt.duration_s), position, offset))
        distance, position, offset = min(candidates, default=(math.inf, -1, 0))
        if distance <= 10.0 + 0.01 * attempt.duration_s:
            run_dir, row = unused.pop(position)
            if not row.zoned:
                offsets.setdefault(run_dir, offset)
            attempt = replace(attempt, emission=row)
        matched.append(attempt)
    return matched + _emission_attempts(matched, unused, offsets)


def _zone_offset(row: Emission, end_us: int) -> int | None:
    """The time zone under which a row's local time is the end of a stage (within 2 minutes), seconds; else
    None."""
    ended = row.ended_if_utc_s
    if ended is None:
        return None
    difference = ended - end_us / US_PER_S
    offset = round(difference / _ZONE_STEP_S) * _ZONE_STEP_S
    farthest = 0 if row.zoned else 14 * 3600
    return offset if abs(difference - offset) < 120 and abs(offset) <= farthest else None


def _emission_attempts(
    attempts: list[StageRun], unused: list[tuple[Path, Emission]], offsets: dict[Path, int]
) -> list[StageRun]:
    """Runs of which only CodeCarbon's row is left: their joules were spent and stay in the log."""
    closed = [attempt.record for attempt in attempts if attempt.record is not None and attempt.record.closed]
    found = []
    for run_dir, row in unused:
        ended = row.ended_if_utc_s
        known = any(
            record.stage_id == row.project
            and record.codecarbon_total_kwh
            and row.total_kwh
            and math.isclose(record.codecarbon_total_kwh, row.total_kwh, rel_tol=1e-9)
            for record in closed
        )
        if known or ended is None or not row.duration_s or row.duration_s <= 0:
            continue
        offset = 0 if row.zoned else offsets.get(run_dir)
        end_us = seconds_to_us(ended - (offset or 0))
        start_us = end_us - seconds_to_us(row.duration_s)
        doubts = [warning("only_codecarbon", codecarbon_duration_s=row.duration_s)]
        if offset is None:
            doubts.append(warning("time_zone_unknown", assumed="UTC"))
        folder = StageFolder(run_dir, row.project or "codecarbon")
        found.append(
            StageRun(
                folder,
                None,
                start_us,
                end_us,
                emission=row,
                codecarbon_only=not attempts,
                doubts=tuple(doubts),
            )
        )
    return found
