"""From journals to the rows of counters, events and artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.bundle.canonical import canonical_json, storable
from harness.bundle.order import sorted_rows
from harness.bundle.privacy import scrub_value
from harness.bundle.stage_rows import NODE, boundaries_of
from harness.journal.reading import JournalRun, session_of
from harness.meter.rapl import UPDATE_US
from harness.spec import Protocol

_STALE_COUNTER_US = 100_000
"""How old a counter value may be that was read without waiting for a tick: one refresh of a slow card."""


def counter_rows(journals: JournalRun, protocol: Protocol) -> pa.Table:
    """The counters: GPU counters at boundaries, RAPL zones at every tick, CodeCarbon's running estimate."""
    schema = protocol.arrow_schema("counters")
    rows = _gpu_rows(journals) + _estimate_rows(journals)
    tables = [pa.Table.from_pylist(rows, schema=schema), *_zone_tables(journals, schema)]
    table = pa.concat_tables(tables)
    return sorted_rows(table, protocol.tables["counters"].sort)


def _gpu_rows(journals: JournalRun) -> list[dict[str, Any]]:
    rows = []
    for record in journals.of_type("boundary"):
        offset_us = record["t_us"] - record["mono_us"]
        for reading in record["readings"]:
            rows.append(
                {
                    "node_id": NODE,
                    "source": "nvml",
                    "device_id": reading["device_id"],
                    "zone": None,
                    "session": record["session"],
                    "t_us": reading["mono_us"] + offset_us,
                    "mono_us": reading["mono_us"],
                    "uncertainty_us": reading["uncertainty_us"],
                    "value": reading["value"],
                    "unit": "mJ",
                    "range": None,
                    "boundary": record["boundary"],
                    "method": reading["method"],
                    "power_mw": reading["power_mw"],
                }
            )
    return rows


def _estimate_rows(journals: JournalRun) -> list[dict[str, Any]]:
    rows = []
    for record in journals.of_type("codecarbon"):
        for zone in ("cpu", "ram"):
            value = record[f"{zone}_uj"]
            if value is None:
                continue
            rows.append(
                {
                    "node_id": NODE,
                    "source": "codecarbon",
                    "device_id": None,
                    "zone": zone,
                    "session": record["session"],
                    "t_us": record["t_us"],
                    "mono_us": record["mono_us"],
                    "uncertainty_us": record["uncertainty_us"],
                    "value": value,
                    "unit": "uJ",
                    "range": None,
                    "boundary": record["boundary"],
                    "method": "sample" if record["boundary"] is None else "immediate",
                    "power_mw": None,
                }
            )
    return rows


def _zone_tables(journals: JournalRun, schema: pa.Schema) -> list[pa.Table]:
    uncertainty = next((r["zone_uncertainty_us"] for r in journals.of_type("boundary")), 1_000)
    tables = []
    for (label, session), rows in journals.zone_rows():
        count = len(rows)
        at_boundary = rows["boundary"] >= 0

        def constant(value: Any, name: str, count: int = count) -> pa.Array:
            return pa.array([value], schema.field(name).type).take(pa.array(np.zeros(count, np.int32)))

        columns = {
            "node_id": constant(NODE, "node_id"),
            "source": constant("rapl", "source"),
            "device_id": constant(None, "device_id"),
            "zone": constant(label, "zone"),
            "session": constant(session, "session"),
            "t_us": pa.array(np.ascontiguousarray(rows["t_us"])),
            "mono_us": pa.array(np.ascontiguousarray(rows["mono_us"])),
            "uncertainty_us": constant(uncertainty, "uncertainty_us"),
            "value": pa.array(np.ascontiguousarray(rows["value"]), pa.int64(), mask=rows["value"] < 0),
            "unit": constant("uJ", "unit"),
            "range": constant(journals.zone_ranges.get(label), "range"),
            "boundary": pa.array(np.ascontiguousarray(rows["boundary"]), pa.int32(), mask=~at_boundary),
            "method": pa.array(np.where(at_boundary, "immediate", "sample").tolist(), pa.string()),
            "power_mw": constant(None, "power_mw"),
        }
        tables.append(pa.table([columns[name] for name in schema.names], schema=schema))
    return tables


def last_sample_boundaries(journals: JournalRun, session: int, after: int) -> list[dict[str, Any]]:
    """A boundary from the last readings of a session that was killed whole, with the uncertainty it deserves.

    Args:
        journals: The run's journals.
        session: The session without an end.
        after: Number of its last boundary.

    Returns:
        Journal records: the boundary and, beside it, the last CPU estimate; nothing when there are no
        readings after the last boundary.
    """
    number = after + 1
    began = boundaries_of(journals.records)[(session, after)]
    readings: list[dict[str, Any]] = []
    for device, in_session in journals.power_keys():
        if in_session != session:
            continue
        rows = journals.power_rows((device, session))
        usable = rows[(rows["energy_counter_mj"] >= 0) | (rows["power_mw"] >= 0)]
        if not len(usable):
            continue
        last = usable[-1]
        readings.append(
            {
                "device_id": device,
                "mono_us": int(last["mono_us"]),
                "uncertainty_us": _STALE_COUNTER_US,
                "value": int(last["energy_counter_mj"]) if last["energy_counter_mj"] >= 0 else None,
                "method": "sample",
                "power_mw": int(last["power_mw"]) if last["power_mw"] >= 0 else None,
            }
        )
    estimates = [r for r in journals.of_type("codecarbon") if r["session"] == session]
    times = [r["mono_us"] for r in readings] + [r["mono_us"] for r in estimates[-1:]]
    times += [int(rows["mono_us"][-1]) for (_, s), rows in journals.zone_rows() if s == session]
    times += [r["mono_us"] for r in journals.records if r["session"] == session]
    times += [r["work_start_us"] for r in journals.of_type("stage_start") if r["session"] == session]
    end_us = max(times)
    if end_us <= began.mono_us:
        return []
    for reading in readings:
        if reading["mono_us"] <= began.devices.get(reading["device_id"], 0):
            # Its last sample is older than the stage: what it used in these moments is to be estimated.
            reading.update(mono_us=end_us, value=None, power_mw=None)
    offset_us = began.t_us - began.mono_us
    made: list[dict[str, Any]] = [
        {
            "type": "boundary",
            "boundary": number,
            "session": session,
            "mono_us": end_us,
            "t_us": end_us + offset_us,
            "readings": readings,
            "compute_pids": {},
            "zone_uncertainty_us": UPDATE_US,
        }
    ]
    if estimates:
        made.append({**estimates[-1], "boundary": number})
    return made


def event_rows(
    journals: JournalRun, first_id: int, reported: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Rows of events: what was journalled as such, and the sessions' and samplers' beginnings and ends.

    Args:
        journals: The run's journals.
        first_id: First free event id.
        reported: Event records that follow from others: from the stages' reports, from the devices' limits.
    """
    rows: list[dict[str, Any]] = []
    records = sorted([*journals.records, *reported], key=lambda r: (r["session"], r["mono_us"]))
    for record in records if reported else journals.records:
        kind = record["kind"] if record["type"] == "event" else _EVENT_KINDS.get(record["type"])
        if kind is None:
            continue
        detail = record.get("detail", {})
        if record["type"] in _EVENT_KINDS:
            detail = {key: value for key, value in record.items() if key in _EVENT_DETAIL}
        rows.append(
            {
                "event_id": first_id + len(rows),
                "session": record["session"],
                "t_us": record["t_us"] if "t_us" in record else _utc_near(journals, record),
                "mono_us": record["mono_us"],
                "kind": kind,
                "stage_uid": record.get("stage_uid"),
                "device_id": record.get("device_id"),
                "severity": record.get("severity", "info"),
                "detail": canonical_json(scrub_value(storable(detail))).decode() if detail else None,
            }
        )
    unread = [(name, "torn_bytes", size) for name, size in sorted(journals.torn.items())]
    unread += [(name, "damaged_bytes", size) for name, size in sorted(journals.damaged.items())]
    for name, what, size in unread:
        last = journals.records[-1]
        rows.append(
            {
                "event_id": first_id + len(rows),
                "session": session_of(Path(name)),
                "t_us": _utc_near(journals, last),
                "mono_us": last["mono_us"],
                "kind": "journal_error",
                "stage_uid": None,
                "device_id": None,
                "severity": "warning" if what == "torn_bytes" else "error",
                "detail": canonical_json({what: size}).decode(),
            }
        )
    return rows


_EVENT_KINDS = {
    "run": "session_start",
    "session_end": "session_end",
    "sampler_start": "sampler_start",
    "sampler_end": "sampler_end",
}
_EVENT_DETAIL = {
    "status",
    "scheduling",
    "no_gpu_reason",
    "doubts",
    "zones_denied",
    "ticks",
    "missed_ticks",
    "jitter_p50_us",
    "jitter_p95_us",
    "jitter_max_us",
    "sampler_cpu_s",
    "sampler_wall_s",
    "dropped_frames",
}


def _utc_near(journals: JournalRun, record: dict[str, Any]) -> int:
    """UTC of a record that carries none, by the offset of its session's start."""
    run = next((r for r in journals.of_type("run") if r["session"] == record["session"]), None)
    return int(record["mono_us"]) if run is None else int(run["t_us"] - run["mono_us"] + record["mono_us"])


def artifact_rows(journals: JournalRun) -> list[dict[str, Any]]:
    """Rows of artifacts."""
    columns = (
        "artifact_id",
        "name",
        "kind",
        "bytes",
        "stage_uid",
        "role",
        "origin_run_id",
        "origin_energy_j",
    )
    return [{name: record.get(name) for name in columns} for record in journals.of_type("artifact")]
