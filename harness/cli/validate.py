"""`kit validate`: checks a bundle against the protocol."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("validate")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--level",
    "level",
    type=click.IntRange(0, 2),
    default=2,
    show_default=True,
    help="Highest level: 0 container, 1 schema, 2 accounting.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def cmd(folder: Path, level: int, form: str) -> None:
    """Check the bundle in DIR against the protocol; its files are not touched.

    Every finding is shown, with the rows it concerns, the joules at stake and one fix. Exit code 0: it holds,
    1: it does not, 2: there is no bundle to read.
    """
    from harness.validate import validate

    report = validate(folder, range(level + 1))
    if form == "json":
        import json

        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        from harness.validate.text import print_report

        print_report(report, Console(highlight=False), where=str(folder))
    raise SystemExit(report.exit_code)
