"""`kit doctor`: what can be measured here, what cannot, and the command that would change it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from harness.cli.options import FiniteRange, LateChoice


def _requirements() -> list[str]:
    from harness.doctor.diagnose import requirements

    return requirements()


@click.command("doctor")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--require",
    "required",
    type=LateChoice(_requirements),
    multiple=True,
    help="Exit with 1 unless this is there; may be given several times.",
)
@click.option(
    "--for", "subject", metavar="PROFILE", help="Also look at what this profile needs: kit preflight."
)
@click.option(
    "--runs", "target", default="runs", show_default=True, help="The folder whose disk is looked at."
)
@click.option(
    "--probe", is_flag=True, help="Measure the GPUs' own instruments instead (about half a minute)."
)
@click.option(
    "--seconds",
    type=FiniteRange(min=4.0, max=600.0),
    default=30.0,
    show_default=True,
    help="Probe: how long.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Probe: write the figures here, as JSON."
)
@click.option(
    "--load/--no-load", default=True, help="Probe: make a square-wave load if torch with CUDA is found."
)
@click.option(
    "--load-python", metavar="PYTHON", help="Probe: the interpreter that has torch, if not this one."
)
def cmd(
    style: str,
    required: tuple[str, ...],
    subject: str | None,
    target: str,
    probe: bool,
    seconds: float,
    out: Path | None,
    load: bool,
    load_python: str | None,
) -> None:
    """Say what can be measured here, what cannot, and for each the one command that would fix it.

    Exits with 0 when a run can be measured at all, even if only by an estimate of the CPU's energy; with 1
    when nothing can, or when something asked for with --require is missing.
    """
    if probe:
        if required:
            raise click.UsageError("--require belongs to the checks, not to --probe")
        _probe(style, seconds, out, load, load_python)
        return
    if out is not None:
        raise click.UsageError("--out belongs to --probe; for the checks: kit doctor --format json > FILE")
    from shutil import get_terminal_size

    from harness.doctor.diagnose import diagnose
    from harness.doctor.render import render

    diagnosis = diagnose(target, required)
    text = render(diagnosis, sys.stdout.encoding, get_terminal_size().columns)
    document, code = diagnosis.as_json(), diagnosis.exit_code
    if subject is not None:
        from harness.cli.preflight import checked
        from harness.text import lines_shown

        result = checked(subject)
        document["preflight"] = result.as_json()
        text, code = f"{text}\n\n{lines_shown(result.render())}", max(code, result.exit_code)
    click.echo(json.dumps(document, indent=2) if style == "json" else text)
    click.get_current_context().exit(code)


def _probe(style: str, seconds: float, out: Path | None, load: bool, load_python: str | None) -> None:
    from harness.gpucheck.probe.report import render_probe
    from harness.gpucheck.probe.run import run_probe

    result = run_probe(
        seconds, load=load, load_python=load_python, say=lambda text: click.echo(text, err=True)
    )
    text = json.dumps(result.as_json(), indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    click.echo(text if style == "json" else render_probe(result))
