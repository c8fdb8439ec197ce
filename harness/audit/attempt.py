"""One attempt at a stage: its process between two boundaries, what it reported, and what it left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.audit.artifacts import Artifact, DigestCache
from harness.audit.forks import Forks
from harness.audit.live_energy import JournalEnergy, LiveEnergy, StatusFile
from harness.audit.logs import cut, free_middle
from harness.audit.output import tail
from harness.audit.plan import PlannedStage, RunPlan
from harness.audit.process import ProcessEnd, StageProcess
from harness.audit.programs import to_exec
from harness.audit.reports import Intake, ReportReader
from harness.bundle.privacy import scrub
from harness.errors import KitError
from harness.meter.session import MeterSession, OpenStage

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

    def watching(self, stage: PlannedStage, tokens: dict[str, int], energy: LiveEnergy | None) -> None:
        """Called a few times a second with the tokens and, once a second newer, the energy so far."""

    def ended(self, stage: PlannedStage, result: StageResult) -> None:
        """The attempt has ended."""

    def warn(self, text: str) -> None:
        """Something that a person should know now."""


class StageAttempt:
    """Runs one attempt at a stage.

    Args:
        plan: The run.
        stage: The stage.
        number: Number of the attempt, from 1.
        session: The meter.
        digests: Digests of artifacts.
        watcher: Hears what happens.
        stop: The signal to end with, once the run is to stop.
        origins: Artifact id to the run that paid for it, for inputs from other runs.
        energy: Energy of the session so far, for the progress line.
        forks: Where its process may be forked from.
    """

    def __init__(
        self,
        plan: RunPlan,
        stage: PlannedStage,
        number: int,
        session: MeterSession,
        digests: DigestCache,
        watcher: Watcher,
        stop: Callable[[], int | None],
        origins: Mapping[str, Origin],
        energy: JournalEnergy,
        forks: Forks | None,
    ) -> None:
        self._plan = plan
        self._stage = stage
        self._number = number
        self._session = session
        self._digests = digests
        self._watcher = watcher
        self._stop = stop
        self._origins = origins
        self._energy = energy
        self._forks = forks
        self._logs = StageLogs.of(plan.out_dir, stage.name, number)
        self._log_limit = plan.log_mb * 1_000_000
        self._uid: int | None = None
        self._intake = Intake(session, watcher.warn, f"logs/{self._logs.events.name}")

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
            if stage.cwd.is_relative_to(self._plan.run_dir):
                stage.cwd.mkdir(parents=True, exist_ok=True)
            reader = ReportReader(logs.events)
        except OSError as error:
            raise KitError(
                f"cannot be made: {error.strerror}", where=str(error.filename), expected="a writable folder"
            ) from None
        try:
            # Digests are taken between the stages: reading a checkpoint is no part of training from it.
            consumed = [(path, self._digests.artifact(path)) for path in stage.inputs.values()]
            self._watcher.started(stage, self._number, logs)
            opened = self._session.begin(
                stage.name,
                stage.kind,
                attempt=self._number,
                command_sha256=stage.fingerprint,
                devices=self._session.client.visible_devices({**os.environ, **stage.env}),
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
                self._session.event(
                    "x-log_cut", "warning", stage_uid=self._uid, log=log.name, bytes_cut=left_out
                )
                size = f"{left_out / 1e6:,.1f} MB in the middle were cut (log_mb: {self._plan.log_mb})"
                self._watcher.warn(f"logs/{log.name}: {size}")

    def _measured(self, opened: OpenStage, reader: ReportReader) -> StageResult:
        stage, session, logs = self._stage, self._session, self._logs
        try:
            env = environment(self._plan, stage, logs)
            process = StageProcess(to_exec(stage.argv), stage.cwd, env, logs.out, logs.err, self._forks)
        except KitError as error:
            session.event("x-not_started", "error", reason=scrub(str(error)))
            session.end("failed", exit_code=error.exit_code)
            return StageResult("failed", error.exit_code, 0.0, {}, str(error))

        status = StatusFile(logs.status, self._energy)

        def watch() -> None:
            self._intake.take(reader.read())
            for log in (logs.out, logs.err):
                free_middle(log, self._log_limit)
            self._watcher.watching(stage, opened.tokens, status.update())

        if process.forked:
            session.event("x-forked")
        elif process.not_forked is not None:
            session.event("x-not_forked", "warning", reason=scrub(process.not_forked))
        with process, status:
            session.client.register_group(process.pgid, opened.uid)
            outcome = process.wait(timeout_s=stage.timeout_s, interrupted=self._stop, watch=watch)
            session.cut()  # before anything else: what follows takes time that is not the stage's
            self._intake.take(reader.read(final=True))
            result = self._finish(opened, outcome)
            session.client.register_group(None, opened.uid)
            left = process.end_leftovers()
        if left and outcome.reason == "exit":
            session.event("x-left_processes", "warning", stage_uid=opened.uid, processes=left)
            what = "a process" if left == 1 else f"{left} processes"
            self._watcher.warn(
                f"stage {stage.name} left {what} running; ended, so that the next is measured alone"
            )
        if result.status == "completed":
            for path in stage.outputs.values():
                self._record_artifact(opened, "produced", path, self._digests.artifact(path))
        return result

    def _finish(self, opened: OpenStage, outcome: ProcessEnd) -> StageResult:
        stage, session = self._stage, self._session
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
        session.end(
            status,
            exit_code=outcome.exit_code,
            work_end_us=outcome.work_end_us,
            token_denominator=stage.tokens.get("denominator"),
        )
        duration_s = (outcome.work_end_us - opened.work_start_us) / 1e6
        return StageResult(status, outcome.exit_code, duration_s, dict(opened.tokens), reason, lines)

    def _record_artifact(self, opened: OpenStage, role: str, path: Path, artifact: Artifact) -> None:
        inside = path.is_relative_to(self._plan.run_dir)
        origin = self._origins.get(artifact.artifact_id) if role == "consumed" and not inside else None
        self._session.artifact(
            opened.uid,
            role,
            {
                "artifact_id": artifact.artifact_id,
                "name": path.relative_to(self._plan.run_dir).as_posix() if inside else scrub(path.name),
                "kind": artifact.kind,
                "bytes": artifact.size_bytes,
                "origin_run_id": origin.run_id if origin else None,
                "origin_energy_j": origin.energy_j if origin else None,
            },
        )
        if origin is not None:
            # Said once more at the moment of use, so that the figure in the table does not stand alone.
            self._session.event(
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
