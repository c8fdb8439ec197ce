"""Where the reports of a stage go: to this process's session, or to the file of the process that meters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.errors import KitError
from harness.journal.scores import Items, item_messages
from harness.meter.open_stage import OpenStage
from harness.meter.ranks import RankReports
from harness.meter.session import MeterSession


class Sink(Protocol):
    """Where a stage's reports go."""

    def tokens(self, counts: dict[str, int]) -> None:
        """Add to the token counts of the stage."""

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Write an event."""

    def scores(self, row: dict[str, Any], items: Items | None) -> None:
        """Record a row of `evals`, with the scores of its items if they are known."""


class FileSink:
    """Appends to $KIT_EVENTS or to the file of the job's other processes: one write a line, so that several
    processes may report at once.

    Args:
        path: The file. That of a job is taken away when the process that meters has ended the run.
        stamp: Members of every line.
        ended: Called where that is so; None under an audit, whose file stays.
    """

    def __init__(self, path: str, stamp: Mapping[str, Any], ended: Callable[[], None] | None = None) -> None:
        self._path = path
        self._stamp = stamp
        self._ended = ended

    def _append(self, message: dict[str, Any]) -> None:
        line = json.dumps({**message, **self._stamp}) + "\n"
        try:
            if self._ended is not None and not Path(self._path).exists():
                self._ended()
                return
            with Path(self._path).open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise KitError(
                f"cannot be written: {error.strerror}",
                where=self._path,
                expected="the file that the meter of this job reads",
                fix="unset KIT_EVENTS where no kit runs this program; else keep that file",
            ) from None

    def tokens(self, counts: dict[str, int]) -> None:
        """Add to the token counts of the stage."""
        self._append(dict(counts))

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Write an event."""
        self._append({"event": name, **detail})

    def scores(self, row: dict[str, Any], items: Items | None) -> None:
        """Record a row of `evals`, with the scores of its items if they are known."""
        self._append({"eval": row})
        for message in [] if items is None else item_messages(items):
            self._append({"eval_items": message})


class SessionSink:
    """Reports to a stage of the session of this process; a fork of it, such as a data loader's worker, to its
    file.
    """

    def __init__(
        self, session: MeterSession, stage: OpenStage, ranks: RankReports, ended: Callable[[], None]
    ) -> None:
        self._session = session
        self._stage = stage
        self._ranks = ranks
        self._fork = FileSink(str(ranks.path), {"pid": os.getpid(), "stage": ranks.running}, ended)

    def tokens(self, counts: dict[str, int]) -> None:
        """Add to the token counts of the stage."""
        if not self._session.owned():
            self._fork.tokens(counts)
            return
        self._check_running()
        self._ranks.take(self._session)
        self._session.add_tokens(counts)

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Write an event."""
        if not self._session.owned():
            self._fork.event(name, detail)
            return
        self._check_running()
        self._session.report_event(name, detail)

    def scores(self, row: dict[str, Any], items: Items | None) -> None:
        """Record a row of `evals`, with the scores of its items if they are known."""
        if not self._session.owned():
            self._fork.scores(row, items)
            return
        self._check_running()
        self._session.add_eval(row)
        if items is not None:
            self._session.add_eval_items(items)

    def _check_running(self) -> None:
        """What is reported late would count for the stage that runs by then."""
        if self._session.stage is not self._stage:
            raise KitError(
                "it has ended: nothing more can be reported to it",
                where=f"stage {self._stage.name!r}",
                fix="report inside its with block, and end threads that report before it",
            )
