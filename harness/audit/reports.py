"""What a stage reports: JSON lines appended to the file named in KIT_EVENTS."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.audit.output import printable
from harness.bundle.privacy import scrub
from harness.bundle.stage_rows import TOKEN_COLUMNS
from harness.errors import KitError
from harness.files import look_at, open_plain
from harness.journal.scores import Items, eval_row, items_chunk
from harness.meter.ranks import BEGINS, ENDS, MAX_REPORT_BYTES
from harness.spec import load_protocol

if TYPE_CHECKING:
    from harness.meter.session import MeterSession

_MAX_TOKENS = (1 << 53) - 1  # exact in every language that reads JSON
_CHUNK = 1 << 20
_SEEN_BYTES = 256
_PROBLEMS_LOGGED = 20
_PROBLEMS_SHOWN = 3
_EVENTS_LOGGED = 100_000


@dataclass
class StageReport:
    """One line: counts to add, an event, scores, or why it could not be used."""

    tokens: dict[str, int] = field(default_factory=dict)
    event: str | None = None
    score: dict[str, Any] | None = None
    items: Items | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class ReportReader:
    """Reads the lines that have come since the last time; a line still being written waits for its end.

    The file stays open: what is written to it counts even after a stage has removed it.

    Raises:
        OSError: It cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self._stream: BinaryIO = path.open("rb")
        self._rest = b""
        self._overlong = 0
        self._refused = ""
        self._seen = b""  # the end of what was read: a file that was cut and grew again differs there

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def read(self, final: bool = False) -> Iterator[StageReport]:
        """New reports, about a megabyte of them at most: a flood must not keep the caller from its stage.

        Args:
            final: The stage has ended: everything is read, and a last line without a line break counts too.
        """
        problem = self._reopened()
        if problem:
            yield StageReport(problem=problem)
        while data := self._stream.read(_CHUNK):
            self._seen = (self._seen + data)[-_SEEN_BYTES:]
            yield from self._lines(data)
            if not final:
                break
        if final and self._rest:
            rest, self._rest = self._rest, b""
            yield parse_report(rest)

    def _lines(self, data: bytes) -> Iterator[StageReport]:
        *lines, rest = (self._rest + data).split(b"\n")
        if lines and self._overlong:
            first = lines.pop(0)
            yield _too_long(self._overlong + len(first), first)
            self._overlong = 0
        if self._overlong or len(rest) > MAX_REPORT_BYTES:
            # Not kept in memory: a stage may write gigabytes without a line break.
            self._overlong += len(rest)
            rest = b""
        self._rest = rest
        for line in lines:
            if line.strip():
                yield parse_report(line)

    def _reopened(self) -> str | None:
        """Notice a file that was cut or replaced, and go on with what is there now."""
        ours = os.fstat(self._stream.fileno())
        try:
            there = self._path.stat()
        except OSError:
            return None
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            try:
                look_at(self._path)
                replaced = open_plain(self._path)
            except KitError as error:  # a pipe or a device would keep the run from going on
                said, self._refused = self._refused, str(error)
                return None if said == self._refused else f"the report file was replaced: {error}"
            self._stream.close()
            self._stream, self._rest, self._seen = replaced, b"", b""
            return "the report file was replaced: append to it instead (>> in a shell)"
        start = self._stream.tell() - len(self._seen)
        if os.pread(self._stream.fileno(), len(self._seen), start) != self._seen:
            self._stream.seek(0)
            self._rest = self._seen = b""
            return "the report file was cut: append to it instead (>> in a shell)"
        return None


def _too_long(length: int, line: bytes) -> StageReport:
    shown = printable(line[:80].decode(errors="replace"))
    return StageReport(problem=f"a line of {length} bytes (at most {MAX_REPORT_BYTES}): {shown}...")


def parse_report(line: bytes) -> StageReport:
    """One line of a report file.

    Token counts are added up; `{"event": NAME, ...}` is an event with the other members as its detail;
    `{"eval": {...}}` and `{"eval_items": {...}}` are scores (see `harness.journal.scores`). A number that
    JSON lacks (NaN, an infinity) becomes null. Anything else comes back with `problem` set, so that it is
    said and counted rather than dropped.
    """
    if len(line) > MAX_REPORT_BYTES:
        return _too_long(len(line), line)
    shown = printable(line[:200].decode(errors="replace"), 80)
    try:
        message = json.loads(
            line.decode(), parse_constant=lambda word: None, parse_float=_finite, object_pairs_hook=_once
        )
    except (ValueError, RecursionError):
        return StageReport(problem=f"not JSON: {shown}")
    except KeyError:
        return StageReport(problem=f"a member stands in it twice: {shown}")
    if not isinstance(message, dict):
        return StageReport(problem=f"not a JSON object: {shown}")
    tokens = {}
    for key in TOKEN_COLUMNS:
        if key not in message:
            continue
        count = message.pop(key)
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MAX_TOKENS:
            return StageReport(problem=f"{key} must be a whole number >= 0: {shown}")
        tokens[key] = count
    try:
        score = eval_row(message.pop("eval")) if "eval" in message else None
        items = items_chunk(message.pop("eval_items")) if "eval_items" in message else None
    except ValueError as error:
        # Not the line itself, as elsewhere: what stands beside a score may be a prompt or an answer.
        return StageReport(tokens=tokens, problem=printable(str(error), 120))
    event = message.pop("event", None)
    if event is not None and (not isinstance(event, str) or not event.strip()):
        return StageReport(tokens, score=score, items=items, problem=f"event must be a name: {shown}")
    if event is None and message:
        unknown = printable(", ".join(sorted(message)), 80)
        expected = (
            "tokens_trained, tokens_processed, tokens_positions, tokens_generated, event, eval or eval_items"
        )
        problem = f"unknown member {unknown} ({expected} was expected): {shown}"
        return StageReport(tokens, score=score, items=items, problem=problem)
    if event is None and not tokens and score is None and items is None:
        return StageReport(problem=f"neither tokens_*, event nor eval: {shown}")
    return StageReport(tokens, None if event is None else printable(event), score, items, message)


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two counts under one name: which of them is meant, nobody knows."""
    if len(found := dict(members)) < len(members):
        raise KeyError
    return found


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


class Intake:
    """Takes one attempt's reports into the log; what it cannot take is said and counted, not dropped."""

    def __init__(self, session: MeterSession, warn: Callable[[str], None], where: str) -> None:
        self._session = session
        self._warn = warn
        self._where = where
        self._problems = 0
        self._events = 0

    def take(self, reports: Iterable[StageReport]) -> None:
        """Log reports: tokens are added to the stage, events and scores become rows."""
        for report in reports:
            problem = report.problem
            try:
                if report.tokens:
                    self._session.add_tokens(report.tokens)
                if report.score is not None:
                    self._session.add_eval(report.score)
                if report.items is not None:
                    self._session.add_eval_items(report.items)
            except KitError as error:
                problem = error.message
            if report.event in (BEGINS, ENDS):
                try:
                    self._take_part(report)
                except (KitError, KeyError, TypeError, ValueError) as error:
                    problem = error.message if isinstance(error, KitError) else "a part of a stage is odd"
            elif report.event is not None:
                self._events += 1
                if self._events <= _EVENTS_LOGGED:
                    self._session.report_event(report.event, report.detail)
            if problem is not None:
                self._refuse(problem, "a report line could not be used")

    def _take_part(self, report: StageReport) -> None:
        """A Meter inside the stage began or ended a stage of its own: a child of the one that is running."""
        name, at_us = scrub(printable(str(report.detail["name"]), 80)), int(report.detail["mono_us"])
        if report.event == BEGINS:
            kind = load_protocol().check_kind(str(report.detail["kind"]), f"stage {name!r}")
            self._session.begin_child(name, kind, at_us)
        else:
            status = str(report.detail["status"])
            if status not in ("completed", "failed", "interrupted"):
                raise KitError(f"{name!r} ends as {printable(status)}")
            self._session.end_child(name, status, at_us)

    def _refuse(self, problem: str, what: str) -> None:
        self._problems += 1
        if self._problems <= _PROBLEMS_LOGGED:
            self._session.event("x-bad_report", "warning", problem=scrub(problem))
        if self._problems <= _PROBLEMS_SHOWN:
            self._warn(f"{what}: {problem}")

    def sum_up(self) -> None:
        """At the stage's end, say which scores do not fit their items, and how many reports were not logged
        one by one.
        """
        stage = self._session.stage
        for problem in [] if stage is None else stage.scores.problems():
            self._refuse(problem, "scores and their items differ")
        if self._problems > _PROBLEMS_LOGGED:
            self._session.event("x-bad_report", "warning", further_lines=self._problems - _PROBLEMS_LOGGED)
        if self._problems > _PROBLEMS_SHOWN:
            more = self._problems - _PROBLEMS_SHOWN
            self._warn(f"{more} more report lines could not be used; all are in {self._where}")
        if self._events > _EVENTS_LOGGED:
            more = self._events - _EVENTS_LOGGED
            self._session.event("x-events_not_logged", "warning", events=more, limit=_EVENTS_LOGGED)
            limit = f"at most {_EVENTS_LOGGED} a stage"
            self._warn(f"{more} events are not in the log ({limit}); all are in {self._where}")
