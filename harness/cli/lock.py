"""`kit lock [TARGET]`: look up the revisions of models and data again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("target", required=False)
@click.option("--write", is_flag=True, help="Write the lock; otherwise only the difference is shown.")
@click.option(
    "--lock",
    "lock_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this lock of assets, not the kit's own.",
)
def cmd(target: str | None, write: bool, lock_path: Path | None) -> None:
    """Resolve what TARGET needs (everything if left out) from the main branch of each repository.

    Shows the difference to the lock: revisions, and size and digest of every file. A new revision is other
    data: figures made with it do not compare with earlier ones.
    """
    from datetime import UTC, datetime

    from harness.fetch.lockfile import LOCK_PATH, load_lock, write_lock
    from harness.fetch.relock import difference, relock

    path = lock_path or LOCK_PATH
    lock = load_lock(path)
    names = list(lock.assets) if target is None else list(lock.needed_by(target, lock.profiles[0]))
    resolved = relock(lock, names, datetime.now(UTC).date())
    changes = difference(lock, resolved)
    click.echo(changes, nl=False)
    if not changes:
        click.echo(f"lock: {len(names)} assets resolved, nothing has changed")
    elif write:
        write_lock(path, resolved)
        click.echo(f"lock: {path.name} written; commit it, then: kit fetch {target or 'all'}", err=True)
    else:
        click.echo("lock: not written; add --write to take this over", err=True)
