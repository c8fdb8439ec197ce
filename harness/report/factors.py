"""Grid intensity and PUE with year, source and licence; nothing is assumed that was not asked for."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache

from harness.errors import KitError
from harness.spec import protocol_root


@dataclass(frozen=True)
class GridFactor:
    """Electricity of a region in one year, grams CO2e per kWh."""

    factor_id: str
    region: str
    name: str
    year: int
    g_co2e_per_kwh: float
    source: str
    licence: str


@cache
def grid_factors(version: str = "1.0") -> tuple[GridFactor, ...]:
    """All rows of grid.csv, oldest first.

    Raises:
        KitError: the file is missing or a row is not as it should be.
    """
    path = protocol_root() / version / "factors" / "grid.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                GridFactor(
                    factor_id=row["factor_id"],
                    region=row["region"],
                    name=row["name"],
                    year=int(row["year"]),
                    g_co2e_per_kwh=float(row["g_co2e_per_kwh"]),
                    source=row["source"],
                    licence=row["licence"],
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise KitError(
            f"not a table of factors: {error}", where=str(path), fix="reinstall the package"
        ) from None
    return tuple(sorted(rows, key=lambda row: row.year))


def region_factors(region: str) -> tuple[GridFactor, ...]:
    """Every year known for a region, oldest first; the last one is used, the others show what the year does.

    Args:
        region: ISO 3166-1 alpha-3 code.

    Raises:
        KitError: no factor for this region.
    """
    factors = grid_factors()
    found = tuple(factor for factor in factors if factor.region == region.upper())
    if not found:
        known = sorted({factor.region for factor in factors})
        names = {factor.name.lower(): factor.region for factor in factors}
        near = difflib.get_close_matches(
            region.lower(), [*names, *(k.lower() for k in known)], n=1, cutoff=0.6
        )
        guess = names.get(near[0], near[0].upper()) if near else None
        raise KitError(
            f"no grid factor for region {region!r}",
            where="--region",
            expected=f"one of {', '.join(known)}",
            fix=f"--region {guess}" if guess else None,
        )
    return found
