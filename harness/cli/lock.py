"""`kit lock [TARGET]`: look up the revisions of models and data again; `kit lock suites` pins benchmarks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("target", required=False)
@click.argument("names", nargs=-1, metavar="[SUITE]...")
@click.option("--write", is_flag=True, help="Write the lock; otherwise only the difference is shown.")
@click.option(
    "--lock",
    "lock_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this lock of assets, not the kit's own.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With suites: folder of benchmarks.  [env: KIT_BENCHMARKS]",
)
@click.option(
    "--judge",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With suites: folder of the judge's weights, for their digest.",
)
@click.option("--hub", is_flag=True, help="With suites: ask the hub for the commit of the judge.")
def cmd(
    target: str | None,
    names: tuple[str, ...],
    write: bool,
    lock_path: Path | None,
    data: Path | None,
    judge: Path | None,
    hub: bool,
) -> None:
    """Resolve what TARGET needs (everything if left out) from the main branch of each repository.

    Shows the difference to the lock: revisions, and size and digest of every file. A new revision is other
    data: figures made with it do not compare with earlier ones.

    `kit lock suites [SUITE]...` pins suites of benchmarks instead: digests of their items from local files,
    versions of
    their tasks, the judge. A pinned suite's file is named after its content.
    """
    if target == "suites":
        _lock_suites(names, write, data, judge, hub)
        return
    if names:
        raise click.UsageError(f"unexpected {names[0]!r}: only `suites` takes names")
    from datetime import UTC, datetime

    from harness.fetch.lockfile import LOCK_PATH, load_lock, write_lock
    from harness.fetch.relock import difference, relock

    path = lock_path or LOCK_PATH
    lock = load_lock(path)
    found = list(lock.assets) if target is None else list(lock.needed_by(target, lock.profiles[0]))
    resolved = relock(lock, found, datetime.now(UTC).date())
    changes = difference(lock, resolved)
    click.echo(changes, nl=False)
    if not changes:
        click.echo(f"lock: {len(found)} assets resolved, nothing has changed")
    elif write:
        write_lock(path, resolved)
        click.echo(f"lock: {path.name} written; commit it, then: kit fetch {target or 'all'}", err=True)
    else:
        click.echo("lock: not written; add --write to take this over", err=True)


def _lock_suites(
    names: tuple[str, ...], write: bool, data: Path | None, judge: Path | None, hub: bool
) -> None:
    from harness.evaluation.lock_suites import lock
    from harness.evaluation.suites import read_suite, suites_folder
    from harness.fetch.relock import head_of

    for name in names or sorted(path.stem for path in suites_folder().glob("*.yaml")):
        changes, path = lock(name, data=data, head=head_of if hub else None, judge=judge, write=write)
        click.echo(changes, nl=False)
        missing = read_suite(path).unpinned if path.exists() else []
        state = f"still a draft, not pinned: {', '.join(missing)}" if missing else "pinned"
        if not changes:
            click.echo(f"lock: {path.stem}: nothing has changed, {state}")
        elif write:
            click.echo(f"lock: {path.name} written: {state}", err=True)
        else:
            click.echo(f"lock: {path.name} not written; add --write to take this over", err=True)
