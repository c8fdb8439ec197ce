"""What a person sees while a run goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from harness.audit.plan import Plan, PlannedStage
    from harness.audit.runner import RunResult, StageResult
    from harness.meter.session import MeterSession

_MARKS = {"completed": "[green]✓[/]", "failed": "[red]✗[/]", "interrupted": "[yellow]■[/]"}


def make_console() -> Console:
    """The console for progress: standard error, so that standard output stays free for results."""
    return Console(stderr=True, highlight=False)


def describe_meter(session: MeterSession) -> list[str]:
    """In words, what this session measures and what it does not."""
    greeting = session.client.greeting
    lines = []
    devices = greeting["devices"]
    if devices:
        for device in devices:
            counter = "energy counter" if device["counter_supported"] else "no energy counter: power samples only"
            if device["counter_supported"] and device["refresh_us"]:
                counter += f", refreshed every {device['refresh_us'] / 1000:.0f} ms"
            whole = "; MIG: the whole GPU is metered" if device["mig_instance"] else ""
            lines.append(f"GPU {device['device_id']}: {device['model']} ({counter}{whole})")
    else:
        lines.append(f"GPU: none metered ({greeting['no_gpu_reason']})")
    method = session.client.cpu_method
    if method == "rapl":
        zones = ", ".join(zone["label"] for zone in greeting["zones"])
        lines.append(f"CPU: RAPL ({zones})")
    elif method == "codecarbon_process":
        lines.append("CPU: estimated by CodeCarbon from the processes' CPU time (RAPL cannot be read here)")
    else:
        reason = session.client.cpu_absent_reason
        lines.append("CPU: not measured" + (f" ({reason})" if reason else ""))
    lines += [f"in doubt: {doubt}" for doubt in greeting["doubts"]]
    return lines


class RunDisplay:
    """Shows the progress of one run: a line per stage, and a moving one below it on a terminal.

    Args:
        console: Where to.
        plan: The run.
        verbose: Whether the stages' own output is shown.
    """

    def __init__(self, console: Console, plan: Plan, *, verbose: bool) -> None:
        self._console = console
        self._plan = plan
        self._verbose = verbose
        self._status = console.status("starting the meter") if console.is_terminal else None
        self._begun = 0.0
        self._log: Path | None = None
        self._shown = 0

    def __enter__(self) -> RunDisplay:
        self._console.print(f"[bold]{escape(self._plan.name)}[/]: {len(self._plan.stages)} stages")
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def metering(self, session: MeterSession) -> None:
        for line in describe_meter(session):
            self._console.print(f"  {escape(line)}")

    def _place(self, stage: PlannedStage) -> str:
        return f"{stage.index + 1:>2} {escape(stage.name)}"

    def skipped(self, stage: PlannedStage, why: str) -> None:
        self._console.print(f"  - {self._place(stage)}  [dim]{escape(why)}[/]")

    def started(self, stage: PlannedStage, attempt: int, log: Path) -> None:
        self._begun, self._log, self._shown = time.monotonic(), log, 0
        self._say(stage, {}, attempt)
        if not self._status:
            again = f" (attempt {attempt})" if attempt > 1 else ""
            self._console.print(f"  … {self._place(stage)}{again}")

    def _say(self, stage: PlannedStage, tokens: dict[str, int], attempt: int | None = None) -> None:
        if not self._status:
            return
        elapsed = time.monotonic() - self._begun
        counts = "  ".join(f"{count:,} {name.removeprefix('tokens_')}" for name, count in tokens.items())
        self._status.update(f"{self._place(stage)}  {stage.kind}  {elapsed:.0f} s  {counts}")

    def watching(self, stage: PlannedStage, tokens: dict[str, int]) -> None:
        self._say(stage, tokens)
        self._show_output()

    def _show_output(self) -> None:
        if not self._verbose or self._log is None:
            return
        for path in (self._log,):
            with path.open("rb") as stream:
                stream.seek(self._shown)
                data = stream.read()
            cut = data.rfind(b"\n") + 1
            self._shown += cut
            for line in data[:cut].decode(errors="replace").splitlines():
                self._console.print(f"     [dim]{escape(line)}[/]")

    def ended(self, stage: PlannedStage, result: StageResult) -> None:
        self._show_output()
        mark = _MARKS[result.status]
        reason = f"  [red]{escape(result.reason)}[/]" if result.reason else ""
        self._console.print(f"  {mark} {self._place(stage)}  {result.duration_s:.1f} s{reason}")
        if result.status == "failed":
            for line in result.output_tail:
                self._console.print(f"     [dim]{escape(line)}[/]")

    def warn(self, text: str) -> None:
        self._console.print(f"  [yellow]![/] {escape(text)}")

    def summary(self, result: RunResult) -> None:
        """The report's table on standard output, and what to do next on standard error."""
        from harness.report.show import print_report

        print_report(result.run_dir)
        folder = _short(result.run_dir)
        if result.exit_code == 0:
            self._console.print(f"next: kit validate {folder}   kit report {folder} --help")
        else:
            what = "stopped" if result.signal_number else f"stage {result.failed} failed"
            self._console.print(
                f"{what}; what was measured is kept. Output: {folder}/logs   "
                f"go on with: kit audit {_short(self._plan.source)} --out {folder} --resume"
            )


def _short(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def stdout_console(**options: Any) -> Console:
    """The console for results."""
    return Console(file=sys.stdout, highlight=False, **options)
