"""What a person sees while a run goes on."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from harness.audit.output import Follower
from harness.ending import silence
from harness.spec import load_protocol

if TYPE_CHECKING:
    from harness.audit.attempt import StageLogs, StageResult
    from harness.audit.live_run import Snapshot
    from harness.audit.plan import PlannedStage, RunPlan
    from harness.audit.programs import Interpreter
    from harness.audit.runner import RunResult
    from harness.cli.live import MetricsServer
    from harness.meter.session import MeterSession

_MARKS = {"completed": ("✓", "green"), "failed": ("✗", "red"), "interrupted": ("■", "yellow")}
_PRIVATE = "logs/, work/, cache/ and journal/ are your own: no part of the log, and never to be handed in"
_TOKEN_WORDS = {
    "tokens_trained": "tokens trained",
    "tokens_processed": "tokens processed",
    "tokens_positions": "token positions",
    "tokens_generated": "tokens generated",
}
_HANG = 3  # further lines of a wrapped one stand under its text, not under its mark
_PLAIN_EVERY_S = 60.0
_PLAIN = str.maketrans("✓✗■…", "+x#~")


class _Console(Console):
    """A console that a run outlives: when its reader goes away it falls silent."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(sys.stderr)


def make_console() -> Console:
    """The console for progress: standard error, so that standard output stays free for results."""
    return _Console(stderr=True, highlight=False, emoji=False)


def stdout_console() -> Console:
    """The console for results. In a pipe nothing is wrapped: who reads it may want to search it."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def describe_meter(session: MeterSession) -> list[str]:
    """In words, what this session measures and what it does not."""
    greeting = session.client.greeting
    lines = []
    devices = greeting["devices"]
    if devices:
        for device in devices:
            counter = (
                "energy counter" if device["counter_supported"] else "no energy counter: power samples only"
            )
            if device["counter_supported"] and device["refresh_us"]:
                counter += f", refreshed every {device['refresh_us'] / 1000:.0f} ms"
            if load_protocol().source(device["source"]).state != "measured":
                counter = f"{load_protocol().source(device['source']).state}; {counter}"
            whole = "; MIG: the whole GPU is metered" if device["mig_instance"] else ""
            lines.append(f"GPU {device['device_id']}: {device['model']} ({counter}{whole})")
    else:
        lines.append(f"GPU: none metered ({greeting['no_gpu_reason']})")
    method = session.client.cpu_method
    source = next((source for source in load_protocol().sources if source.method == method), None)
    if source is not None and greeting["zones"]:
        zones = ", ".join(zone["label"] for zone in greeting["zones"])
        lines.append(f"CPU: {source.words} ({zones})")
    elif source is not None:
        lines.append(
            f"CPU: {source.state} by {source.words} (no counter of a better source can be read here)"
        )
    else:
        reason = session.client.cpu_absent_reason
        lines.append("CPU: not measured" + (f" ({reason})" if reason else ""))
    lines += [f"in doubt: {doubt}" for doubt in greeting["doubts"]]
    return lines


class RunDisplay:
    """Shows the progress of one run: a line per stage, and a moving one below it on a terminal.

    Nothing that goes wrong with showing ever reaches the run: a terminal may be closed while it works.

    Args:
        console: Where to.
        plan: The run.
        verbose: Whether the stages' own output is shown as it comes.
        resume_command: How to go on if this run stops.
        metrics_port: Where on the loopback the live figures are served; None: nowhere.
    """

    def __init__(
        self,
        console: Console,
        plan: RunPlan,
        *,
        verbose: bool,
        resume_command: str,
        metrics_port: int | None = None,
    ) -> None:
        self._console = console
        self._plan = plan
        self._verbose = verbose
        self._resume_command = resume_command
        self._status = console.status("starting the meter") if console.is_terminal else None
        self._begun = 0.0
        self._now: Snapshot | None = None
        self._said_s = 0.0
        self._server: MetricsServer | None = None
        if metrics_port is not None:
            from harness.cli.live import MetricsServer

            self._server = MetricsServer(metrics_port, self._page)
            self._line(f"OpenMetrics: {self._server.url}", indent=0)
        self._output: list[Follower] = []
        self._width = max((len(stage.name) for stage in plan.stages), default=0)

    def __enter__(self) -> RunDisplay:
        count = len(self._plan.stages)
        self._line(f"[bold]{escape(self._plan.name)}[/]: {count} stage{'s' if count != 1 else ''}", indent=0)
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._status:
            try:
                self._status.stop()
            except OSError:
                self._fall_silent()

    def _line(self, markup: str, indent: int = 2) -> None:
        """One line; on a terminal it wraps under its own beginning, elsewhere it stays one line."""
        text = Text.from_markup(markup)
        if self._console.encoding.lower() not in ("utf-8", "utf8"):
            text = Text(text.plain.translate(_PLAIN))
        try:
            if self._console.is_terminal:
                lines = text.wrap(self._console, max(20, self._console.width - indent - _HANG))
                for number, line in enumerate(lines):
                    self._console.print(" " * (indent + (_HANG if number else 0)), line, sep="", no_wrap=True)
            else:
                self._console.print(" " * indent, text, sep="", soft_wrap=True)
        except OSError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        """Nobody reads any more: the terminal was closed."""
        self._console.quiet = True
        silence(sys.stderr)

    def metering(self, session: MeterSession, python: Interpreter | None) -> None:
        """Say what is measured, and which interpreter the stages run."""
        for line in [*describe_meter(session), *([] if python is None else [str(python)])]:
            self._line(escape(line))

    def _place(self, stage: PlannedStage) -> str:
        return f"{stage.index + 1:>2} {escape(stage.name.ljust(self._width))}"

    def skipped(self, stage: PlannedStage, why: str) -> None:
        """Say that a stage is left out."""
        self._line(f"- {self._place(stage)}  [dim]{escape(why)}[/]")

    def again(self, stage: PlannedStage, why: str) -> None:
        """Say that a completed stage runs again."""
        self._line(f"{escape(stage.name)} runs again: {escape(why)}")

    def started(self, stage: PlannedStage, attempt: int, logs: StageLogs) -> None:
        """An attempt begins."""
        self._begun = self._said_s = time.monotonic()
        self._output = (
            [Follower(path, from_start=False) for path in (logs.out, logs.err)] if self._verbose else []
        )
        if self._status:
            self._status.update(f"{self._place(stage)}  [dim]{stage.kind}[/]")
        else:
            again = f"  attempt {attempt}" if attempt > 1 else ""
            self._line(f"… {self._place(stage)}{again}")

    def watching(self, stage: PlannedStage, now: Snapshot) -> None:
        """An attempt goes on."""
        from harness.cli.live import packed, pieces

        self._now = now
        now_s = time.monotonic()
        running, figures = duration(now_s - self._begun), pieces(now)
        try:
            if self._status:
                text = Text.from_markup(
                    f"{self._place(stage)}  {running}{counts(now.tokens)}  [dim]{stage.kind}[/]"
                )
                text.truncate(self._console.width - 3, overflow="ellipsis")  # beside the spinner, on one line
                for line in packed(figures, max(20, self._console.width - 8)):
                    text.append(f"\n     {line}", "dim")
                self._status.update(text)
            elif now_s - self._said_s >= _PLAIN_EVERY_S:
                self._said_s = now_s
                self._line(f"… {self._place(stage)}  {escape('  '.join([running, *figures]))}")
        except OSError:
            self._fall_silent()
        self._show_output()

    def _page(self) -> str:
        from harness.audit.live_run import Snapshot
        from harness.cli.live import openmetrics

        return openmetrics(self._now or Snapshot(), self._plan.name)

    def _show_output(self, final: bool = False) -> None:
        for follower in self._output:
            for line in follower.lines(final=final):
                self._line(f"[dim]{escape(line)}[/]", indent=5)

    def ended(self, stage: PlannedStage, result: StageResult) -> None:
        """Say how an attempt ended."""
        self._show_output(final=True)
        mark, colour = _MARKS[result.status]
        reason, *advice = (result.reason or "").splitlines() or [""]
        shown = f"  [{colour}]{escape(reason)}[/]" if reason else ""
        shown += ", trying again" if result.retry else ""
        figures = f"{duration(result.duration_s)}{counts(result.tokens)}"
        self._line(f"[{colour}]{mark}[/] {self._place(stage)}  {figures}{shown}")
        for line in advice:
            self._line(escape(line.strip()), indent=5)
        if result.status == "failed" and not self._verbose:
            for line in result.output_tail:
                self._line(f"[dim]{escape(line)}[/]", indent=5)

    def warn(self, text: str) -> None:
        """Say what a person should know now."""
        self._line(f"[yellow]![/] {escape(text)}")

    def summary(self, result: RunResult) -> None:
        """The report's table on standard output, and what to do next on standard error."""
        folder = shlex.quote(short_path(result.run_dir))
        if result.exit_code == 0 and result.ran == 0:
            self._line("nothing to do: every stage completed earlier", indent=0)
        try:
            show_report(result.run_dir)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError:
            # The terminal is gone. The run is sealed; what is left to say must not turn into a failure of it.
            silence(sys.stdout)
            self._fall_silent()
        if result.exit_code == 0:
            self._line(f"next: kit validate {folder}", indent=0)
            self._line(_PRIVATE, indent=0)
            return
        if result.signal_number is None and result.failed is None:
            self._line(f"[red]✗[/] {escape(result.nothing_measured or '')}", indent=0)
            self._line("next: kit doctor, or ask for it with --cpu none", indent=0)
            return
        what = "stopped" if result.signal_number else f"stage {result.failed} failed"
        self._line(f"{escape(what)}; what was measured is kept, output in {folder}/logs", indent=0)
        self._line(_PRIVATE, indent=0)
        self._line(f"go on: {escape(self._resume_command)}", indent=0)


def show_report(run_dir: Path, file: IO[str] | None = None) -> None:
    """The report of a run as a table on `file`, standard output by default."""
    from harness.report.model import build
    from harness.report.terminal import print_report

    print_report(build(run_dir), Console(file=file, highlight=False, emoji=False))


def counts(tokens: Mapping[str, int]) -> str:
    """Token counts in words, with what they are."""
    return "".join(f"  {count:,} {_TOKEN_WORDS.get(name, name)}" for name, count in tokens.items())


def duration(seconds: float) -> str:
    """Seconds below two minutes, else hours, minutes and seconds."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def short_path(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
