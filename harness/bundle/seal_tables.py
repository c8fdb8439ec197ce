"""From journals to the rows of counters, scores and their items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from harness.bundle.order import sorted_rows
from harness.bundle.privacy import scrub
from harness.bundle.stage_rows import NODE, boundaries_of
from harness.journal.reading import JournalRun
from harness.journal.scores import KEY
from harness.meter.sources.base import ESTIMATE
from harness.spec import Protocol

_NAMES = (*KEY, "suite", "benchmark_version", "judge_id", "harness", "harness_version")
_ZONE_UNCERTAINTY_US = 1_000
_STALE_COUNTER_US = 100_000
"""How old a counter value may be that was read without waiting for a tick: one refresh of a slow card."""


def counter_rows(journals: JournalRun, protocol: Protocol) -> pa.Table:
    """The counters: those of devices at boundaries, zones at every tick, a running estimate."""
    schema = protocol.arrow_schema("counters")
    rows = _device_rows(journals, protocol) + _estimate_rows(journals, protocol)
    rows += _moment_rows(journals, protocol)
    tables = [pa.Table.from_pylist(rows, schema=schema), *_zone_tables(journals, protocol)]
    table = pa.concat_tables(tables)
    return sorted_rows(table, protocol.tables["counters"].sort)


def _device_rows(journals: JournalRun, protocol: Protocol) -> list[dict[str, Any]]:
    sources, rows = journals.device_sources(), []
    for record in journals.of_type("boundary"):
        offset_us = record["t_us"] - record["mono_us"]
        for reading in record["readings"]:
            source = protocol.source(sources[(reading["device_id"], record["session"])])
            rows.append(
                {
                    "node_id": NODE,
                    "source": source.name,
                    "device_id": reading["device_id"],
                    "session": record["session"],
                    "t_us": reading["mono_us"] + offset_us,
                    "mono_us": reading["mono_us"],
                    "uncertainty_us": reading["uncertainty_us"],
                    "value": reading["value"],
                    "unit": source.unit,
                    "range": None,
                    "boundary": record["boundary"],
                    "method": reading["method"],
                    "power_mw": reading["power_mw"],
                }
            )
    return rows


def _estimate_rows(journals: JournalRun, protocol: Protocol) -> list[dict[str, Any]]:
    rows = []
    zones: dict[int, set[str]] = {}
    records = journals.of_type(ESTIMATE)
    for record in records:
        known = {zone for zone in ("cpu", "ram") if record[f"{zone}_uj"] is not None}
        zones.setdefault(record["session"], set()).update(known)
    for record in [*records, *_unread_estimates(journals)]:
        source = protocol.source(record.get("source", ESTIMATE))
        for zone in sorted(zones[record["session"]]):
            value = record[f"{zone}_uj"]
            if value is None and record["boundary"] is None:
                continue
            rows.append(
                {
                    "node_id": NODE,
                    "source": source.name,
                    "device_id": None,
                    "zone": zone,
                    "session": record["session"],
                    "t_us": record["t_us"],
                    "mono_us": record["mono_us"],
                    "uncertainty_us": record["uncertainty_us"],
                    "value": value,
                    "unit": source.unit,
                    "range": None,
                    "boundary": record["boundary"],
                    "method": "sample" if record["boundary"] is None else "immediate",
                }
            )
    return rows


def _unread_estimates(journals: JournalRun) -> list[dict[str, Any]]:
    """A reading without a value at each boundary that the estimator was not asked for.

    The sampler takes the last boundary of a run whose owner was killed; an estimator can die as well.
    """
    read = {(r["session"], r["boundary"]) for r in journals.of_type(ESTIMATE)}
    first = {r["session"]: r for r in reversed(journals.of_type(ESTIMATE))}
    return [
        {
            **first[record["session"]],
            **{name: record[name] for name in ("boundary", "mono_us", "t_us")},
            "cpu_uj": None,
            "ram_uj": None,
        }
        for record in journals.of_type("boundary")
        if record["session"] in first and (record["session"], record["boundary"]) not in read
    ]


def _zone_tables(journals: JournalRun, protocol: Protocol) -> list[pa.Table]:
    schema = protocol.arrow_schema("counters")
    uncertainty = next((r["zone_uncertainty_us"] for r in journals.of_type("boundary")), _ZONE_UNCERTAINTY_US)
    tables = []
    for (label, session), rows in journals.zone_rows():
        count = len(rows)
        at_boundary = rows["boundary"] >= 0
        source = protocol.source(journals.zone_sources[label])

        def constant(value: Any, name: str, count: int = count) -> pa.Array:
            return pa.array([value], schema.field(name).type).take(pa.array(np.zeros(count, np.int32)))

        columns = {
            "node_id": constant(NODE, "node_id"),
            "source": constant(source.name, "source"),
            "device_id": constant(None, "device_id"),
            "zone": constant(label, "zone"),
            "session": constant(session, "session"),
            "t_us": pa.array(np.ascontiguousarray(rows["t_us"])),
            "mono_us": pa.array(np.ascontiguousarray(rows["mono_us"])),
            "uncertainty_us": constant(uncertainty, "uncertainty_us"),
            "value": pa.array(np.ascontiguousarray(rows["value"]), pa.int64(), mask=rows["value"] < 0),
            "unit": constant(source.unit, "unit"),
            "range": constant(journals.zone_ranges.get(label), "range"),
            "boundary": pa.array(np.ascontiguousarray(rows["boundary"]), pa.int32(), mask=~at_boundary),
            "method": pa.array(np.where(at_boundary, "immediate", "sample").tolist(), pa.string()),
            "power_mw": constant(None, "power_mw"),
        }
        tables.append(pa.table([columns[name] for name in schema.names], schema=schema))
    return tables


def _moment_rows(journals: JournalRun, protocol: Protocol) -> list[dict[str, Any]]:
    """What zones and estimates showed where a part of a stage began or ended: between the looks around it."""
    moments = [record for record in journals.of_type("boundary") if record.get("moment")]
    if not moments:
        return []
    looks: list[tuple[str, str, int, Any, Any]] = []
    for (label, session), rows in journals.zone_rows():
        read = rows[rows["value"] >= 0]
        looks.append((journals.zone_sources[label], label, session, read["mono_us"], read["value"]))
    for zone in ("cpu", "ram"):
        for session in sorted({int(moment["session"]) for moment in moments}):
            found = [
                r
                for r in journals.of_type(ESTIMATE)
                if r["session"] == session and r[f"{zone}_uj"] is not None
            ]
            if found:
                times, values = ([r[name] for r in found] for name in ("mono_us", f"{zone}_uj"))
                source = found[0].get("source", ESTIMATE)
                looks.append((source, zone, session, np.array(times), np.array(values)))
    made = []
    for moment in moments:
        for source, zone, session, times, values in looks:
            place = int(np.searchsorted(times, moment["mono_us"]))
            if session != moment["session"] or not 0 < place < len(times):
                continue
            (before, after), (low, high) = times[place - 1 : place + 1], values[place - 1 : place + 1]
            if high < low or moment["mono_us"] == after:
                continue  # a wrap or a restart: nothing stands between them
            share = (moment["mono_us"] - before) / (after - before)
            made.append(
                {
                    "node_id": NODE,
                    "source": source,
                    "device_id": None,
                    "zone": zone,
                    "session": session,
                    "t_us": moment["t_us"],
                    "mono_us": moment["mono_us"],
                    "uncertainty_us": int(max(moment["mono_us"] - before, after - moment["mono_us"])),
                    "value": round(low + share * (high - low)),
                    "unit": protocol.source(source).unit,
                    "range": journals.zone_ranges.get(zone),
                    "boundary": moment["boundary"],
                    "method": "interpolated",
                    "power_mw": None,
                }
            )
    return made


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
    taken = boundaries_of(journals.records)
    number = max(n for s, n in taken if s == session) + 1
    began = taken[(session, after)]
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
    estimates = [r for r in journals.of_type(ESTIMATE) if r["session"] == session]
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
            "zone_uncertainty_us": _ZONE_UNCERTAINTY_US,
        }
    ]
    if estimates:
        made.append({**estimates[-1], "boundary": number})
    return made


def eval_table(journals: JournalRun, protocol: Protocol, known: set[int]) -> pa.Table:
    """Rows of `evals` of stages that have a row."""
    schema = protocol.arrow_schema("evals")
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in journals.of_type("eval"):
        if record["stage_uid"] in known:
            row = {**record["row"], "stage_uid": record["stage_uid"]}
            row |= {name: scrub(row[name]) for name in _NAMES if row[name] is not None}
            found.setdefault((row["stage_uid"], *(row[name] for name in KEY)), row)
    table = pa.Table.from_pylist(list(found.values()), schema)
    return sorted_rows(table, protocol.tables["evals"].sort)


def item_table(journals: JournalRun, protocol: Protocol, evals: pa.Table) -> pa.Table:
    """Rows of `eval_items`, of scores that `evals` holds: an item without its benchmark says nothing."""
    schema = protocol.arrow_schema("eval_items")
    held = {tuple(row.values()) for row in evals.select(["stage_uid", *KEY]).to_pylist()}
    tables = [schema.empty_table()]
    for record in journals.of_type("eval_items"):
        key = (record["stage_uid"], *(scrub(record[name]) for name in KEY))
        if key not in held:
            continue
        count = len(record["scores"])
        columns: dict[str, Any] = {
            name: pa.repeat(pa.scalar(value, schema.field(name).type), count)
            for name, value in zip(("stage_uid", *KEY), key, strict=True)
        }
        columns["item"] = pa.array(range(record["first"], record["first"] + count), pa.int32())
        columns["item_sha256"] = pa.array(record["item_sha256"] or [None] * count, pa.string())
        columns["score"] = pa.array(record["scores"], pa.float64())
        tables.append(pa.table([columns[name] for name in schema.names], schema=schema))
    return sorted_rows(pa.concat_tables(tables), protocol.tables["eval_items"].sort)
