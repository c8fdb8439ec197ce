"""`kit report`: where the joules of a run went."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown", "csv"]),
    default="text",
    show_default=True,
)
@click.option("--pue", type=click.FloatRange(1.0, 10.0), help="Facility energy over IT energy, e.g. 1.2.")
@click.option("--region", metavar="ISO", help="Grid for CO2e, ISO 3166-1 alpha-3, e.g. FRA.")
@click.option(
    "--amortize", metavar="N", type=click.IntRange(1), help="Share the teacher's output among N students."
)
@click.option(
    "--reference-tokens", metavar="N", type=click.IntRange(1), help="Denominator for J/token of the run."
)
def cmd(
    folder: Path,
    form: str,
    pue: float | None,
    region: str | None,
    amortize: int | None,
    reference_tokens: int | None,
) -> None:
    """Show where the joules of the run in DIR went, stage by stage.

    Every figure is recomputed from the raw rows. Joules in a log are IT joules; PUE and grid intensity are
    applied here, by the reader, with factors that carry their year and source.
    """
    from harness.report.model import Options, build

    report = build(folder, Options(pue, region, amortize, reference_tokens))
    if form == "text":
        from rich.console import Console

        from harness.report.terminal import print_report

        print_report(report, Console(highlight=False))
        return
    from harness.report import formats

    writers = {"json": formats.to_json, "markdown": formats.to_markdown, "csv": formats.to_csv}
    click.echo(writers[form](report).rstrip("\n"))
