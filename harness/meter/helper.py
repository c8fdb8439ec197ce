"""A helper process of the meter as its owner sees it: JSON lines in, JSON lines out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.meter.clocks import mono_us

_READY_TIMEOUT_S = 60.0


class Lost(Exception):
    """The helper process is gone."""


class Helper:
    """One meter process: JSON lines to its standard input, answers from its standard output."""

    def __init__(self, module: str, config: dict[str, Any], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=package_environ(OMP_NUM_THREADS="1"),
            )
        self._log = log
        self._buffer = b""

    def wait_ready(self, warn: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        """The helper's greeting.

        Args:
            warn: Told what it warns of before, such as a disk that is full.

        Raises:
            KitError: It ended or said why it cannot work.
        """
        try:
            while "warning" in (message := self.receive(_READY_TIMEOUT_S)):
                warn(message["warning"])
        except Lost:
            tail = (
                self._log.read_text(errors="replace").strip().splitlines()[-1:] if self._log.exists() else []
            )
            raise KitError(
                "the meter process did not start" + (f": {tail[0]}" if tail else ""),
                where=str(self._log),
                fix="kit doctor",
            ) from None
        if "error" in message:
            raise KitError(
                message["error"],
                where=message.get("where"),
                expected=message.get("expected"),
                fix=message.get("fix"),
            )
        ready: dict[str, Any] = message["ready"]
        return ready

    def send(self, message: dict[str, Any]) -> None:
        """Give it a command.

        Raises:
            Lost: It is gone.
        """
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), json.dumps(message).encode() + b"\n")
        except (OSError, ValueError):  # ValueError: closed already, when it could not be replaced
            raise Lost from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Its next answer.

        Raises:
            Lost: It is gone, or said nothing for `timeout_s`.
        """
        assert self.process.stdout is not None
        deadline = mono_us() + timeout_s * 1e6
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            remaining_s = (deadline - mono_us()) / 1e6
            if remaining_s <= 0 or not select.select([descriptor], [], [], remaining_s)[0]:
                self.process.kill()  # it hangs: as good as gone, and its successor must not find it alive
                raise Lost
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise Lost
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Wait for its end, which closing its input brings about; its log is kept if it says anything."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            if self._log.stat().st_size == 0:
                self._log.unlink()


def package_environ(**additions: str) -> dict[str, str]:
    """This process's environment, with this very package importable in a child, installed or not."""
    parent = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{parent}{os.pathsep}{rest}" if rest else parent, **additions}
