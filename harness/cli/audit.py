"""`kit audit`: run a pipeline stage by stage under the meter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.audit.plan import Plan


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NAME, numbered]")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder; completed stages are kept.")
@click.option("--only", multiple=True, metavar="STAGE", help="Run only this stage (may be repeated).")
@click.option("--from", "from_stage", metavar="STAGE", help="Begin with this stage.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@click.option("--profile", metavar="NAME", help="Profile of the pipeline file to use.")
@click.option(
    "--cpu",
    type=click.Choice(["auto", "rapl", "codecarbon", "none"]),
    default="auto",
    show_default=True,
    help="How CPU energy is measured: auto is RAPL where readable, else CodeCarbon's estimate.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the output of the stages.")
def cmd(
    pipeline: Path,
    out: Path | None,
    resume: bool,
    only: tuple[str, ...],
    from_stage: str | None,
    dry_run: bool,
    profile: str | None,
    cpu: str,
    verbose: bool,
) -> None:
    """Run the stages of PIPELINE one after another and log the energy of each.

    The log is a bundle of Parquet files in the run folder; `kit report DIR` shows it, `kit validate DIR` checks it.
    Ctrl-C ends the running stage cleanly and keeps everything measured; --resume goes on from there.
    """
    from harness.audit.folders import choose_out
    from harness.audit.plan import describe, load_plan
    from harness.audit.runner import run_plan
    from harness.cli.console import RunDisplay, make_console

    console = make_console()
    plans = load_plan(pipeline, only=only, from_stage=from_stage, profile=profile, run_dir=out)
    if out is None:
        out = choose_out(plans, resume=resume)
        plans = load_plan(pipeline, only=only, from_stage=from_stage, profile=profile, run_dir=out)
    if dry_run:
        for plan in plans:
            console.print(describe(plan))
        return
    worst = 0
    for plan in plans:
        display = RunDisplay(console, plan, verbose=verbose)
        with display:
            result = run_plan(plan, display, resume_run=resume and _holds_run(plan), cpu=cpu)
        display.summary(result)
        worst = max(worst, result.exit_code)
        if result.signal_number is not None:
            break
    raise click.exceptions.Exit(worst)


def _holds_run(plan: Plan) -> bool:
    from harness.bundle.resume import holds_run

    return holds_run(plan.out_dir)
