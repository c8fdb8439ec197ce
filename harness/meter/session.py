"""One session of a run: the run folder, the owner's journal, the meter's processes, and stages one after
another.

Both ways of measuring use it: `harness.api.Meter` for stages inside a Python program, `harness.audit.runner`
for stages that are processes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.journal.records import JournalWriter
from harness.journal.schema import problem
from harness.journal.scores import KEY, Items
from harness.meter.client import MeterClient, MeterConfig, Warn
from harness.meter.clocks import clock_id, mono_us, utc_at, utc_us
from harness.meter.open_stage import OpenChild, OpenStage
from harness.meter.process_tree import MeasuredTree
from harness.spec import current_version, load_protocol
from harness.text import as_name

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
        self._children: list[OpenChild] = []
        self._child_attempts: dict[tuple[int, str, str], int] = {}
        self._next_uid = info.first_stage_uid
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._beginning = threading.Lock()  # threads may begin stages: one does, the other is told
        self._closed = threading.Event()
        self._warn = warn
        self._journal_error: str | None = None
        journal_dir = run_dir / "journal"
        try:
            str(run_dir.absolute()).encode()
        except UnicodeEncodeError:
            raise KitError(
                "the path holds bytes that are no UTF-8: no table can be written there",
                where=str(run_dir),
                fix="choose another folder for the run",
            ) from None
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
        self.client = MeterClient(journal_dir, self.session, config, self._meter_event, warn)
        try:
            self._record(
                {
                    "type": "run",
                    "run_id": info.run_id,
                    "pid": os.getpid(),
                    "session": self.session,
                    "name": as_name(info.name),
                    "method": info.method,
                    "protocol": info.protocol,
                    "labels": [as_name(label) for label in info.labels],
                    "pipeline": info.pipeline,
                    "pue": info.pue,
                    "region": as_name(info.region) if isinstance(info.region, str) else info.region,
                    "reference_tokens": info.reference_tokens,
                    "clock_id": clock_id(),
                    "mono_us": mono_us(),
                    "t_us": utc_us(),
                    "period_us": config.period_us,
                }
            )
            self.client.start()
            self._helpers = self.client.helper_pids()
            self._tree = MeasuredTree(os.getpid(), config.include_self, self._helpers)
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
        except BaseException:
            self._abandon()
            raise
        threading.Thread(target=self._flush_forever, name="kit-meter-flush", daemon=True).start()

    def _abandon(self) -> None:
        """Nothing was measured: leave no journal that would look like a lost run."""
        self._closed.set()
        self.client.stop()
        self._journal.close()
        for file in (self.run_dir / "journal").glob(f"{self.session:03d}-*"):
            file.unlink()

    def _record(self, record: dict[str, Any]) -> None:
        if odd := problem(record):  # no reader would take it, and with it the whole run
            raise KitError(odd, where="what is to be recorded", fix="give a value that a log can hold")
        with self._lock:
            self._journal.append_record(record)

    def _meter_event(self, kind: str, severity: str, detail: dict[str, Any]) -> None:
        self.event(kind, severity, **detail)

    def event(self, kind: str, severity: str = "info", **detail: Any) -> None:
        """Write an event at this moment, belonging to the running stage if there is one."""
        self._event(kind, severity, mono_us(), detail)

    def _event(self, kind: str, severity: str, at_us: int, detail: dict[str, Any]) -> None:
        self._record(
            {
                "type": "event",
                "kind": kind,
                "severity": severity,
                "session": self.session,
                "mono_us": at_us,
                "t_us": utc_at(at_us),
                "device_id": detail.pop("device_id", None),
                "stage_uid": detail.pop("stage_uid", self.stage.uid if self.stage else None),
                "detail": detail,
            }
        )

    def report_event(self, name: str, detail: dict[str, Any]) -> None:
        """Write an event that a stage reported itself."""
        kind = {"checkpoint": "checkpoint", "work_elsewhere": "x-work_elsewhere"}.get(name, "stage_event")
        words = {"event": name} if kind == "stage_event" else {}
        self._event(kind, "info", self._reported_us(), {**words, **({"report": detail} if detail else {})})

    def _reported_us(self) -> int:
        """The moment of a report: now, or the end of a stage that is over: its last ones are read later."""
        finish = self.stage.finish if self.stage else None
        return mono_us() if finish is None else min(mono_us(), finish[1])

    def begin(
        self,
        name: str,
        kind: str,
        *,
        attempt: int = 1,
        command_sha256: str | None = None,
        devices: list[int] | None = None,
    ) -> OpenStage:
        """Begin a stage: its opening boundary is now.

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
        with self._beginning:
            if self.stage is not None:
                raise KitError(
                    f"stage {name!r} begins while {self.stage.name!r} is still running",
                    expected="stages one after another",
                    fix=f"end {self.stage.name!r} first",
                )
            at_us = mono_us()  # first of all: what is read below takes milliseconds
            number = self.client.boundary(at_us)
            cpu_s = self._cpu_s()
            stage = OpenStage(self._next_uid, name, kind, attempt, at_us, cpu_s, devices=devices)
            self._next_uid += 1
            self._record_start(stage.uid, name, kind, attempt, number, at_us, devices, command_sha256)
            self.stage = stage
            return stage

    def _cpu_s(self) -> float:
        """CPU time of the measured processes so far, those that have ended included."""
        helpers = self.client.helper_pids()
        if helpers != self._helpers:
            self._tree.add_helpers(helpers)
            self._helpers = helpers
        return self._tree.cpu_seconds()

    def _record_start(
        self,
        uid: int,
        name: str,
        kind: str,
        attempt: int,
        number: int,
        at_us: int,
        devices: list[int] | None,
        command_sha256: str | None = None,
        **extra: Any,
    ) -> None:
        self._record(
            {
                "type": "stage_start",
                "session": self.session,
                "stage_uid": uid,
                "name": name,
                "stage": kind,
                "attempt": attempt,
                "boundary": number,
                "boundary_us": at_us,
                **({} if devices is None else {"devices": devices}),
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "command_sha256": command_sha256,
                **extra,
            }
        )

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
        until_us = mono_us() if stage is None or stage.finish is None else stage.finish[1]
        if stage is None or not max(stage.begun_us, last_us) <= at_us <= until_us:
            raise KitError(f"{name!r} begins at {at_us}, outside the running stage")
        parent = self._children[-1].uid if self._children else stage.uid
        attempt = self._child_attempts.get((parent, name, kind), 0) + 1
        self._child_attempts[(parent, name, kind)] = attempt
        child = OpenChild(self._next_uid, name, at_us)
        self._next_uid += 1
        number = self.client.moment()
        self._record_start(child.uid, name, kind, attempt, number, at_us, stage.devices, parent_uid=parent)
        self._children.append(child)

    def end_child(self, name: str, status: str, at_us: int) -> None:
        """The innermost part of the running stage ended at a moment that its own program stamped.

        Raises:
            KitError: No such part is open, or the moment does not lie in it.
        """
        child = self._children[-1] if self._children else None
        if child is None or child.name != name or not child.begun_us < at_us <= mono_us():
            raise KitError(f"{name!r} ends at {at_us} and is not what is running")
        self._children.pop()
        self._record_end(child.uid, self.client.moment(), at_us, status, child.tokens)

    def _record_end(
        self,
        uid: int,
        number: int,
        at_us: int,
        status: str,
        tokens: dict[str, int],
        *,
        exit_code: int | None = None,
        process_cpu_s: float | None = None,
        **extra: Any,
    ) -> None:
        self._record(
            {
                "type": "stage_end",
                "session": self.session,
                "stage_uid": uid,
                "boundary": number,
                "boundary_us": at_us,
                "mono_us": mono_us(),
                "t_us": utc_us(),
                "status": status,
                "exit_code": exit_code,
                "process_cpu_s": process_cpu_s,
                "tokens": tokens,
                **extra,
            }
        )

    def add_eval(self, row: dict[str, Any]) -> None:
        """Record a score of the running stage, a row that `harness.journal.scores.eval_row` checked.

        Raises:
            KitError: No stage is running, or the benchmark was reported before with other values.
        """
        stage = self._scoring()
        if row["judge_id"] and not row["judge_stage_uid"] and stage.kind in load_protocol().kinds("judge"):
            row = {**row, "judge_stage_uid": stage.uid}
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
            listed = {"scores": list(items.scores), "item_sha256": list(items.item_sha256)}
            listed |= {"groups": list(items.groups)} if items.groups else {}
            self._record({"type": "eval_items", "stage_uid": stage.uid, **named, "first": first, **listed})

    def _scoring(self) -> OpenStage:
        if self.stage is None:
            raise KitError("a score was reported while no stage is running", fix="report it inside a stage")
        return self.stage

    def cut(self, at_us: int | None = None) -> None:
        """Close the running stage: its boundary is `at_us`, now by default. `end` writes it down later.

        What the caller still has to read and decide then costs the stage nothing.
        """
        stage = self.stage
        assert stage is not None
        if stage.finish is None:
            at_us = max(stage.begun_us + 1, mono_us() if at_us is None else at_us)
            stage.finish = self.client.boundary(at_us, stage.uid), at_us
            stage.cpu_s = self._cpu_s() - stage.cpu_s

    def end(
        self, status: str, *, exit_code: int | None = None, at_us: int | None = None, **extra: Any
    ) -> int:
        """Close the running stage, unless `cut` did, and write it down.

        Args:
            status: "completed", "failed" or "interrupted".
            exit_code: Of a process stage.
            at_us: Its closing boundary, now by default.
            **extra: Further fields for the stage's record.

        Returns:
            Its length, microseconds.
        """
        stage = self.stage
        assert stage is not None
        self.cut(at_us)
        assert stage.finish is not None
        number, end_us = stage.finish
        while self._children:  # its program ended without a word about them
            child = self._children[-1]
            self.end_child(child.name, "interrupted", max(end_us, child.begun_us + 1))
        self.stage = None
        cpu_s = round(stage.cpu_s, 3)
        self._record_end(
            stage.uid, number, end_us, status, stage.tokens, exit_code=exit_code, process_cpu_s=cpu_s, **extra
        )
        return end_us - stage.begun_us

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
            at_us = self._reported_us()
            self._record(
                {
                    "type": "stage_tokens",
                    "session": self.session,
                    "stage_uid": stage.uid,
                    "mono_us": at_us,
                    "t_us": utc_at(at_us),
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
