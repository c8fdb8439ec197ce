"""From everything found below a path to the list of attempts a bundle holds: each run once, in time order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import KitError
from harness.interop.reference.attempts import Attempt, Unplaced, attempts_of
from harness.interop.reference.power_runs import SPLIT_S
from harness.interop.reference.records import US_PER_S, Doubt, Emission, LogTree, StageFolder, seconds_to_us

_ZONE_STEP_S = 900
"""Offsets of time zones are multiples of a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be imported.

    Attributes:
        attempts: In time order; each becomes one session and one stage row.
        unplaced: Records with an energy but no time; they become events, not stages.
        duplicates: Attempts found again elsewhere (copies of a folder) and dropped.
    """

    attempts: tuple[Attempt, ...]
    unplaced: tuple[Unplaced, ...]
    duplicates: int
    ignored_files: int


def make_plan(tree: LogTree, *, split_s: float = SPLIT_S) -> Plan:
    """Turn the files of a tree into attempts.

    Args:
        tree: What was found.
        split_s: Silence in a power_log.csv that separates two runs, seconds.

    Raises:
        KitError: Nothing in the tree can be placed in time.
    """
    attempts: list[Attempt] = []
    unplaced: list[Unplaced] = []
    for folder in tree.folders:
        found, lost = attempts_of(folder, split_s=split_s)
        attempts.extend(found)
        unplaced.extend(lost)
    emissions = _distinct_emissions(tree.emissions)
    found_attempts = len(attempts)
    attempts = _distinct_attempts(attempts)
    duplicates = found_attempts - len(attempts)
    attempts, unused, offsets = _match_emissions(attempts, emissions)
    kept = attempts + _emission_attempts(attempts, unused, offsets)
    if not kept:
        raise KitError(
            "records were found, but none says when its stage ran",
            where=str(tree.root),
            expected="start_time and end_time in a stage JSON, or a power_log.csv beside it",
            fix="import the folder that also holds power_log.csv",
        )
    return Plan(
        attempts=tuple(sorted(kept, key=lambda a: (a.start_us, a.end_us, a.folder.name))),
        unplaced=tuple(unplaced),
        duplicates=duplicates,
        ignored_files=tree.ignored,
    )


def stage_id_of(attempt: Attempt) -> str:
    """The id the harness filed the run under."""
    if attempt.record is not None:
        return attempt.record.stage_id
    if attempt.folder.config is not None:
        return attempt.folder.config.stage_id
    return attempt.folder.name


def _distinct_emissions(rows: Iterable[tuple[Path, Emission]]) -> list[tuple[Path, Emission]]:
    """CodeCarbon copies its whole file to .bak whenever its columns change, and folders are copied: each
    row once."""
    seen: dict[tuple[str, str, float | None], tuple[Path, Emission]] = {}
    for run_dir, row in rows:
        seen.setdefault((row.project, row.ended_local, row.duration_s), (run_dir, row))
    return list(seen.values())


def _match_emissions(
    attempts: list[Attempt], emissions: list[tuple[Path, Emission]]
) -> tuple[list[Attempt], list[tuple[Path, Emission]], dict[Path, int]]:
    """Give each attempt the CodeCarbon row of its own run: same project, same length, same day.

    The tracker starts up to a few seconds before the stage and stops after it; its clock time has no zone.

    Returns:
        The attempts, the rows of no attempt, and the seconds to subtract from local times of a run
        directory where a match shows them.
    """
    unused = list(emissions)
    matched = []
    offsets: dict[Path, int] = {}
    for attempt in attempts:
        names = {stage_id_of(attempt), attempt.folder.name}
        candidates = []
        for position, (_, row) in enumerate(unused):
            offset = _zone_offset(row, attempt.end_us)
            if row.project in names and row.duration_s is not None and offset is not None:
                candidates.append((abs(row.duration_s - attempt.duration_s), position, offset))
        distance, position, offset = min(candidates, default=(math.inf, -1, 0))
        if distance > 10.0 + 0.01 * attempt.duration_s:
            matched.append(attempt)
            continue
        run_dir, row = unused.pop(position)
        offsets.setdefault(run_dir, offset)
        matched.append(replace(attempt, emission=row))
    return matched, unused, offsets


def _zone_offset(row: Emission, end_us: int) -> int | None:
    """The time zone under which a row's local time is the end of a stage (within 2 minutes), seconds; else
    None."""
    ended = _local_seconds(row)
    if ended is None:
        return None
    difference = ended - end_us / US_PER_S
    offset = round(difference / _ZONE_STEP_S) * _ZONE_STEP_S
    return offset if abs(difference - offset) < 120 and abs(offset) <= 14 * 3600 else None


def _local_seconds(row: Emission) -> float | None:
    """A CodeCarbon time stamp read as if it were UTC, unix seconds."""
    try:
        stamp = datetime.fromisoformat(row.ended_local)
    except ValueError:
        return None
    return stamp.replace(tzinfo=UTC).timestamp()


def _emission_attempts(
    attempts: list[Attempt], unused: list[tuple[Path, Emission]], offsets: dict[Path, int]
) -> list[Attempt]:
    """Runs of which only CodeCarbon's row is left: their joules were spent and stay in the log."""
    closed = [
        (attempt.record.stage_id, attempt.record.codecarbon_total_kwh)
        for attempt in attempts
        if attempt.record is not None and attempt.record.kind in ("final", "summary")
    ]
    found = []
    for run_dir, row in unused:
        ended = _local_seconds(row)
        known = any(
            project == row.project
            and total
            and row.total_kwh
            and math.isclose(total, row.total_kwh, rel_tol=1e-9)
            for project, total in closed
        )
        if known or ended is None or not row.duration_s or row.duration_s <= 0:
            continue
        offset = offsets.get(run_dir)
        end_us = seconds_to_us(ended - (offset or 0))
        doubts = [Doubt("only_codecarbon", "warning", {"codecarbon_duration_s": row.duration_s})]
        if offset is None:
            doubts.append(Doubt("time_zone_unknown", "warning", {"assumed": "UTC"}))
        folder = StageFolder(run_dir=run_dir, name=row.project or "codecarbon")
        start_us = end_us - seconds_to_us(row.duration_s)
        found.append(Attempt(folder, None, (), None, start_us, end_us, emission=row, doubts=tuple(doubts)))
    return found


def _distinct_attempts(attempts: list[Attempt]) -> list[Attempt]:
    """Drop copies of the same run in another folder; the copy that knows most stays.

    The same stage id over the same hours is the same run: the harness keeps one process a stage id.
    """
    kept: list[Attempt] = []
    for attempt in sorted(attempts, key=_knowledge, reverse=True):
        twin = next((index for index, other in enumerate(kept) if _same_hours(attempt, other)), None)
        if twin is None:
            kept.append(attempt)
        elif attempt.record is not None and not _agree(attempt, kept[twin]):
            kept[twin] = kept[twin].with_doubts(
                Doubt(
                    "records_differ",
                    "warning",
                    {
                        "other": attempt.record.kind,
                        "other_gpu_energy_j": attempt.record.gpu_energy_j,
                        "other_tokens": attempt.record.tokens,
                        "other_duration_s": attempt.duration_s,
                    },
                )
            )
    return kept


def _same_hours(first: Attempt, other: Attempt) -> bool:
    if stage_id_of(first) != stage_id_of(other):
        return False
    if abs(first.start_us - other.start_us) < US_PER_S and abs(first.end_us - other.end_us) < US_PER_S:
        return True
    shared = min(first.end_us, other.end_us) - max(first.start_us, other.start_us)
    return 2 * shared > min(first.end_us - first.start_us, other.end_us - other.start_us) > 0


def _agree(first: Attempt, other: Attempt) -> bool:
    if first.record is None or other.record is None:
        return True
    close = math.isclose(first.record.gpu_energy_j or 0.0, other.record.gpu_energy_j or 0.0, rel_tol=1e-6)
    return close and first.record.tokens == other.record.tokens


def _knowledge(attempt: Attempt) -> tuple[int, int, int, int]:
    trust = {"final": 3, "snapshot": 2, "summary": 2, "reconstructed": 1}
    return (
        0 if attempt.record is None else trust[attempt.record.kind],
        0 if attempt.power is None else len(attempt.power.t_us),
        0 if attempt.record is None else len(attempt.record.watts),
        int(attempt.folder.environment is not None) + int(attempt.folder.config is not None),
    )
