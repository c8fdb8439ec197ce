"""Grid and PUE factors for people and programs: one in full, many as a table, JSON, CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.spec.factors import SCOPES, GridFactor, Pue, attribution, grid_factors, regions
from harness.text import csv_text
from harness.validate.text import trimmed

if TYPE_CHECKING:
    from rich.console import Console


def newest() -> list[GridFactor]:
    """The factor that each region's name stands for: the newest, of one year that of the lifecycle."""
    last = {f.region: f for f in sorted(grid_factors(), key=lambda f: (f.year, f.scope == "lifecycle"))}
    return [last[region] for region in dict.fromkeys(f.region for f in grid_factors())]


def print_region(factors: Sequence[GridFactor], console: Console) -> None:
    """The first factor in full, then the others of its region.

    Args:
        factors: of one region, as `region_factors` orders them.
        console: rich console.
    """
    with trimmed(console):
        _region(factors, console)


def _region(factors: Sequence[GridFactor], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    used = factors[0]
    heading = f"{used.name} ({used.region}) {used.year}: {_value(used)} g {used.gas}/kWh"
    console.print(Text(heading, "bold"))
    facts = {
        "id": used.factor_id,
        "scope": f"{used.scope}: {SCOPES[used.scope]}",
        "basis": f"{used.basis}: electricity generated there, imports left out",
        "method": used.method,
        "source": f"{used.source}, {used.source_url}",
        "licence": used.licence,
        "taken from": f"{used.wheel}, {used.file}, retrieved {used.retrieved}",
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, Text(value))
    console.print(grid)
    others = [f for f in factors[1:] if f.series == used.series]
    for other in others:
        old, new = sorted((used, other), key=lambda f: f.year)
        change = f"{new.value / old.value - 1:+.1%} from {old.year} to {new.year}"
        console.print(Text(f"{other.year}: {_value(other)} g/kWh ({other.factor_id}), {change}"))
    for other in factors[1:]:
        if other.series != used.series:
            console.print(
                Text(f"{other.year}: {_value(other)} g/kWh {other.scope} ({other.factor_id}), {other.source}")
            )
    parent = regions()[used.region].parent
    if parent:
        console.print(Text(f"The whole country: kit factors {parent}", "dim"))
    elif any(region.parent == used.region for region in regions().values()):
        states = "states: kit factors US-TX" if used.region == "USA" else "provinces: kit factors CA-QC"
        console.print(Text(f"Its {states}", "dim"))


def print_list(rows: Sequence[GridFactor | Pue], console: Console) -> None:
    """A line for each factor, then whom to credit.

    Args:
        rows: factors of either kind, all of one.
        console: rich console.
    """
    with trimmed(console):
        _list(rows, console)


def _list(rows: Sequence[GridFactor | Pue], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("id", "name", "year", "PUE", "category")
    if isinstance(rows[0], GridFactor):
        heads = ("region", "name", "year", "g CO2e/kWh", "scope")
    for head in heads:
        right = head in ("year", "PUE", "g CO2e/kWh")
        table.add_column(head, justify="right" if right else "left", no_wrap=head != "name")
    for row in rows:
        if isinstance(row, GridFactor):
            cells = (row.region, row.name, str(row.year), f"{row.value:.1f}", row.scope)
        else:
            cells = (row.factor_id, row.name, str(row.year), f"{row.value:.2f}", row.category)
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print()
    for credit in dict.fromkeys(map(attribution, rows)):
        console.print(Text(credit, "dim"))


def _value(factor: GridFactor) -> str:
    return f"{factor.value:.4g}"


def as_json(rows: Sequence[GridFactor | Pue]) -> str:
    """A list of objects with the columns of the table, and each with its `attribution`."""
    return json.dumps([_dict(row) for row in rows], indent=2, ensure_ascii=False)


def _dict(row: GridFactor | Pue) -> dict[str, Any]:
    return {**asdict(row), "attribution": attribution(row)}


def as_csv(rows: Sequence[GridFactor | Pue]) -> str:
    """The rows as in protocol/<version>/factors."""
    return csv_text([asdict(row) for row in rows])
