"""`kit artifacts find PROFILE|PIPELINE`: what is on the disk already and need not be made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.preflight import outlook_of, target_option

if TYPE_CHECKING:
    from harness.preflight.reuse import Found


@click.group()
def cmd() -> None:
    """Products of earlier runs: logit caches, synthetic sets, data sets."""


@cmd.command()
@click.argument("subject", metavar="PROFILE|PIPELINE")
@target_option
@click.option(
    "--in",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder to look in, with all below it (repeatable).  [default: runs]",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def find(subject: str, target: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Say which data set, logit cache and synthetic set on the disk fits what PROFILE or PIPELINE would make.

    Content decides, by digest: sources, tokenizer, template, teacher, temperatures, sampling. Exits with 1
    where something would have to be made.
    """
    from harness.preflight.reuse import find as look

    found = look(outlook_of(subject, target, None), list(folders) or [Path("runs")])
    if as_json:
        rows = [
            {**vars(entry), "path": entry.path and str(entry.path), "fits": entry.fits} for entry in found
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        for entry in found:
            click.echo(_line(entry))
    stages = {entry.stage for entry in found}
    fitting = {entry.stage for entry in found if entry.fits}
    click.get_current_context().exit(0 if stages == fitting and stages else 1)


def _line(found: Found) -> str:
    from harness.accounting.rounding import quantity

    if not found.fits:
        nearest = "" if found.path is None else f"; nearest {found.path}"
        return f"{found.stage}: no {found.what} fits{nearest}: {'; '.join(found.differs)}"
    paid = "cost unknown"
    if found.paid_j is not None:
        paid = f"{quantity(found.paid_j, 'J')}, paid by run {found.paid_by}"
    named = "" if found.digest is None else f" ({found.digest[:19]})"
    return f"{found.stage}: {found.what} fits: {found.path}{named}; {paid}"
