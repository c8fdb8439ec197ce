"""Stages as forks of a Python process that has imported what they need already.

A stage of a few seconds would spend most of them on importing torch. Who runs many such stages gives
`run_plan` a `Forks`: it keeps one `harness.audit.fork_server` while the stages agree in what decides an
import (interpreter, working directory, environment). Starting it is measured as a stage of its own;
everything else about a forked stage is as if it had been started afresh, and the log says which were forked.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from harness.audit.fork_server import MESSAGE_BYTES

_START_TIMEOUT_S = 120.0
_FORK_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
PER_STAGE = ("KIT_EVENTS", "KIT_STAGE", "KIT_STATUS", "KIT_RUN_DIR")
"""Variables that no import reads: they may differ between the stages of one server."""


class NotForkedError(Exception):
    """Why the stage has to be started afresh."""


class Forked:
    """A forked stage, with what the runner asks of a `subprocess.Popen`.

    Args:
        pid: Of a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code once it has ended, minus the signal's number if one ended it."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end."""
        code = self._reap(0)
        assert code is not None
        return code

    def _reap(self, how: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, how)
            except ChildProcessError:
                pid, status = self.pid, 0  # as subprocess does where somebody else was told
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@dataclass(frozen=True)
class _Start:
    """What decides what an import does."""

    python: str
    cwd: Path
    env: tuple[tuple[str, str], ...]


class Forks:
    """Keeps the process that stages are forked from.

    Args:
        module: What it imports.
        packages: Stages whose program lies in one of them are forked; the module's own by default.
    """

    def __init__(self, module: str, packages: Sequence[str] = ()) -> None:
        self.module = module
        self._packages = tuple(f"{package}." for package in packages or (module.rpartition(".")[0],))
        self._start: _Start | None = None
        self._unfit: dict[_Start, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; stages that it forked go on."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._link = self._start = None

    def needs_start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> bool:
        """Whether this stage can be forked once `start` has been called for it, and not before."""
        if not self.covers(argv) or not cwd.is_dir():
            return False
        wanted = _key(argv, cwd, env)
        return wanted not in self._unfit and not (self._start == wanted and self._alive())

    def covers(self, argv: Sequence[str]) -> bool:
        """Whether stages of this command are meant to be forked."""
        return (
            sys.platform == "linux"
            and len(argv) > 2
            and Path(argv[0]).name.startswith("python")
            and argv[1] == "-m"
            and argv[2].startswith(self._packages)
        )

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        stderr: BinaryIO,
        stopped: Callable[[], bool] = lambda: False,
    ) -> str | None:
        """Start the process that stages such as this are forked from; why that is not possible, or None.

        Args:
            argv: Command of the stage.
            cwd: Its working directory.
            env: Its environment.
            stderr: For what the imports print.
            stopped: Asked a few times a second whether to give up.
        """
        self.close()
        wanted = _key(argv, cwd, env)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)  # Linux doubles it
        words = [wanted.python, "-m", "harness.audit.fork_server", str(theirs.fileno()), self.module]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=dict(wanted.env),
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    pass_fds=[theirs.fileno()],
                )
            self._link, self._start = ours, wanted
            self._answer(_START_TIMEOUT_S, stopped)
        except (OSError, NotForkedError) as error:
            self._link = ours
            self.close()
            if not stopped():
                self._unfit[wanted] = str(error)
            return str(error)
        return None

    def fork(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: int, err: int) -> Forked:
        """Start a stage.

        Args:
            argv: Its command.
            cwd: Its working directory.
            env: Its whole environment.
            out: Descriptor for standard output.
            err: Descriptor for standard error.

        Raises:
            NotForkedError: It has to be started afresh.
        """
        link = self._link
        wanted = _key(argv, cwd, env)
        if link is None or not self.covers(argv) or self._start != wanted:
            raise NotForkedError(self._unfit.get(wanted, "no process to fork it from"))
        request = {"module": argv[2], "words": list(argv[3:]), "env": dict(env), "runner": os.getpid()}
        packet = json.dumps(request).encode()
        if len(packet) > MESSAGE_BYTES:
            raise NotForkedError("its command and environment are too long")
        heard, tell = os.pipe()
        try:
            socket.send_fds(link, [packet], [out, err, heard])
            os.close(heard)
            heard = -1
            stage = Forked(self._answer(_FORK_TIMEOUT_S))
            # It runs only when told so: not if its number came too late and the stage is started afresh.
            os.write(tell, b"1")
        except (OSError, NotForkedError) as error:
            if self._process is not None:
                self._process.kill()
            self.close()
            raise NotForkedError(str(error)) from None
        finally:
            os.close(tell)
            if heard >= 0:
                os.close(heard)
        return stage

    def _answer(self, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> int:
        """The process id in the next answer; 0 for its greeting."""
        assert self._link is not None
        deadline = time.monotonic() + timeout_s
        while not select.select([self._link], [], [], 0.25)[0]:
            if stopped():
                raise NotForkedError("stopped")
            if time.monotonic() > deadline:
                raise NotForkedError(f"no answer within {timeout_s:g} s")
        packet = self._link.recv(MESSAGE_BYTES)
        if not packet:
            raise NotForkedError("it ended")
        answer = json.loads(packet)
        if "error" in answer:
            raise NotForkedError(answer["error"])
        return int(answer.get("pid", 0))


def _key(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> _Start:
    python = shutil.which(argv[0], path=env.get("PATH")) or argv[0]
    return _Start(python, cwd, tuple(sorted((k, v) for k, v in env.items() if k not in PER_STAGE)))
