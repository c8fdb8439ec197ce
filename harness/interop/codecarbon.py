"""Reads emissions.csv of CodeCarbon 2.x and 3.x; columns are found by name."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import KitError
from harness.interop.imported import LoggedGpu
from harness.interop.log_files import FIX_ROW, Fields, read_text

EMISSIONS_NAME = re.compile(r"emissions\w*\.csv(_\d+)?(\.bak)?")
"""Names of the file and of the copies that CodeCarbon makes of it."""
_COUNTED_MODEL = re.compile(r"(\d+) x (.+)")


@dataclass(frozen=True, slots=True)
class Emission:
    """One row of emissions.csv (energies in kWh, `ended_local` without a time zone)."""

    project: str
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

    @property
    def ended_if_utc_s(self) -> float | None:
        """`ended_local` read as if it were UTC, unix seconds; None if it is no time."""
        try:
            return datetime.fromisoformat(self.ended_local).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return None

    @property
    def gpus(self) -> tuple[LoggedGpu, ...]:
        """Cards from CodeCarbon's text, such as "1 x NVIDIA H100 80GB HBM3"."""
        match = _COUNTED_MODEL.fullmatch(self.gpu_model or "")
        return tuple(LoggedGpu(index, match[2]) for index in range(min(int(match[1]), 64))) if match else ()


def read_emissions(path: Path) -> tuple[Emission, ...]:
    """The rows of an emissions.csv or of one of its copies.

    Raises:
        KitError: The header is not CodeCarbon's, or a row has another number of cells or an unreadable
        number.
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
    if "project_name" not in header or "energy_consumed" not in header:
        raise KitError(
            f"header {','.join(header)[:80]!r}",
            where=f"{path}:1",
            expected="CodeCarbon's columns, among them project_name and energy_consumed",
            fix="restore the header CodeCarbon wrote",
        )
    emissions = []
    for number, cells in table[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            expected = f"{len(header)} cells as in the header"
            raise KitError(f"{len(cells)} cells", where=where, expected=expected, fix=FIX_ROW)
        row = Fields(dict(zip(header, cells, strict=True)), where, FIX_ROW)
        emissions.append(
            Emission(
                project=row.text("project_name") or "",
                ended_local=row.text("timestamp") or "",
                duration_s=row.number("duration"),
                cpu_kwh=row.number("cpu_energy"),
                gpu_kwh=row.number("gpu_energy"),
                ram_kwh=row.number("ram_energy"),
                total_kwh=row.number("energy_consumed"),
                version=row.text("codecarbon_version"),
                tracking_mode=row.text("tracking_mode"),
                cpu_model=row.text("cpu_model"),
                gpu_count=row.count("gpu_count"),
                gpu_model=row.text("gpu_model"),
            )
        )
    return tuple(emissions)
