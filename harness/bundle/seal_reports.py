"""From journals to what the stages reported: scores, their items, and the events behind token counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from harness.bundle.order import sorted_rows
from harness.bundle.privacy import scrub
from harness.journal.reading import JournalRun
from harness.journal.scores import KEY
from harness.spec import Protocol

TOKEN_EVENT_US = 60_000_000
"""A stage's token reports become one event a minute at most."""

_NAMES = (*KEY, "suite", "benchmark_version", "judge_id", "harness", "harness_version")


def report_events(journals: JournalRun, known: set[int]) -> list[dict[str, Any]]:
    """Event records that follow from the stages' reports: token counts, and items whose score never came.

    Args:
        journals: The run's journals.
        known: Stages that have a row.
    """
    return [*_token_events(journals, known), *_orphan_events(journals, known)]


def _orphan_events(journals: JournalRun, known: set[int]) -> Iterator[dict[str, Any]]:
    """Items without the score they belong to are not sealed, as when a stage was killed between the two."""
    rows = {(r["stage_uid"], *(r["row"][name] for name in KEY)) for r in journals.of_type("eval")}
    lost: dict[int, list[dict[str, Any]]] = {}
    for record in journals.of_type("eval_items"):
        if (record["stage_uid"], *(record[name] for name in KEY)) not in rows:
            lost.setdefault(record["stage_uid"], []).append(record)
    for uid in sorted(known & set(lost)):
        last = lost[uid][-1]
        event = {"type": "event", "kind": "x-scores_incomplete", "severity": "warning", "stage_uid": uid}
        detail = {"items": sum(len(record["scores"]) for record in lost[uid])}
        yield {**event, "session": last["session"], "mono_us": last["mono_us"], "detail": detail}


def _token_events(journals: JournalRun, known: set[int]) -> list[dict[str, Any]]:
    """Events `stage_tokens`: what was added to a stage's counts since the one before, so that the sum over a
    stage's events is its count, exactly. A count that no event names was never reported.

    Args:
        journals: The run's journals, which hold running totals.
        known: Stages that have a row.
    """
    said: dict[int, dict[str, int]] = {}
    last_us: dict[int, int] = {}
    waiting: dict[int, dict[str, Any]] = {}
    events: list[dict[str, Any]] = []

    def say(record: dict[str, Any], mono_us: int) -> None:
        uid = record["stage_uid"]
        before = said.setdefault(uid, {})
        added = {
            name: count - before.get(name, 0)
            for name, count in record["tokens"].items()
            if name not in before or count != before[name]
        }
        waiting.pop(uid, None)
        last_us[uid] = mono_us
        before.update(record["tokens"])
        if added:
            shift_us = mono_us - record["mono_us"]
            time = {"mono_us": mono_us, **({"t_us": record["t_us"] + shift_us} if "t_us" in record else {})}
            event = {"type": "event", "kind": "stage_tokens", "session": record["session"]}
            events.append({**event, **time, "stage_uid": uid, "detail": added})

    for record in journals.records:
        uid = record.get("stage_uid")
        if uid not in known:
            continue
        if record["type"] == "stage_start":
            last_us[uid] = record["work_start_us"]
        elif record["type"] == "stage_tokens":
            waiting[uid] = record
            if record["mono_us"] - last_us.get(uid, record["mono_us"]) >= TOKEN_EVENT_US:
                say(record, record["mono_us"])
        elif record["type"] == "stage_end":
            say(record, record["work_end_us"])
    for record in list(waiting.values()):  # stages whose end was never written
        say(record, record["mono_us"])
    return events


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
