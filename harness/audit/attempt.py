"""One attempt at a stage: its process between two boundaries, what it reported, and what it left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.audit.artifacts import Artifact, DigestCache
from harness.audit.forks import Forks
from harness.audit.live_run import LiveRun, Snapshot, write_status
from harness.audit.logs import cut, free_middle
from harness.audit.output import tail
from harness.audit.plan import PlannedStage, RunPlan
from harness.audit.process import ProcessEnd, StageProcess
from harness.audit.programs import devices_seen, to_exec
from harness.audit.recorded import CommandDigests
from harness.audit.reports import Intake, ReportReader
from harness.bundle.privacy import scrub
from harness.errors import KitError
from harness.meter.open_stage import OpenStage
from harness.meter.session import MeterSession
from harness.text import as_name

_TAIL_LINES = 20


@dataclass(frozen=True)
class Origin:
    """The stage of another run that an artifact comes from.

    Attributes:
        run_id: The run that made it.
        energy_j: What its making cost there; None when it is unknown.
        kind: Kind of the stage that made it; None when it is unknown.
        parts: The energy by the scales it shares, as `stage_scales.as_records` has it.
    """

    run_id: str
    energy_j: float | None
    kind: str | None = None
    parts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class StageResult:
    """How an attempt at a stage ended.

    Attributes:
        status: "completed", "failed" or "interrupted".
        reason: In words, why it did not complete.
        output_tail: Its last lines of output, when it did not complete.
        retry: Whether a further attempt follows.
    """

    status: str
    exit_code: int | None
    duration_s: float
    tokens: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    output_tail: tuple[str, ...] = ()
    retry: bool = False


@dataclass(frozen=True)
class StageLogs:
    """The files an attempt writes beside the bundle."""

    out: Path
    err: Path
    events: Path
    status: Path

    @classmethod
    def of(cls, run: Path, stage: str, attempt: int) -> StageLogs:
        """Their paths in a run folder."""
        ends = ("out", "err", "events.jsonl", "status.json")
        return cls(*(run / "logs" / f"{stage}.{attempt}.{end}" for end in ends))


class Watcher(Protocol):
    """Hears what happens during an attempt."""

    def started(self, stage: PlannedStage, attempt: int, logs: StageLogs) -> None:
        """An attempt begins; its output goes to `logs`."""

    def watching(self, stage: PlannedStage, now: Snapshot) -> None:
        """Called a few times a second with what is known of the run, once a second newer."""

    def ended(self, stage: PlannedStage, result: StageResult) -> None:
        """The attempt has ended."""

    def warn(self, text: str) -> None:
        """Something that a person should know now."""


@dataclass(frozen=True)
class RunContext:
    """What every stage of a run works with.

    Attributes:
        plan: The run.
        session: The meter.
        progress: Hears what happens.
        stop: The signal to end with, once the run is to stop.
        live: Where the session stands, for the progress line.
        digests: Digests of artifacts.
        commands: Digests of commands.
        origins: Artifact id to the run that paid for it, for inputs from other runs.
        forks: Where processes may be forked from.
    """

    plan: RunPlan
    session: MeterSession
    progress: Watcher
    stop: Callable[[], int | None]
    live: LiveRun
    digests: DigestCache
    commands: CommandDigests
    origins: Mapping[str, Origin]
    forks: Forks | None


class StageAttempt:
    """Runs one attempt at a stage, the `number`th from 1."""

    def __init__(self, run: RunContext, stage: PlannedStage, number: int) -> None:
        self._run = run
        self._stage = stage
        self._number = number
        self._logs = StageLogs.of(run.plan.out_dir, stage.name, number)
        self._log_limit = run.plan.settings.log_mb * 1_000_000
        self._uid: int | None = None
        self._intake = Intake(run.session, run.progress.warn, f"logs/{self._logs.events.name}")

    def run(self) -> StageResult:
        """Run it to its end.

        Raises:
            KitError: An input cannot be read, or a folder cannot be made.
        """
        stage, logs = self._stage, self._logs
        try:
            logs.out.parent.mkdir(exist_ok=True)
            for path in stage.outputs.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            if stage.cwd.is_relative_to(self._run.plan.run_dir):
                stage.cwd.mkdir(parents=True, exist_ok=True)
            reader = ReportReader(logs.events)
        except OSError as error:
            raise KitError(
                f"cannot be made: {error.strerror}", where=str(error.filename), expected="a writable folder"
            ) from None
        try:
            # Digests are taken between the stages: reading a checkpoint is no part of training from it.
            consumed = [(path, self._run.digests.artifact(path)) for path in stage.inputs.values()]
            self._run.progress.started(stage, self._number, logs)
            opened = self._run.session.begin(
                stage.name,
                stage.kind,
                attempt=self._number,
                command_sha256=self._run.commands.of(stage.fingerprint),
                devices=self._run.session.client.visible_devices(
                    devices_seen(stage.argv, {**os.environ, **stage.env})
                ),
            )
            self._uid = opened.uid
            for path, artifact in consumed:
                self._record_artifact(opened, "consumed", path, artifact)
            return self._measured(opened, reader)
        finally:
            reader.close()

    def cut_logs(self) -> None:
        """Bring the logs to their limit, once nobody reads what is new in them; say what is cut."""
        for log in (self._logs.out, self._logs.err):
            left_out = cut(log, self._log_limit)
            if left_out:
                self._run.session.event(
                    "x-log_cut", "warning", stage_uid=self._uid, log=log.name, bytes_cut=left_out
                )
                limit = f"log_mb: {self._run.plan.settings.log_mb}"
                size = f"{left_out / 1e6:,.1f} MB in the middle were cut ({limit})"
                self._run.progress.warn(f"logs/{log.name}: {size}")

    def _measured(self, opened: OpenStage, reader: ReportReader) -> StageResult:
        stage, session, logs = self._stage, self._run.session, self._logs
        try:
            env = environment(self._run.plan, stage, logs)
            process = StageProcess(to_exec(stage.argv), stage.cwd, env, logs.out, logs.err, self._run.forks)
        except KitError as error:
            session.event("x-not_started", "error", reason=scrub(str(error)))
            session.end("failed", exit_code=error.exit_code)
            return StageResult("failed", error.exit_code, 0.0, {}, str(error))

        shown: Snapshot | None = None

        def watch() -> None:
            nonlocal shown
            self._intake.take(reader.read())
            for log in (logs.out, logs.err):
                free_middle(log, self._log_limit)
            before, shown = shown, self._run.live.look()
            if shown is not before:
                write_status(logs.status, shown)
            self._run.progress.watching(stage, shown)

        if process.forked:
            session.event("x-forked")
        elif process.not_forked is not None:
            session.event("x-not_forked", "warning", reason=scrub(process.not_forked))
        with process, ExitStack() as leaving:
            leaving.callback(logs.status.unlink, missing_ok=True)
            session.client.register_group(process.pgid, opened.uid)
            outcome = process.wait(timeout_s=stage.timeout_s, interrupted=self._run.stop, watch=watch)
            session.cut(outcome.end_us)
            self._intake.take(reader.read(final=True))
            result = self._finish(opened, outcome)
            session.client.register_group(None, opened.uid)
            left = process.end_leftovers()
        if left and outcome.reason == "exit":
            session.event("x-left_processes", "warning", stage_uid=opened.uid, processes=left)
            what = "a process" if left == 1 else f"{left} processes"
            self._run.progress.warn(
                f"stage {stage.name} left {what} running; ended, so that the next is measured alone"
            )
        if result.status == "completed":
            for path in stage.outputs.values():
                self._record_artifact(opened, "produced", path, self._run.digests.artifact(path))
        return result

    def _finish(self, opened: OpenStage, outcome: ProcessEnd) -> StageResult:
        stage, session = self._stage, self._run.session
        self._intake.sum_up()
        reported = set(opened.tokens)
        for name, count in stage.tokens.items():
            # Counts declared in the file stand in for what the stage did not report itself.
            if name != "denominator" and f"tokens_{name}" not in reported:
                session.add_tokens({f"tokens_{name}": count})
        status, reason = judge(stage, outcome)
        lines: tuple[str, ...] = ()
        if outcome.reason == "timeout":
            session.event("x-timeout", "error", timeout_s=stage.timeout_s)
        if status != "completed":
            errors = tail(self._logs.err, _TAIL_LINES)
            lines = (*tail(self._logs.out, _TAIL_LINES - min(len(errors), _TAIL_LINES // 2)), *errors)[
                -_TAIL_LINES:
            ]
            detail = {"lines": [scrub(line) for line in lines]} if lines else {}
            session.event("stage_output_tail", "info", reason=scrub(reason or ""), **detail)
        length_us = session.end(
            status, exit_code=outcome.exit_code, token_denominator=stage.tokens.get("denominator")
        )
        duration_s = length_us / 1e6
        return StageResult(status, outcome.exit_code, duration_s, dict(opened.tokens), reason, lines)

    def _record_artifact(self, opened: OpenStage, role: str, path: Path, artifact: Artifact) -> None:
        inside = path.is_relative_to(self._run.plan.run_dir)
        origin = self._run.origins.get(artifact.artifact_id) if role == "consumed" and not inside else None
        self._run.session.artifact(
            opened.uid,
            role,
            {
                "artifact_id": artifact.artifact_id,
                "name": as_name(
                    path.relative_to(self._run.plan.run_dir).as_posix() if inside else scrub(path.name)
                ),
                "kind": artifact.kind,
                "bytes": artifact.size_bytes,
                "origin_run_id": origin.run_id if origin else None,
                "origin_energy_j": origin.energy_j if origin else None,
            },
        )
        if origin is not None:
            # Said once more at the moment of use, so that the figure in the table does not stand alone.
            self._run.session.event(
                "x-artifact_origin",
                stage_uid=opened.uid,
                artifact_id=artifact.artifact_id,
                origin_run_id=origin.run_id,
                origin_energy_j=origin.energy_j,
                origin_stage=origin.kind,
                origin_parts=list(origin.parts),
            )


def environment(plan: RunPlan, stage: PlannedStage, logs: StageLogs) -> dict[str, str]:
    """A stage's: our own, PATH as it is, the file's variables, KIT_*."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **stage.env,
        "KIT_EVENTS": str(logs.events),
        "KIT_STATUS": str(logs.status),
        "KIT_RUN_DIR": str(plan.run_dir),
        "KIT_STAGE": stage.name,
    }


def judge(stage: PlannedStage, outcome: ProcessEnd) -> tuple[str, str | None]:
    """Status of an attempt, and in words why it did not complete."""
    if outcome.reason == "interrupted":
        return "interrupted", f"interrupted, exit code {outcome.exit_code}"
    if outcome.reason == "timeout":
        return "failed", f"it ran longer than its timeout of {stage.timeout_s:g} s"
    if 128 < outcome.exit_code < 128 + signal.NSIG:
        try:
            name = signal.Signals(outcome.exit_code - 128).name
        except ValueError:
            name = f"signal {outcome.exit_code - 128}"
        return "failed", f"exit code {outcome.exit_code} (ended by {name})"
    if outcome.exit_code:
        return "failed", f"exit code {outcome.exit_code}"
    missing = [path.name for path in stage.outputs.values() if not (path.is_file() or path.is_dir())]
    if missing:
        return "failed", f"it ended well but did not write its output {', '.join(missing)}"
    return "completed", None
