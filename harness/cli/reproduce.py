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

TARGETS = ("table2", "table3", "sweeps", "all")


@click.command()
@click.argument("target", type=click.Choice(TARGETS))
@click.option(
    "--profile",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="pocket, paper, paper-asrun, olmo2, or a file; auto: paper on a GPU of 80 GB, else pocket.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output folder.  [default: runs/reproduce-PROFILE]"
)
@click.option(
    "--size", "sizes", multiple=True, metavar="SIZE", help="Only students of this size (repeatable)."
)
@click.option("--yes", is_flag=True, help="Do not ask, however long it takes.")
@click.option("--resume", is_flag=True, help="Go on with what is in the folder; without this the same.")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it would take; run nothing.")
@cpu_option
@verbose_option
def cmd(
    target: str,
    profile: str,
    out: Path | None,
    sizes: tuple[str, ...],
    yes: bool,
    resume: bool,
    dry_run: bool,
    cpu: str,
    verbose: bool,
) -> None:
    """Reproduce TARGET: table2 (energy, J/token, quality), table3 (by stage), sweeps, or all.

    Every stage is metered. Data and the teacher's outputs are made once and shared; each student is a run
    with a bundle of its own. What is complete in the folder is kept: run the same command again to go on.
    """
    from harness.cli.console import make_console, short_path
    from harness.experiments import grid
    from harness.experiments.estimate import estimate
    from harness.experiments.profile import load_profile
    from harness.experiments.reproduce import Request, completed_runs, layout_of, plan_lines, run_all

    console = make_console()
    if profile == "auto":
        from harness.experiments.fitting_profile import choose_profile

        choice = choose_profile()
        profile, why = choice.profile, f" (auto: {choice.why})"
    else:
        why = " (asked for)"
    chosen = load_profile(profile)
    out = out or Path("runs") / f"reproduce-{chosen.name}"
    request = Request(target, grid.target(target), chosen, out, sizes, cpu)
    command = _command(request, profile)
    cells = request.cells
    done = completed_runs(request)
    expected = estimate(chosen, cells, done)
    if expected.seconds:
        _require_training()
    _say(console, f"{target}: {request.target.title.lower()}, {len(cells)} students in {short_path(out)}")
    _say(console, f"profile {chosen.name}{why}: {chosen.summary}")
    _say(console, f"estimate: {_estimate(expected.seconds, expected.joules)}")
    if dry_run:
        for line in plan_lines(request, done):
            click.echo(line)
        return
    layout = layout_of(request)
    if expected.must_ask and not yes and not _confirmed(expected.seconds):
        click.echo("kit: nothing was started; --yes starts without asking", err=True)
        raise click.exceptions.Exit(2)
    # The stages are the kit's own programs: `python` is the one that has them.
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    outcome = run_all(request, layout, _displays(console, verbose, command))
    if outcome.exit_code:
        _say(console, f"{outcome.stopped_at} did not complete; what was measured is kept")
        _say(console, f"go on: {command}")
        raise click.exceptions.Exit(outcome.exit_code)
    _finish(console, request, layout)


def _require_training() -> None:
    """Refuse before anything is planned where the stages' own packages are missing."""
    from importlib.util import find_spec

    from harness.errors import KitError

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise KitError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            expected="the extra `train`: stages train and run models",
            fix="pip install 'distill-energy-kit[train]'",
        )


def _finish(console: Console, request: Request, layout: Any) -> None:
    from harness.cli.console import short_path
    from harness.experiments.documents import write_documents
    from harness.experiments.results import collect

    results = collect(request.profile, request.cells, layout)
    files = write_documents(results, request.name, request.target, request.out / "tables")
    if request.target.tables[0] == "table2" and sys.stdout.isatty():
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


def _command(request: Request, profile: str) -> str:
    from harness.cli.console import short_path

    words = ["kit", "reproduce", request.name, "--profile", profile]
    words += ["--out", short_path(request.out)]
    words += [word for size in request.sizes for word in ("--size", size)]
    return shlex.join([*words, *cpu_words(request.cpu)])


def _estimate(seconds: float, joules: float) -> str:
    from harness.accounting.rounding import quantity
    from harness.cli.console import duration

    if not seconds:
        return "everything is there already; the tables are made again"
    energy = quantity(joules, "J") if joules < 3.6e6 else f"{joules / 3.6e6:.1f} kWh"
    return f"about {duration(seconds)} and {energy} (a guess, from earlier runs or published values)"


def _confirmed(seconds: float) -> bool:
    if not sys.stdin.isatty():
        click.echo("kit: this takes more than an hour, and there is nobody to ask", err=True)
        return False
    return click.confirm(f"This takes about {seconds / 3600:.0f} hours. Start?", err=True)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
