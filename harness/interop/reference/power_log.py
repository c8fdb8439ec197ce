"""power_log.csv: read, cut into runs, and handed to each run as the samples of its window.

The harness writes the header once and appends later runs of a stage with whatever columns they have, and a
killed process may leave half a last line. Both are normal here; anything else that is not a sample is an
error with its line number.

Samples are never carried across a change of columns, a second header, a step back in time or a silence
longer than `SPLIT_S`, unless a record written by the harness itself says that one run spans it: then the
silence is a gap of that run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.errors import KitError
from harness.interop.imported import MAX_BOARD_W, TOTAL_ONLY, US_PER_S, Samples
from harness.interop.log_files import FIX_ROW, MAX_UNIX_S, MIN_UNIX_S, read_text
from harness.interop.reference.records import PowerLog

EDGE_US = 2 * US_PER_S
"""Samples this close outside a recorded window belong to it: the poller starts before and stops after the
stage."""

SPLIT_S = 300.0
"""Silence that separates two runs. The longest silence inside a published run is 41.4 s; a restart
needs to load a 32B teacher or wait in a queue, minutes to hours."""

_GPU_COLUMN = re.compile(r"gpu_(\d+)_power_w")


def read_power_log(path: Path) -> PowerLog:
    """Read a power_log.csv of any layout.

    Raises:
        KitError: The file cannot be read, has no sample, or a line other than the last is not a sample.
    """
    lines = read_text(path, expected="a CSV file", fix=FIX_ROW).split("\n")
    ends_complete = lines[-1] == ""
    blocks: list[_BlockRows] = []
    columns: tuple[int, ...] | None = None
    header_missing = after_header = False
    truncated: int | None = None
    last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=0)
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.strip().split(",")]
        if cells == [""]:
            continue
        if cells[0] == "timestamp":
            columns, after_header = _header(cells, path, number), True
            continue
        sample = _sample(cells)
        expected_cells = None if columns is None else 1 + len(columns) + (columns != (TOTAL_ONLY,))
        if number == last and (sample is None or (not ends_complete and _cut(sample, expected_cells))):
            truncated = number
            continue
        if sample is None:
            raise KitError(
                f"not a sample: {line if len(line) <= 60 else line[:57] + '...'!r}",
                where=f"{path}:{number}",
                expected="timestamp in unix seconds, then one number a column",
                fix=FIX_ROW,
            )
        gpus = columns if len(cells) == expected_cells and columns is not None else _guess_columns(len(cells))
        if columns is None:
            header_missing, columns = True, gpus
        if not blocks or blocks[-1].gpus != gpus or after_header:
            blocks.append(_BlockRows(gpus))
            after_header = False
        blocks[-1].add(sample)
    if not blocks:
        raise KitError(
            "holds no sample",
            where=str(path),
            expected="rows of timestamp,gpu_<i>_power_w...,total_power_w",
            fix="copy the file again, or remove it: the stage is then imported from its recorded total",
        )
    return PowerLog(
        blocks=tuple(block.build() for block in blocks),
        header_missing=header_missing,
        truncated_line=truncated,
        unusable_readings=sum(block.unusable for block in blocks),
        total_mismatch=sum(block.mismatch for block in blocks),
    )


@dataclass
class _BlockRows:
    """Rows collected until the columns change."""

    gpus: tuple[int, ...]
    unusable: int = 0
    mismatch: int = 0
    t_s: list[float] = field(default_factory=list)
    watts: list[list[float]] = field(default_factory=list)

    def add(self, sample: list[float]) -> None:
        watts = sample[1:] if self.gpus == (TOTAL_ONLY,) else sample[1:-1]
        self.mismatch += self.gpus != (TOTAL_ONLY,) and _total_differs(sample)
        # The harness writes 0.0 for a card it could not read; a board that draws 0 W does not exist.
        usable = [watt if 0.0 < watt < MAX_BOARD_W * len(watts) else math.nan for watt in watts]
        self.unusable += sum(math.isnan(watt) for watt in usable)
        self.t_s.append(sample[0])
        self.watts.append(usable)

    def build(self) -> Samples:
        t_us = np.round(np.array(self.t_s, dtype=np.float64) * US_PER_S).astype(np.int64)
        return Samples(self.gpus, t_us, np.array(self.watts, dtype=np.float64).reshape(len(t_us), -1))


def _header(cells: list[str], path: Path, number: int) -> tuple[int, ...]:
    gpus = [int(match[1]) for cell in cells if (match := _GPU_COLUMN.fullmatch(cell))]
    if cells[-1] != "total_power_w" or 2 + len(gpus) != len(cells) or len(set(gpus)) != len(gpus):
        raise KitError(
            f"header {','.join(cells)[:80]!r}",
            where=f"{path}:{number}",
            expected="timestamp,gpu_<i>_power_w...,total_power_w",
            fix="restore the header the harness wrote",
        )
    return tuple(gpus) or (TOTAL_ONLY,)


def _guess_columns(cells: int) -> tuple[int, ...]:
    """Columns of a row that fits no header: GPUs from 0 and their total, or the total alone."""
    return tuple(range(cells - 2)) if cells > 2 else (TOTAL_ONLY,)


def _sample(cells: list[str]) -> list[float] | None:
    """[unix seconds, watts...] with NaN for an empty reading; None if the line is not a sample."""
    try:
        values = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    return values if len(values) > 1 and MIN_UNIX_S < values[0] < MAX_UNIX_S else None


def _cut(sample: list[float], expected_cells: int | None) -> bool:
    """True if an unterminated last line lost cells or digits (its total then no longer fits)."""
    if len(sample) != expected_cells:
        return expected_cells is not None
    return len(sample) > 2 and _total_differs(sample)


def _total_differs(sample: list[float]) -> bool:
    return abs(math.fsum(sample[1:-1]) - sample[-1]) > 0.1


class PowerRuns:
    """The samples of one power_log.csv, taken away piece by piece."""

    def __init__(self, log: PowerLog) -> None:
        self._pieces: list[Samples] = []
        self.column_changes = sum(before.gpus != after.gpus for before, after in pairwise(log.blocks))
        for block in log.blocks:
            steps = np.diff(block.t_us)
            cuts = np.flatnonzero((steps <= 0) | (steps > round(SPLIT_S * US_PER_S))) + 1
            pieces = zip(np.split(block.t_us, cuts), np.split(block.watts, cuts), strict=True)
            self._pieces += [Samples(block.gpus, t_us, watts) for t_us, watts in pieces]

    def count_between(self, start_us: int, end_us: int) -> int:
        """Pieces with samples inside the window."""
        return sum(bool(len(piece.between(start_us, end_us).t_us)) for piece in self._pieces)

    def take(self, start_us: int, end_us: int, *, until_us: int | None = None) -> Samples | None:
        """Remove and return the samples of one run.

        Args:
            start_us: Recorded start of the run, unix microseconds.
            end_us: Recorded end.
            until_us: For a run that went on after its last record: also take what follows without a cut, up
                to here.

        Returns:
            The samples, or None when the log has none inside the window.
        """
        weight: Counter[tuple[int, ...]] = Counter()
        for piece in self._pieces:
            if inside := len(piece.between(start_us, end_us).t_us):
                weight[piece.gpus] += inside
        if not weight:
            return None
        # One process polls one set of cards: the set with most samples is the run, others are its neighbours.
        gpus = weight.most_common(1)[0][0]
        own = [p for p in self._pieces if p.gpus == gpus and len(p.between(start_us, end_us).t_us)]
        last = max(own, key=lambda piece: int(piece.t_us[-1]))
        first_us, parts, left = start_us - EDGE_US, [], []
        for piece in self._pieces:
            if not any(piece is one for one in own):
                left.append(piece)
                continue
            stop_us = end_us + EDGE_US
            if until_us is not None and piece is last:
                stop_us = max(stop_us, until_us)
            parts.append(piece.between(first_us, stop_us))
            for side in (piece.t_us < first_us, piece.t_us > stop_us):
                if side.any():
                    left.append(Samples(piece.gpus, piece.t_us[side], piece.watts[side]))
        self._pieces = left
        return _join(parts)

    def rest(self) -> tuple[list[Samples], int]:
        """What no record claims: one series a run, and the number of stray samples too few to integrate."""
        runs = [piece for piece in self._pieces if len(piece.t_us) > 1]
        stray = len(self._pieces) - len(runs)
        return sorted(runs, key=lambda piece: int(piece.t_us[0])), stray


def _join(parts: list[Samples]) -> Samples:
    """One increasing series. Where the clock ran back, the later-written samples win: their clock was set
    right."""
    back = sum(bool(after.t_us[0] <= before.t_us[-1]) for before, after in pairwise(parts))
    t_us, watts = parts[0].t_us, parts[0].watts
    for part in parts[1:]:
        keep = t_us < part.t_us[0]
        t_us = np.concatenate([t_us[keep], part.t_us])
        watts = np.concatenate([watts[keep], part.watts])
    return Samples(parts[0].gpus, t_us, watts, steps_back=back)
