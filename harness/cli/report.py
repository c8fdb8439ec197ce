"""`kit report`: where the joules of a run went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import FiniteRange, refuse_inside

if TYPE_CHECKING:
    from harness.report.model import Options
    from harness.spec.factors import Pue


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown", "csv"]),
    default="text",
    show_default=True,
)
@click.option(
    "--pue", metavar="X", help="Facility energy over IT energy, e.g. 1.2, or an id of `kit factors pue`."
)
@click.option(
    "--region",
    metavar="CODE",
    help="Grid for CO2e, e.g. FRA, US-CA or an id: ember-fra-2023 (`kit factors`).",
)
@click.option(
    "--amortize", metavar="N", type=click.IntRange(1), help="Share the teacher's output among N students."
)
@click.option(
    "--against",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Run that trains the same student directly: N* and which of the two is better.",
)
@click.option(
    "--serving",
    metavar="J J",
    nargs=2,
    type=FiniteRange(0),
    help="With --against: joules per served token of that run's model and of this one's, for T*.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a self-contained page of the run, or of several, instead of printing.",
)
@click.option(
    "--reference-tokens", metavar="N", type=click.IntRange(1), help="Denominator for J/token of the run."
)
def cmd(
    folders: tuple[Path, ...],
    form: str,
    pue: str | None,
    region: str | None,
    amortize: int | None,
    against: Path | None,
    serving: tuple[float, float] | None,
    page: Path | None,
    reference_tokens: int | None,
) -> None:
    """Show where the joules of the run in DIR went, stage by stage; of several runs as a page (--html).

    Every figure is recomputed from the raw rows. Joules in a log are IT joules; PUE and grid intensity are
    applied here, by the reader, with factors that carry their year and source.
    """
    from dataclasses import replace

    from harness.cli.quick_start import light_pyarrow

    light_pyarrow()
    from harness.report.comparison import against as set_against
    from harness.report.comparison import spread_beside
    from harness.report.model import Options, build

    if serving and against is None:
        raise click.UsageError("--serving needs --against")
    value, factor = _pue(pue)
    options = Options(value, region, amortize, reference_tokens, factor)
    if page is not None:
        if against is not None:
            raise click.UsageError("a page compares the runs it is given: kit report DIR DIR --html FILE")
        _write_page(folders, options, page)
        return
    if len(folders) > 1:
        raise click.UsageError("several runs are shown as a page: --html FILE")
    report = build(folders[0], options)
    if against is not None:
        report = replace(report, against=set_against(report, build(against), serving, spread_beside(against)))
    if form == "text":
        from rich.console import Console

        from harness.report.terminal import print_report

        print_report(report, Console(highlight=False, emoji=False))
        return
    from harness.report import formats

    writers = {"json": formats.to_json, "markdown": formats.to_markdown, "csv": formats.to_csv}
    click.echo(writers[form](report).rstrip("\n"))


def _write_page(folders: tuple[Path, ...], options: Options, page: Path) -> None:
    """The page of some runs.

    Raises:
        KitError: a bundle cannot be read, or two are one run.
    """
    from harness.errors import KitError
    from harness.report.comparison import spreads_beside
    from harness.report.model import build, opened
    from harness.report.page import points_for, to_html
    from harness.validate.engine import validate_many

    refuse_inside(page, folders, "--html")
    manifests = [opened(folder).manifest for folder in folders]
    ids = [manifest.get("run_id") for manifest in manifests]
    for folder, run_id in zip(folders, ids, strict=True):
        if run_id is not None and ids.count(run_id) > 1:
            raise KitError(f"run {run_id} is given twice", where=str(folder), expected="different runs")
    devices = max(len((manifest.get("hardware") or {}).get("devices") or ()) for manifest in manifests)
    points = points_for(len(folders), devices + 2)
    reports = [build(folder, options, points=points) for folder in folders]
    text = to_html(reports, validate_many(folders), spreads_beside(folders))
    page.write_text(text, encoding="utf-8")
    click.echo(f"{page}: {len(text.encode()) / 1e3:.0f} kB, opens in any browser without a network")


def _pue(text: str | None) -> tuple[float | None, Pue | None]:
    """A PUE as a number, or by the id of a published one, which then comes along.

    Raises:
        KitError: neither a number from 1 to 10 nor a known id.
    """
    from harness.errors import KitError
    from harness.spec.factors import find_pue

    if text is None:
        return None, None
    try:
        value = float(text)
    except ValueError:
        factor = find_pue(text, "--pue")
        return factor.value, factor
    if not 1 <= value <= 10:
        raise KitError(f"a PUE of {text}", where="--pue", expected="a number from 1 to 10")
    return value, None
