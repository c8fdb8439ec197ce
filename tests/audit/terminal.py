"""A terminal of a given size with `kit` in its foreground, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path


class Terminal:
    """Runs a program on a pseudo-terminal of its own; what it shows is in `shown`."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: dict[str, str], columns: int = 80) -> None:
        self.shown = b""
        self.code: int | None = None
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            size = struct.pack("HHHH", 40, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execvpe(argv[0], argv, {"TERM": "xterm-256color", **env})

    def type(self, keys: bytes) -> None:
        """Press keys; b"\\x03" is Ctrl-C."""
        os.write(self._descriptor, keys)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self._descriptor)
        self._descriptor = -1

    def read_until(self, words: str, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while words.encode() not in self.shown:
            assert time.monotonic() < until, self.shown.decode(errors="replace")
            assert self._read(0.1), self.shown.decode(errors="replace")

    def _read(self, seconds: float) -> bool:
        """Whether the program still holds its end."""
        if self._descriptor >= 0 and select.select([self._descriptor], [], [], seconds)[0]:
            try:
                chunk = os.read(self._descriptor, 1 << 16)
            except OSError:
                return False
            self.shown += chunk
            return bool(chunk)
        return True

    def wait(self, seconds: float = 40.0) -> int:
        """The program's exit code, as a shell gives it."""
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(self.shown.decode(errors="replace"))
            self._read(0.05)
        while self._descriptor >= 0 and self._read(0.0) and select.select([self._descriptor], [], [], 0)[0]:
            pass
        if self._descriptor >= 0:
            self.hang_up()
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code
