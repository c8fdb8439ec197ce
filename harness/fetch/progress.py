"""How far a fetch is: a bar on a terminal, a line now and then elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from harness.fetch.store import human

LINE_EVERY_S = 10.0


class ConsoleProgress:
    """Shows the progress of one asset after the other."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._task: TaskID | None = None
        self._lock = Lock()
        self._name = ""
        self._total = self._done = 0
        self._began = self._said = 0.0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, name: str, total: int) -> None:
        """An asset of `total` bytes starts."""
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()
        if self._bars is not None:
            self._task = self._bars.add_task(name, total=total)
        else:
            self._say(f"{name}: fetching {human(total)}")

    def advance(self, step: int) -> None:
        """`step` more bytes of it are on the disk; negative when some are given up."""
        with self._lock:
            self._done += step
            if self._bars is not None and self._task is not None:
                self._bars.update(self._task, completed=self._done)
                return
            now = time.monotonic()
            if now - self._said >= LINE_EVERY_S:
                self._said = now
                share = f"{self._done / self._total:.0%}" if self._total else "all"
                rate = human(self._done / (now - self._began))
                self._say(f"{self._name}: {human(self._done)} of {human(self._total)} ({share}), {rate}/s")

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._say(text)

    def end(self, name: str) -> None:
        """The asset is complete."""
        self._say(f"{name}: complete, every file verified")

    def _say(self, text: str) -> None:
        self._console.print(f"fetch: {text}", markup=False, soft_wrap=True)
