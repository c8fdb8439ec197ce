"""What a stage printed, made fit for a log and a terminal: no control sequences, no endless lines."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
MAX_LINE = 500
"""Characters of a line that are kept."""


def printable(line: str, limit: int = MAX_LINE) -> str:
    """A line as it would stand on a screen, cut to `limit`: no escape sequences, no other control characters.

    Of a line that was drawn over and over (a progress bar), the last state is kept.
    """
    line = _ESCAPE.sub("", line.rstrip("\r\n"))
    line = _CONTROL.sub("\ufffd", line.rpartition("\r")[2])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def tail(path: Path, lines: int, limit_bytes: int = 16_384) -> list[str]:
    """The last lines of a file that are not empty, printable, taken from its last `limit_bytes`."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - limit_bytes))
            data = stream.read()
    except OSError:
        return []
    shown = (printable(line) for line in data.decode(errors="replace").split("\n"))
    return [line for line in shown if line.strip()][-lines:]


class Follower:
    """Reads a growing file line by line, for showing it live.

    Args:
        path: The file; it may not exist yet.
        from_start: Whether what it holds already is shown too.
    """

    _CHUNK = 1 << 18

    def __init__(self, path: Path, *, from_start: bool = True) -> None:
        self._path = path
        self._position = 0
        self._rest = b""
        if not from_start and path.exists():
            self._position = path.stat().st_size

    def lines(self, *, final: bool = False) -> list[str]:
        """Printable lines that were completed since the last call; of a flood, the end.

        Args:
            final: The file is complete: a last line without a line break counts too.
        """
        try:
            with self._path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                skipped = max(0, size - self._position - self._CHUNK)
                stream.seek(self._position + skipped)
                data = stream.read(self._CHUNK)
        except OSError:
            return []
        self._position += skipped + len(data)
        *whole, self._rest = ((b"" if skipped else self._rest) + data).split(b"\n")
        if skipped:
            whole[:1] = [b"... %d bytes not shown, they are in the log ..." % skipped]
        if final and self._rest:
            whole.append(self._rest)
            self._rest = b""
        self._rest = self._rest[-self._CHUNK :]
        return [printable(line.decode(errors="replace")) for line in whole]
