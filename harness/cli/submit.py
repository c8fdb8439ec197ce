"""`kit submit`: makes a leaderboard submission from runs and says where they would stand."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import refuse_inside


@click.command("submit")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--lab", required=True, help="Short name of the laboratory: small letters, digits, dashes.")
@click.option(
    "--into",
    metavar="REPO",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Clone of the leaderboard's repository; its folder submissions/ is written.  [default: this folder]",
)
@click.option("--dry-run", is_flag=True, help="Say everything, leave no submission behind.")
@click.option(
    "--compare",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Submissions to compare with.  [default: REPO/submissions]",
)
@click.option(
    "--report",
    "report_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("submit-report"),
    show_default=True,
    help="Folder for report.json, report.md and report.sarif.",
)
@click.option("--title", help="In a few words.  [default: the run's name]")
@click.option("--student", help="Name of the student model.")
@click.option("--teacher", help="Name of the teacher model.")
@click.option(
    "--party",
    type=click.Choice(["first", "third", "collaborative"]),
    help="Who measured: those who built the models (first), others (third), or both.",
)
@click.option("--conflict", help="Interests that a reader must know.")
@click.option("--replicates", metavar="LAB/ID", help="Entry of another laboratory that this run repeats.")
@click.option("--supersedes", metavar="LAB/ID", help="Entry of yours that this run corrects.")
@click.option(
    "--raw-url", metavar="URL", help="https address of the folder where files too large for git will lie."
)
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Private ssh key to sign with; or the word sigstore, which asks for a login after the check.",
)
@click.option(
    "--embargo",
    is_flag=True,
    help="Stay unnamed for now: the lab becomes anon-..., a salt in REPORT/embargo.json proves it later.",
)
def cmd(
    runs: tuple[Path, ...],
    lab: str,
    into: Path,
    dry_run: bool,
    compare: Path | None,
    report_folder: Path,
    key: Path | None,
    raw_url: str | None,
    embargo: bool,
    **said: str | None,
) -> None:
    """Check each RUN, say its class and rank, and make submissions/LAB/ID for a pull request.

    Levels 0 to 4 and privacy are checked as the leaderboard will check them. Submitting places the data under
    CC BY 4.0. Exit code 0: it would be accepted, 1: it would not, 2: a run cannot be read.
    """
    import json
    import secrets
    import tempfile

    from harness.errors import KitError
    from harness.files import write_bytes, write_json
    from harness.leaderboard import say, sigstore
    from harness.leaderboard.check import check
    from harness.leaderboard.entry import ENTRY, committed, read_json
    from harness.leaderboard.pack import git_commands, pack
    from harness.text import terminal_width

    refuse_inside(report_folder, runs, "--report")
    refuse_inside(into, runs, "--into")
    fields: dict[str, str | None] = {"lab": lab, **said}
    by_login = key == Path(sigstore.PROGRAM)
    if embargo and by_login:
        raise KitError(
            "names the one who logs in, for ever and in public", where="--sign sigstore", fix="--sign KEY"
        )
    if embargo:
        secret = report_folder / "embargo.json"
        kept = read_json(secret) if secret.exists() else {"lab": lab, "salt": secrets.token_hex(16)}
        if kept.get("lab") != lab:
            raise KitError("holds another laboratory's secret", where=str(secret), fix="another --report")
        digest = committed(kept["salt"], lab)
        fields |= {"lab": f"anon-{digest[:8]}", "commitment": digest}
        write_json(secret, kept)
    target = into / "submissions"
    with tempfile.TemporaryDirectory(prefix="kit-submit-") as temporary:
        staged = Path(temporary) / "submissions"
        folders = [pack(run, staged, fields, raw_url, None if by_login else key) for run in runs]
        among = compare or (target if target.is_dir() else None)
        if among is None:
            click.echo(
                f"kit: {target} does not exist: the submissions are compared with each other alone", err=True
            )
        done = check(folders, among=among or staged, cache=False)
        for line in say.text(done.asked, done.rows, terminal_width()):
            click.echo(line)
        write_json(report_folder / "report.json", say.as_json(done.asked, done.rows))
        write_bytes(report_folder / "report.md", say.markdown(done.asked, done.rows).encode())
        sarif = json.dumps(say.as_sarif(done.asked), indent=2).replace(f"{temporary.lstrip('/')}/", "")
        write_bytes(report_folder / "report.sarif", sarif.encode())
        click.echo(f"report: {report_folder}/report.md, report.json, report.sarif")
        if embargo:
            click.echo(f"keep {report_folder}/embargo.json secret until you reveal who you are")
        if done.errors:
            click.echo("not submitted: mend the findings above")
            raise click.exceptions.Exit(1)
        if dry_run:
            click.echo("dry run: nothing was written beside the report")
            return
        for folder in folders if by_login else ():
            sigstore.sign(folder / ENTRY)
        placed = [_place(folder, target) for folder in folders]
    click.echo("next:")
    for command in git_commands(placed, into):
        click.echo(f"  {command}")


def _place(folder: Path, target: Path) -> Path:
    """Move a submission to its place; one that is there already is left alone."""
    import shutil

    from harness.errors import KitError

    final = target / folder.parent.name / folder.name
    if final.exists():
        raise KitError("is there already", where=str(final), fix="git restore or remove it first")
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, final)
    return final
