"""The manifest of a sealed run, from its journals and the manifest it had before."""

from __future__ import annotations

from typing import Any

from harness import __version__
from harness.bundle.canonical import storable
from harness.bundle.environment import machine_facts, software_facts
from harness.bundle.privacy import scrub, scrub_value
from harness.journal.reading import JournalRun
from harness.meter.visible import ORDER_IN_DOUBT
from harness.spec import Protocol, protocol_digest


def _names(protocol: Protocol, *path: str) -> list[str]:
    """Fields of a part of the manifest, by the protocol."""
    fields = protocol.manifest.fields
    for name in path:
        fields = next(field.fields for field in fields if field.name == name)
    return [field.name for field in fields]


def build_manifest(
    protocol: Protocol,
    journals: JournalRun,
    earlier: dict[str, Any] | None,
    stages: list[dict[str, Any]],
    recovered: bool,
) -> dict[str, Any]:
    """Everything in the manifest but the file list and what follows from derived columns.

    Args:
        protocol: The protocol to write by.
        journals: The run's journals.
        earlier: The manifest of an earlier seal of this run.
        stages: Recorded columns of all stages.
        recovered: Whether the run's owner never closed its journals.
    """
    run = journals.of_type("run")[-1]
    starts = journals.of_type("sampler_start")
    devices = {d["device_id"]: d for start in starts for d in start["devices"]}
    if earlier is not None:
        devices = {d["device_id"]: d for d in earlier["hardware"]["devices"]} | devices
    sessions = [] if earlier is None else list(earlier["sampling"]["sessions"])
    fields = [n for n in _names(protocol, "sampling", "sessions") if n not in ("session", "scheduling")]
    sessions += [_session(journals, record, fields) for record in journals.of_type("run")]
    foreign = any(e["kind"] == "foreign_process" for e in journals.of_type("event"))
    foreign = foreign or bool(earlier and earlier["shared_node"])
    greeting: dict[str, Any] = starts[-1] if starts else {}
    doubted = {ORDER_IN_DOUBT} & {doubt for start in starts for doubt in start["doubts"]}
    return {
        "protocol_sha256": protocol_digest(protocol.version),
        "name": scrub_value(run["name"]),
        "method": run["method"],
        "status": _status(journals, stages, recovered),
        "created_t_us": earlier["created_t_us"] if earlier else journals.of_type("run")[0]["t_us"],
        "labels": sorted({*map(scrub, run["labels"]), *doubted, *(earlier["labels"] if earlier else ())}),
        "pipeline": scrub_value(_pipeline(run["pipeline"], earlier)),
        "hardware": {
            "devices": [
                {name: devices[device].get(name) for name in _names(protocol, "hardware", "devices")}
                for device in sorted(devices)
            ],
            **_machine(protocol, earlier),
        },
        "software": {
            "kit_version": __version__,
            "driver": greeting.get("driver"),
            "cuda": greeting.get("cuda"),
            **software_facts(),
        },
        "sampling": {
            "nominal_period_us": run["period_us"],
            "sampler_version": greeting.get("sampler_version", "unknown"),
            "clock": "CLOCK_MONOTONIC",
            "sessions": sessions,
        },
        "boundary": {"gpu": "absent", "cpu": "absent", "dram": "absent"},
        "factors": {"pue": run["pue"], "region": run["region"]},
        "reference_tokens": run["reference_tokens"],
        "shared_node": foreign if devices else None,
    }


def _machine(protocol: Protocol, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """Facts of the machine; it has no name of its own where an earlier session ran on another one."""
    names = _names(protocol, "hardware")
    facts = {name: fact for name, fact in machine_facts().items() if name in names}
    if earlier is not None and earlier["hardware"].get("scale_id") != facts.get("scale_id"):
        facts["scale_id"] = None
    return {name: fact for name, fact in facts.items() if name in names}


def _pipeline(pipeline: dict[str, Any], earlier: dict[str, Any] | None) -> object:
    """The pipeline as it was run, with the stages of earlier sessions that `--only` or `--from` left out."""
    before = [] if earlier is None else earlier["pipeline"].get("stages", [])
    now = {stage["name"]: stage for stage in pipeline.get("stages", [])}
    if before:
        kept = {stage["name"]: stage for stage in before}
        pipeline = {**pipeline, "stages": list({**kept, **now}.values())}
    return storable(pipeline)


def _session(journals: JournalRun, run: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """Statistics of a session's samplers: sums over restarts, the worst of the lateness figures.

    A sampler that was killed has only the statistics that it wrote every ten seconds, or none.
    """
    session = run["session"]
    latest: list[dict[str, Any]] = []
    for record in journals.records:
        if record["session"] != session:
            continue
        if record["type"] == "sampler_start":
            latest.append({})
        elif record["type"] in ("sampler_stats", "sampler_end") and latest:
            latest[-1] = record
    known = [stats for stats in latest if stats]
    entry: dict[str, Any] = {"session": session}
    for name in fields:
        values = [stats[name] for stats in known]
        combine = max if name.startswith("jitter") else sum
        entry[name] = combine(values) if values else None
    scheduling = [r["scheduling"] for r in journals.of_type("sampler_start") if r["session"] == session]
    entry["scheduling"] = scheduling[-1] if scheduling else None
    return entry


def _status(journals: JournalRun, stages: list[dict[str, Any]], recovered: bool) -> str:
    closed = {record["session"]: record["status"] for record in journals.of_type("session_end")}
    if recovered or any(record["session"] not in closed for record in journals.of_type("run")):
        return "recovered"
    if closed[max(closed)] != "complete":
        return "partial"
    last = {row["name"]: row["status"] for row in sorted(stages, key=lambda row: row["stage_uid"])}
    return "complete" if all(status == "completed" for status in last.values()) else "partial"
