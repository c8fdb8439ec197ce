"""`kit leaderboard`: check submissions, build the site, look at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from harness.leaderboard.check import Checked


@click.group("leaderboard")
def cmd() -> None:
    """Check submissions, build the static site, look at it."""
    from harness.cli.quick_start import light_pyarrow

    light_pyarrow()


@cmd.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--before",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The submissions as they were accepted: what is unchanged is not reported, what was edited is.",
)
@click.option(
    "--raw",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File that the one submission leaves behind a link; every figure is then re-derived.",
)
@click.option(
    "--record", metavar="NAME", help="With --raw: write the result to review.json as this maintainer."
)
@click.option(
    "--sign", "key", metavar="KEY", type=click.Path(path_type=Path), help="The maintainer's ssh key."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github", "markdown", "json", "sarif"]),
    default="text",
    show_default=True,
    help="github: annotations of a workflow.",
)
@click.option(
    "--summary", metavar="FILE", type=click.Path(path_type=Path), help="Also write the Markdown table there."
)
@click.option("--no-cache", is_flag=True, help="Compute everything again.")
def check(
    paths: tuple[Path, ...],
    record: str | None,
    key: Path | None,
    form: str,
    summary: Path | None,
    no_cache: bool,
    **asked: Any,
) -> None:
    """Check submissions: PATH is submissions/LAB/ID, a folder of several, or a tar archive of one.

    Every figure is re-derived from the raw samples and every finding shown. Nothing in a submission is run.
    Exit code 0: all are accepted, 1: one is not, 2: there is nothing to read.
    """
    import json

    from harness.errors import KitError
    from harness.leaderboard import say
    from harness.leaderboard.check import check as check_all
    from harness.leaderboard.check import review
    from harness.text import terminal_width

    if (record is None) != (key is None) or (record is not None and not asked["raw"]):
        raise KitError("--record, --sign and --raw go together", where="kit leaderboard check")
    done = check_all(paths, cache=not no_cache, **asked)
    if form == "github":
        for line in say.workflow_lines(done.asked):
            click.echo(line)
    elif form == "markdown":
        click.echo(say.markdown(done.asked, done.rows), nl=False)
    elif form == "json":
        click.echo(json.dumps(say.as_json(done.asked, done.rows), indent=2, ensure_ascii=False))
    elif form == "sarif":
        click.echo(json.dumps(say.as_sarif(done.asked), indent=2))
    else:
        for line in say.text(done.asked, done.rows, terminal_width()):
            click.echo(line)
    if summary is not None:
        summary.write_text(say.markdown(done.asked, done.rows), encoding="utf-8")
    if record is not None and key is not None:
        click.echo(f"recorded: {review(done.asked[0], record, key)}", err=True)
    raise click.exceptions.Exit(1 if done.errors else 0)


@cmd.command()
@click.argument("submissions", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out", metavar="SITE", required=True, type=click.Path(path_type=Path), help="Folder of the site."
)
def build(submissions: Path, out: Path) -> None:
    """Build the static site of all SUBMISSIONS; it opens from a web server or from file://.

    Refused submissions are named and left out. Exit code 0: all are shown, 1: one is not.
    """
    from harness.text import shown

    done, written = _build(submissions, out)
    for entry in done.entries:
        if entry.errors:
            why = sorted({f.id for f in entry.findings if f.severity == "error" and f.counts})
            click.echo(f"left out: {shown(entry.folder)} ({', '.join(why)})")
    click.echo(f"{len(done.rows)} rows, {written} files written: {out / 'index.html'}")
    raise click.exceptions.Exit(1 if done.errors else 0)


@cmd.command()
@click.argument("submissions", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
def serve(submissions: Path, port: int) -> None:
    """Build the site of SUBMISSIONS and serve it on this machine alone, until interrupted."""
    import tempfile
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    with tempfile.TemporaryDirectory(prefix="kit-site-") as folder:
        _build(submissions, Path(folder) / "site")
        handler = partial(SimpleHTTPRequestHandler, directory=str(Path(folder) / "site"))
        with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
            click.echo(f"http://127.0.0.1:{server.server_port}/")
            server.serve_forever()


def _build(submissions: Path, out: Path) -> tuple[Checked, int]:
    from harness.leaderboard.check import check as check_all
    from harness.leaderboard.site import build as build_site

    done = check_all([submissions], among=submissions)
    return done, build_site(done, out)
