"""`kit fetch TARGET`: get models and data before anything is measured."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("target")
@click.option("--profile", default="paper", show_default=True, help="Profile that the target will run under.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched; needs no network.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep it.  [default: $KIT_CACHE or ~/.cache/distill-energy-kit]",
)
@click.option(
    "--lock",
    "lock_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this lock of assets, not the kit's own.",
)
def cmd(target: str, profile: str, dry_run: bool, cache: Path | None, lock_path: Path | None) -> None:
    """Fetch exactly what TARGET needs: the name of a reproduction (table2, sweeps, ...) or of one asset.

    Every file is checked against the digest that the hub lists for the locked revision, and an asset becomes
    visible only when it is complete. Run the same command again after any interruption: it goes on where it
    stopped. HF_TOKEN is used for repositories that ask for it, HF_ENDPOINT names a mirror.
    """
    from harness.fetch.lockfile import LOCK_PATH, load_lock
    from harness.fetch.prefetch import FetchProgress, make_plan, prefetch
    from harness.fetch.store import Store, check_space, human

    needed = load_lock(lock_path or LOCK_PATH).needed_by(target, profile)
    store = Store(cache)
    if not needed:
        click.echo(f"profile {profile} makes its models and data itself: nothing to fetch for {target}")
        return
    plan = make_plan(needed, store)
    for item in plan:
        asset = item.asset
        state = item.fault or "complete"
        click.echo(
            f"  {item.name:<16} {human(asset.bytes):>9}  {asset.repository} at {asset.revision[:12]}: {state}"
        )
    missing = sum(item.missing_bytes for item in plan)
    click.echo(f"{target}: {human(missing)} to fetch into {store.root} ({human(store.free_bytes())} free)")
    if dry_run:
        check_space(store, missing)
        return
    if any(item.fault for item in plan):
        prefetch(needed, store, FetchProgress())
    click.echo(f"{target}: complete in {store.root}")
    if cache is not None:
        click.echo(f"next: export KIT_CACHE={cache.absolute()}   so that runs find it there")
