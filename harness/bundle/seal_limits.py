"""Power limits over a run: a session that finds another one than the session before has an event of it.

Within a session the sampler tells; between two, and between a sampler and the one that took its place, only
who reads both beginnings can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from harness.bundle.reader import Bundle
from harness.journal.reading import JournalRun

CHANGE = "power_limit_change"


def limit_events(journals: JournalRun, earlier: Bundle | None) -> Iterator[dict[str, Any]]:
    """Event records of limits that changed while no sampler looked.

    Args:
        journals: The run's journals.
        earlier: What was sealed of this run before.
    """
    known = {} if earlier is None else _last_known(earlier)
    for record in journals.records:
        if record["type"] == "event" and record["kind"] == CHANGE:
            known[record["device_id"]] = record["detail"]["after_mw"]
        elif record["type"] == "sampler_start":
            for device in record["devices"]:
                device_id, limit_mw = device["device_id"], device["power_limit_mw"]
                before_mw = known.get(device_id)
                if limit_mw is None:
                    continue
                known[device_id] = limit_mw
                if before_mw is not None and before_mw != limit_mw:
                    yield {
                        "type": "event",
                        "kind": CHANGE,
                        "severity": "warning",
                        "session": record["session"],
                        "mono_us": record["mono_us"],
                        "t_us": record["t_us"],
                        "device_id": device_id,
                        "detail": {"before_mw": before_mw, "after_mw": limit_mw},
                    }


def _last_known(earlier: Bundle) -> dict[int, int]:
    """Limits at the end of what was sealed: those of its last beginning, and what changed since."""
    devices: list[Mapping[str, Any]] = earlier.manifest["hardware"]["devices"]
    known = {d["device_id"]: d["power_limit_mw"] for d in devices if d.get("power_limit_mw") is not None}
    for row in earlier.table("events", ["kind", "device_id", "detail"]).to_pylist():
        if row["kind"] == CHANGE and row["device_id"] in known and row["detail"]:
            known[row["device_id"]] = json.loads(row["detail"])["after_mw"]
    return known
