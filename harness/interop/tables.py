"""Rows of an imported bundle: each stage is one session with its samples, and an event for every doubt.

A session of our meter is one life of the sampler. Other tools start their poller with a stage and stop it
with the stage, so a stage is a session here, and nothing is invented for the time between two stages.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from harness.accounting import DeviceLimits, Sampling
from harness.bundle import canonical_json, scrub
from harness.bundle.derive import derive
from harness.bundle.stage_rows import TOKEN_COLUMNS
from harness.interop.imported import ImportedRun, ImportedStage, StatedEnergy
from harness.spec import Protocol

_PROTOCOL_EVENTS = ("gap", "clock_step")


def build_tables(run: ImportedRun, sampling: Sampling, protocol: Protocol) -> dict[str, Any]:
    """Rows of all tables by name, ready for the writer; the accounting fills in every derived column."""
    counters = [row for session, stage in enumerate(run.stages) for row in _boundaries(session, stage)]
    attempts: Counter[tuple[str, str, str]] = Counter()
    rows = []
    for session, stage in enumerate(run.stages):
        key = (stage.node_id, stage.name, stage.kind)
        attempts[key] += 1
        rows.append(_stage_row(session, stage, attempts[key]))
    limits_mw = {device.device_id: device.power_limit_mw for device in run.devices}
    boundaries = pa.Table.from_pylist(counters, protocol.arrow_schema("counters"))
    power = _power_table(run, limits_mw, protocol)
    limits = {device: DeviceLimits(max_mw=limit, instant=False) for device, limit in limits_mw.items()}
    stages = derive(rows, boundaries, power.to_batches(), sampling, limits).stages
    return {"stages": stages, "power": power, "counters": counters, "events": _events(run), "artifacts": []}


def _stage_row(session: int, stage: ImportedStage, attempt: int) -> dict[str, Any]:
    start_us, end_us, count = stage.start_us, stage.end_us, len(stage.devices)
    row: dict[str, Any] = {
        "stage_uid": session,
        "name": stage.name,
        "stage": stage.kind,
        "parent_uid": None,
        "attempt": attempt,
        "status": stage.status,
        "node_id": stage.node_id,
        "session": session,
        # A host's wall clock is its own clock: rows of one node can be compared, with the doubt `wall_clock`.
        "clock_id": hashlib.sha256(f"wall clock of {stage.node_id}".encode()).hexdigest()[:16],
        "t_start_us": start_us,
        "t_end_us": end_us,
        "mono_start_us": start_us,
        "mono_end_us": end_us,
        "boundary_start": 0,
        "boundary_end": 1,
        "device_ids": [device.device_id for device in stage.devices],
        "device_start_us": [start_us] * count,
        "device_end_us": [end_us] * count,
        "token_denominator": None,
        "exit_code": None,
        "command_sha256": None,
        "process_cpu_s": None,
        "flags": sorted({doubt.flag for doubt in stage.doubts}),
        "produces": [],
        "consumes": [],
    }
    row |= {column: stage.tokens.get(column) for column in TOKEN_COLUMNS}
    row |= _gpu_columns(stage.gpu) | _part_columns("cpu", stage.cpu) | _part_columns("dram", stage.dram)
    return row


def _gpu_columns(gpu: StatedEnergy | None) -> dict[str, Any]:
    """The stated total where no sample can speak; the accounting keeps it as it is stated."""
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


def _part_columns(name: str, part: StatedEnergy | None) -> dict[str, Any]:
    return {
        f"{name}_energy_j": None if part is None else part.energy_j,
        f"{name}_energy_j_low": None if part is None else part.low_j,
        f"{name}_energy_j_high": None if part is None else part.high_j,
        f"{name}_energy_method": "absent" if part is None else "imported",
    }


def _boundaries(session: int, stage: ImportedStage) -> Iterable[dict[str, Any]]:
    """The boundaries of a session, without a reading: nobody looked at the energy counter."""
    times = [stage.start_us, stage.end_us]
    times += [stage.tail_end_us] if stage.tail_end_us is not None else []
    for device in stage.devices:
        for number, time_us in enumerate(times):
            yield {
                "node_id": stage.node_id,
                "source": "nvml",
                "device_id": device.device_id,
                "zone": None,
                "session": session,
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


def _power_table(run: ImportedRun, limits_mw: Mapping[int, int | None], protocol: Protocol) -> pa.Table:
    schema = protocol.arrow_schema("power")
    series = [
        (stage.node_id, device.device_id, session, stage.samples, column)
        for session, stage in enumerate(run.stages)
        if stage.samples is not None
        for column, device in enumerate(stage.devices)
    ]
    pieces = []
    for node_id, device_id, session, samples, column in sorted(series, key=lambda one: one[:3]):
        watts, rows = samples.watts[:, column], len(samples.t_us)
        valid = np.isfinite(watts)
        power_mw = np.where(valid, np.round(watts * 1000), 0).astype(np.int32)
        known: dict[str, Any] = {
            "node_id": pa.array([node_id] * rows, pa.string()),
            "device_id": np.full(rows, device_id, dtype=np.int16),
            "session": np.full(rows, session, dtype=np.int16),
            "t_us": samples.t_us,
            "mono_us": samples.t_us,
            "power_mw": pa.array(power_mw, pa.int32(), mask=~valid),
            "power_limit_mw": pa.array([limits_mw[device_id]] * rows, pa.int32()),
        }
        columns = [known.get(name, pa.nulls(rows, schema.field(name).type)) for name in schema.names]
        pieces.append(pa.table(columns, schema=schema))
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


def _events(run: ImportedRun) -> list[dict[str, Any]]:
    """One event for every doubt, and one for what was found but is no stage."""
    rows: list[dict[str, Any]] = []

    def add(session: int, uid: int | None, kind: str, severity: str, detail: Mapping[str, Any]) -> None:
        rows.append(
            {
                "event_id": len(rows),
                "session": session,
                "t_us": run.stages[session].start_us,
                "mono_us": run.stages[session].start_us,
                "kind": kind,
                "stage_uid": uid,
                "device_id": None,
                "severity": severity,
                "detail": scrub(canonical_json(dict(detail)).decode()),
            }
        )

    for session, stage in enumerate(run.stages):
        for doubt in stage.doubts:
            kind = doubt.flag if doubt.flag in _PROTOCOL_EVENTS else f"x-{doubt.flag}"
            add(session, session, kind, doubt.severity, doubt.observation)
    found = {
        "attempts": len(run.stages),
        "copies_dropped": run.copies,
        "records_without_time": len(run.unplaced),
        "other_files": run.ignored_files,
    }
    add(0, None, "x-import", "info", found)
    for doubt in run.unplaced:
        add(0, None, f"x-{doubt.flag}", doubt.severity, doubt.observation)
    return rows
