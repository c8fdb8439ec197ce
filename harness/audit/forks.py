"""Stages as forks of a Python process that has imported what they need already.

A stage of a few seconds would spend most of them on importing torch. Who runs many such stages gives
`run_plan` a `Forks`, which keeps one `harness.audit.fork_server`. Starting that is measured as a stage of its
own; a forked stage is otherwise like any other, and the log says which were forked and why one was not.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.audit.fork_server import READY

_FORK_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_PER_STAGE = ("KIT_EVENTS", "KIT_STAGE", "KIT_STATUS", "KIT_RUN_DIR")
"""Variables that no import reads: they may differ between stages that are forked from one process."""


class NotForkedError(Exception):
    """Why the stage has to be started as any other program is."""


class Forked:
    """A forked stage, with what the runner asks of a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self, how: int = os.WNOHANG) -> int | None:
        """The exit code once it has ended, minus the signal's number if one ended it."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, how)
            except ChildProcessError:
                pid, status = self.pid, 0  # as subprocess does where somebody else was told
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        code = self.poll(0)
        assert code is not None
        return code


class Forks:
    """Keeps the process that stages are forked from.

    It is started once, for the first stage that fits. Stages fork from it that agree with that one in what
    decides an import: interpreter, working directory and environment.

    Args:
        module: What it imports.
        packages: Stages whose program lies in one of them are forked; the module's own by default.
    """

    def __init__(self, module: str, packages: Sequence[str] = ()) -> None:
        self._module = module
        self._packages = tuple(f"{package}." for package in packages or (module.rpartition(".")[0],))
        self._process: subprocess.Popen[bytes] | None = None
        self._start: object = None
        self._problem: str | None = None

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; stages that it forked go on."""
        process, self._process = self._process, None
        if process is not None and process.stdin and process.stdout:
            with suppress(BrokenPipeError):  # what it did not read before it died
                process.stdin.close()
            process.stdout.close()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def covers(self, argv: Sequence[str]) -> bool:
        """Whether stages of this command are meant to be forked."""
        is_module = len(argv) > 2 and Path(argv[0]).name.startswith("python") and argv[1] == "-m"
        return sys.platform == "linux" and is_module and argv[2].startswith(self._packages)

    def needs_start(self, argv: Sequence[str], cwd: Path) -> bool:
        """Whether `start` is due before this stage."""
        return self._start is None and self.covers(argv) and cwd.is_dir()

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
        self._start = python, _, own = _import_key(argv, cwd, env)
        words = [python, "-m", "harness.audit.fork_server", self._module]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(words, cwd=cwd, env=own, stdin=pipe, stdout=pipe, stderr=stderr)
            answer = self._answer(stopped)
            self._problem = None if answer == READY else answer
        except (OSError, NotForkedError) as error:
            self._give_up(error)
        return self._problem

    def fork(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path) -> Forked:
        """Start a stage; its output is appended to the files `out` and `err`.

        Raises:
            NotForkedError: It has to be started as any other program is.
        """
        if self._process is None or self._process.stdin is None or self._problem is not None:
            raise NotForkedError(self._problem or "no process to fork it from")
        if self._start != _import_key(argv, cwd, env):
            raise NotForkedError("its interpreter, folder or environment is another")
        request = {"module": argv[2], "words": list(argv[3:]), "env": dict(env), "runner": os.getpid()}
        request |= {"out": str(out), "err": str(err)}
        until = time.monotonic() + _FORK_TIMEOUT_S
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._answer(lambda: time.monotonic() > until)
            if not answer.isdecimal():
                raise NotForkedError(answer)
        except (OSError, NotForkedError) as error:
            raise NotForkedError(self._give_up(error)) from None
        return Forked(int(answer))

    def _give_up(self, error: Exception) -> str:
        """Kill the process; a fork that comes too late finds nobody listening and ends without running."""
        if self._process is not None:
            self._process.kill()
        self.close()
        self._problem = str(error)
        return self._problem

    def _answer(self, give_up: Callable[[], bool]) -> str:
        process = self._process
        assert process is not None and process.stdout is not None
        while not select.select([process.stdout], [], [], 0.25)[0]:
            if give_up():
                raise NotForkedError("it did not answer in time")
        line = process.stdout.readline()
        if not line:
            raise NotForkedError("it ended")
        return line.decode().strip()


def _import_key(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> tuple[str, Path, dict[str, Any]]:
    """What decides what an import does: interpreter, folder, and the environment but for the stage's own."""
    python = shutil.which(argv[0], path=env.get("PATH")) or argv[0]
    return python, cwd, {name: value for name, value in env.items() if name not in _PER_STAGE}
