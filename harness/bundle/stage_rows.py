"""From journal records to the recorded columns of `stages`, also where a stage's end was never written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NODE = "node-00"
TOKEN_COLUMNS = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
"""Counts of a stage that somebody states, of a program's reports too."""
_LOST_FLAG = "end_not_recorded"

Record = Mapping[str, Any]


class BoundaryTimes(NamedTuple):
    """Where a boundary lies.

    Attributes:
        devices: Those that the sampler had there; None where it says nothing of this boundary.
        inner: Whether it only bounds a part of a stage.
    """

    mono_us: int
    t_us: int
    devices: frozenset[int] | None = None
    inner: bool = False


def boundaries_of(records: Iterable[Record]) -> dict[tuple[int, int], BoundaryTimes]:
    """(session, boundary number) -> where it lies, by the sampler, or else by the stage."""
    found: dict[tuple[int, int], BoundaryTimes] = {}
    stamped: dict[tuple[int, int], BoundaryTimes] = {}
    parts: set[int] = set()
    for record in records:
        key = record.get("session", 0), record.get("boundary", -1)
        if record["type"] == "boundary":
            devices = frozenset(map(int, record["powers"]))
            found[key] = BoundaryTimes(record["mono_us"], record["t_us"], devices)
        elif record["type"] in ("stage_start", "stage_end"):
            if record.get("parent_uid") is not None:
                parts.add(record["stage_uid"])
            at_us = int(record["boundary_us"])
            t_us = record["t_us"] - (record["mono_us"] - at_us)
            stamped[key] = BoundaryTimes(at_us, t_us, inner=record["stage_uid"] in parts)
    return stamped | found


def stage_rows(
    records: list[dict[str, Any]],
    boundaries: Mapping[tuple[int, int], BoundaryTimes],
    clock_ids: Mapping[int, str],
    token_denominator: int | None,
    event_flags: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Recorded columns of every stage that began.

    A stage without a recorded end (its runner was killed) is `interrupted` and ends at the first boundary
    after its start: the one the sampler took when it found itself alone, or the one that `seal` made from the
    last samples.

    Args:
        records: Journal records in order.
        boundaries: All boundaries, made ones included.
        clock_ids: Clock id of each session.
        token_denominator: The run's declared reference denominator.
        event_flags: Kind of event to the flag it puts on a stage.
    """
    ends = {record["stage_uid"]: record for record in records if record["type"] == "stage_end"}
    tokens: dict[int, dict[str, int]] = {}
    artifacts: dict[tuple[int, str], list[str]] = {}
    flags: dict[int, set[str]] = {}
    split: set[int] = set()
    metered: dict[int, set[int]] = {}
    for record in records:
        if record["type"] == "stage_tokens":
            tokens[record["stage_uid"]] = record["tokens"]
        elif record["type"] == "artifact":
            artifacts.setdefault((record["stage_uid"], record["role"]), []).append(record["artifact_id"])
        elif record["type"] == "event" and record.get("stage_uid") is not None:
            flag = event_flags.get(record["kind"])
            if flag:
                flags.setdefault(record["stage_uid"], set()).add(flag)
        elif record["type"] == "sampler_start":
            # Power is measured for whole cards: a share of one was not measured.
            split |= {int(device["device_id"]) for device in record["devices"] if device.get("mig")}
            metered.setdefault(record["session"], set()).update(
                int(device["device_id"]) for device in record["devices"]
            )
    noticed = _noticed_events(records, event_flags)
    rows = []
    for record in records:
        if record["type"] != "stage_start":
            continue
        uid, session = record["stage_uid"], record["session"]
        end = ends.get(uid)
        start_number = record["boundary"]
        if end is not None:
            end_number = end["boundary"]
        else:
            later = [
                n for (s, n), at in boundaries.items() if s == session and n > start_number and not at.inner
            ]
            end_number = min(later, default=start_number)
        if (session, start_number) not in boundaries or (session, end_number) not in boundaries:
            continue  # torn off before its boundary reached the disk: less than a second old
        first, last = boundaries[(session, start_number)], boundaries[(session, end_number)]
        # A device that is missing at an end was lost: what it used still belongs here, known or not.
        there = [at.devices for at in (first, last) if at.devices is not None]
        all_devices = metered.get(session, set()).union(*there)
        devices = sorted(all_devices & set(record.get("devices", all_devices)))
        given = end["tokens"] if end is not None else tokens.get(uid, {})
        recorded = set(flags.get(uid, ())) | set(end.get("flags", ()) if end is not None else {_LOST_FLAG})
        if any(not held.issuperset(devices) for held in there):
            recorded.add("gpu_lost")
        if split & set(devices):
            recorded.add("mig")
        recorded |= {flag for s, at, flag in noticed if s == session and first.mono_us <= at <= last.mono_us}
        rows.append(
            {
                "stage_uid": uid,
                "name": record["name"],
                "stage": record["stage"],
                "parent_uid": record.get("parent_uid"),
                "attempt": record["attempt"],
                "status": end["status"] if end is not None else "interrupted",
                "node_id": NODE,
                "session": session,
                "clock_id": clock_ids.get(session, "unknown"),
                "t_start_us": first.t_us,
                "t_end_us": last.t_us,
                "mono_start_us": first.mono_us,
                "mono_end_us": last.mono_us,
                "boundary_start": start_number,
                "boundary_end": end_number,
                "device_ids": devices,
                "device_start_us": [first.mono_us] * len(devices),
                "device_end_us": [last.mono_us] * len(devices),
                **{name: given.get(name) for name in TOKEN_COLUMNS},
                "token_denominator": (end or {}).get("token_denominator") or token_denominator,
                "exit_code": end["exit_code"] if end is not None else None,
                "command_sha256": record["command_sha256"],
                "process_cpu_s": end["process_cpu_s"] if end is not None else None,
                "flags": sorted(recorded),
                "produces": sorted(set(artifacts.get((uid, "produced"), ()))),
                "consumes": sorted(set(artifacts.get((uid, "consumed"), ()))),
            }
        )
    return rows


def _noticed_events(records: Iterable[Record], event_flags: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """(session, time, flag) of what the sampler noticed: it knows the time but no stage."""
    return [
        (record["session"], record["mono_us"], event_flags[record["kind"]])
        for record in records
        if record["type"] == "event"
        and record.get("stage_uid") is None
        and record["kind"] in event_flags
        and not (record.get("detail") or {}).get("recovered")
    ]
