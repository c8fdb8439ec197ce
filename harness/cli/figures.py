"""`kit figures`: figures and tables for a paper, from bundles."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import refuse_inside


@click.command("figures")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Folder to write to."
)
@click.option(
    "--published",
    is_flag=True,
    help="Draw the published values in the same pictures, in panels of their own.",
)
@click.option("--region", help="Grid for CO2e in the table beside.tex, e.g. FRA or an id of `kit factors`.")
@click.option("--linear", is_flag=True, help="Linear energy axes; logarithmic otherwise.")
def cmd(folders: tuple[Path, ...], out: Path, published: bool, region: str | None, linear: bool) -> None:
    """Draw the runs in DIR...: energy against quality, breakdown, amortization, serving, size, sweeps.

    Each figure comes as SVG, PDF and PNG at the width of a column (3.25 in) and of a page (6.75 in), with its
    data (CSV) and its Vega-Lite specification. LaTeX tables and a paragraph on the method stand beside them.
    """
    from harness.cli.quick_start import light_pyarrow

    light_pyarrow()
    from harness.files import write_bytes
    from harness.report.comparison import repeated, spreads_beside
    from harness.report.drawing import draw
    from harness.report.figures import figures
    from harness.report.latex import beside_table, main_table, methods, stage_table
    from harness.report.model import Options, build
    from harness.report.study import entries

    refuse_inside(out, folders, "--out")
    repeats = [folder for folder in folders if (first := repeated(folder)) is not None and first in folders]
    for folder in repeats:
        click.echo(f"{folder}: a repeat, in the run-to-run spread and in no figure")
    folders = tuple(folder for folder in folders if folder not in repeats)
    reports = [build(folder, Options(region=region)) for folder in folders]
    known = entries(reports, spreads_beside(folders))
    if published:
        from harness.experiments.paper import published_entries

        known += published_entries()
    made, missing = figures(known, log=not linear)
    for figure in made:
        draw(figure, out)
        click.echo(f"{figure.name}: {out / figure.name}-page.pdf")
    for name, why in missing.items():
        click.echo(f"{name}: not drawn: {why}")
    texts = {"table.tex": main_table(known), "methods.tex": methods(reports[-1])}
    texts["beside.tex"] = beside_table(reports)
    for report, entry in zip(reports, known, strict=False):
        texts[f"stages-{_file_name(entry.name)}.tex"] = stage_table(report)
    texts["captions.tex"] = "".join(f"% {figure.name}\n{figure.caption}\n\n" for figure in made)
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    click.echo(f"tables, captions and methods: {out}/*.tex")


def _file_name(name: str) -> str:
    """A name of a log as a file's: letters, digits, dots and hyphens."""
    import re

    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip(".-") or "run"
