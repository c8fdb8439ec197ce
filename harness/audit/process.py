"""One stage as a process group: started, watched, ended cleanly, and nothing of it left behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KitError

TERM_GRACE_S = 10.0
"""Between asking a stage to end and killing it."""
_POLL_S = 0.25
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a stage's process ended.

    Attributes:
        exit_code: As a shell reports it: 128 + signal number when a signal ended it.
        work_end_us: CLOCK_MONOTONIC at its end.
        reason: "exit", "timeout" or "interrupted".
    """

    exit_code: int
    work_end_us: int
    reason: str


class StageProcess:
    """A command in a session and process group of its own.

    Args:
        argv: Words for exec.
        cwd: Working directory.
        env: The whole environment.
        out: File for standard output.
        err: File for standard error.

    Raises:
        KitError: The command cannot be started.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path) -> None:
        libc = ctypes.CDLL(None)

        def die_with_runner() -> None:
            # The sampler ends the stage when the runner is killed; this covers the case that both are.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

        try:
            with out.open("ab") as stdout, err.open("ab") as stderr:
                self._process = subprocess.Popen(
                    list(argv),
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                    preexec_fn=die_with_runner,
                )
        except OSError as error:
            missing = error.filename if error.filename else argv[0]
            raise KitError(
                f"the command cannot be started: {error.strerror}",
                where=str(missing),
                expected="a program on PATH and an existing working directory",
            ) from None
        self.pgid = self._process.pid

    def wait(
        self,
        *,
        timeout_s: float | None,
        interrupted: Callable[[], int | None],
        watch: Callable[[], None],
    ) -> Outcome:
        """Wait for the process to end.

        Args:
            timeout_s: After this it is ended.
            interrupted: A signal number once the run is to stop; the process is then ended with it.
            watch: Called a few times a second.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reason = "exit"
        end_at: float | None = None
        handle = _pidfd(self._process.pid)
        try:
            while True:
                if handle is not None:
                    select.select([handle], [], [], _POLL_S)
                else:
                    time.sleep(min(_POLL_S, 0.005))
                if self._process.poll() is not None:
                    break
                watch()
                now = time.monotonic()
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
        code = self._process.returncode
        return Outcome(128 - code if code < 0 else code, time.monotonic_ns() // 1000, reason)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pgid, number)
        except ProcessLookupError:
            return

    def end_leftovers(self) -> int:
        """End what the command left running in its group. Returns how often it had to be asked (0: nothing was left)."""
        for count, number in enumerate((signal.SIGTERM, signal.SIGKILL)):
            try:
                os.killpg(self.pgid, number)
            except (ProcessLookupError, PermissionError):
                return count
            until = time.monotonic() + TERM_GRACE_S / 5
            while time.monotonic() < until:
                try:
                    os.killpg(self.pgid, 0)
                except (ProcessLookupError, PermissionError):
                    return count + 1
                time.sleep(0.01)
        return 2


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None on kernels without it."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def tail(path: Path, lines: int, limit_bytes: int = 16_384) -> list[str]:
    """The last lines of a text file, as far as they lie within `limit_bytes`."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - limit_bytes))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
