"""`kit audit`: run a pipeline stage by stage under the meter."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from harness.cli.options import cpu_option, cpu_words, openmetrics_option, source_option, verbose_option


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NAME, numbered]")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder; completed stages are kept.")
@click.option("--only", multiple=True, metavar="STAGE", help="Run only this stage (may be repeated).")
@click.option("--from", "from_stage", metavar="STAGE", help="Begin with this stage.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@cpu_option
@source_option
@verbose_option
@openmetrics_option
def cmd(
    pipeline: Path,
    out: Path | None,
    resume: bool,
    only: tuple[str, ...],
    from_stage: str | None,
    dry_run: bool,
    cpu: str,
    sources: tuple[str, ...],
    verbose: bool,
    port: int | None,
) -> None:
    """Run the stages of PIPELINE one after another and log the energy of each.

    The log is a bundle of Parquet files in the run folder; `kit report DIR` shows it, `kit validate DIR`
    checks it.

    Ctrl-C ends the running stage cleanly and keeps everything measured; --resume goes on from there.
    """
    from harness.audit.folders import choose_out
    from harness.audit.plan import describe, load_plan
    from harness.cli.console import RunDisplay, make_console, short_path, stdout_console

    plan = load_plan(pipeline, only=only, from_stage=from_stage, run_dir=out)
    earlier = None
    if out is None:
        out, newest = choose_out(plan, resume=resume), choose_out(plan, resume=True)
        if (from_stage is not None or only) and newest != out:
            earlier = newest
        plan = load_plan(pipeline, only=only, from_stage=from_stage, run_dir=out)
    if dry_run:
        stdout_console().print(describe(plan))
        return
    from harness.audit.runner import run_plan
    from harness.bundle.resume import holds_run

    console = make_console()
    if earlier is not None:
        begun = f"a new run begins in {short_path(out)}; to go on with {short_path(earlier)} add --resume"
        console.print(begun, markup=False, highlight=False)
    go_on = resume and holds_run(plan.out_dir)
    if resume and not go_on:
        begun = f"there is no run in {short_path(plan.out_dir)} to go on with: a new one begins there"
        console.print(begun, markup=False, highlight=False)
    words = ["kit", "audit", short_path(pipeline), *_given(only, from_stage), *cpu_words(cpu, sources)]
    resume_command = shlex.join([*words, "--out", short_path(out), "--resume"])
    with RunDisplay(
        console, plan, verbose=verbose, resume_command=resume_command, metrics_port=port
    ) as display:
        result = run_plan(plan, display, resume_run=go_on, cpu=cpu, sources=sources)
    display.summary(result)
    raise click.exceptions.Exit(result.exit_code)


def _given(only: tuple[str, ...], from_stage: str | None) -> list[str]:
    """The options that a later call must repeat to mean the same run."""
    words = [word for name in only for word in ("--only", name)]
    return words + (["--from", from_stage] if from_stage is not None else [])
