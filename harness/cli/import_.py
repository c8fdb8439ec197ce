"""`kit import`: logs of other tools become bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import FiniteRange

if TYPE_CHECKING:
    from harness.interop.write import ImportResult


@click.group()
def cmd() -> None:
    """Turn logs of other tools into a bundle that `kit validate` and `kit report` read."""


@cmd.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New or empty folder for the bundle."
)
@click.option("--name", help="Name of the run; the folder's by default.")
def reference(path: Path, out: Path, name: str | None) -> None:
    """Import a log folder of the authors' harness.

    PATH is a stage file, a stage folder, a `stages` folder, a run folder, or a folder with many of them.
    Every doubt about a figure becomes a flag of its stage and an event with what was observed.
    """
    from harness.interop.reference.importer import import_reference

    result = import_reference(path, out, name=name)
    for line in summary(result):
        click.echo(line)


@cmd.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="New or empty folder for the bundle."
)
@click.option("--name", help="Name of the run; the file's by default.")
@click.option(
    "--utc-offset",
    "utc_offset_h",
    metavar="HOURS",
    type=FiniteRange(-14, 14),
    default=0.0,
    show_default=True,
    help="Hours by which the file's clock was ahead of UTC.",
)
def codecarbon(path: Path, out: Path, name: str | None, utc_offset_h: float) -> None:
    """Import an emissions.csv of CodeCarbon 2.x or 3.x.

    Each run of a tracker becomes a stage with its totals. Only the last row of a run counts, because
    each holds all energy since the start; a PUE in the figures is taken out.
    """
    from harness.interop.codecarbon import import_codecarbon

    result = import_codecarbon(path, out, name=name, utc_offset_h=utc_offset_h)
    for line in summary(result):
        click.echo(line)


def summary(result: ImportResult) -> list[str]:
    """What was imported, one line for each stage, and what to look at next."""
    from harness.accounting import UNATTRIBUTED

    stages = [row for row in result.stages if row["stage"] != UNATTRIBUTED]
    lines = [f"imported {len(stages)} stage attempts into {result.folder}"]
    width = min(44, max(len(row["name"]) for row in stages))
    for row in stages:
        lines.append(f"  {row['name'][:width]:{width}}  {row['stage']:16}  {row['status']:9}  {_energy(row)}")
    lines.append("doubts (stages they concern; details are in the events):")
    doubts = sorted(result.doubts().items(), key=lambda item: (-item[1], item[0]))
    lines.extend(f"  {count:4}  {flag}" for flag, count in doubts)
    for count, what in (
        (result.run.copies, "copies of the same run were counted once"),
        (len(result.run.unplaced), "records without a time became events, not stages"),
        (result.run.ignored_files, "other files were not read"),
    ):
        if count:
            lines.append(f"{count} {what}")
    lines.append(f"next: kit validate {result.folder}   kit report {result.folder}")
    return lines


def _energy(row: dict[str, object]) -> str:
    """GPU energy with its interval in kWh, or why there is none."""
    values = [row[f"gpu_energy_j{end}"] for end in ("", "_low", "_high")]
    best, low, high = (value / 3.6e6 if isinstance(value, float) else None for value in values)
    if best is None or low is None or high is None:
        return "GPU energy unknown"
    return f"{best:.4g} kWh GPU ({low:.4g} .. {high:.4g}, {row['gpu_energy_method']})"
