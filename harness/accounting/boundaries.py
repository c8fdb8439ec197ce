"""The numbered boundaries of one session and what lies between them.

A session is cut by its boundaries. Stages own some of the pieces; whatever no stage owns becomes an
`unattributed` row, device by device, so that every device is tiled from its first to its last boundary
without hole or overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from harness.accounting.counter import CounterReading
from harness.accounting.placement import Refresh, Refreshes
from harness.accounting.series import NO_BOUNDARY, CounterSeries

Row = Mapping[str, Any]
SessionKey = tuple[str, int]

UNATTRIBUTED = "unattributed"

UNATTRIBUTED_UID = 1_000_000_000
"""First stage_uid of the derived rows: far above any stage's, so that a resumed run never has to renumber."""


@dataclass
class DeviceBoundaries:
    """Counter readings of one device at the boundaries of a session, and the refreshes seen around them."""

    readings: dict[int, CounterReading] = field(default_factory=dict)
    refreshes: Refreshes = field(default_factory=Refreshes)

    def ordered(self) -> list[int]:
        """Boundary numbers in the order of the device's own clock times."""
        return sorted(self.readings, key=lambda n: (self.readings[n].mono_us, n))


@dataclass
class Session:
    """Boundaries of one (node, session).

    Attributes:
        mono_us: boundary number -> time, where no device says it better.
        t_us: boundary number -> UTC.
        devices: device_id -> its own readings at the boundaries.
        clock_id: copied from the stages of the session.
    """

    node_id: str
    session: int
    mono_us: dict[int, int] = field(default_factory=dict)
    t_us: dict[int, int] = field(default_factory=dict)
    devices: dict[int, DeviceBoundaries] = field(default_factory=dict)
    clock_id: str = ""

    def ordered(self) -> list[int]:
        """Boundary numbers in the order of time."""
        return sorted(self.mono_us, key=lambda n: (self.mono_us[n], n))


def _add_device(session: Session, device: int, series: CounterSeries) -> None:
    boundaries = session.devices.setdefault(device, DeviceBoundaries())
    for i in range(series.mono_us.shape[0]):
        number, mono, power = (
            int(column[i]) for column in (series.boundary, series.mono_us, series.power_mw)
        )
        if number == NO_BOUNDARY:
            if series.method[i] == "tick" and series.valid[i]:
                seen = Refresh(
                    mono, int(series.value[i]), int(series.uncertainty_us[i]), power if power > 0 else None
                )
                boundaries.refreshes.seen.append(seen)
            continue
        session.mono_us.setdefault(number, mono)
        session.t_us.setdefault(number, int(series.t_us[i]))
        boundaries.readings.setdefault(
            number,
            CounterReading(
                mono_us=mono,
                value_mj=int(series.value[i]) if series.valid[i] else None,
                uncertainty_us=int(series.uncertainty_us[i]),
                method=series.method[i],
                power_mw=float(power) if power > 0 else None,
            ),
        )


def _add_stage(session: Session, row: Row) -> None:
    """Fill in what the counters lack: devices without a counter, runs without any instrument."""
    session.clock_id = session.clock_id or str(row["clock_id"])
    for side in ("start", "end"):
        number = int(row[f"boundary_{side}"])
        session.mono_us.setdefault(number, int(row[f"mono_{side}_us"]))
        session.t_us.setdefault(number, int(row[f"t_{side}_us"]))
        for device, mono in zip(row["device_ids"], row[f"device_{side}_us"], strict=False):
            readings = session.devices.setdefault(int(device), DeviceBoundaries()).readings
            readings.setdefault(number, CounterReading(int(mono), None, method="sample"))


def read_sessions(stages: Sequence[Row], counters: Sequence[CounterSeries]) -> dict[SessionKey, Session]:
    """Collect the boundaries of every session from the counters of devices first, then from the stages.

    A zone that is read beside a boundary is milliseconds off, and says where it lies if nothing else does.
    """
    sessions: dict[SessionKey, Session] = {}
    for series in counters:
        if series.device_id is not None and np.any(series.boundary != NO_BOUNDARY):
            key = (series.node_id, series.session)
            _add_device(sessions.setdefault(key, Session(*key)), series.device_id, series)
    for row in stages:
        key = (str(row["node_id"]), int(row["session"]))
        _add_stage(sessions.setdefault(key, Session(*key)), row)
    for series in counters:
        if series.device_id is None and (series.node_id, series.session) in sessions:
            session = sessions[(series.node_id, series.session)]
            for i in np.flatnonzero(series.boundary != NO_BOUNDARY):
                session.mono_us.setdefault(int(series.boundary[i]), int(series.mono_us[i]))
                session.t_us.setdefault(int(series.boundary[i]), int(series.t_us[i]))
    return sessions


def _holes(order: Sequence[int], covered: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Maximal runs of pieces between neighbouring boundaries that no stage covers, as boundary numbers."""
    place = {number: i for i, number in enumerate(order)}
    free = [True] * max(0, len(order) - 1)
    for start, end in covered:
        if start in place and end in place:
            free[place[start] : place[end]] = [False] * max(0, place[end] - place[start])
    found: list[tuple[int, int]] = []
    for i, is_free in enumerate(free):
        if not is_free:
            continue
        if found and found[-1][1] == order[i]:
            found[-1] = (found[-1][0], order[i + 1])
        else:
            found.append((order[i], order[i + 1]))
    return found


class Hole(NamedTuple):
    """A stretch between two boundaries that no stage owns.

    Attributes:
        device_ids: devices without a stage in it.
        whole: no stage at all runs in it, so that CPU and DRAM are unattributed too.
    """

    start: int
    end: int
    device_ids: tuple[int, ...]
    whole: bool


def find_holes(session: Session, roots: Sequence[Row]) -> list[Hole]:
    """Every hole of a session; `roots` are its stages without a parent."""
    spans = [(int(r["boundary_start"]), int(r["boundary_end"])) for r in roots]
    whole = set(_holes(session.ordered(), spans))
    by_span: dict[tuple[int, int], list[int]] = {span: [] for span in whole}
    for device, boundaries in sorted(session.devices.items()):
        mine = [span for span, row in zip(spans, roots, strict=True) if device in row["device_ids"]]
        for span in _holes(boundaries.ordered(), mine):
            by_span.setdefault(span, []).append(device)
    found = []
    for (start, end), devices in by_span.items():
        is_whole = (start, end) in whole
        edges = [(session.devices[d].readings[start], session.devices[d].readings[end]) for d in devices]
        longest = max((b.mono_us - a.mono_us for a, b in edges), default=0)
        if longest > 0 or (is_whole and session.mono_us[end] > session.mono_us[start]):
            found.append(Hole(start, end, tuple(devices), is_whole))
    return sorted(found, key=lambda h: (session.mono_us[h.start], session.mono_us[h.end], h.device_ids))


def hole_row(session: Session, hole: Hole, stage_uid: int) -> dict[str, Any]:
    """Recorded columns of an `unattributed` row."""
    starts = [session.devices[d].readings[hole.start].mono_us for d in hole.device_ids]
    ends = [session.devices[d].readings[hole.end].mono_us for d in hole.device_ids]
    return {
        "stage_uid": stage_uid,
        "name": UNATTRIBUTED,
        "stage": UNATTRIBUTED,
        "parent_uid": None,
        "attempt": 1,
        "status": "completed",
        "node_id": session.node_id,
        "session": session.session,
        "clock_id": session.clock_id,
        "t_start_us": session.t_us[hole.start],
        "t_end_us": session.t_us[hole.end],
        "mono_start_us": min(starts, default=session.mono_us[hole.start]),
        "mono_end_us": max(ends, default=session.mono_us[hole.end]),
        "boundary_start": hole.start,
        "boundary_end": hole.end,
        "device_ids": list(hole.device_ids),
        "device_start_us": starts,
        "device_end_us": ends,
        "tokens_trained": None,
        "tokens_processed": None,
        "tokens_positions": None,
        "tokens_generated": None,
        "token_denominator": None,
        "exit_code": None,
        "command_sha256": None,
        "process_cpu_s": None,
        "flags": [] if hole.whole else ["outside_device_list"],
        "produces": [],
        "consumes": [],
    }
