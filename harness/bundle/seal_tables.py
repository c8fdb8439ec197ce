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


def counter_rows(journals: JournalRun, protocol: Protocol) -> pa.Table:
    """The counters: boundaries and ticks of devices, zones at every sample, a running estimate."""
    schema = protocol.arrow_schema("counters")
    rows = _device_rows(journals, protocol) + _estimate_rows(journals, protocol)
    tables = [pa.Table.from_pylist(rows, schema=schema), *_zone_tables(journals, protocol)]
    table = pa.concat_tables(tables)
    return sorted_rows(table, protocol.tables["counters"].sort)


def _device_rows(journals: JournalRun, protocol: Protocol) -> list[dict[str, Any]]:
    """Every boundary as a moment of each device, and the ticks that were seen around them."""
    sources, rows = journals.device_sources(), []
    read = {(r["session"], r["boundary"]): r["powers"] for r in journals.of_type("boundary")}

    def add(**columns: Any) -> None:
        source = protocol.source(sources[(columns["device_id"], columns["session"])])
        rows.append({"node_id": NODE, "source": source.name, "unit": source.unit, **columns})

    for (session, number), at in boundaries_of(journals.records).items():
        powers = read.get((session, number), {})
        for device in sorted(d for d, s in sources if s == session):
            power_mw, read_us = powers.get(str(device), (None, at.mono_us))
            add(
                device_id=device,
                session=session,
                mono_us=at.mono_us,
                t_us=at.t_us,
                uncertainty_us=max(0, read_us - at.mono_us),
                power_mw=power_mw,
                boundary=number,
                method="moment",
            )
    columns = ("device_id", "session", "mono_us", "t_us", "uncertainty_us", "value", "power_mw")
    for tick in journals.of_type("tick"):
        add(**{name: tick[name] for name in columns}, method="tick")
    return rows


def _estimate_rows(journals: JournalRun, protocol: Protocol) -> list[dict[str, Any]]:
    rows = []
    zones: dict[int, set[str]] = {}
    records = journals.of_type(ESTIMATE)
    for record in records:
        known = {zone for zone in ("cpu", "ram") if record[f"{zone}_uj"] is not None}
        zones.setdefault(record["session"], set()).update(known)
    for record in records:
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


def last_sample_boundaries(journals: JournalRun, session: int, after: int) -> list[dict[str, Any]]:
    """A boundary at the last that is known of a session that was killed whole.

    Returns:
        Its journal record; nothing where nothing is known after the last boundary.
    """
    taken = boundaries_of(journals.records)
    number = max(n for s, n in taken if s == session) + 1
    began = taken[(session, after)]
    times = [r["mono_us"] for r in journals.records if r["session"] == session]
    keys = [key for key in journals.power_keys() if key[1] == session]
    times += [int(journals.power_rows(key)["mono_us"][-1]) for key in keys]
    times += [int(rows["mono_us"][-1]) for (_, s), rows in journals.zone_rows() if s == session]
    end_us = max(times)
    if end_us <= began.mono_us:
        return []
    return [
        {
            "type": "boundary",
            "boundary": number,
            "session": session,
            "mono_us": end_us,
            "t_us": end_us + began.t_us - began.mono_us,
            "powers": {str(device): [None, end_us] for device, _ in keys},
            "zone_uncertainty_us": _ZONE_UNCERTAINTY_US,
        }
    ]


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
        if "group" in schema.names:
            groups = [None if g is None else scrub(g) for g in record.get("groups") or [None] * count]
            columns["group"] = pa.array(groups, pa.string())
        tables.append(pa.table([columns[name] for name in schema.names], schema=schema))
    return sorted_rows(pa.concat_tables(tables), protocol.tables["eval_items"].sort)
