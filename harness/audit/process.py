"""One stage as a process group: started, watched, ended cleanly, and nothing of it left behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.audit.forks import Forked, Forks, NotForkedError
from harness.errors import KitError

TERM_GRACE_S = 10.0
"""Between asking a stage to end and killing it."""
_POLL_S = 0.25
_REAP_EVERY_S = 5.0
_LINGER_S = (
    1.0  # helpers of a language's runtime (Python's resource tracker) end a moment after their program
)
_LEFTOVER_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class ProcessEnd:
    """How a stage's process ended.

    Attributes:
        exit_code: As a shell reports it: 128 + signal number when a signal ended it.
        end_us: CLOCK_MONOTONIC at its end.
        reason: "exit", "timeout" or "interrupted".
    """

    exit_code: int
    end_us: int
    reason: str


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Inside, processes that lose their parent become children of this process, daemons too.

    So they can be found and ended when their stage is over. Linux only; elsewhere nothing is adopted.
    """
    libc = ctypes.CDLL(None)
    adopting = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        if adopting:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class StageProcess:
    """A command in a session and process group of its own; nothing of it outlives its `with` block.

    Attributes:
        pgid: Its process group, the process's own id.
        forked: Whether it was forked.
        not_forked: Why it was not although it was to be; None otherwise.

    Raises:
        KitError: The command cannot be started; `exit_code` is what a shell would report.
    """

    def __init__(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        out: Path,
        err: Path,
        forks: Forks | None = None,
    ) -> None:
        libc = ctypes.CDLL(None)

        def die_with_runner() -> None:
            # The sampler ends the stage when the runner is killed; this covers the case that both are.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

        try:
            process, self.not_forked = _fork(forks, argv, cwd, env, out, err)
            self.forked = process is not None
            with out.open("ab") as stdout, err.open("ab") as stderr:
                self._process: Forked | subprocess.Popen[bytes] = process or subprocess.Popen(
                    list(argv),
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                    preexec_fn=die_with_runner,
                )
        except (OSError, ValueError) as error:
            raise _cannot_start(error, argv, cwd) from None
        self.pgid = self._process.pid

    def __enter__(self) -> StageProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            # Only on the way out of an error: nothing may run on unmeasured.
            self._signal(signal.SIGKILL)
            self._process.wait()
            self.end_leftovers(linger_s=0.0)

    def wait(
        self,
        *,
        timeout_s: float | None,
        interrupted: Callable[[], int | None],
        watch: Callable[[], None],
    ) -> ProcessEnd:
        """Wait for the process to end.

        Args:
            timeout_s: After this it is ended.
            interrupted: A signal number once the run is to stop; the process is then ended with it.
            watch: Called a few times a second.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reason = "exit"
        end_at: float | None = None
        reap_at = time.monotonic() + _REAP_EVERY_S
        handle = _pidfd(self._process.pid)
        try:
            while True:
                pause = _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
                if end_at is not None:
                    pause = _POLL_S
                if handle is not None:
                    select.select([handle], [], [], pause)
                else:
                    time.sleep(min(pause, 0.005))
                if self._process.poll() is not None:
                    break
                watch()
                now = time.monotonic()
                if now >= reap_at:
                    reap_at = now + _REAP_EVERY_S
                    if _has_dead_child():
                        self._descendants()
                wanted = interrupted()
                if end_at is None and wanted is not None:
                    reason, end_at = "interrupted", now + TERM_GRACE_S
                    self._signal(wanted)
                elif end_at is None and deadline is not None and now >= deadline:
                    reason, end_at = "timeout", now + TERM_GRACE_S
                    self._signal(signal.SIGTERM)
                elif end_at is not None and (now >= end_at or wanted == signal.SIGKILL):
                    self._signal(signal.SIGKILL)
        finally:
            if handle is not None:
                os.close(handle)
        ended_us = time.monotonic_ns() // 1000
        code = self._process.wait()
        return ProcessEnd(128 - code if code < 0 else code, ended_us, reason)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pgid, number)

    def end_leftovers(self, linger_s: float = _LINGER_S) -> int:
        """End what the command left running, also what left its process group.

        Returns:
            How many had to be ended.
        """
        left = self._await_none(linger_s)
        if not left:
            return 0
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._descendants():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            if not self._await_none(_LEFTOVER_GRACE_S):
                break
        return len(left)

    def _await_none(self, seconds: float) -> list[int]:
        """The living processes of the stage, once there are none or the time is over."""
        until = time.monotonic() + seconds
        while (left := self._descendants()) and time.monotonic() < until:
            time.sleep(0.01)
        return left

    def _descendants(self) -> list[int]:
        """Living processes of the stage besides the command itself; dead ones nobody waits for are reaped.

        The stage began a session of its own, so a process below the runner in another session than the
        runner's is the stage's; the meter's helpers share the runner's session.
        """
        own, own_session = os.getpid(), os.getsid(0)
        table = _processes()
        ours = {own}
        grown = True
        while grown:
            grown = False
            for pid, process in table.items():
                if pid not in ours and process.parent in ours:
                    ours.add(pid)
                    grown = True
        living = []
        for pid, process in table.items():
            in_group = process.group == self.pgid
            if pid == self.pgid or not (in_group or (pid in ours and process.session != own_session)):
                continue
            if process.dead:
                if process.parent == own:
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
            else:
                living.append(pid)
        return living


def _fork(
    forks: Forks | None, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path
) -> tuple[Forked | None, str | None]:
    """The forked process, or why there is none; neither where none is wanted."""
    if forks is None or not forks.covers(argv):
        return None, None
    try:
        return forks.fork(argv, cwd, env, out, err), None
    except NotForkedError as error:
        return None, str(error)


class _Process(NamedTuple):
    dead: bool
    parent: int
    group: int
    session: int


def _processes() -> dict[int, _Process]:
    """Every process that /proc shows; empty where there is no /proc."""
    table = {}
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            if not entry.name.isdecimal():
                continue
            try:
                status = Path(entry.path, "stat").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            state, parent, group, session = status.rpartition(b")")[2].split()[:4]
            table[int(entry.name)] = _Process(state in b"ZX", int(parent), int(group), int(session))
    return table


def _has_dead_child() -> bool:
    """Whether any child waits to be reaped; asking costs nothing, reading the whole of /proc does."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _cannot_start(error: OSError | ValueError, argv: Sequence[str], cwd: Path) -> KitError:
    if isinstance(error, ValueError):
        return KitError(f"the command cannot be started: {error}", where=argv[0], exit_code=126)
    if not cwd.is_dir():
        return KitError(
            "the command cannot be started: no such working directory",
            where=str(cwd),
            fix="create it, or set the stage's cwd",
            exit_code=126,
        )
    code = 127 if isinstance(error, FileNotFoundError) else 126
    return KitError(
        f"the command cannot be started: {error.strerror}",
        where=argv[0],
        expected="a program on PATH, or the path of an executable file",
        exit_code=code,
    )


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None on kernels without it."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None
