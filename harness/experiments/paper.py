"""The published values, as `artifacts/paper` holds them, and what follows from them by our accounting.

Energies there are decimal kilowatt-hours; a cell that no source gives is None, never zero.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.accounting import BreakEven, Interval, break_even
from harness.accounting.interval import total
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.shared_scales import alone
from harness.accounting.totals import per_token
from harness.errors import KitError
from harness.report.palette import role_of
from harness.report.study import Entry
from harness.spec import load_protocol

REFERENCE_TOKENS = 30_000_000
"""The one denominator under all published J/token (they imply 29.97 to 30.03 M)."""

Key = tuple[str, str]
"""Regime and size."""


@dataclass(frozen=True)
class Published:
    """A row of the main table with its stages.

    Attributes:
        energy_kwh: Total; None where no source gives it.
        energy_j_per_token: Over one nominal token count for all rows.
        quality: Relative quality Q.
        stages_kwh: Kind of stage to energy; empty where no source gives it.
        energy_source: Where the total is from.
    """

    regime: str
    size: str
    energy_kwh: float | None
    energy_j_per_token: float | None
    quality: float | None
    stages_kwh: Mapping[str, float]
    energy_source: str

    @property
    def total(self) -> Interval | None:
        """Sum of the published stages in joules, by our accounting; None without stages."""
        if not self.stages_kwh:
            return None
        return total(Interval.exact(kwh * J_PER_KWH) for kwh in self.stages_kwh.values())

    @property
    def per_token(self) -> Interval | None:
        """J/token of the published total over the declared 30.0 M tokens."""
        if self.energy_kwh is None:
            return None
        return per_token(Interval.exact(self.energy_kwh * J_PER_KWH), REFERENCE_TOKENS)

    @property
    def teacher_kwh(self) -> float | None:
        """Energy of the teacher's stage; None without one or where it is not published."""
        kinds = load_protocol().kinds("teacher")
        known = [self.stages_kwh[kind] for kind in kinds if kind in self.stages_kwh]
        return known[0] if known else None


@cache
def published() -> Mapping[Key, Published]:
    """The published table by (regime, size).

    Raises:
        KitError: The files are not there (they belong to the checkout) or do not hold the columns.
    """
    stages: dict[Key, dict[str, float]] = {}
    for row in _rows("stage_table.csv"):
        stages.setdefault((row["pipeline"], row["size"]), {})[row["stage"]] = float(row["energy_kwh"])
    found = {}
    for row in _rows("main_table.csv"):
        key = row["pipeline"], row["size"]
        found[key] = Published(
            *key,
            energy_kwh=_number(row["energy_kwh"]),
            energy_j_per_token=_number(row["energy_j_per_token"]),
            quality=_number(row["quality"]),
            stages_kwh=stages.get(key, {}),
            energy_source=row["energy_source"],
        )
    return found


def published_break_even(regime: str, size: str, student_rel: float = 0.0) -> BreakEven | None:
    """N* from the published stage energies; None where a stage is not published.

    Args:
        regime: kd or synthetic_sft.
        size: Size of the student.
        student_rel: Relative half-width to give both students' energies.
    """
    cell, baseline = published().get((regime, size)), published().get(("sft", size))
    if cell is None or baseline is None or cell.teacher_kwh is None:
        return None
    students = [
        Interval(kwh, kwh * (1 - student_rel), kwh * (1 + student_rel))
        for kwh in (baseline.stages_kwh["student_train"], cell.stages_kwh["student_train"])
    ]
    return break_even(Interval.exact(cell.teacher_kwh), *students)


def paper_root() -> Path:
    """Folder of the published values: inside an installed package or in the checkout beside it.

    Raises:
        KitError: In neither.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_paper", package.parent / "artifacts" / "paper")
    for folder in candidates:
        if (folder / "main_table.csv").is_file():
            return folder
    raise KitError(
        "the published values are missing",
        where=str(candidates[-1]),
        fix="run from a checkout of the repository",
    )


def _rows(name: str) -> Iterator[dict[str, str]]:
    path = paper_root() / name
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"cannot be read: {error}", where=str(path)) from None


def _number(text: str) -> float | None:
    return float(text) if text else None


def published_entries() -> list[Entry]:
    """The published cells for figures; exact values, in a group of their own.

    Raises:
        KitError: as `published`.
    """
    protocol = load_protocol()
    found = []
    for (regime, size), cell in published().items():
        if cell.energy_kwh is None:
            continue
        base = published().get(("sft", size))
        energy = cell.energy_kwh * J_PER_KWH
        roles: dict[str, float] = {}
        for kind, kwh in cell.stages_kwh.items():
            role = role_of(kind, protocol)
            roles[role] = roles.get(role, 0.0) + kwh * J_PER_KWH
        parts, extra = None, None
        if regime != "sft" and base is not None and base.energy_kwh is not None:
            extra = Interval.exact(energy - base.energy_kwh * J_PER_KWH)
            if cell.teacher_kwh is not None and base.stages_kwh:
                students = (base.stages_kwh["student_train"], cell.stages_kwh["student_train"])
                joules = [kwh * J_PER_KWH for kwh in (cell.teacher_kwh, *students)]
                parts = tuple(alone(Interval.exact(j)) for j in joules)
        found.append(
            Entry(
                name=f"{regime.replace('_', '-')}-{size}",
                method=regime,
                size=size,
                group="published (arXiv 2605.13981)",
                energy=alone(Interval.exact(energy)),
                roles=roles,
                quality=None if cell.quality is None else Interval.exact(cell.quality),
                tokens=REFERENCE_TOKENS,
                parts=None if parts is None else (parts[0], parts[1], parts[2]),
                extra=extra,
            )
        )
    return found
