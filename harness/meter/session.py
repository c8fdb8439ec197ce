"""One session of a run: the run folder, the owner's journal, the meter's processes, and stages one after
another.

Both ways of measuring use it: `harness.api.Meter` for stages inside a Python program,
    `harness.audit.runner` for
stages that are processes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.journal.records import JournalWriter
from harness.journal.scores import KEY, Items, Scoreboard
from harness.meter.client import MeterClient, MeterConfig, TakenBoundary, Warn
from harness.meter.clocks import clock_id, mono_us, utc_us
from harness.meter.foreign import foreign_pids
from harness.spec import current_version

TOKEN_FIELDS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
_FLUSH_EVERY_S = 0.5
_MAX_TOKENS = (1 << 53) - 1  # exact in every language that reads the log


@dataclass(frozen=True)
class RunInfo:
    """What the manifest says of a run besides what was measured.

    Attributes:
        pipeline: The pipeline as it was run, free of paths; goes into the manifest as it is.
        protocol: Version (`major.minor`) of the protocol that the run is sealed by.
        first_session: Number of this session (0 for a new run).
        first_stage_uid: First free stage uid.
    """

    run_id: str
    name: str
    method: str = "other"
    labels: tuple[str, ...] = ()
    pipeline: dict[str, Any] = field(default_factory=dict)
    pue: float | None = None
    region: str | None = None
    reference_tokens: int | None = None
    protocol: str = field(default_factory=current_version)
    first_session: int = 0
    first_stage_uid: int = 0


@dataclass
class OpenStage:
    """A stage that is running."""

    uid: int
    name: str
    kind: str
    attempt: int
    start: TakenBoundary
    work_start_us: int
    tokens: dict[str, int] = field(default_factory=dict)
    scores: Scoreboard = field(default_factory=Scoreboard)
    consumed: list[str] = field(default_factory=list)
    produced: list[str] = field(default_factory=list)
    devices: list[int] | None = None
    dirty: bool = False
    finish: TakenBoundary | None = None


@dataclass
class OpenChild:
    """A part of the running stage that its program named."""

    uid: int
    name: str
    begun_us: int
    tokens: dict[str, int] = field(default_factory=dict)


class MeterSession:
    """Meters stages one after another into `run_dir`.

    Args:
        run_dir: The run folder; created. Must not hold unsealed journals (`kit recover` seals them).
        info: What to write into the manifest.
        config: How to meter.
        warn: Told in words what a person should know now.
    """

    def __init__(
        self, run_dir: Path, info: RunInfo, config: MeterConfig, warn: Warn = lambda text: None
    ) -> None:
        self.run_dir = run_dir
        self.info = info
        self.session = info.first_session
        self.stage: OpenStage | None = None
        self.boundaries: list[TakenBoundary] = []
        self._children: list[OpenChild] = []
        self._child_attempts: dict[tuple[int, str, str], int] = {}
        self._next_uid = info.first_stage_uid
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._warn = warn
        self._journal_error: str | None = None
        journal_dir = run_dir / "journal"
        try:
            journal_dir.mkdir(parents=True, exist_ok=True)
            self._journal = JournalWriter(journal_dir / f"{self.session:03d}-000-runner.jnl")
        except FileExistsError:
            raise KitError(
                "an earlier run ended here without being sealed",
                where=str(run_dir),
                fix=f"kit recover {run_dir}",
            ) from None
        except OSError as error:
            raise KitError(
                f"the run folder cannot be written: {error.strerror}",
                where=str(run_dir),
                expected="a writable folder",
            ) from None
        self.client = MeterClient(journal_dir, self.session, config, self._meter_event, warn, self._record)
        try:
            self._record(
                {
                    "type": "run",
                    "run_id": info.run_id,
                    "pid": os.getpid(),
                    "session": self.session,
                    "name": info.name,
                    "method": info.method,
                    "protocol": info.protocol,
                    "labels": list(info.labels),
                    "pipeline": info.pipeline,
                    "pue": info.pue,
                    "region": info.region,
                    "reference_tokens": info.reference_tokens,
                    "clock_id": clock_id(),
                    "mono_us": mono_us(),
                    "t_us": utc_us(),
                    "period_us": config.period_us,
                    "boundary_mode": config.boundary_mode,
                }
            )
            self.client.start()
        except BaseException:
            self._abandon()
            raise
        self.nothing_measured = self.client.measures_nothing()
        if self.nothing_measured is not None:
            warn(self.nothing_measured)
        self._record(
            {
                "type": "cpu_method",
                "session": self.session,
                "method": self.client.cpu_method,
                "reason": self.client.cpu_absent_reason,
            }
        )
        threading.Thread(target=self._flush_forever, name="kit-meter-flush", daemon=True).start()

    def _abandon(self) -> None:
        """Nothing was measured: leave no journal that would look like a lost run."""
        self._closed.set()
        self.client.stop()
        self._journal.close()
        for file in (self.run_dir / "journal").glob(f"{self.session:03d}-*"):
            file.unlink()

    def _record(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._journal.append_record(record)

    def _meter_event(self, kind: str, severity: str, detail: dict[str, Any]) -> None:
        self.event(kind, severity, **detail)

    def event(self, kind: str, severity: str = "info", **detail: Any) -> None:
        """Write an event at this moment, belonging to the running stage if there is one."""
        self._record(
            {
                "type": "event",
                "kind": kind,
                "severity": severity,
                "session": self.session,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "device_id": detail.pop("device_id", None),
                "stage_uid": detail.pop("stage_uid", self.stage.uid if self.stage else None),
                "detail": detail,
            }
        )

    def report_event(self, name: str, detail: dict[str, Any]) -> None:
        """Write an event that a stage reported itself."""
        kind = "checkpoint" if name == "checkpoint" else "stage_event"
        words = {} if kind == "checkpoint" else {"event": name}
        self.event(kind, "info", **words, **({"report": detail} if detail else {}))

    def begin(
        self,
        name: str,
        kind: str,
        *,
        attempt: int = 1,
        command_sha256: str | None = None,
        devices: list[int] | None = None,
    ) -> OpenStage:
        """Take the starting boundary of a stage and write it down.

        Args:
            name: Its name.
            kind: Its kind.
            attempt: Number of the attempt, from 1.
            command_sha256: Fingerprint of its command.
            devices: Devices it can use, all that are metered by default; what the others draw meanwhile is
                unattributed.

        Raises:
            KitError: A stage is running already: the protocol wants them disjoint.
        """
        if self.stage is not None:
            raise KitError(
                f"stage {name!r} begins while {self.stage.name!r} is still running",
                expected="stages one after another",
                fix=f"end {self.stage.name!r} first",
            )
        start = self.client.boundary(share=True)
        self.boundaries.append(start)
        stage = OpenStage(self._next_uid, name, kind, attempt, start, mono_us(), devices=devices)
        self._next_uid += 1
        self._record(
            {
                "type": "stage_start",
                "session": self.session,
                "stage_uid": stage.uid,
                "name": name,
                "stage": kind,
                "attempt": attempt,
                "boundary": start.number,
                "boundary_us": start.mono_us,
                "device_us": start.device_us,
                **({} if devices is None else {"devices": devices}),
                "work_start_us": stage.work_start_us,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "command_sha256": command_sha256,
                "process_cpu_s": start.process_cpu_s,
            }
        )
        self.stage = stage
        return stage

    def add_tokens(self, counts: dict[str, int]) -> None:
        """Add to the running stage's token counts, by column name; written within half a second."""
        stage = self.stage
        if stage is None:
            raise KitError(
                "tokens were reported while no stage is running", fix="call add_tokens inside a stage"
            )
        for column, count in counts.items():
            if stage.tokens.get(column, 0) + count > _MAX_TOKENS:
                raise KitError(f"{column} would exceed {_MAX_TOKENS}: {count} more tokens cannot be")
            for held in (stage.tokens, *(child.tokens for child in self._children)):
                held[column] = held.get(column, 0) + count
        stage.dirty = True

    def begin_child(self, name: str, kind: str, at_us: int) -> None:
        """A part of the running stage began at a moment that its own program stamped.

        Raises:
            KitError: No stage is running, or the moment does not lie in it.
        """
        stage = self.stage
        last_us = self._children[-1].begun_us if self._children else 0
        until_us = mono_us() if stage is None or stage.finish is None else stage.finish.window_start_us()
        if stage is None or not max(stage.work_start_us, last_us) <= at_us <= until_us:
            raise KitError(f"{name!r} begins at {at_us}, outside the running stage")
        parent = self._children[-1].uid if self._children else stage.uid
        attempt = self._child_attempts.get((parent, name, kind), 0) + 1
        self._child_attempts[(parent, name, kind)] = attempt
        child = OpenChild(self._next_uid, name, at_us)
        self._next_uid += 1
        start = self.client.moment(at_us)
        self._record(
            {
                "type": "stage_start",
                "session": self.session,
                "stage_uid": child.uid,
                "parent_uid": parent,
                "name": name,
                "stage": kind,
                "attempt": attempt,
                "boundary": start.number,
                **({} if stage.devices is None else {"devices": stage.devices}),
                "work_start_us": at_us,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "command_sha256": None,
            }
        )
        self._children.append(child)

    def end_child(self, name: str, status: str, at_us: int) -> None:
        """The innermost part of the running stage ended at a moment that its own program stamped.

        Raises:
            KitError: No such part is open, or the moment does not lie in it.
        """
        child = self._children[-1] if self._children else None
        if child is None or child.name != name or not child.begun_us < at_us <= mono_us():
            raise KitError(f"{name!r} ends at {at_us} and is not what is running")
        finish = self.client.moment(at_us)
        self._children.pop()
        self._record(
            {
                "type": "stage_end",
                "session": self.session,
                "stage_uid": child.uid,
                "boundary": finish.number,
                "work_end_us": at_us,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "status": status,
                "exit_code": None,
                "process_cpu_s": None,
                "tokens": child.tokens,
            }
        )

    def add_eval(self, row: dict[str, Any]) -> None:
        """Record a score of the running stage, a row that `harness.journal.scores.eval_row` checked.

        Raises:
            KitError: No stage is running, or the benchmark was reported before with other values.
        """
        stage = self._scoring()
        try:
            fresh = stage.scores.add_row(row)
        except ValueError as error:
            raise KitError(str(error)) from None
        if fresh:
            self._record({"type": "eval", "stage_uid": stage.uid, "row": row})

    def add_eval_items(self, items: Items) -> None:
        """Record scores of single items of the running stage.

        Raises:
            KitError: No stage is running, or they do not follow on what was reported before.
        """
        stage = self._scoring()
        try:
            first = stage.scores.add_items(items)
        except ValueError as error:
            raise KitError(str(error)) from None
        if first is not None:
            named = dict(zip(KEY, items.key, strict=True))
            scores, hashes = list(items.scores), list(items.item_sha256)
            record = {"type": "eval_items", "stage_uid": stage.uid, **named, "first": first}
            self._record({**record, "scores": scores, "item_sha256": hashes})

    def _scoring(self) -> OpenStage:
        if self.stage is None:
            raise KitError("a score was reported while no stage is running", fix="report it inside a stage")
        return self.stage

    def cut(self) -> None:
        """Take the ending boundary of the running stage now; `end` writes it down once the rest is known.

        What the caller still has to read and decide then costs the stage nothing.
        """
        stage = self.stage
        assert stage is not None
        if stage.finish is None:
            stage.finish = self.client.boundary(share=False)

    def end(
        self, status: str, *, exit_code: int | None = None, work_end_us: int | None = None, **extra: Any
    ) -> TakenBoundary:
        """Take the ending boundary of the running stage, unless `cut` did, and write it down.

        Args:
            status: "completed", "failed" or "interrupted".
            exit_code: Of a process stage.
            work_end_us: When the work ended, if earlier than now.
            **extra: Further fields for the stage's record.
        """
        stage = self.stage
        assert stage is not None
        work_end_us = work_end_us or mono_us()
        while self._children:  # its program ended without a word about them
            child = self._children[-1]
            self.end_child(child.name, "interrupted", max(work_end_us, child.begun_us + 1))
        self.cut()
        finish = stage.finish
        assert finish is not None
        self.boundaries.append(finish)
        cpu_s = None
        if finish.process_cpu_s is not None and stage.start.process_cpu_s is not None:
            cpu_s = finish.process_cpu_s - stage.start.process_cpu_s
        self._notice_foreign(stage.uid, finish)
        self.stage = None
        self._record(
            {
                "type": "stage_end",
                "session": self.session,
                "stage_uid": stage.uid,
                "boundary": finish.number,
                "boundary_us": finish.mono_us,
                "device_us": finish.device_us,
                "work_end_us": work_end_us,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "status": status,
                "exit_code": exit_code,
                "process_cpu_s": cpu_s,
                "tokens": stage.tokens,
                **extra,
            }
        )
        return finish

    def _notice_foreign(self, stage_uid: int, boundary: TakenBoundary) -> None:
        for device_id, pids in boundary.compute_pids.items():
            foreign = foreign_pids(pids)
            if foreign:
                self.event(
                    "foreign_process",
                    "warning",
                    stage_uid=stage_uid,
                    device_id=device_id,
                    processes=len(foreign),
                )

    def artifact(self, stage_uid: int, role: str, entry: dict[str, Any]) -> None:
        """Record that a stage consumed or produced an artifact (columns of the artifacts table)."""
        self._record({"type": "artifact", "stage_uid": stage_uid, "role": role, **entry})

    def _flush_forever(self) -> None:
        while not self._closed.wait(_FLUSH_EVERY_S):
            self.flush_tokens()
            self._watch_disk()

    def _watch_disk(self) -> None:
        """Retry what the disk refused, and tell when that begins and ends."""
        with self._lock:
            if self._journal.error is not None:
                self._journal.flush()
            error = self._journal.error
        if error == self._journal_error:
            return
        before, self._journal_error = self._journal_error, error
        if error is not None:
            self.event("disk_full", "error", error=error, recovered=False)
            self._warn(f"the journal cannot be written ({error}); it is kept in memory")
        else:
            self.event("disk_full", "warning", error=before, recovered=True)

    def flush_tokens(self) -> None:
        """Write the running stage's token counts if they changed."""
        stage = self.stage
        if stage is not None and stage.dirty:
            stage.dirty = False
            self._record(
                {
                    "type": "stage_tokens",
                    "session": self.session,
                    "stage_uid": stage.uid,
                    "mono_us": mono_us(),
                    "t_us": utc_us(),
                    "tokens": dict(stage.tokens),
                }
            )

    def owned(self) -> bool:
        """Whether this process opened the session (not a fork of it)."""
        return os.getpid() == self._pid

    def close(self, status: str = "complete") -> None:
        """End the meter's processes and the journal. The run folder can then be sealed."""
        self._closed.set()
        self.client.stop()
        self._record(
            {
                "type": "session_end",
                "session": self.session,
                "status": status,
                "mono_us": mono_us(),
                "t_us": utc_us(),
            }
        )
        self._journal.close()
        if self._journal.pending_bytes:
            self._warn(f"{self._journal.pending_bytes} bytes of the log could not be written and are lost")
