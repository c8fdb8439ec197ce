"""`kit recover`: seal what a killed run left behind."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_dir", metavar="DIR", type=click.Path(path_type=Path))
def cmd(run_dir: Path) -> None:
    """Seal the journals in DIR into a bundle.

    For a run whose process was killed or whose machine went down. Stages without a recorded end become
    `interrupted`; nothing that reached the disk is lost. A run that is sealed already is left as it is.
    Exits 1 if a part of a journal was damaged or makes no sense: the rest is sealed, the journal is kept.
    """
    from harness.accounting import UNATTRIBUTED
    from harness.audit.late_reports import take_late_reports
    from harness.bundle.reader import Bundle
    from harness.bundle.seal import DAMAGED, recover
    from harness.journal.reading import journal_files

    waiting = len(journal_files(run_dir))
    take_late_reports(run_dir)
    recover(run_dir)
    bundle = Bundle.open(run_dir)
    if not waiting:
        click.echo(f"{run_dir}: sealed already (status {bundle.manifest['status']}), nothing to recover")
        return
    rows = [row for row in bundle.table("stages").to_pylist() if row["stage"] != UNATTRIBUTED]
    for row in rows:
        click.echo(f"  {row['name']} attempt {row['attempt']}: {row['status']}")
    click.echo(f"{run_dir}: {waiting} journals sealed, {len(rows)} stages, {bundle.rows('power')} samples")
    kept = sorted((run_dir / "journal").glob(f"*{DAMAGED}"))
    if kept:
        names = ", ".join(str(path.relative_to(run_dir)) for path in kept)
        click.echo(f"damaged or odd parts of a journal are left out; all of it is kept: {names}", err=True)
    click.echo(f"next: kit report {run_dir}   or go on with: kit audit PIPELINE --out {run_dir} --resume")
    if kept:
        raise click.exceptions.Exit(1)
