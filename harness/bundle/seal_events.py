"""Events of a sealed run: what was journalled as such, and what only follows from other records.

The sampler records a power limit that changes while it looks. A change between two samplers shows only where
the beginnings of both are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bundle.canonical import canonical_json, storable
from harness.bundle.privacy import scrub, scrub_value
from harness.bundle.reader import Bundle
from harness.journal.reading import JournalRun, session_of
from harness.journal.scores import KEY
from harness.meter.sources.base import ESTIMATE

LIMIT_CHANGE = "power_limit_change"
TOKEN_EVENT_US = 60_000_000
"""A stage's token reports become one event a minute at most."""

_OWNERS = ("run", "cpu_method", "stage_start", "stage_end", "stage_tokens")
"""Types of records with a time that the owner of a run writes, and nobody else."""

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
    unread += [(name, "odd_entries", len(found)) for name, found in sorted(journals.odd.items())]
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
                "detail": canonical_json({what: size, **_first_odd(journals, name, what)}).decode(),
            }
        )
    return rows


def _first_odd(journals: JournalRun, name: str, what: str) -> dict[str, str]:
    return {"first": scrub(journals.odd[name][0])} if what == "odd_entries" else {}


def _utc_near(journals: JournalRun, record: dict[str, Any]) -> int:
    """UTC of a record that carries none, by the offset of its session's start."""
    run = next((r for r in journals.of_type("run") if r["session"] == record["session"]), None)
    return int(record["mono_us"]) if run is None else int(run["t_us"] - run["mono_us"] + record["mono_us"])


def limit_events(journals: JournalRun, earlier: Bundle | None) -> Iterator[dict[str, Any]]:
    """Event records of limits that changed while no sampler looked."""
    known = {} if earlier is None else _last_known(earlier)
    for record in journals.records:
        if record["type"] == "event" and record["kind"] == LIMIT_CHANGE:
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
                        "kind": LIMIT_CHANGE,
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
        if row["kind"] == LIMIT_CHANGE and row["device_id"] in known and row["detail"]:
            known[row["device_id"]] = json.loads(row["detail"])["after_mw"]
    return known


def lost_estimates(journals: JournalRun) -> list[dict[str, Any]]:
    """Event records of estimators that were killed together with the owner of their session."""
    closed = {record["session"] for record in journals.of_type("session_end")}
    last = {record["session"]: record for record in journals.of_type(ESTIMATE)}
    ends = {record["session"]: record for record in journals.of_type("boundary")}
    return [
        {
            "type": "event",
            "kind": f"x-{record.get('source', ESTIMATE)}_lost",
            "severity": "error",
            **{name: record[name] for name in ("session", "mono_us", "t_us")},
        }
        for session, record in last.items()
        if session in ends.keys() - closed and record["mono_us"] < ends[session]["mono_us"]
    ]


def runner_gaps(journals: JournalRun) -> Iterator[dict[str, Any]]:
    """Event records of holes in the owner's part of the log: it was killed and the sampler lived on.

    From the owner's last record on nothing tells of tokens, events or ends of stages; it may have lived for
    a part of that time and had nothing to write.
    """
    closed = {record["session"] for record in journals.of_type("session_end")}
    last: dict[int, int] = {}
    for record in journals.of_type(*_OWNERS):
        last[record["session"]] = max(last.get(record["session"], 0), record["mono_us"])
    for lost in journals.of_type("event"):
        session = lost["session"]
        if lost["kind"] == "runner_lost" and session not in closed and session in last:
            length_us = lost["mono_us"] - last[session]
            yield {
                **{name: lost.get(name) for name in ("type", "session", "stage_uid")},
                "kind": "gap",
                "severity": "warning",
                "mono_us": last[session],
                "detail": {"of": "runner", "length_us": length_us},
            }


def report_events(journals: JournalRun, known: set[int]) -> list[dict[str, Any]]:
    """Event records from the reports of `known` stages: token counts, items without their score."""
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
            last_us[uid] = record["boundary_us"]
        elif record["type"] == "stage_tokens":
            waiting[uid] = record
            if record["mono_us"] - last_us.get(uid, record["mono_us"]) >= TOKEN_EVENT_US:
                say(record, record["mono_us"])
        elif record["type"] == "stage_end":
            say(record, record["boundary_us"])
    for record in list(waiting.values()):  # stages whose end was never written
        say(record, record["mono_us"])
    return events
