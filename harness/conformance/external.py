"""Another implementation as a process: a JSON object in each line of its standard input and output."""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

from harness.conformance.operations import Answer, answer
from harness.errors import KitError

MOST_DEATHS = 5
"""After so many deaths, silences or streams of rubbish the command is given up."""


class External:
    """Speaks to one command; a context manager.

    A command that never gives one proper answer cannot be tested at all and raises. One that dies, falls
    silent or prints rubbish later has failed that vector and is started again for the next.

    Args:
        command: as typed in a shell; run without one.
        timeout_s: longest wait for one answer.
    """

    def __init__(self, command: str, timeout_s: float = 10.0) -> None:
        self._command = command
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=5)
        self._reader = threading.Thread()
        self._spoken = False
        self._deaths = 0
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise KitError(f"cannot be split into words: {error}", where="--cmd") from None
        if not self._argv:
            raise KitError("is empty", where="--cmd", fix='kit conformance --cmd "./my_implementation"')

    def __enter__(self) -> External:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, identifier: str, op: str, given: Mapping[str, Any]) -> Answer:
        """Put one question and wait for its answer.

        Raises:
            KitError: the command cannot be started, never answered properly, or died too often.
        """
        if self._process is None:
            self._start()
        request = json.dumps({"id": identifier, "op": op, "input": given})
        try:
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self.timeout_s)
        except queue.Empty:
            return self._broken(f"no answer within {self.timeout_s:g} s")
        except OSError:
            line = None
        if line is None:
            return self._broken(self._death())
        return self._read(line, identifier)

    def _read(self, line: str, identifier: str) -> Answer:
        try:
            found = json.loads(line)
        except ValueError:
            return self._broken(f"answered with a line that is no JSON: {line.strip()[:100]!r}")
        kinds = ("output", "error", "unsupported")
        if not isinstance(found, dict) or sum(kind in found for kind in kinds) != 1:
            return self._broken(f"answered without one of {', '.join(kinds)}: {line.strip()[:100]!r}")
        if found.get("id") != identifier:
            return self._broken(f"answered to id {found.get('id')!r}")
        self._spoken = True
        if "unsupported" in found:
            return Answer(unsupported=True)
        if "error" in found:
            return Answer(refused=str(found["error"]))
        if not isinstance(found["output"], dict):
            return self._broken(f"its output is no JSON object: {line.strip()[:100]!r}")
        return Answer(output=found["output"])

    def _start(self) -> None:
        self._lines = queue.Queue()
        self._errors.clear()
        try:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise KitError(
                f"cannot be started: {error.strerror or error}",
                where=self._argv[0],
                expected="a program that reads JSON lines and answers each with one line",
                fix="README.md beside the vectors shows one in a page",
            ) from None
        out, err = self._process.stdout, self._process.stderr
        threading.Thread(target=_drain, args=(out, self._lines.put), daemon=True).start()
        self._reader = threading.Thread(target=_drain, args=(err, self._errors.append), daemon=True)
        self._reader.start()

    def _death(self) -> str:
        """Why there will be no more answers."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return "closed its output"
        self._reader.join(timeout=2.0)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = next((text.strip() for text in reversed(self._errors) if text and text.strip()), "")
        return f"{how}{': ' + last[:200] if last else ''}"

    def _broken(self, how: str) -> Answer:
        self._stop()
        self._deaths += 1
        if not self._spoken:
            raise KitError(
                f"the command {how}",
                where=self._command,
                expected='a line such as {"id": "...", "output": {...}} for each line it reads',
                fix="print nothing but answers on standard output, and flush after each line",
            )
        if self._deaths >= MOST_DEATHS:
            raise KitError(
                f"given up after {self._deaths} faults; the last: it {how}",
                where=self._command,
                fix="run one family at a time: kit conformance --cmd ... --family NAME",
            )
        return Answer(broken=f"the command {how}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _drain(stream: IO[str] | None, sink: Any) -> None:
    """Hand on lines until the stream ends; then None."""
    if stream is not None:
        with stream:
            for line in stream:
                sink(line)
    sink(None)


def serve(source: IO[str] | None = None, target: IO[str] | None = None) -> None:
    """Be the other side: answer requests from `source` on `target` until it ends.

    Args:
        source: standard input by default.
        target: standard output by default.
    """
    source, target = source or sys.stdin, target or sys.stdout
    for line in source:
        if line.strip():
            target.write(json.dumps(respond(line)) + "\n")
            target.flush()


def respond(line: str) -> dict[str, Any]:
    """The answer to one line of a request.

    Raises:
        KitError: The kit itself is at fault.
    """
    try:
        request = json.loads(line)
        identifier, op, given = request["id"], request["op"], request["input"]
    except (ValueError, KeyError, TypeError) as error:
        return {"id": None, "error": f"not a request with id, op and input: {error}"}
    if not isinstance(op, str) or not isinstance(given, dict):
        return {"id": identifier, "error": "op is text and input an object"}
    found = answer(str(identifier), op, given)
    if found.unsupported:
        return {"id": identifier, "unsupported": True}
    if found.broken is not None:
        # Said as an error it would count as a refusal, and pass where one is wanted.
        raise KitError(f"vector {identifier}: fault of the kit: {found.broken}", where=op)
    if found.refused is not None:
        return {"id": identifier, "error": found.refused}
    return {"id": identifier, "output": dict(found.output or {})}
