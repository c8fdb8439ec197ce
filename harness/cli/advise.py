"""`kit advise`: which student to build, by measured or published figures and the paper's design rules."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.options import FiniteRange


@click.command("advise")
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--published", is_flag=True, help="Use the paper's table instead of a reproduction's folder.")
@click.option("--profile", metavar="FILE", help="Profile of the reproduction, where it is not the kit's own.")
@click.option("--budget", metavar="ENERGY", help="IT energy to spend, such as 20kWh.")
@click.option(
    "--cost",
    metavar="AMOUNT",
    type=FiniteRange(0, min_open=True),
    help="Money to spend, with --per-kwh.",
)
@click.option("--per-kwh", metavar="PRICE", type=FiniteRange(0, min_open=True), help="Price of a kWh.")
@click.option(
    "--reuse",
    "reuses",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Students that each teacher's output serves.",
)
@click.option("--choose-from", metavar="SIZES", help="One of these sizes is wanted: 1b,7b.")
@click.option("--need", metavar="SIZES", help="All of these sizes are built; each teacher is paid once.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def cmd(
    folder: Path | None,
    published: bool,
    profile: str | None,
    budget: str | None,
    cost: float | None,
    per_kwh: float | None,
    reuses: int,
    choose_from: str | None,
    need: str | None,
    as_json: bool,
) -> None:
    """Say which student to build by what the reproduction in DIR measured, or by the published table.

    The option with the highest Q that the budget allows, what it beats and what it only ties with, and what
    the figures say to each design rule of the paper. Where they do not decide, that is said.
    """
    from harness.advice import text
    from harness.advice.advise import Question, advise
    from harness.advice.breakeven import parse_energy
    from harness.advice.choices import measured_choices, published_choices
    from harness.advice.rules import sentences
    from harness.experiments.profile import load_profile
    from harness.text import lines_shown, terminal_width

    if published == (folder is not None):
        raise click.UsageError("name a reproduction's folder, or --published")
    if choose_from and need:
        raise click.UsageError("--choose-from wants one of the sizes, --need all of them: give one option")
    if (cost is None) != (per_kwh is None) or (cost is not None and budget is not None):
        raise click.UsageError("give --budget, or --cost with --per-kwh")
    limit = parse_energy(budget, "--budget").best if budget else None
    if cost is not None and per_kwh is not None:
        limit = parse_energy(f"{cost / per_kwh!r}kWh", "--cost over --per-kwh").best
    question = Question(reuses, limit, _sizes(choose_from), _sizes(need))
    given = (
        published_choices()
        if folder is None
        else measured_choices(folder, load_profile(profile) if profile else None)
    )
    answer, said = advise(given, question), sentences(given)
    if as_json:
        click.echo(json.dumps(text.as_json(given, question, answer, said), indent=1))
    else:
        width = max(40, terminal_width())
        click.echo(lines_shown("\n".join(text.answer_lines(given, question, answer, said, width))))


def _sizes(text: str | None) -> tuple[str, ...]:
    return tuple(size.strip().lower() for size in (text or "").split(",") if size.strip())
