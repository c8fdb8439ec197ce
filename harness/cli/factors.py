"""`kit factors`: grid intensities and PUE values, each with its year, source and licence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.spec.factors import GridFactor, Pue


@click.command("factors")
@click.argument("words", nargs=-1, metavar="[REGION]")
@click.option("--year", type=int, metavar="YEAR", help="The factor of one year instead of the newest.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
)
def cmd(words: tuple[str, ...], year: int | None, form: str) -> None:
    """Show the grid intensity of REGION: value, year, source, licence, and what another year would change.

    REGION is a country (FRA, FR or France), a US state or Canadian province (US-CA, Quebec), or the id of a
    factor (ember-fra-2023). Without it all regions are listed, with `pue` the published PUE values.
    """
    from harness.errors import KitError
    from harness.report.factor_text import as_csv, as_json, newest
    from harness.spec.factors import factor_of_year, grid_factors, pue_factors, region_factors

    # Names of several words need no quotes: `kit factors South Africa`.
    region = " ".join(words) if words else None
    rows: Sequence[GridFactor | Pue]
    if region is None or region.strip().lower() == "pue":
        rows = pue_factors() if region else newest() if form == "text" and year is None else grid_factors()
        years = ", ".join(map(str, sorted({row.year for row in rows})))
        rows = [row for row in rows if year in (None, row.year)]
        if not rows:
            raise KitError(f"no factor of {year}", where="--year", expected=f"one of the years {years}")
    else:
        rows = region_factors(region) if year is None else factor_of_year(region, year)
    if form == "text":
        _print(region, rows)
    else:
        click.echo((as_json if form == "json" else as_csv)(rows).rstrip("\n"))


def _print(region: str | None, rows: Sequence[GridFactor | Pue]) -> None:
    from harness.cli.console import stdout_console
    from harness.report.factor_text import print_list, print_region
    from harness.spec.factors import GridFactor

    grid = [row for row in rows if isinstance(row, GridFactor)]
    console = stdout_console()
    if region is not None and grid:
        print_region(grid, console)
    else:
        print_list(rows, console)
