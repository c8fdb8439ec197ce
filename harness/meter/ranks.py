"""Several processes of one job with one run folder: one of them meters, the others report to it.

torchrun and accelerate start a program once for each GPU. Local rank 0 meters; where nobody numbers the
processes, the first one that takes the folder. The others append what they count to a file in it, and so do
processes that the metering one started, such as the workers of a data loader.

The file is named by the parent that the processes of a job have in common, and locked by the one that meters.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import KitError
from harness.journal.scores import eval_row, items_chunk

if TYPE_CHECKING:
    from harness.meter.session import MeterSession

BEGINS, ENDS = "substage_begin", "substage_end"
"""Events by which a process says that a stage of its own began or ended."""

MAX_REPORT_BYTES = 1 << 16
"""A report is no longer than this: one write of a line, and a text that every reader of a log takes."""

PATIENCE_S = 10.0
"""How long the end of a stage waits for processes that are still in it. Its window has ended by then."""

_FLOCK = struct.Struct("hhqqi4x")
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_NUMBERED = ("LOCAL_RANK", "RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "PMI_RANK")

Place = tuple[str, int]
"""Name of a stage, and which stage of that name it is in its process, from 1."""


def other_rank() -> bool:
    """Whether this process is told to be another one than local rank 0."""
    return os.environ.get("LOCAL_RANK") not in (None, "", "0")


def join(out: Path) -> RankReports | Path:
    """Take a run folder for this process, or learn where to report to the one that has it.

    Returns:
        What the other processes report, where this one meters; else the file to report to.

    Raises:
        KitError: A process of another job meters into the folder.
    """
    folder = out / "logs"
    for ancestor in _ancestors(os.getpid()):
        file = folder / _file_of(ancestor)
        if _holder(file) == ancestor:
            return file
    file = folder / _file_of(os.getpid())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        return RankReports(None, file)  # whoever makes the run folder says what is wrong with it
    if other_rank():
        os.close(descriptor)
        return file
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLK, _WHOLE_FILE)
    except OSError:
        holder = _holder(file)
        os.close(descriptor)
        if holder and not any(name in os.environ for name in _NUMBERED) and not _same_program(holder):
            raise KitError(
                f"a run is going on in this folder: process {holder} meters it",
                where=str(out),
                expected="a folder of its own, or a process of the same job",
                fix="choose another folder, or wait for that run to end",
            ) from None
        return file if holder else RankReports(None, file)  # None has it: no locks on this file system
    return RankReports(descriptor, file)


def nobody_meters(file: Path) -> bool:
    """Whether a file that `join` named is there and no process has it: what is in it is in no run."""
    return file.exists() and not _holder(file)


class RankReports:
    """What the other processes of a job report to this one, which meters.

    Args:
        descriptor: The file, open and locked; None where there is none. Closing it, or any other descriptor
            of it in this process, gives the lock up.
        path: Where it is.
    """

    def __init__(self, descriptor: int | None, path: Path) -> None:
        self.path = path
        self.running: Place | None = None
        self._descriptor = descriptor
        self._position = 0
        self._rest = b""
        self._begun: Counter[str] = Counter()
        self._told: set[Place] = set()
        self._inside: dict[Place, set[int]] = defaultdict(set)
        self._waiting: dict[Place, list[dict[str, Any]]] = defaultdict(list)
        self._unused = 0
        # What the dead have left there is of a run that was killed.
        self._early = [line for line in self._lines() if _lives(_writer(line))]

    def begin(self, session: MeterSession, name: str) -> None:
        """A stage of this process begins: what others have reported to it counts."""
        self._begun[name] += 1
        self.running = (name, self._begun[name])
        self.take(session)
        for message in self._waiting.pop(self.running, []):
            self._give(session, message)

    def next_number(self, name: str) -> int:
        """Which of its name the next stage of this process will be, counted from the meter's start."""
        return self._begun[name] + 1

    def take(self, session: MeterSession) -> None:
        """Take what has come into the running stage."""
        early, self._early = self._early, []
        for line in [*early, *self._lines()]:
            try:
                message = json.loads(line)
                name, number = message.pop("stage")
                place, pid = (str(name), int(number)), int(message.pop("pid"))
            except (ValueError, KeyError, TypeError, AttributeError):
                self._unused += 1
                continue
            if message.get("event") == BEGINS:
                self._told.add(place)
                self._inside[place].add(pid)
            elif message.get("event") == ENDS:
                self._inside[place].discard(pid)
            elif place == self.running:
                self._give(session, message)
            elif number <= self._begun[place[0]]:
                self._unused += 1  # its stage has ended
            else:
                self._waiting[place].append(message)

    def inside(self) -> list[int]:
        """Living processes that are in the running stage and have not said its end."""
        return [] if self.running is None else [pid for pid in self._inside[self.running] if _lives(pid)]

    def settle(self, session: MeterSession, warn: Callable[[str], None]) -> None:
        """The running stage has ended here: wait for the reports of those that are still in it."""
        until = time.monotonic() + PATIENCE_S
        self.take(session)
        while (late := self.inside()) and time.monotonic() < until:
            time.sleep(0.02)
            self.take(session)
        if late:
            session.event("x-reports_late", "warning", processes=len(late))
            name = self.running[0] if self.running else ""
            warn(
                f"stage {name}: {len(late)} processes were still in it; what they report later is not counted"
            )
        self.running = None

    def close(self, session: MeterSession, warn: Callable[[str], None]) -> None:
        """Say what belongs to no stage, and give the folder up."""
        if self._descriptor is None:
            return
        self.take(session)
        unknown = [place for place in self._told if place[1] > self._begun[place[0]]]
        unused = self._unused + sum(map(len, self._waiting.values())) + len(unknown)
        if unused:
            session.event("x-reports_unused", "warning", reports=unused)
            warn(f"{unused} reports of other processes belong to no stage of this one and are not counted")
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()
        self.leave()

    def leave(self) -> None:
        """Give the folder up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lines(self) -> Iterator[bytes]:
        while self._descriptor is not None:
            data = os.pread(self._descriptor, 1 << 20, self._position)
            if not data:
                return
            self._position += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from lines

    def _give(self, session: MeterSession, message: dict[str, Any]) -> None:
        try:
            if "eval" in message:
                session.add_eval(eval_row(message["eval"]))
            elif "eval_items" in message:
                session.add_eval_items(items_chunk(message["eval_items"]))
            elif "event" in message:
                session.report_event(str(message.pop("event")), message)
            else:
                session.add_tokens({name: int(count) for name, count in message.items()})
        except (KitError, ValueError, TypeError):
            self._unused += 1


def _writer(line: bytes) -> int:
    """The process that wrote a line; -1 where that cannot be read."""
    try:
        return int(json.loads(line)["pid"])
    except (ValueError, KeyError, TypeError):
        return -1


def _lives(pid: int) -> bool:
    return bool(_stat(pid)[1])


def _holder(file: Path) -> int:
    """The process that has locked a file; 0 for none."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _WHOLE_FILE))
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _stat(pid: int) -> tuple[int, str]:
    """Parent of a process, and when it was started; (0, "") of one that is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, ""
    return int(fields[1]), fields[19]


def _ancestors(pid: int) -> Iterator[int]:
    while (pid := _stat(pid)[0]) > 1:
        yield pid


def _file_of(pid: int) -> str:
    """The file of the job that a process belongs to: named by the parent it has with the others."""
    parent = _stat(pid)[0]
    return f"ranks-{parent}-{_stat(parent)[1]}.events.jsonl"


def _same_program(pid: int) -> bool:
    """Whether a process was started by the same words as this one."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
    except OSError:
        return False
