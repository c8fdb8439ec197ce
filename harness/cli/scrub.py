"""`kit scrub`: a clean copy of a bundle."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("scrub")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", metavar="NEW", type=click.Path(path_type=Path), required=True, help="The copy.")
def cmd(folder: Path, out: Path) -> None:
    """Write the bundle in DIR again without paths, addresses, job ids, secrets and names of this machine.

    Says where something was taken, not what. Digests of the copy are its own, and it carries the label
    `scrubbed`; rows, times and joules stay. Folders beside the bundle (logs/, work/) are not copied.
    """
    from harness.bundle.clean import clean_copy
    from harness.bundle.privacy import Scrubber
    from harness.text import shown

    taken = clean_copy(folder, out, Scrubber.of_this_machine())
    for line in taken:
        click.echo(f"  taken from {shown(line)}")
    click.echo(f"{out}: {'a clean copy' if taken else 'a copy; nothing private was found'}")
    click.echo(f"next: kit validate {out}")
