"""Energy of the running stage while it runs: for a progress line, from the tail of the journals.

What counts as a stage's energy is computed from the sealed log, with intervals. This figure only adds up the
differences of the same counters as they are written, and is at most a sampling period or a second old.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

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
from harness.meter.sources.base import ESTIMATE

_EVERY_S = 1.0
_POWER = {name: index for index, (name, _) in enumerate(POWER_FIELDS)}


@dataclass(frozen=True)
class LiveEnergy:
    """Energy since a stage began.

    Attributes:
        joules: GPU, CPU and DRAM as far as they are metered.
        estimated: Whether a part of it is an estimate.
    """

    joules: float
    estimated: bool

    def __str__(self) -> str:
        return f"{'~' if self.estimated else ''}{self.joules:,.0f} J"


class JournalEnergy:
    """Adds up what the journals of one session say, as they are written.

    Args:
        folder: The journals' folder.
        session: Number of the session.
    """

    def __init__(self, folder: Path, session: int) -> None:
        self._folder = folder
        self._pattern = f"{session:03d}-*.jnl"
        self._read: dict[Path, int] = {}
        self._zones: dict[Path, list[tuple[str, int | None] | None]] = {}
        self._last: dict[str, int] = {}
        self._power: dict[int, tuple[int, int]] = {}
        self._joules = 0.0
        self._estimated = False
        self._metered = False

    def read(self) -> LiveEnergy | None:
        """Energy since the session began; None while nothing has been metered."""
        for path in sorted(self._folder.glob(self._pattern)):
            with suppress(OSError):
                frames, self._read[path] = new_frames(path, self._read.get(path, 0))
                for frame in frames:
                    self._take(path, frame)
        return LiveEnergy(self._joules, self._estimated) if self._metered else None

    def _take(self, path: Path, frame: Frame) -> None:
        if frame.kind == KIND_POWER:
            for row in POWER_ROW.iter_unpack(frame.payload):
                device, at_us, power_mw, counter_mj = (
                    int(row[_POWER[name]])
                    for name in ("device_id", "mono_us", "power_mw", "energy_counter_mj")
                )
                self._take_gpu(device, at_us, power_mw, counter_mj)
        elif frame.kind == KIND_ZONE:
            zones = self._zones.get(path, [])
            for index, _, _, _, value, _ in ZONE_ROW.iter_unpack(frame.payload):
                zone = zones[index] if 0 <= index < len(zones) else None
                if zone is not None and value >= 0:
                    self._count(f"zone {zone[0]}", value, 1e6, zone[1])
        elif frame.kind == KIND_JSON:
            self._take_record(path, frame.record)

    def _take_record(self, path: Path, record: Mapping[str, Any]) -> None:
        if record["type"] == "sampler_start":
            self._zones[path] = _counted(record["zones"])
        elif record["type"] == "boundary" and not record.get("moment"):
            for reading in record["readings"]:
                power_mw, counter_mj = reading["power_mw"], reading["value"]
                self._take_gpu(
                    int(reading["device_id"]),
                    int(reading["mono_us"]),
                    -1 if power_mw is None else int(power_mw),
                    -1 if counter_mj is None else int(counter_mj),
                )
        elif record["type"] == ESTIMATE:
            self._estimated = True
            for part in ("cpu_uj", "ram_uj"):
                if record[part] is not None:
                    self._count(part, int(record[part]), 1e6)

    def _take_gpu(self, device: int, at_us: int, power_mw: int, counter_mj: int) -> None:
        before_us, before_mw = self._power.get(device, (at_us, power_mw))
        if at_us < before_us:
            return  # a boundary is written down after samples that were taken while its tick was awaited
        name = f"gpu {device}"
        if counter_mj >= 0:
            self._count(name, counter_mj, 1e3)
        elif min(power_mw, before_mw) >= 0 and name not in self._last:
            # No counter: the trapezium under its power.
            self._metered = True
            self._joules += (at_us - before_us) * (before_mw + power_mw) / 2e9
        self._power[device] = (at_us, power_mw)

    def _count(self, counter: str, value: int, per_joule: float, wraps_at: int | None = None) -> None:
        """Add what a counter has grown; one that falls has wrapped, or else was reset."""
        self._metered = True
        grown = value - self._last.get(counter, value)
        if grown < 0:
            grown = 0 if wraps_at is None else grown + wraps_at
        self._last[counter] = value
        self._joules += max(0, grown) / per_joule


def _counted(zones: list[dict[str, Any]]) -> list[tuple[str, int | None] | None]:
    """Label and wrap range of the zones that count, by index; None for others and for one shown twice."""
    found: list[tuple[str, int | None] | None] = []
    for zone in zones:
        counted = zone["part"] in ("cpu", "dram")
        entry = (str(zone["label"]), zone["range"])
        found.append(entry if counted and entry not in found else None)
    return found


class StatusFile:
    """The file named in KIT_STATUS: `{"energy_j": ..., "estimated": ...}`, there while its stage runs.

    Args:
        path: The file.
        energy: Energy of the session.
    """

    def __init__(self, path: Path, energy: JournalEnergy) -> None:
        self._path = path
        self._energy = energy
        self._start_j = 0.0
        self._shown: LiveEnergy | None = None
        self._next_s = 0.0
        begun = self._energy.read()
        if begun is not None:
            self._start_j = begun.joules

    def __enter__(self) -> StatusFile:
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def update(self) -> LiveEnergy | None:
        """Read and write once a second at most; the energy of the stage so far, None if unmetered."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return self._shown
        self._next_s = now_s + _EVERY_S
        found = self._energy.read()
        if found is None:
            return None
        self._shown = LiveEnergy(max(0.0, found.joules - self._start_j), found.estimated)
        status = {"energy_j": round(self._shown.joules, 3), "estimated": self._shown.estimated}
        waiting = self._path.with_name(f".{self._path.name}.new")
        # A full disk keeps nobody from being measured.
        with suppress(OSError):
            waiting.write_text(json.dumps(status) + "\n", encoding="utf-8")
            waiting.replace(self._path)
        return self._shown
