"""What a stage tells the audit and the person watching: token counts, events, a progress line.

Counts and events are JSON lines appended to the file named in KIT_EVENTS (nothing is written without it); the
audit adds the counts of one attempt up, so report what was done since the last report, not a running total.
The file named in KIT_STATUS, where the audit offers it, holds `{"energy_j": JOULES_SO_FAR}`, and whether a
part of that is `estimated`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ELSEWHERE = "work_elsewhere"
"""Event of a stage whose work is done, in part, where no meter is: what is known of it is a lower bound."""
_ITEMS_A_LINE = 400


def report_tokens(*, trained: int = 0, processed: int = 0, positions: int = 0, generated: int = 0) -> None:
    """Add to the four token counts of this stage attempt.

    Args:
        trained: Label tokens that entered a training loss for the first time; later epochs add none.
        processed: Real tokens through a model, prompts included, padding not.
        positions: Positions through a model, padding included.
        generated: Tokens sampled from a model, the end token included, padding not.
    """
    counts = {
        "tokens_trained": trained,
        "tokens_processed": processed,
        "tokens_positions": positions,
        "tokens_generated": generated,
    }
    if any(count < 0 for count in counts.values()):
        raise ValueError(f"a token count is negative: {counts}")
    counts = {name: int(count) for name, count in counts.items() if count}
    if counts:
        _append(counts)


def report_event(name: str, /, **detail: object) -> None:
    """Record an event with its details (JSON values; NaN and infinities become null)."""
    if not name:
        raise ValueError("an event needs a name")
    _append({**{key: _finite(value) for key, value in detail.items()}, "event": name})


def report_eval(**columns: object) -> None:
    """Record a benchmark's score: columns of table `evals` but for stage_uid; those left out are unknown."""
    _append({"eval": {name: _finite(value) for name, value in columns.items() if value is not None}})


def report_eval_items(
    named: Mapping[str, str],
    scores: Sequence[float | None],
    item_sha256: Sequence[str] = (),
    groups: Sequence[str | None] = (),
) -> None:
    """Record the items behind a score, in order.

    Args:
        named: benchmark, metric and, where they are not "student" and "none", subject and filter.
        scores: One for each item; None where none could be read.
        item_sha256: Digest of each item as asked, or none at all.
        groups: Group of each item, None where it has none; or none at all.
    """
    for first in range(0, len(scores), _ITEMS_A_LINE):
        last = first + _ITEMS_A_LINE
        listed = {"scores": list(scores[first:last]), "item_sha256": list(item_sha256[first:last])}
        listed |= {"groups": list(groups[first:last])} if groups else {}
        _append({"eval_items": {**named, "first": first, **listed}})


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(message: Mapping[str, object]) -> None:
    """One write a line, so that several processes may report at once and a killed one tears no line but its
    last.
    """
    path = os.environ.get("KIT_EVENTS")
    if not path:
        return
    line = (json.dumps(message, ensure_ascii=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class StageEnergy:
    """What the meter says while a stage runs: for people to watch, not to log.

    Attributes:
        joules: Metered since the stage began.
        estimated: Whether a part of it is an estimate.
    """

    joules: float
    estimated: bool

    def __str__(self) -> str:
        return f"{'~' if self.estimated else ''}{self.joules:,.0f} J"


def energy_so_far() -> StageEnergy | None:
    """Energy of this stage so far, from the file named in KIT_STATUS; None when nobody says."""
    path = os.environ.get("KIT_STATUS")
    if not path:
        return None
    try:
        status = json.loads(Path(path).read_text(encoding="utf-8"))
        joules = status["energy_j"]
        if isinstance(joules, bool) or not math.isfinite(joules):
            return None
        return StageEnergy(float(joules), bool(status.get("estimated", False)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ProgressLine:
    """A progress line: done of total, elapsed, ETA, rate, joules so far.

    On a terminal it rewrites one line; in a log file it prints a line at most every `every_s` seconds.

    Args:
        what: The stage's own words, such as "student_train".
        total: Units of work in all; None when unknown.
        unit: The unit's name.
        done: Units already done in an earlier attempt; not counted in the rate.
        every_s: Seconds between two lines.
        stream: Where to; standard error by default.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        unit: str = "steps",
        done: int = 0,
        every_s: float = 5.0,
        stream: TextIO | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._before = done
        self._done = done
        self._every_s = every_s
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._started_s = time.monotonic()
        self._shown_s = -math.inf
        self._tokens = 0
        self._width = 0

    def advance(self, count: int = 1, *, tokens: int = 0, note: str = "") -> None:
        """Count work done, with the tokens it took, and show it when it is time to."""
        self._done += count
        self._tokens += tokens
        now_s = time.monotonic()
        if now_s - self._shown_s >= (0.2 if self._live else self._every_s):
            self._shown_s = now_s
            self._show(self.line(note))

    def close(self, note: str = "") -> None:
        """Show the last state and end the line."""
        self._show(self.line(note))
        if self._live:
            self._stream.write("\n")
            self._stream.flush()

    def line(self, note: str = "") -> str:
        """The progress line as text."""
        elapsed_s = time.monotonic() - self._started_s
        parts = [f"{self._what} {self._done}" + (f"/{self._total}" if self._total else "") + f" {self._unit}"]
        parts.append(f"{duration(elapsed_s)} elapsed")
        done_now = self._done - self._before
        if self._total and done_now and self._done < self._total:
            parts.append(f"ETA {duration(elapsed_s / done_now * (self._total - self._done))}")
        if self._tokens and elapsed_s > 0:
            parts.append(f"{self._tokens / elapsed_s:,.0f} tokens/s")
        energy = energy_so_far()
        if energy is not None:
            parts.append(str(energy))
        if note:
            parts.append(note)
        return ", ".join(parts)

    def _show(self, line: str) -> None:
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
