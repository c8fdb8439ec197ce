"""`kit compare` and `kit runs`: several runs beside each other, and which there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


@click.command("compare")
@click.argument(
    "folders", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "--region",
    metavar="CODE",
    help="Grid for CO2e: FRA, US-CA or an id of `kit factors`.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(folders: tuple[Path, ...], region: str | None, as_json: bool) -> None:
    """Set runs beside each other; the first is what the others are compared with.

    What all runs of a machine share cancels in the ratio of two energies, and Q is compared item by item.
    Runs whose names differ by their seed alone (NAME-seed1) are repeats: one column with mean and spread.
    Where two runs may not be compared, every difference is named and no ratio is given.
    """
    from harness.report.model import Options, build
    from harness.report.side_by_side import as_dicts, rows, side_by_side

    if len(folders) < 2:
        raise click.UsageError("give at least two runs; kit report shows one")
    sides = side_by_side([build(folder, Options(region=region)) for folder in folders], folders)
    if as_json:
        click.echo(json.dumps(as_dicts(sides), indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    from harness.cli.console import stdout_console
    from harness.text import MAX_LINE, shown

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for side in sides:
        table.add_column(Text(side.name), overflow="fold")
    for name, cells in rows(sides):
        table.add_row(name, *(Text(shown(cell)) for cell in cells))
    console = stdout_console()
    console.print(table)
    for side in sides:
        for words in side.differences:
            text = f"{side.name} does not compare with {sides[0].name}: {words}"
            console.print(Text(shown(text, limit=MAX_LINE)))


@click.command("runs")
@click.argument(
    "folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def runs(folder: Path, as_json: bool) -> None:
    """List the runs below DIR: name, date, method, state, energy, Q. Every figure is recomputed."""
    from harness.bundle.reader import run_folders
    from harness.text import aligned, terminal_width

    found = [_row(path, folder) for path in run_folders(folder)]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    if not found:
        click.echo(f"kit: no run below {folder}", err=True)
        raise click.exceptions.Exit(1)
    names = ("run", "date", "method", "state", "energy", "Q", "labels")
    cells = [names, *(tuple(_words(row)) for row in found)]
    click.echo("\n".join(aligned(cells, terminal_width())))


def _row(path: Path, below: Path) -> dict[str, Any]:
    from harness.errors import KitError
    from harness.report.comparison import finite, q_of, stated_energy, whole_energy
    from harness.report.model import build

    row: dict[str, Any] = {"run": str(path.relative_to(below)) if path != below else path.name}
    if not (path / "manifest.json").exists():
        return {**row, "state": "not sealed", "note": f"kit recover {path}"}
    try:
        report = build(path)
    except KitError as error:
        return {**row, "state": "unreadable", "note": str(error).splitlines()[0]}
    manifest, q = report.manifest, q_of(report)
    return row | {
        "name": manifest.get("name"),
        "created_t_us": manifest.get("created_t_us"),
        "method": manifest.get("method"),
        "state": manifest.get("status"),
        "energy_j": None if whole_energy(report) is None else finite(stated_energy(report)),
        "quality": None if q is None else finite(q),
        "labels": list(manifest.get("labels") or ()),
    }


def _words(row: dict[str, Any]) -> Iterator[str]:
    from harness.accounting.rounding import quantity
    from harness.report.words import utc
    from harness.text import shown

    energy, q, made = row.get("energy_j"), row.get("quality"), utc(row.get("created_t_us"))
    yield shown(row["run"])
    yield "-" if made is None else made.strftime("%Y-%m-%d %H:%M")
    yield shown(str(row.get("method", "-")))
    yield shown(str(row["state"]))
    yield "-" if energy is None else quantity(energy["best"], "J", energy["low"], energy["high"])
    yield "-" if q is None else f"{q['best']:.3f}"
    yield shown(", ".join(map(str, row.get("labels", ()))) or str(row.get("note", "")))
