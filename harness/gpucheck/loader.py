"""Starts the load program and gives it orders."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from harness.errors import KitError

_PROGRAM = Path(__file__).with_name("load.py")
_START_S = 180.0  # torch and CUDA from a cold disk
_GRACE_S = 60.0
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class OrderedProgram:
    """A child program that takes orders as JSON lines and answers each with one.

    Args:
        command: The program and its arguments; its first line is a greeting, `{"ready": {...}}`.
        what: What to call it when it fails.
        env: Its environment; this process's by default.

    Raises:
        KitError: It does not start, or says why it cannot work.
    """

    def __init__(self, command: list[str], what: str, env: dict[str, str] | None = None) -> None:
        self._what = what
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**(os.environ if env is None else env), **_ONE_THREAD},
            )
        except OSError as error:
            raise KitError(f"{command[0]} cannot be started: {error.strerror}") from None
        self._buffer = b""
        try:
            self.ready: dict[str, Any] = self._receive(_START_S)["ready"]
        except BaseException:
            self.close()
            raise
        self.name: str = self.ready["backend"]

    def ask(self, order: dict[str, Any], timeout_s: float = _START_S) -> dict[str, Any]:
        """Give an order and wait until it is carried out.

        Raises:
            KitError: The program failed, ended, or did not answer in time.
        """
        self._send(order)
        done: dict[str, Any] = self._receive(timeout_s)["done"]
        return done

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), json.dumps(order).encode() + b"\n")
        except OSError:
            raise self._ended() from None

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise KitError(f"{self._what} did not answer within {timeout_s:.0f} s")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise self._ended()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise KitError(answer["error"])
        return answer

    def _ended(self) -> KitError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return KitError(f"{self._what} ended early" + "".join(f": {line}" for line in said[-1:]))

    def close(self) -> None:
        """End the program."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Load(OrderedProgram):
    """A running load program.

    Args:
        python: The interpreter that runs it.
        backend: "torch" or "numpy".

    Raises:
        KitError: It cannot make load; the message says why.
    """

    def __init__(self, python: str, backend: str) -> None:
        self.python = python
        self._seconds = 0.0
        super().__init__([python, str(_PROGRAM), backend], "the load program")

    def open(self) -> None:
        """Make contexts and tensors on the devices."""
        self.ask({"op": "open"})

    def release(self) -> None:
        """Give the tensors' memory back to the devices; `open` makes new ones."""
        self.ask({"op": "release"})

    def start(self, kind: str, seconds: float, **shape: float) -> None:
        """Begin a piece of work; `finish` waits for it."""
        self._seconds = seconds
        self._send({"op": "work", "kind": kind, "seconds": seconds, **shape})

    def finish(self) -> dict[str, Any]:
        """Wait for the work begun: `start_us` and `end_us` (CLOCK_MONOTONIC) and `pieces` done."""
        done: dict[str, Any] = self._receive(self._seconds + _GRACE_S)["done"]
        return done

    def work(self, kind: str, seconds: float, **shape: float) -> dict[str, Any]:
        """Do a piece of work and wait for it."""
        self.start(kind, seconds, **shape)
        return self.finish()


def start_torch(python: str | None = None) -> Load:
    """A load program on torch with CUDA.

    Args:
        python: The interpreter to use; None tries this one, then `python3` on PATH.

    Raises:
        KitError: No interpreter has torch with a CUDA device.
    """
    candidates = (
        [python]
        if python
        else list(dict.fromkeys([sys.executable, shutil.which("python3") or sys.executable]))
    )
    reasons = []
    for candidate in candidates:
        try:
            return Load(candidate, "torch")
        except KitError as error:
            reasons.append(error.message)
    raise KitError(
        f"no load can be made: {'; '.join(dict.fromkeys(reasons))}",
        expected="an interpreter with torch that sees a CUDA device",
        fix="name it with --load-python PYTHON",
    )
