"""`kit breakeven`: N* and T* from numbers or from two runs."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import FiniteRange


@click.command("breakeven")
@click.argument("runs", metavar="[RUN DIRECT_RUN]", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--teacher", metavar="ENERGY", help="Of the teacher's output, such as 11kWh or 11±0.5kWh.")
@click.option("--baseline", metavar="ENERGY", help="Of training the student directly.")
@click.option("--student", metavar="ENERGY", help="Of training the distilled student.")
@click.option("--extra", metavar="ENERGY", help="For T*: what the costlier pipeline took more.")
@click.option(
    "--serving",
    metavar="J J",
    nargs=2,
    type=FiniteRange(0),
    help="For T*: joules per served token of what the student replaces, and of the student.",
)
def cmd(
    runs: tuple[Path, ...],
    teacher: str | None,
    baseline: str | None,
    student: str | None,
    extra: str | None,
    serving: tuple[float, float] | None,
) -> None:
    """Say how many reuses pay for a teacher (N*), and how many served tokens pay for a training (T*).

    From numbers, each with its unit and, after ±, what it is uncertain by; or from a distilled run and one
    that trains the same student directly.
    """
    from harness.advice import breakeven
    from harness.advice.breakeven import parse_energy

    energies = {"--teacher": teacher, "--baseline": baseline, "--student": student}
    given = {name: parse_energy(text, name) for name, text in energies.items() if text}
    if runs:
        if given or extra or len(runs) != 2:
            raise click.UsageError("give two runs, the distilled one first, or numbers")
        _of_runs(*runs, serving)
        return
    if given and len(given) < 3:
        missing = ", ".join(name for name in energies if name not in given)
        raise click.UsageError(f"N* needs --teacher, --baseline and --student; missing: {missing}")
    if not given and (extra is None or serving is None):
        raise click.UsageError(
            "give --teacher, --baseline and --student for N*, or --extra and --serving for T*"
        )
    if serving is not None and extra is None:
        raise click.UsageError("T* needs --extra: what the costlier pipeline took more")
    lines: list[str] = []
    if given:
        lines += breakeven.reuse_lines(*given.values())
    if serving is not None and extra is not None:
        lines += breakeven.serving_lines(parse_energy(extra, "--extra"), serving)
    click.echo("\n".join(lines))


def _of_runs(run: Path, direct: Path, serving: tuple[float, float] | None) -> None:
    from shutil import get_terminal_size
    from textwrap import fill

    from harness.report.comparison import against, against_lines, against_notes, spread_beside
    from harness.report.model import build
    from harness.text import lines_shown

    found = against(build(run), build(direct), serving, spread_beside(direct))
    width = max(40, get_terminal_size().columns)
    lines = [(f"{name:13}{words}", " " * 13) for name, words in against_lines(found)]
    for text, indent in [*lines, *((note, "") for note in against_notes(found))]:
        click.echo(fill(lines_shown(text), width, subsequent_indent=indent, break_on_hyphens=False))
