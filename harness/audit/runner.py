"""Runs a plan: stage after stage as processes under the meter, then seals the bundle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

from harness.audit.attempt import Origin, RunContext, StageAttempt, Watcher
from harness.audit.folders import prepare
from harness.audit.forks import Forks
from harness.audit.late_reports import take_late_reports
from harness.audit.live_run import LiveRun
from harness.audit.own_stages import IDLE, IMPORTS, import_ahead, wait_idle
from harness.audit.plan import PlannedStage, RunPlan
from harness.audit.process import adopting_orphans
from harness.audit.programs import (
    HIDES,
    Interpreter,
    devices_seen,
    find_python,
    hides_devices,
    lacks_pipefail,
    shell_words,
)
from harness.audit.recorded import CommandDigests
from harness.audit.remaining import Chooser, RemainingStages, check_same_run, kept_as_it_was
from harness.bundle import resume
from harness.bundle.seal import seal
from harness.journal.ulid import new_ulid
from harness.meter.client import MeterConfig
from harness.meter.session import MeterSession, RunInfo
from harness.meter.visible import ALL


class RunProgress(Watcher, Chooser, Protocol):
    """What the runner tells while it works; the command line shows it, tests collect it."""

    def metering(self, session: MeterSession, python: Interpreter | None) -> None:
        """The meter is warm; `python` is what the stages' commands mean by that."""


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        failed: Name of the stage that stopped it, None when all completed.
        signal_number: The signal that stopped it, None otherwise.
        ran: How many stages and waits were run; 0 when a resumed run was complete.
        nothing_measured: In words, why nothing was measured, where that was not asked for.
    """

    run_dir: Path
    failed: str | None = None
    signal_number: int | None = None
    ran: int = 0
    nothing_measured: str | None = None

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a stage failed or nothing was measured, 128 + signal when stopped by one."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        return 0 if self.failed is None and self.nothing_measured is None else 1


class _Stop:
    """Remembers the first signal that asks for the end; a further one makes the stage's end immediate."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0
        self.session: MeterSession | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.number = self.number or number

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        """A signal that asks for no end, such as a scheduler's before a time limit, is for the stage."""
        group = None if self.session is None else self.session.client.stage_group
        if group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def wanted(self) -> int | None:
        if self.number is None:
            return None
        if self.count > 1:
            return signal.SIGKILL
        # A closed terminal is an end like any other: programs save their state on SIGTERM, hardly on SIGHUP.
        return signal.SIGTERM if self.number == signal.SIGHUP else self.number


@contextmanager
def _signals(stop: _Stop) -> Iterator[None]:
    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop.handle)
    handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), stop.hand_on)
    # What the caller has ignored stays so: nohup, or a job in the background of a script.
    heeded = [number for number in handlers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handlers[number]) for number in heeded}
    # Ctrl-Z would stop the runner and not the stage, which has its own session and would go on unwatched.
    previous[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_plan(
    plan: RunPlan,
    progress: RunProgress,
    *,
    resume_run: bool = False,
    cpu: str = "auto",
    sources: tuple[str, ...] = (),
    origins: Mapping[str, Origin] | None = None,
    forks: Forks | None = None,
) -> RunResult:
    """Run the stages of a plan one after another; seal the bundle, also when a stage fails or a signal comes.

    Args:
        plan: What to run; `plan.out_dir` must not hold a run unless `resume_run`.
        progress: Hears what happens.
        resume_run: Go on with the run in `plan.out_dir`: stages that completed with the same command, inputs
            and outputs are not run again; everything that earlier attempts used stays in the log.
        cpu: How CPU energy is measured, and
        sources: which sources are used whatever their rank, as in `MeterConfig`.
        origins: Artifact id to the run that paid for it; the log names it where a stage consumes one.
        forks: Where stages may be forked from; its start is a stage of this run where one is due.

    Raises:
        KitError: The run folder cannot be used, or the devices cannot be metered.
    """
    stop = _Stop()
    with _signals(stop), adopting_orphans():
        state = None
        if resume_run:
            take_late_reports(plan.out_dir)
            state = resume.continue_run(plan.out_dir)
        else:
            resume.refuse_existing(plan.out_dir, "add --resume")
        if state is not None:
            check_same_run(plan, state)
        digests = CommandDigests(plan.out_dir)
        remaining = RemainingStages(plan, state, progress, digests)
        if state is not None and remaining.done:
            if words := kept_as_it_was(plan, state):
                progress.warn(words)
            resume.mark_complete(plan.out_dir, state.finished)
            return RunResult(plan.out_dir)
        prepare(plan)
        session = MeterSession(
            plan.out_dir, _info(plan, state, digests), _meter_config(plan, cpu, sources), warn=progress.warn
        )
        stop.session = session
        python = find_python((s.argv, s.env.get("PATH", os.environ.get("PATH"))) for s in remaining.stages)
        if python is not None:
            session.event("x-python", **python.detail())
        if any(lacks_pipefail(stage.argv) for stage in remaining.stages):
            progress.warn(shell_words())
        for stage in remaining.stages if plan.settings.devices == "auto" else ():
            if hides_devices(stage.argv, {**os.environ, **stage.env}):
                progress.warn(f"{stage.name}: {HIDES}; or name them as `devices` of the pipeline file")
        context = RunContext(
            plan,
            session,
            progress,
            stop.wanted,
            LiveRun(plan.out_dir),
            remaining.digests,
            digests,
            origins or {},
            forks,
        )
        runner = _Runner(context, remaining)
        finished = False
        try:
            progress.metering(session, python)
            finished = runner.run()
        finally:
            if session.stage is not None:
                session.end("interrupted")
            session.close("complete" if finished else "partial")
            remaining.digests.save()
            seal(plan.out_dir)
    stopped_by = stop.number if not finished else None
    return RunResult(plan.out_dir, runner.failed, stopped_by, runner.ran, session.nothing_measured)


def _info(plan: RunPlan, state: resume.RunState | None, digests: CommandDigests) -> RunInfo:
    return RunInfo(
        run_id=state.run_id if state else new_ulid(),
        name=plan.name,
        method=plan.settings.method,
        labels=plan.settings.labels,
        pipeline=plan.as_dict(digests),
        pue=plan.settings.pue,
        region=plan.settings.region,
        reference_tokens=plan.settings.reference_tokens,
        protocol=plan.settings.protocol,
        first_session=state.next_session if state else 0,
        first_stage_uid=state.next_stage_uid if state else 0,
    )


def _meter_config(plan: RunPlan, cpu: str, sources: tuple[str, ...]) -> MeterConfig:
    words: dict[str, tuple[str, ...] | None] = {"auto": None, "none": (), ALL: (ALL,)}
    named = plan.settings.devices
    devices = words[named] if isinstance(named, str) else tuple(map(str, named))
    return MeterConfig(
        period_us=plan.settings.sampling.period_ms * 1000,
        devices=devices,
        cpu=cpu,
        sources=sources,
        visible=tuple(
            dict.fromkeys(
                seen
                for stage in plan.stages
                for seen in devices_seen(stage.argv, {**os.environ, **stage.env})
            )
        ),
        include_self=False,
    )


class _Runner:
    def __init__(self, context: RunContext, remaining: RemainingStages) -> None:
        self._context = context
        self._remaining = remaining
        self.failed: str | None = None
        self.ran = 0

    def run(self) -> bool:
        """Run the stages; whether all completed. `failed` names the one that did not."""
        # Resumed for the wait after the stages alone, there is nothing to wait before.
        before = not self._remaining.stages or self._idle("before")
        return before and self._stages() and self._idle("after")

    def _idle(self, when: Literal["before", "after"]) -> bool:
        self.ran += 1
        number = self._remaining.attempts.get(f"{IDLE}_{when}", 0) + 1
        return wait_idle(self._context, when, number)

    def _stages(self) -> bool:
        for stage in self._remaining.stages:
            if self._context.stop() is not None:
                return False
            self.ran += 1
            number = self._remaining.attempts.get(IMPORTS, 0) + 1
            if import_ahead(self._context, stage, number):
                self._remaining.attempts[IMPORTS] = number
            if self._context.stop() is not None:
                return False
            status = self._attempts(stage)
            if status != "completed":
                self.failed = stage.name if status == "failed" else None
                return False
        return True

    def _attempts(self, stage: PlannedStage) -> str:
        """Try a stage until it completes, its retries are used up or the run is stopped; the last status."""
        number = self._remaining.attempts.get(stage.name, 0) + 1
        left = stage.retries
        while True:
            attempt = StageAttempt(self._context, stage, number)
            result = attempt.run()
            retry = result.status == "failed" and left > 0 and self._context.stop() is None
            self._context.progress.ended(stage, replace(result, retry=retry))
            attempt.cut_logs()
            if not retry:
                return result.status
            number, left = number + 1, left - 1
