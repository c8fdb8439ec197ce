"""What a stage reports: JSON lines appended to the file named in KIT_EVENTS."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN_KEYS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
_MAX_LINE_BYTES = 1 << 16


@dataclass
class Report:
    """One line: counts to add, an event, or why it could not be used."""

    tokens: dict[str, int] = field(default_factory=dict)
    event: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class ReportReader:
    """Reads the lines that have come since the last time; a line still being written waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""

    def read(self, final: bool = False) -> list[Report]:
        """New reports.

        Args:
            final: The stage has ended: a last line without a line break counts too.
        """
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read()
        except OSError as error:
            return [Report(problem=f"the report file cannot be read: {error.strerror}")] if final else []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if final and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [parse_report(line) for line in lines if line.strip()]


def parse_report(line: bytes) -> Report:
    """One line of a report file.

    Token counts are added up; `{"event": NAME, ...}` is an event with the other members as its detail. Anything else
    comes back with `problem` set, so that it is said and counted rather than dropped.
    """
    shown = line[:80].decode(errors="replace")
    if len(line) > _MAX_LINE_BYTES:
        return Report(problem=f"a line of {len(line)} bytes (at most {_MAX_LINE_BYTES}): {shown}...")
    try:
        message = json.loads(line)
    except ValueError:
        return Report(problem=f"not JSON: {shown}")
    if not isinstance(message, dict):
        return Report(problem=f"not a JSON object: {shown}")
    tokens = {}
    for key in TOKEN_KEYS:
        count = message.pop(key, None)
        if count is None:
            continue
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 1 << 62:
            return Report(problem=f"{key} must be a whole number >= 0: {shown}")
        tokens[key] = count
    event = message.pop("event", None)
    if event is not None and (not isinstance(event, str) or not event):
        return Report(problem=f"event must be a name: {shown}")
    if event is None and message:
        unknown = ", ".join(sorted(map(str, message)))
        return Report(tokens=tokens, problem=f"unknown member {unknown} (tokens_* or event were expected): {shown}")
    return Report(tokens=tokens, event=event, detail=message)
