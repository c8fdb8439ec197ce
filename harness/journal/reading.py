"""Journals read back: records in memory, power and zone rows spooled by device, however long the run was."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from harness.errors import KitError
from harness.journal.records import (
    KIND_JSON,
    KIND_POWER,
    KIND_ZONE,
    POWER_FIELDS,
    ZONE_FIELDS,
    Frame,
    is_being_written,
    read_journal,
    unread_bytes,
)
from harness.journal.schema import MOST_US, ONCE, problem

POWER_DTYPE = np.dtype(list(POWER_FIELDS))
ZONE_DTYPE = np.dtype(list(ZONE_FIELDS))
_SPOOL_BYTES = 32 << 20
_BATCH_BYTES = 8 << 20
_PATIENCE_S = 20.0
RUNNER_JOURNAL = "-000-runner.jnl"
"""End of the name of the journal that the owner of a run writes."""

_UNNAMED = {"device": "nvml", "zone": "rapl"}
"""Sources of what a journal names no source of."""

PowerKey = tuple[int, int]
"""device_id, session."""
ZoneKey = tuple[str, int]
"""zone label, session."""
Rows = npt.NDArray[Any]


@dataclass
class JournalRun:
    """What the journals of a run folder hold.

    Attributes:
        records: JSON records of all journals, in the order of their monotonic time within a session.
        torn: journal file name -> bytes of a frame that was cut off by a kill.
        damaged: journal file name -> bytes before its last whole frame that cannot be read.
        odd: journal file name -> what is odd about each entry that was set aside, in words.
        zone_ranges: wrap range by zone label.
        zone_sources: source by zone label.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    torn: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)
    zone_ranges: dict[str, int | None] = field(default_factory=dict)
    zone_sources: dict[str, str] = field(default_factory=dict)
    _named: set[tuple[Any, ...]] = field(default_factory=set)
    _power: dict[PowerKey, IO[bytes]] = field(default_factory=dict)
    _zones: dict[ZoneKey, list[Rows]] = field(default_factory=dict)

    def is_new(self, record: dict[str, Any]) -> bool:
        """Whether this record, of which there can be one only, is the first."""
        key = tuple(record.get(name) for name in ONCE.get(record["type"], ()))
        if not key or None in key:
            return True
        named = (record["type"], *key)
        new = named not in self._named
        self._named.add(named)
        return new

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        """Records of the given types."""
        return [record for record in self.records if record["type"] in types]

    def device_sources(self) -> dict[PowerKey, str]:
        """Source of every device and session."""
        sources = defaultdict(lambda: _UNNAMED["device"])
        for record in self.of_type("sampler_start"):
            for device in record["devices"]:
                key = int(device["device_id"]), int(record["session"])
                sources[key] = device.get("source", _UNNAMED["device"])
        return sources

    def power_keys(self) -> list[PowerKey]:
        """Every device and session with samples, sorted."""
        return sorted(self._power)

    def power_rows(self, key: PowerKey) -> Rows:
        """All samples of one device in one session, by time, as a structured array (`POWER_DTYPE`)."""
        spool = self._power[key]
        spool.seek(0)
        rows = np.frombuffer(spool.read(), POWER_DTYPE)
        _, first = np.unique(rows["mono_us"], return_index=True)
        return rows[first]

    def zone_rows(self) -> Iterator[tuple[ZoneKey, Rows]]:
        """All readings of each zone, by time (`ZONE_DTYPE`)."""
        for key in sorted(self._zones):
            rows = np.concatenate(self._zones[key])
            yield key, rows[np.argsort(rows["mono_us"], kind="stable")]

    def add_power(self, payload: bytes) -> None:
        """Sort packed power rows into their spools."""
        rows = np.frombuffer(payload, POWER_DTYPE)
        for device, session in np.unique(rows[["device_id", "session"]]).tolist():
            spool = self._power.get((device, session))
            if spool is None:
                spool = self._power[(device, session)] = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
            chosen = (rows["device_id"] == device) & (rows["session"] == session)
            spool.write(rows[chosen].tobytes())

    def add_zones(self, payload: bytes, labels: list[str]) -> None:
        """Sort packed zone rows by zone; `labels` is the list their indices point into."""
        rows = np.frombuffer(payload, ZONE_DTYPE)
        for index, session in np.unique(rows[["zone_index", "session"]]).tolist():
            if 0 <= index < len(labels):
                chosen = (rows["zone_index"] == index) & (rows["session"] == session)
                self._zones.setdefault((labels[index], session), []).append(rows[chosen])


def journal_files(run_dir: Path) -> list[Path]:
    """The unsealed journals of a run folder, oldest first."""
    return sorted((run_dir / "journal").glob("*.jnl"))


def is_journal_folder(folder: Path) -> bool:
    """Whether a folder called `journal` is a run's: it holds journals, or nothing yet."""
    names = [entry.name for entry in folder.iterdir()]
    return not names or any(".jnl" in name for name in names)


def session_of(path: Path) -> int:
    """The session that a journal belongs to, by its name."""
    number = path.name.split("-")[0]
    return int(number) if number.isdecimal() else -1


def await_writers(run_dir: Path, patience_s: float = _PATIENCE_S) -> None:
    """Wait until nobody writes the journals of a run folder any more.

    A sampler whose runner was killed needs up to ten seconds to end the stage and take the last boundary.

    Raises:
        KitError: Somebody still does: the run is going on. At once where that is its owner.
    """
    until = time.monotonic() + patience_s
    while writing := [path for path in journal_files(run_dir) if is_being_written(path)]:
        owners = [path for path in writing if path.name.endswith(RUNNER_JOURNAL)]
        if owners or time.monotonic() > until:
            who = f"process {_owner_pid(owners[0])}" if owners else "its meter"
            raise KitError(
                f"this run is still going on: {who} is writing",
                where=str(run_dir),
                expected="a run that has ended",
                fix="wait for it to end, or end it with Ctrl-C in its terminal",
            )
        time.sleep(0.1)


def _owner_pid(path: Path) -> int | str:
    """The process that owns a run, from its journal."""
    pids = (frame.record.get("pid") for frame in read_journal(path) if frame.record.get("type") == "run")
    return next((pid for pid in pids if pid), "unknown")


def read_journals(run_dir: Path) -> JournalRun:
    """Read every unsealed journal of a run folder. What cannot be read is left out and reported."""
    run = JournalRun()
    for path in journal_files(run_dir):
        _read_one(path, run)
        unread = unread_bytes(path)
        if unread.torn:
            run.torn[path.name] = unread.torn
        if unread.damaged:
            run.damaged[path.name] = unread.damaged
    run.records.sort(key=lambda record: (record.get("session", 0), record.get("mono_us", 0)))
    return run


def _odd(frame: Frame) -> str | None:
    """In words, why an entry cannot be used."""
    if frame.kind == KIND_JSON:
        return problem(frame.record)
    dtype = {KIND_POWER: POWER_DTYPE, KIND_ZONE: ZONE_DTYPE}.get(frame.kind)
    if dtype is None:
        return f"an entry of kind {frame.kind}"
    if len(frame.payload) % dtype.itemsize:
        return f"rows of {len(frame.payload)} bytes, not of {dtype.itemsize} each"
    rows = np.frombuffer(frame.payload, dtype)
    number = dtype.names[0] if dtype.names else ""
    possible = (rows["mono_us"] >= 0) & (rows["mono_us"] < MOST_US) & (rows["session"] >= 0)
    if not (possible & (rows[number] >= 0) & (np.abs(rows["t_us"]) < MOST_US)).all():
        return "rows of no device or of no time"
    return None


def _read_one(path: Path, run: JournalRun) -> None:
    labels: list[str] = []
    power, zones = bytearray(), bytearray()
    session = session_of(path)
    last_us = 0
    for frame in read_journal(path):
        odd = _odd(frame)
        if odd is not None:
            run.odd.setdefault(path.name, []).append(odd)
        elif frame.kind == KIND_JSON:
            record = frame.record
            record.setdefault("session", session)
            # Records without a time of their own keep their place in the file.
            last_us = record.setdefault("mono_us", last_us)
            if not run.is_new(record):
                run.odd.setdefault(path.name, []).append(f"{record['type']}: it is there twice")
                continue
            run.records.append(record)
            if record["type"] == "sampler_start":
                labels = [zone["label"] for zone in record["zones"]]
                run.zone_ranges.update({zone["label"]: zone["range"] for zone in record["zones"]})
                run.zone_sources.update(
                    {zone["label"]: zone.get("source", _UNNAMED["zone"]) for zone in record["zones"]}
                )
        elif frame.kind == KIND_POWER:
            power += frame.payload
            if len(power) >= _BATCH_BYTES:
                run.add_power(bytes(power))
                power.clear()
        else:
            zones += frame.payload
    if power:
        run.add_power(bytes(power))
    if zones:
        run.add_zones(bytes(zones), labels)
