"""`kit watch`: look at a run that is going on."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

from harness.cli.options import openmetrics_option
from harness.errors import KitError


@click.command("watch")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--once", is_flag=True, help="Look once.")
@openmetrics_option
def cmd(folder: Path, once: bool, port: int | None) -> None:
    """Show the run that goes on in DIR until it ends: stage, power, energy, tokens, time left, samples.

    It only reads what the run writes. Ctrl-C ends the watching, not the run.
    """
    from harness.audit.live_run import LiveRun, Snapshot
    from harness.cli.console import counts, duration, make_console, stdout_console
    from harness.cli.live import LATE_S, MetricsServer, openmetrics, packed, pieces
    from harness.journal.reading import journal_files
    from harness.journal.records import is_being_written

    live, shown = LiveRun(folder), [Snapshot()]
    console = stdout_console()
    server = None if port is None else MetricsServer(port, lambda: openmetrics(shown[0], folder.name))
    if server is not None:
        make_console().print(f"OpenMetrics: {server.url}", highlight=False)
    screen = console.is_terminal and not once
    status = console.status("") if screen else None

    def told(now: Snapshot) -> list[str]:
        late = now.last_sample_s is not None and now.last_sample_s > LATE_S
        with contextlib.suppress(KitError):  # a journal that a seal has taken away in between
            if late and not any(map(is_being_written, journal_files(folder))):
                return [*pieces(now), f"it is sealed now, or was killed: then kit recover {folder}"]
        return pieces(now)

    def text(now: Snapshot) -> str:
        head = "between two stages"
        if now.stage is not None:
            head = f"{now.stage[0]}  {duration(now.elapsed_s)}{counts(now.tokens)}  {now.stage[1]}"
        if not console.is_terminal:
            return "  ".join([head, *told(now)])
        width = max(20, console.width - 4)
        return "\n".join([head[:width], *(f"  {line}" for line in packed(told(now), width - 2))])

    try:
        if status is not None:
            status.start()
        while not live.over:
            shown[0] = live.snapshot()
            if status is None:
                console.print(text(shown[0]), markup=False, soft_wrap=True)
            else:
                from rich.text import Text

                status.update(Text(text(shown[0])))
            if once:
                return
            time.sleep(1.0 if screen else 10.0)
    except KeyboardInterrupt:
        return
    finally:
        if status is not None:
            status.stop()
        if server is not None:
            server.close()
    console.print(f"the run has ended: kit report {folder}", markup=False)
