"""`kit reproduce TARGET`: the paper's experiments under the meter, and tables beside the published ones."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import cpu_option, cpu_words, verbose_option

if TYPE_CHECKING:
    from rich.console import Console

    from harness.experiments.reproduce import Request
    from harness.experiments.results import Results
    from harness.preflight.stages import Outlook
    from harness.spec.factors import GridFactor

TARGETS = (
    *("table2", "table3", "frontier", "breakdown", "amortization", "serving", "stopping", "design-rules"),
    *("datasets", "sweep-kd-grid", "sweep-length", "sweep-prompts", "sweeps", "all"),
)
"""Names in targets.yaml, here so that `--help` reads no file."""


@click.command()
@click.argument("target", metavar="TARGET", type=click.Choice(TARGETS))
@click.option(
    "--profile",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="pocket, paper, paper-smoke, paper-asrun, olmo2, or a file; auto: paper from 80 GB on, else pocket.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output folder.  [default: runs/reproduce-PROFILE]"
)
@click.option(
    "--size", "sizes", multiple=True, metavar="SIZE", help="Only students of this size (repeatable)."
)
@click.option(
    "--datasets",
    type=click.Choice(["mixture", "each"]),
    help="One mixture, or every data set by itself, with averages.  [default: the target's]",
)
@click.option(
    "--repeats", type=click.IntRange(1, 100), help="Run the grid so often, with seeds 0, 1, ..., in tables."
)
@click.option("--yes", is_flag=True, help="Do not ask, however long it takes.")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it would take; run nothing.")
@click.option(
    "--train-teacher", is_flag=True, help="Train the pocket teacher here instead of taking the kit's own."
)
@click.option("--region", help="Grid for CO2e in the tables, e.g. FRA or an id of `kit factors`.")
@cpu_option
@verbose_option
def cmd(
    target: str,
    profile: str,
    out: Path | None,
    sizes: tuple[str, ...],
    datasets: str | None,
    repeats: int | None,
    yes: bool,
    dry_run: bool,
    train_teacher: bool,
    region: str | None,
    cpu: str,
    verbose: bool,
) -> None:
    """Reproduce TARGET, a result of the paper.

    \b
    table2         energy, J/token and quality of every pipeline and size
    table3         energy by stage; breakdown: as figures
    frontier       energy against quality
    amortization   energy over reuses of the teacher's output, and N*
    serving        served tokens from which a student has paid, T*
    stopping       when each student's training ended
    design-rules   the paper's rules put to the figures
    datasets       table2 on each data set by itself, three times, with averages
    sweep-kd-grid, sweep-length, sweep-prompts; sweeps: the three
    all            everything but datasets

    Every stage is metered. Data and the teacher's outputs are made once and shared; each student is a run
    with a bundle of its own. What is complete in the folder is kept: run the same command again to go on.
    """
    from harness.cli.console import make_console, short_path
    from harness.experiments import grid
    from harness.experiments.datasets import apart
    from harness.experiments.estimate import estimate, together
    from harness.experiments.fitting_profile import choose_profile, pin_card
    from harness.experiments.profile import load_profile
    from harness.experiments.reproduce import Request, completed_runs, layout_of, plan_lines, run_all
    from harness.experiments.teacher import teacher_words
    from harness.report.drawing import require_plots
    from harness.spec.factors import region_factors

    console = make_console()
    grid_factor = region_factors(region, "--region")[0] if region else None
    if profile == "auto":
        choice = choose_profile()
        profile, why = choice.profile, f" (auto: {choice.why})"
    else:
        why = " (asked for)"
    chosen = load_profile(profile)
    if train_teacher:
        chosen = chosen.model_copy(update={"kept_teacher": False})
    out = out or Path("runs") / f"reproduce-{chosen.name}"
    aim = grid.target(target)
    changes = {"datasets": datasets, "grid_repeats": repeats}
    aim = aim.model_copy(update={name: value for name, value in changes.items() if value is not None})
    request = Request(target, aim, chosen, out, sizes, cpu)
    command = _command(request, profile, train_teacher, region)
    parts = apart(request)
    done = {name: completed_runs(part) for name, part in parts.items()}
    expected = together([estimate(part.profile, part.runs, done[n]) for n, part in parts.items()])
    students = sum(len(part.cells) for part in parts.values())
    if expected.seconds != 0:
        _require_training()
    if aim.figures and not dry_run:
        require_plots()
    title = request.target.title[:1].lower() + request.target.title[1:]
    _say(console, f"{target}: {title}, {students} students in {short_path(out)}")
    _say(console, f"profile {chosen.name}{why}: {chosen.summary}")
    teacher = teacher_words(chosen)
    if teacher is not None:
        _say(console, f"teacher: {teacher}")
    _say(console, f"estimate: {_estimate(expected.seconds, expected.joules)}")
    if dry_run:
        for name, part in parts.items():
            for line in plan_lines(part, done[name]):
                click.echo(f"{name}/{line}" if name else line)
        return
    card = pin_card()
    if card is not None:
        _say(console, card)
    if expected.seconds != 0 and chosen.kind == "assets":
        _preflight(profile, request)
    layouts = {name: layout_of(part) for name, part in parts.items()}
    if expected.must_ask and not yes and not _confirmed(expected.seconds):
        click.echo("kit: nothing was started; --yes starts without asking", err=True)
        raise click.exceptions.Exit(2)
    # The stages are the kit's own programs: `python` is the one that has them.
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    shown = _displays(console, verbose, command)
    for name, part in parts.items():
        if name:
            _say(console, f"data set {name}")
        outcome = run_all(part, layouts[name], shown)
        if outcome.exit_code:
            _say(console, f"{outcome.stopped_at} did not complete; what was measured is kept")
            _say(console, f"go on: {command}")
            raise click.exceptions.Exit(outcome.exit_code)
    found = {name: _finish(console, part, layouts[name], grid_factor) for name, part in parts.items()}
    if len(found) > 1:
        _averages(console, found, out / "tables")


def _preflight(profile: str, request: Request) -> None:
    """Refuse what would stop later, with every reason."""
    from harness.cli.preflight import outlook_of
    from harness.preflight.checks import check, this_machine

    outlook = outlook_of(profile, request.name, request.out, request.sizes, request.target)
    result = check(outlook, this_machine())
    if result.problems:
        click.echo(result.render())
        click.echo("kit: nothing was started", err=True)
        raise click.exceptions.Exit(1)
    _keep_plan(outlook, request.out / "plan.json")


def _keep_plan(outlook: Outlook, path: Path) -> None:
    """Write down what was planned before the first start, for the comparison at the end."""
    from harness.doctor.inventory import take_inventory
    from harness.files import write_json
    from harness.planning.cards import find_card
    from harness.preflight.plan import make_plan

    card = next((c for gpu in take_inventory().selected if (c := find_card(gpu.model)) is not None), None)
    if card is not None and outlook.profile is not None and outlook.profile.amounts and not path.exists():
        write_json(path, make_plan(outlook, card).as_json())


def _require_training() -> None:
    """Refuse before anything is planned where the stages' own packages are missing."""
    from importlib.util import find_spec

    from harness.errors import KitError

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise KitError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            expected="the extra `train`: stages train and run models",
            fix="make setup-train in a checkout, else pip install 'distill-energy-kit[train]'",
        )


def _averages(console: Console, found: dict[str, Results], folder: Path) -> None:
    """Averages over data sets and repeats, on screen and as files."""
    from harness.cli.console import short_path
    from harness.experiments.datasets import average_rows, averages_markdown
    from harness.experiments.tables import as_csv

    text, rows = averages_markdown(found), average_rows(found)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "averages.md").write_text(text, encoding="utf-8")
    (folder / "averages.csv").write_text(as_csv(rows), encoding="utf-8")
    click.echo(text)
    _say(console, f"written: {shlex.quote(short_path(folder / 'averages.md'))} and .csv")


def _finish(console: Console, request: Request, layout: Any, grid: GridFactor | None) -> Results:
    from dataclasses import replace

    from harness.cli.console import short_path
    from harness.experiments.documents import write_documents
    from harness.experiments.results import collect

    results = replace(collect(request.profile, request.cells, layout), grid=grid)
    files = write_documents(results, request.name, request.target, request.out / "tables")
    if (request.out / "plan.json").exists():
        from harness.preflight.plan import afterwards, beside, read_plan
        from harness.report.drawing import draw
        from harness.report.figures.planned import planned_figure

        planned = read_plan(request.out / "plan.json")
        files["plan.md"] = request.out / "tables" / "plan.md"
        runs = layout.run("shared").parent
        files["plan.md"].write_text("\n".join(afterwards(planned, runs)) + "\n", encoding="utf-8")
        if request.target.figures:
            draw(planned_figure(planned, beside(planned, runs)), request.out / "figures")
    files |= _drawn(request, layout) if request.target.figures else {}
    files |= _advised(request) if request.target.advice else {}
    if request.target.tables[:1] == ("table2",) and sys.stdout.isatty():
        from harness.experiments.summary import summary

        click.echo("\n".join(summary(results)))
    else:
        for name, path in files.items():
            if name.endswith(".md"):
                click.echo(path.read_text(encoding="utf-8"))
    names = ", ".join(shlex.quote(short_path(path)) for path in files.values())
    _say(console, f"written: {names}")
    runs = layout.run("shared").parent
    _say(console, f"next: kit validate {shlex.quote(short_path(runs))}/*")
    return results


def _drawn(request: Request, layout: Any) -> dict[str, Path]:
    """The target's figures, those of the grid beside the published values."""
    from harness.experiments.paper import published_entries
    from harness.report.comparison import spreads_beside
    from harness.report.drawing import draw
    from harness.report.figures import figures
    from harness.report.model import build
    from harness.report.study import entries

    runs = [layout.run(cell.name) for cell in request.cells]
    known = entries([build(run) for run in runs], spreads_beside(runs))
    made, missing = figures(known + (published_entries() if request.target.grid else []))
    for name in request.target.figures:
        if name in missing:
            click.echo(f"{name}: not drawn: {missing[name]}", err=True)
    wanted = [figure for figure in made if figure.name in request.target.figures]
    paths = [path for figure in wanted for path in draw(figure, request.out / "figures")]
    return {path.name: path for path in paths if path.name.endswith("-page.pdf")}


def _advised(request: Request) -> dict[str, Path]:
    """What the complete cells in the folder say to the design rules; teachers are used once, and thrice."""
    from harness.advice.advise import Question, advise
    from harness.advice.choices import measured_choices
    from harness.advice.rules import sentences
    from harness.advice.text import answer_lines
    from harness.files import write_bytes

    given = measured_choices(request.out, request.profile)
    said, lines = sentences(given), ["# Design rules", ""]
    for reuses in (1, 3):
        question = Question(reuses)
        text = answer_lines(given, question, advise(given, question), said if reuses == 3 else ())
        lines += ["```", *text, "```", ""]
    path = request.out / "tables" / "design-rules.md"
    write_bytes(path, "\n".join(lines).encode())
    return {path.name: path}


def _displays(console: Console, verbose: bool, command: str) -> Any:
    """Makes the display of each run; what is metered is said with the first one only."""
    from harness.cli.console import RunDisplay

    told: list[bool] = []

    class Display(RunDisplay):
        def metering(self, session: Any, python: Any) -> None:
            if not told:
                super().metering(session, python)
            told.append(True)

    return lambda plan: Display(console, plan, verbose=verbose, resume_command=command)


def _command(request: Request, profile: str, train_teacher: bool, region: str | None) -> str:
    from harness.cli.console import short_path
    from harness.experiments.grid import load_targets

    words = ["kit", "reproduce", request.name, "--profile", profile]
    words += ["--out", short_path(request.out)]
    words += [word for size in request.sizes for word in ("--size", size)]
    own = load_targets()[request.name]
    if request.target.datasets != own.datasets:
        words += ["--datasets", request.target.datasets]
    if request.target.grid_repeats != own.grid_repeats:
        words += ["--repeats", str(request.target.grid_repeats)]
    words += ["--train-teacher"] if train_teacher else []
    words += ["--region", region] if region else []
    return shlex.join([*words, *cpu_words(request.cpu)])


def _estimate(seconds: float | None, joules: float | None) -> str:
    if seconds is None or joules is None:
        return "not known: models or data are not the kit's (`kit plan` estimates where `amounts` are given)"
    from harness.accounting.rounding import quantity
    from harness.cli.console import duration

    if not seconds:
        return "everything is there already; the tables are made again"
    energy = quantity(joules, "J") if joules < 3.6e6 else f"{joules / 3.6e6:.1f} kWh"
    return f"about {duration(seconds)} and {energy} (a guess, from earlier runs or published values)"


def _confirmed(seconds: float | None) -> bool:
    long = "an unknown time" if seconds is None else "more than an hour"
    if not sys.stdin.isatty():
        click.echo(f"kit: this takes {long}, and there is nobody to ask", err=True)
        return False
    said = long if seconds is None else f"about {seconds / 3600:.0f} hours"
    return click.confirm(f"This takes {said}. Start?", err=True)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
