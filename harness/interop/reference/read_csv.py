"""Readers for power_log.csv and CodeCarbon's emissions.csv.

The harness writes the header once and appends later runs with whatever columns they have, and a killed
process may leave half a last line. Both are normal here; anything else that is not a sample is an error
with its line number.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np

from harness.errors import KitError
from harness.interop.reference.read_json import LARGEST
from harness.interop.reference.records import MAX_UNIX_S, MIN_UNIX_S, Emission, PowerBlock, PowerLog

TOTAL_ONLY = -1
"""GPU index of a column that is already the sum over GPUs."""

_GPU_COLUMN = re.compile(r"gpu_(\d+)_power_w")
MAX_BOARD_W = 10_000.0
"""A reading or a limit beyond this is not one of a single board, W."""
_FIX_ROW = "remove that line (or restore the file) and import again; the joules of one row are then a gap"


def read_power_log(path: Path) -> PowerLog:
    """Read a power_log.csv of any layout.

    Raises:
        KitError: The file cannot be read, has no sample, or a line other than the last is not a sample.
    """
    lines = _text(path).split("\n")
    ends_complete = lines[-1] == ""
    blocks: list[_Block] = []
    columns: tuple[int, ...] | None = None
    header_missing = False
    truncated: int | None = None
    after_header = False
    last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=0)
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.strip().split(",")]
        if cells == [""]:
            continue
        if cells[0] == "timestamp":
            columns = _header(cells, path, number)
            after_header = True
            continue
        sample = _sample(cells)
        expected_cells = None if columns is None else 1 + len(columns) + (columns != (TOTAL_ONLY,))
        if number == last and (sample is None or (not ends_complete and _cut(sample, expected_cells))):
            truncated = number
            continue
        if sample is None:
            raise _bad_row(path, number, line)
        gpus = columns if len(cells) == expected_cells and columns is not None else _guess_columns(len(cells))
        if columns is None:
            header_missing, columns = True, gpus
        if not blocks or blocks[-1].gpus != gpus or after_header:
            blocks.append(_Block(number, gpus, new_header=after_header and bool(blocks)))
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
        path=path,
        blocks=tuple(block.build() for block in blocks),
        header_missing=header_missing,
        truncated_line=truncated,
        unusable_readings=sum(block.unusable for block in blocks),
        total_mismatch=sum(block.mismatch for block in blocks),
    )


class _Block:
    """Rows collected until the columns change."""

    def __init__(self, first_line: int, gpus: tuple[int, ...], *, new_header: bool) -> None:
        self.first_line = first_line
        self.gpus = gpus
        self.new_header = new_header
        self.unusable = 0
        self.mismatch = 0
        self._t: list[float] = []
        self._watts: list[list[float]] = []

    def add(self, sample: list[float]) -> None:
        watts = sample[1:] if self.gpus == (TOTAL_ONLY,) else sample[1:-1]
        if self.gpus != (TOTAL_ONLY,) and abs(math.fsum(watts) - sample[-1]) > 0.1:
            self.mismatch += 1
        # The harness writes 0.0 for a card it could not read; a board that draws 0 W does not exist.
        usable = [watt if 0.0 < watt < MAX_BOARD_W * len(watts) else math.nan for watt in watts]
        self.unusable += sum(math.isnan(watt) for watt in usable)
        self._t.append(sample[0])
        self._watts.append(usable)

    def build(self) -> PowerBlock:
        return PowerBlock(
            first_line=self.first_line,
            gpus=self.gpus,
            t_s=np.array(self._t, dtype=np.float64),
            watts=np.array(self._watts, dtype=np.float64).reshape(len(self._t), len(self.gpus)),
            new_header=self.new_header,
        )


def _header(cells: list[str], path: Path, number: int) -> tuple[int, ...]:
    gpus = [int(match[1]) for cell in cells if (match := _GPU_COLUMN.fullmatch(cell))]
    known = 1 + len(gpus) + (cells[-1] == "total_power_w")
    if known != len(cells) or len(set(gpus)) != len(gpus) or len(cells) < 2 or cells[-1] != "total_power_w":
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
    if len(cells) < 2:
        return None
    try:
        values = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    return values if MIN_UNIX_S < values[0] < MAX_UNIX_S else None


def _cut(sample: list[float], expected_cells: int | None) -> bool:
    """True if an unterminated last line lost cells or digits (its total then no longer fits)."""
    if len(sample) != expected_cells:
        return expected_cells is not None
    return len(sample) > 2 and abs(math.fsum(sample[1:-1]) - sample[-1]) > 0.1


def _bad_row(path: Path, number: int, line: str) -> KitError:
    shown = line if len(line) <= 60 else line[:57] + "..."
    return KitError(
        f"not a sample: {shown!r}",
        where=f"{path}:{number}",
        expected="timestamp in unix seconds, then one number a column",
        fix=_FIX_ROW,
    )


def read_emissions(path: Path) -> tuple[Emission, ...]:
    """Read an emissions.csv (or a .bak) of CodeCarbon 2.x or 3.x; columns are found by name.

    Raises:
        KitError: The header is not CodeCarbon's, or a row has another number of cells or an unreadable
        number.
    """
    rows = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        table = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise KitError(
            f"not CSV: {error}", where=f"{path}:{rows.line_num}", expected="an emissions.csv", fix=_FIX_ROW
        ) from error
    if not table:
        return ()
    header = table[0][1]
    if "project_name" not in header or "energy_consumed" not in header:
        raise KitError(
            f"header {','.join(header)[:80]!r}",
            where=f"{path}:1",
            expected="CodeCarbon's columns, among them project_name and energy_consumed",
            fix="restore the header CodeCarbon wrote",
        )
    emissions = []
    for number, cells in table[1:]:
        if len(cells) != len(header):
            raise KitError(
                f"{len(cells)} cells",
                where=f"{path}:{number}",
                expected=f"{len(header)} cells as in the header",
                fix=_FIX_ROW,
            )
        emissions.append(_emission(dict(zip(header, cells, strict=True)), path, number))
    return tuple(emissions)


def _emission(row: dict[str, str], path: Path, line: int) -> Emission:
    def number(name: str) -> float | None:
        text = row.get(name, "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST:
            raise KitError(
                f"column {name} holds {text[:40]!r}",
                where=f"{path}:{line}",
                expected=f"a number up to {LARGEST:g}",
                fix=_FIX_ROW,
            )
        return value

    def count(name: str) -> int | None:
        value = number(name)
        return None if value is None else round(value)

    return Emission(
        path=path,
        line=line,
        project=row["project_name"],
        ended_local=row.get("timestamp", ""),
        duration_s=number("duration"),
        cpu_kwh=number("cpu_energy"),
        gpu_kwh=number("gpu_energy"),
        ram_kwh=number("ram_energy"),
        total_kwh=number("energy_consumed"),
        cpu_power_w=number("cpu_power"),
        version=row.get("codecarbon_version") or None,
        tracking_mode=row.get("tracking_mode") or None,
        cpu_model=row.get("cpu_model") or None,
        cpu_count=count("cpu_count"),
        gpu_count=count("gpu_count"),
        gpu_model=row.get("gpu_model") or None,
        python=row.get("python_version") or None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise KitError(
            f"cannot be read ({error.strerror})", where=str(path), fix="check the file's permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise KitError(
            f"byte {error.start} is not UTF-8 text", where=str(path), expected="a CSV file", fix=_FIX_ROW
        ) from error
