"""Rows of the bundle: each attempt is one session with one stage, its samples, and an event for every doubt.

A session of our meter is one life of the sampler. The harness starts its poller with a stage and stops it
with the stage, so a stage is a session here, and nothing is invented for the time between two stages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from harness.accounting import DeviceLimits, Sampling
from harness.bundle import canonical_json, scrub
from harness.bundle.derive import derive
from harness.interop.reference.figures import Figures, PartFigure
from harness.interop.reference.judge import Imported
from harness.interop.reference.naming import safe_name
from harness.interop.reference.plan import Plan
from harness.spec import Protocol

_PROTOCOL_EVENTS = {"gap": "gap", "clock_step": "clock_step"}


@dataclass(frozen=True, slots=True)
class Tables:
    """Rows of every table that is not empty, ready for the writer."""

    stages: list[dict[str, Any]]
    power: pa.Table
    counters: list[dict[str, Any]]
    events: list[dict[str, Any]]


def build_tables(decided: Sequence[Imported], plan: Plan, sampling: Sampling, protocol: Protocol) -> Tables:
    """Rows of all tables; the accounting fills in every derived column."""
    counters = [row for item in decided for row in _boundaries(item)]
    boundaries = pa.Table.from_pylist(counters, protocol.arrow_schema("counters"))
    power = _power_table(decided, protocol)
    limits = {
        device.device_id: DeviceLimits(max_mw=device.power_limit_mw, instant=False)
        for item in decided
        for device in item.place.devices
    }
    rows = [_stage_row(item) for item in decided]
    stages = derive(rows, boundaries, power.to_batches(), sampling, limits).stages
    return Tables(stages, power, counters, _events(decided, plan))


def _stage_row(item: Imported) -> dict[str, Any]:
    attempt, figures, place = item.attempt, item.figures, item.place
    count = len(place.devices)
    row: dict[str, Any] = {
        "stage_uid": item.session,
        "name": item.identity.name,
        "stage": item.identity.kind,
        "parent_uid": None,
        "attempt": item.number,
        "status": attempt.status,
        "node_id": place.node_id,
        "session": item.session,
        # A host's wall clock is its own clock: rows of one node can be compared, with the doubt `wall_clock`.
        "clock_id": hashlib.sha256(f"wall clock of {place.node_id}".encode()).hexdigest()[:16],
        "t_start_us": attempt.start_us,
        "t_end_us": attempt.end_us,
        "mono_start_us": attempt.start_us,
        "mono_end_us": attempt.end_us,
        "work_start_us": attempt.start_us,
        "work_end_us": attempt.end_us,
        "boundary_start": 0,
        "boundary_end": 1,
        "device_ids": [device.device_id for device in place.devices],
        "device_start_us": [attempt.start_us] * count,
        "device_end_us": [attempt.end_us] * count,
        "tokens_trained": figures.tokens.get("tokens_trained"),
        "tokens_processed": None,
        "tokens_positions": None,
        "tokens_generated": figures.tokens.get("tokens_generated"),
        "token_denominator": None,
        "exit_code": None,
        "command_sha256": None,
        "process_cpu_s": None,
        "flags": sorted({doubt.flag for doubt in item.doubts}),
        "produces": [],
        "consumes": [],
    }
    row |= _gpu_columns(figures)
    for name, part in (("cpu", figures.cpu), ("dram", figures.dram)):
        row |= _part_columns(name, part)
    return row


def _gpu_columns(figures: Figures) -> dict[str, Any]:
    """The recorded total where no sample can speak; the accounting keeps it as it is stated."""
    gpu = figures.gpu
    if gpu is None:
        return {"gpu_energy_method": "absent"}
    return {
        "device_energy_j": None,
        "gpu_energy_j": gpu.energy_j,
        "gpu_energy_j_low": gpu.low_j,
        "gpu_energy_j_high": gpu.high_j,
        "gpu_energy_counter_j": None,
        "gpu_energy_integral_j": None,
        "gpu_energy_method": "imported",
        "gpu_energy_boundary_j": gpu.boundary_j,
        "gpu_energy_gap_j": gpu.gap_j,
        "energy_in_gaps_j": gpu.in_gaps_j,
        "gpu_counter_vs_integral": None,
        "samples": gpu.samples,
        "missed_samples": gpu.missed,
        "longest_gap_us": gpu.unsampled_us,
        "gap_us": gpu.unsampled_us,
    }


def _part_columns(name: str, part: PartFigure | None) -> dict[str, Any]:
    return {
        f"{name}_energy_j": None if part is None else part.energy_j,
        f"{name}_energy_j_low": None if part is None else part.low_j,
        f"{name}_energy_j_high": None if part is None else part.high_j,
        f"{name}_energy_method": "absent" if part is None else "imported",
    }


def _boundaries(item: Imported) -> list[dict[str, Any]]:
    """The boundaries of a session, without a reading: the harness never looked at the energy counter.

    A run that went on after its last partial record has a third one: its tail becomes `unattributed`, not
    lost.
    """
    attempt = item.attempt
    times = [attempt.start_us, attempt.end_us]
    times += [attempt.tail_end_us] if attempt.tail_end_us is not None else []
    return [
        {
            "node_id": item.place.node_id,
            "source": "nvml",
            "device_id": device.device_id,
            "zone": None,
            "session": item.session,
            "t_us": time_us,
            "mono_us": time_us,
            "uncertainty_us": 0,
            "value": None,
            "unit": "mJ",
            "range": None,
            "boundary": number,
            "method": "sample",
            "power_mw": None,
        }
        for device in item.place.devices
        for number, time_us in enumerate(times)
    ]


def _power_table(decided: Sequence[Imported], protocol: Protocol) -> pa.Table:
    schema = protocol.arrow_schema("power")
    limits = {d.device_id: d.power_limit_mw for item in decided for d in item.place.devices}
    series = [
        (item.place.node_id, device.device_id, item.session, item.attempt.power, column)
        for item in decided
        if item.attempt.power is not None
        for column, device in enumerate(item.place.devices)
    ]
    pieces = []
    for node_id, device, session, power, column in sorted(series, key=lambda s: (s[0], s[1], s[2])):
        watts, rows = power.watts[:, column], len(power.t_us)
        valid = np.isfinite(watts)
        power_mw = np.where(valid, np.round(watts * 1000), 0).astype(np.int32)
        known: dict[str, Any] = {
            "node_id": pa.array([node_id] * rows, pa.string()),
            "device_id": np.full(rows, device, dtype=np.int16),
            "session": np.full(rows, session, dtype=np.int16),
            "t_us": power.t_us,
            "mono_us": power.t_us,
            "power_mw": pa.array(power_mw, pa.int32(), mask=~valid),
            "power_limit_mw": pa.array([limits[device]] * rows, pa.int32()),
        }
        columns = [known.get(name, pa.nulls(rows, schema.field(name).type)) for name in schema.names]
        pieces.append(pa.table(columns, schema=schema))
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


def _events(decided: Sequence[Imported], plan: Plan) -> list[dict[str, Any]]:
    """One event for every doubt, and one for what was found but is no stage."""
    rows: list[dict[str, Any]] = []

    def add(kind: str, severity: str, detail: Mapping[str, Any], item: Imported, uid: int | None) -> None:
        rows.append(
            {
                "event_id": len(rows),
                "session": item.session,
                "t_us": item.attempt.start_us,
                "mono_us": item.attempt.start_us,
                "kind": kind,
                "stage_uid": uid,
                "device_id": None,
                "severity": severity,
                "detail": scrub(canonical_json(dict(detail)).decode()),
            }
        )

    for item in decided:
        for doubt in item.doubts:
            kind = _PROTOCOL_EVENTS.get(doubt.flag, f"x-{doubt.flag}")
            add(kind, doubt.severity, doubt.observation, item, item.session)
    first = decided[0]
    source = {
        "attempts": len(decided),
        "copies_dropped": plan.duplicates,
        "records_without_time": len(plan.unplaced),
        "other_files": plan.ignored_files,
    }
    add("x-import", "info", source, first, None)
    for lost in plan.unplaced:
        detail = {"stage": safe_name(lost.record.stage_id), "recorded_gpu_energy_j": lost.record.gpu_energy_j}
        add("x-record_without_time", "warning", detail, first, None)
    return rows
