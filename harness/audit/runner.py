"""Runs a plan: stage after stage as processes under the meter, then seals the bundle."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from harness.audit.artifacts import Artifact, DigestCache
from harness.audit.plan import Plan, PlannedStage
from harness.audit.process import Outcome, StageProcess, tail
from harness.audit.reports import ReportReader
from harness.bundle import resume
from harness.bundle.privacy import scrub
from harness.bundle.seal import seal
from harness.bundle.ulid import new_ulid
from harness.errors import KitError
from harness.meter.client import MeterConfig
from harness.meter.session import MeterSession, RunInfo

_TAIL_LINES = 20
_MAX_PROBLEMS = 20


class Progress(Protocol):
    """What the runner tells while it works; the command line shows it, tests collect it."""

    def metering(self, session: MeterSession) -> None: ...

    def skipped(self, stage: PlannedStage, why: str) -> None: ...

    def started(self, stage: PlannedStage, attempt: int, log: Path) -> None: ...

    def watching(self, stage: PlannedStage, tokens: dict[str, int]) -> None: ...

    def ended(self, stage: PlannedStage, result: StageResult) -> None: ...

    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class StageResult:
    """How an attempt at a stage ended: status, and in words why it did not complete."""

    status: str
    exit_code: int | None
    duration_s: float
    tokens: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    output_tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        failed: Name of the stage that stopped it, None when all completed.
        signal_number: The signal that stopped it, None otherwise.
    """

    run_dir: Path
    failed: str | None = None
    signal_number: int | None = None

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a stage failed, 128 + signal when stopped by one."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        return 0 if self.failed is None else 1


class _Stop:
    """Remembers the first SIGINT or SIGTERM; a second SIGINT makes the stage's end immediate."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.number = self.number or number

    def wanted(self) -> int | None:
        if self.number is None:
            return None
        return signal.SIGKILL if self.count > 1 else self.number


@contextmanager
def _signals(stop: _Stop) -> Iterator[None]:
    previous = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_plan(plan: Plan, progress: Progress, *, resume_run: bool = False, cpu: str = "auto") -> RunResult:
    """Run the stages of a plan one after another and seal the bundle, also when a stage fails or a signal comes.

    Args:
        plan: What to run; `plan.out_dir` must not hold a run unless `resume_run`.
        progress: Told what happens.
        resume_run: Go on with the run in `plan.out_dir`: stages that completed with the same command and whose outputs
            are still there are not run again; everything earlier attempts used stays in the log.
        cpu: How CPU energy is measured, as in `MeterConfig`.

    Raises:
        KitError: The run folder cannot be used or the devices cannot be metered.
    """
    state = None
    if resume_run:
        state = resume.continue_run(plan.out_dir)
    else:
        resume.refuse_existing(plan.out_dir, "add --resume")
    stop = _Stop()
    with _signals(stop):
        todo = _Todo(plan, state, progress)
        if state is not None and not todo.stages:
            return RunResult(plan.out_dir)
        info = RunInfo(
            run_id=state.run_id if state else new_ulid(),
            name=plan.name,
            method=plan.method,
            labels=plan.labels,
            pipeline=plan.as_dict(),
            pue=plan.pue,
            region=plan.region,
            reference_tokens=plan.reference_tokens,
            first_session=state.next_session if state else 0,
            first_stage_uid=state.next_stage_uid if state else 0,
        )
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        session = MeterSession(plan.out_dir, info, _meter_config(plan, cpu), warn=progress.warn)
        progress.metering(session)
        runner = _Runner(plan, session, progress, stop, todo)
        failed: str | None = None
        try:
            failed = runner.run()
        finally:
            if session.stage is not None:
                session.end("interrupted")
            complete = failed is None and stop.number is None
            session.close("complete" if complete else "partial")
            todo.digests.save()
            seal(plan.out_dir)
    return RunResult(plan.out_dir, failed, stop.number)


def _meter_config(plan: Plan, cpu: str) -> MeterConfig:
    if isinstance(plan.devices, str):
        devices: tuple[str, ...] | None = () if plan.devices == "none" else None
    else:
        devices = tuple(str(device) for device in plan.devices)
    return MeterConfig(
        period_us=round(plan.sampling.period_ms * 1000),
        boundary_mode=plan.sampling.boundary,
        devices=devices,
        cpu=cpu,
        include_self=False,
    )


class _Todo:
    """Which stages still have to run, and the attempt each begins with."""

    def __init__(self, plan: Plan, state: resume.RunState | None, progress: Progress) -> None:
        self.digests = DigestCache(plan.out_dir / "cache" / "digests.json")
        self.attempts = dict(state.attempts) if state else {}
        self.stages: list[PlannedStage] = []
        redo: set[str] = set()
        for stage in plan.stages:
            makers = {maker for names in stage.producers.values() for maker in names}
            done = state.finished.get(stage.name) if state else None
            why = self._why_again(stage, done, redo & makers)
            if why is None:
                progress.skipped(stage, "completed in an earlier session")
            else:
                redo.add(stage.name)
                self.stages.append(stage)

    def _why_again(
        self, stage: PlannedStage, done: resume.FinishedStage | None, redone: set[str]
    ) -> str | None:
        if done is None:
            return "not completed yet"
        if redone:
            return f"{', '.join(sorted(redone))} runs again"
        if done.command_sha256 != stage.fingerprint:
            return "its command, environment or paths changed"
        for path in stage.outputs.values():
            if not path.exists() or self.digests.artifact(path).artifact_id not in done.produces.values():
                return f"its output {path.name} is missing or changed"
        return None


class _Runner:
    def __init__(
        self, plan: Plan, session: MeterSession, progress: Progress, stop: _Stop, todo: _Todo
    ) -> None:
        self._plan = plan
        self._session = session
        self._progress = progress
        self._stop = stop
        self._todo = todo
        self._problems = 0

    def run(self) -> str | None:
        """Run all stages; the name of the one that failed, None when all completed or a signal came."""
        for stage in self._todo.stages:
            first = self._todo.attempts.get(stage.name, 0) + 1
            for attempt in range(first, first + stage.retries + 1):
                if self._stop.number is not None:
                    return None
                result = self._attempt(stage, attempt)
                self._progress.ended(stage, result)
                if result.status != "failed":
                    break
            if result.status == "failed":
                return stage.name
        return None

    def _attempt(self, stage: PlannedStage, attempt: int) -> StageResult:
        logs = self._plan.out_dir / "logs"
        logs.mkdir(exist_ok=True)
        stem = f"{stage.name}.{attempt}"
        out, err, events = (logs / f"{stem}.{suffix}" for suffix in ("out", "err", "events.jsonl"))
        events.touch()
        for path in (*stage.outputs.values(),):
            path.parent.mkdir(parents=True, exist_ok=True)
        if stage.cwd.is_relative_to(self._plan.run_dir):
            stage.cwd.mkdir(parents=True, exist_ok=True)
        # Digests are taken between the stages: reading a checkpoint is no part of training from it.
        consumed = {path: self._todo.digests.artifact(path) for path in stage.inputs.values()}
        self._progress.started(stage, attempt, out)
        opened = self._session.begin(
            stage.name, stage.kind, attempt=attempt, command_sha256=stage.fingerprint
        )
        for path, artifact in consumed.items():
            self._record_artifact(opened.uid, "consumed", path, artifact)
        reader = ReportReader(events)
        try:
            process = StageProcess(stage.argv, stage.cwd, self._environment(stage, events), out, err)
        except KitError as error:
            self._session.end("failed", exit_code=127)
            return StageResult("failed", 127, 0.0, {}, str(error))
        self._session.client.register_group(process.pgid, opened.uid)

        def watch() -> None:
            self._take(reader.read())
            self._progress.watching(stage, opened.tokens)

        outcome = process.wait(timeout_s=stage.timeout_s, interrupted=self._stop.wanted, watch=watch)
        return self._finish(stage, process, outcome, reader, (out, err))

    def _finish(
        self,
        stage: PlannedStage,
        process: StageProcess,
        outcome: Outcome,
        reader: ReportReader,
        logs: tuple[Path, Path],
    ) -> StageResult:
        session = self._session
        opened = session.stage
        assert opened is not None
        self._take(reader.read(final=True))
        reported = dict(opened.tokens)
        for name, count in stage.tokens.items():
            # Counts declared in the file stand in for what the stage did not report itself.
            if name != "denominator" and f"tokens_{name}" not in reported:
                session.add_tokens({f"tokens_{name}": count})
        status, reason = _judge(stage, outcome)
        lines = [*tail(logs[0], _TAIL_LINES), *tail(logs[1], _TAIL_LINES)][-_TAIL_LINES:]
        if outcome.reason == "timeout":
            session.event("x-timeout", "error", timeout_s=stage.timeout_s)
        if status != "completed" and lines:
            session.event("stage_output_tail", "info", lines=[scrub(line) for line in lines])
        session.end(
            status,
            exit_code=outcome.exit_code,
            work_end_us=outcome.work_end_us,
            token_denominator=stage.tokens.get("denominator"),
        )
        session.client.register_group(None, opened.uid)
        if process.end_leftovers():
            session.event("x-left_processes", "warning", stage_uid=opened.uid)
            self._progress.warn(f"stage {stage.name} left processes running; they were ended")
        if status == "completed":
            for path in stage.outputs.values():
                self._record_artifact(opened.uid, "produced", path, self._todo.digests.artifact(path))
        duration_s = (outcome.work_end_us - opened.work_start_us) / 1e6
        return StageResult(status, outcome.exit_code, duration_s, dict(opened.tokens), reason, tuple(lines))

    def _record_artifact(self, stage_uid: int, role: str, path: Path, artifact: Artifact) -> None:
        inside = path.is_relative_to(self._plan.run_dir)
        self._session.artifact(
            stage_uid,
            role,
            {
                "artifact_id": artifact.artifact_id,
                "name": path.relative_to(self._plan.run_dir).as_posix() if inside else path.name,
                "kind": artifact.kind,
                "bytes": artifact.size_bytes,
                "origin_run_id": None,
                "origin_energy_j": None,
            },
        )

    def _take(self, reports: list[Any]) -> None:
        for report in reports:
            if report.tokens:
                self._session.add_tokens(report.tokens)
            if report.event is not None:
                self._session.report_event(report.event, report.detail)
            if report.problem is not None:
                self._problems += 1
                if self._problems <= _MAX_PROBLEMS:
                    self._session.event("x-bad_report", "warning", problem=scrub(report.problem))
                    self._progress.warn(f"a report line could not be used: {report.problem}")

    def _environment(self, stage: PlannedStage, events: Path) -> dict[str, str]:
        """The process's own environment, the interpreter's folder first on PATH, the file's variables, KIT_*."""
        path = os.environ.get("PATH", os.defpath)
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}",
            "PYTHONUNBUFFERED": "1",
            **stage.env,
            "KIT_EVENTS": str(events),
            "KIT_RUN_DIR": str(self._plan.run_dir),
            "KIT_STAGE": stage.name,
        }


def _judge(stage: PlannedStage, outcome: Outcome) -> tuple[str, str | None]:
    """Status of an attempt, and why in words."""
    if outcome.reason == "interrupted":
        return "interrupted", "interrupted"
    if outcome.reason == "timeout":
        return "failed", f"it ran longer than its timeout of {stage.timeout_s:g} s"
    if outcome.exit_code > 128 and outcome.exit_code < 128 + signal.NSIG:
        try:
            name = signal.Signals(outcome.exit_code - 128).name
        except ValueError:
            name = f"signal {outcome.exit_code - 128}"
        return "failed", f"exit code {outcome.exit_code} (ended by {name})"
    if outcome.exit_code:
        return "failed", f"exit code {outcome.exit_code}"
    missing = [name for name, path in stage.outputs.items() if not path.exists()]
    if missing:
        return "failed", f"it ended well but did not write its output {', '.join(missing)}"
    return "completed", None
