"""Reader for power_log.csv.

The harness writes the header once and appends later runs with whatever columns they have, and a killed
process may leave half a last line. Both are normal here; anything else that is not a sample is an error
with its line number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import KitError
from harness.interop.imported import MAX_BOARD_W, TOTAL_ONLY, US_PER_S, Samples
from harness.interop.log_files import FIX_ROW, MAX_UNIX_S, MIN_UNIX_S, read_text
from harness.interop.reference.records import PowerLog

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
