"""`kit run -- COMMAND`: meter one command, as `time` does."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from harness.cli.options import cpu_option, source_option

if TYPE_CHECKING:
    from rich.console import Console

    from harness.meter.client import MeterConfig
    from harness.meter.session import MeterSession

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- COMMAND...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keep the log in this folder.  [default: not kept]"
)
@click.option("--name", help="Name of the stage.  [default: the command's name]")
@click.option(
    "--kind", default="x-run", show_default=True, help="Kind of the stage: one of the protocol's, or x-..."
)
@click.option(
    "--period-ms", type=click.IntRange(1, 60_000), default=500, show_default=True, help="Sampling period."
)
@click.option(
    "--record-command", is_flag=True, help="Keep the whole command in the log, not its program and a digest."
)
@cpu_option
@source_option
def cmd(
    command: tuple[str, ...],
    out: Path | None,
    name: str | None,
    kind: str,
    period_ms: int,
    record_command: bool,
    cpu: str,
    sources: tuple[str, ...],
) -> None:
    """Run COMMAND in the foreground and print where its joules went, on standard error.

    The exit code is the command's own; 1 where it succeeded and nothing was measured, unless --cpu none
    asked for that.
    """
    from harness.cli.quick_start import light_pyarrow
    from harness.meter.client import MeterConfig
    from harness.spec import load_protocol

    light_pyarrow()
    from harness.audit.programs import HIDES, devices_seen, hides_devices

    load_protocol().check_kind(kind, "--kind")
    if hides_devices(command, os.environ):
        click.echo(f"kit: {HIDES}", err=True)
    seen = tuple(devices_seen(command, os.environ))
    config = MeterConfig(
        period_us=period_ms * 1000, cpu=cpu, sources=sources, visible=seen, include_self=False
    )
    relay = _Relay()
    with relay.installed():
        if out is not None:
            code = _run(command, out, name, kind, config, relay, whole=record_command)
        else:
            with tempfile.TemporaryDirectory(prefix="kit-run-") as folder:
                code = _run(command, Path(folder) / "run", name, kind, config, relay, whole=record_command)
    raise click.exceptions.Exit(code)


class _Relay:
    """Hands signals on to the command and keeps the kit alive until its log is sealed."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        # A key pressed in the terminal has reached the command already, which is in the same process group.
        if self.process is not None and not (number != signal.SIGTERM and _in_foreground()):
            self.process.send_signal(number)

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        """A signal that asks for no end, such as a scheduler's before a time limit."""
        if self.process is not None:
            self.process.send_signal(number)

    @contextmanager
    def installed(self) -> Iterator[None]:
        handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self.handle)
        handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), self.hand_on)
        # What the caller ignores (nohup) stays ignored, here and in the command.
        heeded = [number for number in handlers if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handlers[number]) for number in heeded}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether keys pressed in a terminal send their signals to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _run(
    command: tuple[str, ...],
    out: Path,
    name: str | None,
    kind: str,
    config: MeterConfig,
    relay: _Relay,
    *,
    whole: bool,
) -> int:
    from harness.audit.programs import find_python
    from harness.audit.recorded import CommandDigests
    from harness.bundle import resume
    from harness.bundle.privacy import scrub
    from harness.bundle.seal import seal
    from harness.cli.console import describe_meter, make_console, show_report
    from harness.container import check_image
    from harness.journal.ulid import new_ulid
    from harness.meter.session import MeterSession, RunInfo
    from harness.text import as_name

    out = out.absolute()  # the command may change its folder
    check_image()
    resume.refuse_existing(out, None)
    console = make_console()
    title = as_name(name or Path(command[0]).name)
    words = list(command) if whole else CommandDigests(out).words(command)
    pipeline = {"command": scrub(shlex.join(words)), "source": "kit run"}
    info = RunInfo(run_id=new_ulid(), name=title, pipeline=pipeline)
    session = MeterSession(out, info, config, warn=lambda text: console.print(f"kit: {text}", markup=False))
    python = find_python([(command, os.environ.get("PATH"))])
    if python is not None:
        session.event("x-python", **python.detail())
    code = 128 + (relay.number or 0)
    try:
        if relay.number is None:
            session.begin(title, kind)
            code = _metered(command, session, relay, console)
    finally:
        if session.stage is not None:
            session.end("interrupted")
        session.close("complete" if code == 0 else "partial")
        seal(out)
    for line in [*describe_meter(session), *([] if python is None else [str(python)])]:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    show_report(out, file=sys.stderr)
    return code or int(session.nothing_measured is not None)


def _metered(command: tuple[str, ...], session: MeterSession, relay: _Relay, console: Console) -> int:
    """Run the command as the stage that has begun, and end the stage."""
    from harness.audit.reports import Intake, ReportReader

    def warn(text: str) -> None:
        console.print(f"kit: {text}", markup=False)

    logs = session.run_dir / "logs"
    logs.mkdir(exist_ok=True)
    reader = ReportReader(logs / "run.events.jsonl")
    intake = Intake(session, warn, "logs/run.events.jsonl")
    try:
        relay.process = subprocess.Popen(
            command, env={**os.environ, "KIT_EVENTS": str(logs / "run.events.jsonl")}
        )
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        warn(f"{command[0]}: {'command not found' if missing else error}")
        code = _NOT_FOUND if missing else _NOT_EXECUTABLE
        session.end("failed", exit_code=code)
        return code
    if relay.number is not None:
        relay.process.send_signal(relay.number)  # it came while the command was being started
    returned = relay.process.wait()
    session.cut()
    relay.process = None
    code = 128 - returned if returned < 0 else returned
    intake.take(reader.read(final=True))
    intake.sum_up()
    reader.close()
    status = "completed" if code == 0 else "failed" if relay.number is None else "interrupted"
    session.end(status, exit_code=code)
    return code
