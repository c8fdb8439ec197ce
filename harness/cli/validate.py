"""`kit validate`: checks bundles against the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.validate import Report
    from harness.validate.registry import Rule


@click.command("validate")
@click.argument("folders", metavar="DIR...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--level",
    "level",
    type=click.IntRange(0, 4),
    default=4,
    show_default=True,
    help="Highest level: 0 container, 1 schema, 2 accounting, 3 plausibility, 4 comparability class.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="sarif: for code scanning; github: annotations of a workflow.",
)
@click.option(
    "--protocol",
    metavar="VERSION",
    help="Judge by this version of the protocol.  [default: the bundle's own]",
)
@click.option(
    "--waivers",
    "waiver_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML file that explains level 3 findings: `waivers:` a list of {rule, reason, stage}.",
)
def cmd(
    folders: tuple[Path, ...], level: int, form: str, protocol: str | None, waiver_file: Path | None
) -> None:
    """Check the bundle in DIR against the protocol; its files are not touched.

    Where DIR is no bundle, each bundle below it is checked.

    Every finding is shown, with the rows it concerns, the joules at stake and one fix. Several bundles are
    also held against each other: readings that two of them share, energy that one says another paid.
    Exit code 0: all hold, 1: one does not, 2: there is no bundle to read.
    """
    from harness.cli.quick_start import light_pyarrow

    light_pyarrow()
    from harness.bundle.reader import run_folders
    from harness.validate import validate_many
    from harness.validate.registry import load_rules
    from harness.validate.waivers import load_waivers

    rules = load_rules(protocol)
    waivers = () if waiver_file is None else load_waivers(waiver_file, rules)
    bundles = [bundle for folder in folders for bundle in run_folders(folder) or [folder]]
    reports = validate_many(bundles, range(level + 1), protocol=protocol, waivers=waivers)
    _show(reports, [str(bundle) for bundle in bundles], form, rules)
    raise click.exceptions.Exit(max(report.exit_code for report in reports))


def _show(reports: Sequence[Report], folders: Sequence[str], form: str, rules: Mapping[str, Rule]) -> None:
    """Print the reports; JSON is one object for one bundle and a list for several."""
    import json

    from harness.text import json_shown

    if form == "text":
        from rich.console import Console

        from harness.validate.text import print_report

        console = Console(highlight=False, emoji=False)
        for number, (report, folder) in enumerate(zip(reports, folders, strict=True)):
            if number:
                console.print()
            print_report(report, console, where=folder)
    elif form == "json":
        data = [{"folder": folder, **r.as_dict()} for r, folder in zip(reports, folders, strict=True)]
        click.echo(json_shown(json.dumps(data if len(data) > 1 else data[0], indent=2, ensure_ascii=False)))
    elif form == "sarif":
        from harness import __version__
        from harness.validate.sarif import sarif

        click.echo(json.dumps(sarif(reports, folders, rules, __version__), indent=2))
    else:
        from harness.validate.sarif import workflow_commands

        for line in workflow_commands(reports, folders):
            click.echo(line)
