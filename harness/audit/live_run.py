"""A run while it goes on, as its journals say: stage, power, energy, tokens, and whether samples come.

Every figure is for a person who watches: it adds up the differences of the counters as they are written. What
counts is computed from the sealed log, with intervals.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.audit.output import tail
from harness.errors import KitError
from harness.journal.reading import RUNNER_JOURNAL
from harness.journal.records import (
    KIND_JSON,
    KIND_POWER,
    KIND_ZONE,
    POWER_FIELDS,
    POWER_ROW,
    ZONE_ROW,
    Frame,
    new_frames,
)
from harness.meter.clocks import mono_us
from harness.meter.sources.base import ESTIMATE

_EVERY_S = 1.0
_POWER = {name: index for index, (name, _) in enumerate(POWER_FIELDS)}
_WINDOW_US = 10_000_000
_PROGRESS = re.compile(r"(?<![\d.])(\d[\d,]*) ?/ ?(\d[\d,]*)(?![\d.])")
_COUNTED = ("tokens_trained", "tokens_generated", "tokens_processed", "tokens_positions")
"""Counts in the order in which one is taken for J/token and tokens/s."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of a running run.

    Attributes:
        stage: name and kind of the running stage; None between two.
        attempt: of the stage.
        elapsed_s: since the stage began.
        joules: source such as `gpu 0` or `cpu` to joules since the stage began.
        watts: the same, mean of the last seconds.
        estimated: whether a part of both is an estimate.
        tokens: counts of the stage so far.
        per_s: of the first of `_COUNTED` that there is; None where nothing is known yet.
        progress: done and total, as the stage's last line of output says; None where it says none.
        eta_s: seconds left at the mean rate of the stage so far; None without progress.
        last_sample_s: age of the newest reading; None before the first.
        warnings: events of the run so far that are no information.
    """

    stage: tuple[str, str] | None = None
    attempt: int = 1
    elapsed_s: float = 0.0
    joules: Mapping[str, float] = field(default_factory=dict)
    watts: Mapping[str, float] = field(default_factory=dict)
    estimated: bool = False
    tokens: Mapping[str, int] = field(default_factory=dict)
    per_s: float | None = None
    progress: tuple[int, int] | None = None
    eta_s: float | None = None
    last_sample_s: float | None = None
    warnings: int = 0

    @property
    def counted(self) -> str | None:
        """The count that J/token and tokens/s are of."""
        return next((name for name in _COUNTED if self.tokens.get(name)), None)

    @property
    def per_token(self) -> float | None:
        """J of the stage so far for each of them."""
        name = self.counted
        return None if name is None or not self.joules else sum(self.joules.values()) / self.tokens[name]


class LiveRun:
    """Follows the newest session of a run folder, by what its journals say as they are written.

    Raises:
        KitError: No run is going on there.
    """

    def __init__(self, folder: Path) -> None:
        self._run = folder
        found = sorted((folder / "journal").glob(f"*{RUNNER_JOURNAL}"))
        if not found:
            raise KitError(
                "no run is going on here",
                where=str(folder),
                expected="the folder of a run that has not ended",
                fix=f"kit report {folder} shows a run that has",
            )
        self._pattern = f"{found[-1].name.split('-')[0]}-*.jnl"
        self._read: dict[Path, int] = {}
        self._zones: dict[Path, list[tuple[str, int | None] | None]] = {}
        self._last: dict[str, int] = {}
        self._power: dict[int, tuple[int, int]] = {}
        self._estimated = False
        self._stage: Mapping[str, Any] | None = None
        self._tokens: dict[str, int] = {}
        self._joules: dict[str, float] = {}
        self._newest_us = 0
        self._warnings = 0
        self._before: deque[tuple[int, dict[str, float], int]] = deque()
        self._shown, self._next_s = Snapshot(), 0.0

    @property
    def over(self) -> bool:
        """Whether the run has been sealed."""
        return not (self._run / "journal").exists()

    def look(self) -> Snapshot:
        """Where the run stands, a second old at most."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _EVERY_S
            with suppress(ValueError, LookupError):  # what cannot be shown does not stop what is measured
                self._shown = self.snapshot()
        return self._shown

    def snapshot(self) -> Snapshot:
        """Where the run stands now."""
        # The runner's journal comes first: a run that is joined late is charged from its stage's start on.
        for path in sorted((self._run / "journal").glob(self._pattern)):
            with suppress(OSError):
                frames, self._read[path] = new_frames(path, self._read.get(path, 0))
                for frame in frames:
                    self._take(path, frame)
        now_us, stage = mono_us(), self._stage
        age = (now_us - self._newest_us) / 1e6 if self._newest_us else None
        if stage is None:
            return Snapshot(estimated=self._estimated, last_sample_s=age, warnings=self._warnings)
        name = next((name for name in _COUNTED if self._tokens.get(name)), None)
        count = self._tokens[name] if name is not None else 0
        self._before.append((now_us, dict(self._joules), count))
        while len(self._before) > 2 and now_us - self._before[1][0] >= _WINDOW_US:
            self._before.popleft()
        then_us, joules, counted = self._before[0]
        window_s = (now_us - then_us) / 1e6
        elapsed_s = (now_us - int(stage["mono_us"])) / 1e6
        watts, per_s = {}, None
        if window_s > 0.5:
            watts = {s: (j - joules.get(s, 0.0)) / window_s for s, j in self._joules.items()}
            per_s = (count - counted) / window_s if name is not None else None
        elif elapsed_s > 0.5:
            watts = {s: j / elapsed_s for s, j in self._joules.items()}
            per_s = count / elapsed_s if name is not None else None
        progress = self._progress(stage)
        eta_s = None
        if progress is not None and 0 < progress[0] < progress[1]:
            eta_s = elapsed_s * (progress[1] - progress[0]) / progress[0]
        return Snapshot(
            (str(stage["name"]), str(stage["stage"])),
            int(stage["attempt"]),
            elapsed_s,
            dict(self._joules),
            watts,
            self._estimated,
            dict(self._tokens),
            per_s,
            progress,
            eta_s,
            age,
            self._warnings,
        )

    def _progress(self, stage: Mapping[str, Any]) -> tuple[int, int] | None:
        """DONE/TOTAL in the last line that the stage wrote to standard error, as progress bars do."""
        for line in tail(self._run / "logs" / f"{stage['name']}.{stage['attempt']}.err", 1, 4096):
            match = _PROGRESS.search(line)
            if match:
                done, total = (int(text.replace(",", "")) for text in match.groups())
                return (done, total) if 0 <= done <= total and total > 1 else None
        return None

    def _take(self, path: Path, frame: Frame) -> None:
        if frame.kind == KIND_POWER:
            for row in POWER_ROW.iter_unpack(frame.payload):
                names = ("device_id", "mono_us", "power_mw", "energy_counter_mj")
                self._take_gpu(*(int(row[_POWER[name]]) for name in names))
        elif frame.kind == KIND_ZONE:
            zones = self._zones.get(path, [])
            for index, _, _, at_us, value, _ in ZONE_ROW.iter_unpack(frame.payload):
                zone = zones[index] if 0 <= index < len(zones) else None
                if zone is not None and value >= 0:
                    self._count(zone[0], at_us, value, 1e6, zone[1])
        elif frame.kind == KIND_JSON:
            self._take_record(path, frame.record)

    def _take_record(self, path: Path, record: Mapping[str, Any]) -> None:
        kind = record["type"]
        if kind == "sampler_start":
            self._zones[path] = _counted(record["zones"])
        elif kind == "tick":
            power_mw = -1 if record["power_mw"] is None else int(record["power_mw"])
            self._take_gpu(int(record["device_id"]), int(record["mono_us"]), power_mw, int(record["value"]))
        elif kind == ESTIMATE:
            self._estimated = True
            for name, part in (("cpu", "cpu_uj"), ("dram", "ram_uj")):
                if record[part] is not None:
                    self._count(name, int(record.get("mono_us") or 0), int(record[part]), 1e6)
        elif kind == "stage_start" and record.get("parent_uid") is None:
            self._stage, self._tokens, self._joules = record, {}, {}
            self._before.clear()
        elif kind == "stage_tokens" and self._is_stage(record):
            self._tokens = {name: int(count) for name, count in record["tokens"].items() if count}
        elif kind == "stage_end" and self._is_stage(record):
            self._stage = None
        elif kind == "event" and record["severity"] != "info":
            self._warnings += 1

    def _is_stage(self, record: Mapping[str, Any]) -> bool:
        return self._stage is not None and record["stage_uid"] == self._stage["stage_uid"]

    def _take_gpu(self, device: int, at_us: int, power_mw: int, counter_mj: int) -> None:
        before_us, before_mw = self._power.get(device, (at_us, power_mw))
        if at_us < before_us:
            return  # the tick before a boundary is older than a sample that was taken meanwhile
        name = f"gpu {device}"
        if counter_mj >= 0:
            self._count(name, at_us, counter_mj, 1e3)
        elif min(power_mw, before_mw) >= 0 and name not in self._last:
            # No counter: the trapezium under its power.
            self._add(name, at_us, (at_us - before_us) * (before_mw + power_mw) / 2e9)
        self._power[device] = (at_us, power_mw)

    def _count(
        self, source: str, at_us: int, value: int, per_joule: float, wraps_at: int | None = None
    ) -> None:
        """Add what a counter has grown; one that falls has wrapped, or else was reset."""
        grown = value - self._last.get(source, value)
        if grown < 0:
            grown = 0 if wraps_at is None else grown + wraps_at
        self._last[source] = value
        self._add(source, at_us, max(0, grown) / per_joule)

    def _add(self, source: str, at_us: int, joules: float) -> None:
        self._newest_us = max(self._newest_us, at_us)
        if self._stage is not None and at_us > int(self._stage["mono_us"]):
            self._joules[source] = self._joules.get(source, 0.0) + joules


def _counted(zones: list[dict[str, Any]]) -> list[tuple[str, int | None] | None]:
    """Label and wrap range of the zones that count, by index; None for others and for one shown twice."""
    found: list[tuple[str, int | None] | None] = []
    for zone in zones:
        counted = zone["part"] in ("cpu", "dram")
        entry = (str(zone["label"]), zone["range"])
        found.append(entry if counted and entry not in found else None)
    return found


def write_status(path: Path, now: Snapshot) -> None:
    """Write the file named in KIT_STATUS: the joules of the running stage so far, once some are metered."""
    if now.joules:
        status = {"energy_j": round(sum(now.joules.values()), 3), "estimated": now.estimated}
        waiting = path.with_name(f".{path.name}.new")
        # A full disk keeps nobody from being measured.
        with suppress(OSError):
            waiting.write_text(json.dumps(status) + "\n", encoding="utf-8")
            waiting.replace(path)
