"""`kit run -- COMMAND`: meter one command, as `time` does."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- COMMAND...")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the log in this folder.  [default: not kept]")
@click.option("--name", help="Name of the stage.  [default: the command's name]")
@click.option("--kind", default="x-run", show_default=True, help="Kind of the stage: one of the protocol's, or x-...")
@click.option("--period-ms", type=click.IntRange(1, 60_000), default=500, show_default=True, help="Sampling period.")
@click.option(
    "--cpu",
    type=click.Choice(["auto", "rapl", "codecarbon", "none"]),
    default="auto",
    show_default=True,
    help="How CPU energy is measured.",
)
def cmd(
    command: tuple[str, ...], out: Path | None, name: str | None, kind: str, period_ms: int, cpu: str
) -> None:
    """Run COMMAND in the foreground and print where its joules went, on standard error.

    The exit code is the command's own.
    """
    from harness.errors import KitError
    from harness.meter.api import STAGE_KINDS

    if kind not in STAGE_KINDS and not kind.startswith("x-"):
        raise KitError(f"{kind!r} is not a stage kind", where="--kind", expected=", ".join(STAGE_KINDS) + " or x-...")
    if out is not None:
        code = _run(command, out, name, kind, period_ms, cpu)
    else:
        with tempfile.TemporaryDirectory(prefix="kit-run-") as folder:
            code = _run(command, Path(folder) / "run", name, kind, period_ms, cpu)
    raise click.exceptions.Exit(code)


def _run(command: tuple[str, ...], out: Path, name: str | None, kind: str, period_ms: int, cpu: str) -> int:
    from harness.audit.reports import ReportReader
    from harness.bundle import resume
    from harness.bundle.scrub import scrub
    from harness.bundle.seal import seal
    from harness.bundle.ulid import new_ulid
    from harness.cli.console import describe_meter, make_console
    from harness.meter.client import MeterConfig
    from harness.meter.session import MeterSession, RunInfo
    from harness.report.show import print_report

    resume.refuse_existing(out, "kit run always begins a new log")
    console = make_console()
    title = name or Path(command[0]).name
    info = RunInfo(
        run_id=new_ulid(), name=title, pipeline={"command": scrub(shlex.join(command)), "source": "kit run"}
    )
    config = MeterConfig(period_us=period_ms * 1000, cpu=cpu, include_self=False)
    session = MeterSession(out, info, config, warn=lambda text: console.print(f"kit: {text}", markup=False))
    events = out / "logs" / "run.events.jsonl"
    events.parent.mkdir()
    events.touch()
    # Ctrl-C reaches the command through the terminal; the kit waits for it to end and then seals.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    previous_term = signal.getsignal(signal.SIGTERM)
    session.begin(title, kind)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "KIT_EVENTS": str(events)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        console.print(f"kit: {command[0]}: {error.strerror}", markup=False)
        session.end("failed", exit_code=code)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        returned = process.wait()
        code = 128 - returned if returned < 0 else returned
        for report in ReportReader(events).read(final=True):
            if report.tokens:
                session.add_tokens(report.tokens)
            if report.event is not None:
                session.report_event(report.event, report.detail)
        session.end("completed" if code == 0 else "failed", exit_code=code)
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, previous_term)
    for line in describe_meter(session):
        console.print(line, markup=False)
    session.close("complete" if code == 0 else "partial")
    seal(out)
    print_report(out, file=sys.stderr)
    return code
