"""Operations on raw readings: vectors in, the functions that seal, validate and report use, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.accounting import (
    NO_BOUNDARY,
    UNATTRIBUTED,
    CounterSeries,
    DeviceLimits,
    Plan,
    PowerSeries,
    Sampling,
    SessionTotal,
    run_totals,
)
from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.device import DeviceMeter
from harness.accounting.processor import ProcessorMeter
from harness.accounting.totals import row_energy
from harness.spec import load_protocol

Json = Mapping[str, Any]

NODE = "node-00"
_DEVICES, _ZONES = "nvml", "rapl"  # the sources that the vectors' readings stand for
COUNTER_FAULTS = (
    "counter_boundary_missing",
    "counter_glitch",
    "counter_missing",
    "counter_reset",
    "counter_stuck",
)


def integrate_power(given: Json) -> Json:
    """Power integral of a window, through the meter that a stage's device has."""
    limits = DeviceLimits(max_mw=given.get("power_limit_mw"))
    meter = DeviceMeter(_power(given["power"]), DeviceBoundaries(), _sampling(given), limits)
    start, end = int(given["mono_start_us"]), int(given["mono_end_us"])
    if end < start:
        raise ValueError(f"window ends before it starts: {start} > {end}")
    found = meter.integral(start, end)
    return {
        "energy_j": found.energy_j,
        "samples": found.samples,
        "missed_samples": found.missed,
        "longest_gap_us": found.longest_gap_us,
        "gap_us": found.gap_us,
        "energy_in_gaps_j": found.energy_in_gaps_j,
        "gap_low_j": found.gap_low_j,
        "gap_high_j": found.gap_high_j,
    }


def counter_energy(given: Json) -> Json:
    """Energy of one device between two boundaries: a run of one stage."""
    ends = [given["start"] | {"boundary": 0}, given["end"] | {"boundary": 1}]
    ends += [{"boundary": None, **tick} for tick in given.get("ticks", ())]
    stage = {"stage_uid": 0, "name": "stage", "boundary_start": 0, "boundary_end": 1, "device_ids": [0]}
    (row,) = _derive({**given, "stages": [stage], "boundaries": ends})[0]
    energy = row["gpu_energy_j"]
    return {
        "energy_j": energy,
        "energy_mj": None if energy is None else round(energy * 1000),
        "low_j": row["gpu_energy_j_low"],
        "high_j": row["gpu_energy_j_high"],
        "method": row["gpu_energy_method"],
        "faults": [flag for flag in COUNTER_FAULTS if flag in row["flags"]],
    }


def stage_interval(given: Json) -> Json:
    """GPU energy of one stage with its 95 % interval."""
    stage = {"stage_uid": 0, "name": "stage", "boundary_start": 0, "boundary_end": 1}
    (row,) = _derive({**given, "stages": [stage | {"device_ids": given["device_ids"]}]})[0]
    return {name: row[name] for name in ("gpu_energy_j", "gpu_energy_j_low", "gpu_energy_j_high")}


def zone_energy(given: Json) -> Json:
    """CPU or DRAM energy of a window from RAPL zones, or from an estimate."""
    zones = [_zone(zone) for zone in given["zones"]]
    window = int(given["mono_start_us"]), int(given["mono_end_us"])
    if window[1] < window[0]:
        raise ValueError(f"window ends before it starts: {window[0]} > {window[1]}")
    part = given.get("part", "cpu")
    if part not in ("cpu", "dram"):
        raise ValueError(f"RAPL has no part {part!r}")
    found = ProcessorMeter(zones).measure(part, window, (NO_BOUNDARY, NO_BOUNDARY))
    return {
        "energy_j": found.energy_j,
        "low_j": found.low_j,
        "high_j": found.high_j,
        "method": found.method,
        "faults": sorted(found.faults),
    }


def account(given: Json) -> Json:
    """A whole run: stages, boundaries and samples to rows and totals."""
    rows, sessions = _derive(given)
    totals = run_totals(rows, sessions, teacher_kinds=load_protocol().kinds("teacher"))
    return {
        "stages": [_row(row) for row in rows],
        "gpu_energy_j": totals.gpu.energy_j,
        "cpu_energy_j": totals.cpu.energy_j,
        "it_energy_j": None if totals.it is None else totals.it.best,
        "unattributed_energy_j": None if totals.unattributed is None else totals.unattributed.best,
        "teacher_energy_j": None if totals.teacher is None else totals.teacher.best,
        "session_energy_mj": [_session_mj(session) for session in sessions],
    }


def _session_mj(session: SessionTotal) -> int | None:
    parts = list(session.gpu_mj.values())
    return None if None in parts else sum(part for part in parts if part is not None)


def clock_steps(given: Json) -> Json:
    """Steps of UTC against the monotonic clock, and what they mean."""
    from harness.meter.clocks import ClockWatch

    tolerances = load_protocol().tolerances
    watch = ClockWatch(tolerances.clock_step_event_us)
    steps = []
    for t_us, mono_us in zip(given["t_us"], given["mono_us"], strict=True):
        step = watch.step_us(int(t_us), int(mono_us))
        if step is not None:
            steps.append({"mono_us": int(mono_us), "step_us": step})
    largest = max((abs(step["step_us"]) for step in steps), default=0)
    verdict = "error" if largest >= tolerances.clock_step_error_us else "event" if steps else "ok"
    return {"steps": steps, "verdict": verdict}


def last_snapshot(given: Json) -> Json:
    """Which cumulative record of an interrupted run counts, by the importer's choice."""
    from harness.interop.reference.attempts import attempts_of
    from harness.interop.reference.records import ReferenceStage, StageFolder

    names = {f"{name}": None for name in ReferenceStage.__slots__}
    records = tuple(
        ReferenceStage(
            **{
                **names,
                "path": Path(record["file"]),
                "kind": "snapshot",
                "stage_id": "stage",
                "stage_name": "stage",
                "start_s": given["t_start_us"] / 1e6,
                "end_s": record["t_end_us"] / 1e6,
                "gpu_energy_j": float(record["gpu_energy_j"]),
                "watts": (),
                "snapshot_step": int(record["step"]),
                "old_schema": False,
            }
        )
        for record in given["records"]
    )
    attempts, _ = attempts_of(StageFolder(Path("run"), "stage", records))
    if len(attempts) != 1 or attempts[0].record is None:
        raise ValueError(f"{len(attempts)} attempts speak through these records")
    chosen = attempts[0].record
    return {"step": chosen.snapshot_step, "file": chosen.path.name, "gpu_energy_j": chosen.gpu_energy_j}


def _row(row: Json) -> dict[str, Any]:
    energy = row_energy(row)
    names = ("stage_uid", "name", "stage", "session", "boundary_start", "boundary_end", "device_ids")
    figures = ("device_energy_j", "gpu_energy_j", "gpu_energy_counter_j", "gpu_energy_integral_j")
    found = {name: row[name] for name in (*names, *figures, "gpu_energy_method", "cpu_energy_j")}
    if row["stage"] == UNATTRIBUTED:
        del found["stage_uid"]
    found["duration_us"] = row["mono_end_us"] - row["mono_start_us"]
    found["energy_j"] = None if energy is None else energy.best
    return found


def _derive(given: Json) -> tuple[list[dict[str, Any]], list[SessionTotal]]:
    boundaries = list(given.get("boundaries", ()))
    where = {(b.get("session", 0), b["boundary"]): b for b in reversed(boundaries)}
    rows = [_stage(stage, where) for stage in given["stages"]]
    blocks = given.get("power", ())
    series = [_power(block) for block in ([blocks] if isinstance(blocks, Mapping) else blocks)]
    counters = [*_gpu_counters(boundaries), *(_zone(zone) for zone in given.get("zones", ()))]
    limit = DeviceLimits(given.get("power_limit_mw"), given.get("instant_supported", True))
    limits = dict.fromkeys((0, *(one.device_id for one in series)), limit)
    sampling = _sampling(given)
    plan = Plan(rows, counters, sampling, limits)
    derivation = plan.finish([plan.measure(one) for one in series])
    return derivation.stages, derivation.sessions


def _stage(stage: Json, where: Mapping[tuple[int, int], Json]) -> dict[str, Any]:
    """A row of `stages` from what a vector says of it; the rest is filled in as a recorder would."""
    session = stage.get("session", 0)
    first, last = (where[(session, stage[f"boundary_{side}"])] for side in ("start", "end"))
    devices = [int(device) for device in stage.get("device_ids", [0])]
    row = {
        "parent_uid": None,
        "attempt": 1,
        "status": "completed",
        "stage": "student_train",
        "node_id": NODE,
        "session": session,
        "clock_id": f"clock-{session}",
        "t_start_us": first.get("t_us", first["mono_us"]),
        "t_end_us": last.get("t_us", last["mono_us"]),
        "mono_start_us": first["mono_us"],
        "mono_end_us": last["mono_us"],
        "device_ids": devices,
        "device_start_us": [first["mono_us"]] * len(devices),
        "device_end_us": [last["mono_us"]] * len(devices),
        "flags": [],
    }
    return row | dict(stage) | {"device_ids": devices}


def _gpu_counters(boundaries: Sequence[Json]) -> list[CounterSeries]:
    """Rows of `counters` at boundaries, one series a device and session."""
    groups: dict[tuple[int | None, int], list[Json]] = {}
    for row in boundaries:
        groups.setdefault((row.get("device_id", 0), row.get("session", 0)), []).append(row)
    return [
        _counter(_DEVICES if device is not None else _ZONES, device, None, session, "mJ", None, rows)
        for (device, session), rows in groups.items()
    ]


def _zone(zone: Json) -> CounterSeries:
    numbers = zone.get("boundary") or [None] * len(zone["mono_us"])
    rows = [
        {"mono_us": mono, "value_mj": value, "boundary": number, "method": "poll"}
        for mono, value, number in zip(zone["mono_us"], zone["value_uj"], numbers, strict=True)
    ]
    source = zone.get("source", _ZONES)
    return _counter(source, None, zone["zone"], zone.get("session", 0), "uJ", zone.get("range_uj"), rows)


def _counter(
    source: str,
    device: int | None,
    zone: str | None,
    session: int,
    unit: str,
    wrap_range: int | None,
    rows: Sequence[Json],
) -> CounterSeries:
    rows = sorted(rows, key=lambda row: int(row["mono_us"]))
    values = [row.get("value_mj") for row in rows]
    numbers = [row.get("boundary") for row in rows]

    def column(items: Sequence[int | None], null: int) -> Any:
        return np.array([null if item is None else item for item in items], dtype=np.int64)

    return CounterSeries(
        source=source,
        node_id=NODE,
        device_id=device,
        zone=zone,
        session=session,
        unit=unit,
        wrap_range=wrap_range,
        mono_us=column([row["mono_us"] for row in rows], 0),
        t_us=column([row.get("t_us", row["mono_us"]) for row in rows], 0),
        value=column(values, 0),
        valid=np.array([value is not None for value in values], dtype=np.bool_),
        boundary=column(numbers, NO_BOUNDARY),
        uncertainty_us=column([row.get("uncertainty_us", 0) for row in rows], 0),
        power_mw=column([row.get("power_mw") for row in rows], -1),
        method=[str(row.get("method", "tick")) for row in rows],
    )


def _power(block: Json) -> PowerSeries:
    """A block of columns of table `power`; a null is a failed read."""
    mono = np.array(block["mono_us"], dtype=np.int64)
    if np.any(np.diff(mono) <= 0):
        raise ValueError("mono_us does not rise")
    columns = {}
    for name in ("power_mw", "energy_counter_mj"):
        values = block.get(name) or [None] * mono.shape[0]
        if len(values) != mono.shape[0]:
            raise ValueError(f"{name} has {len(values)} values for {mono.shape[0]} times")
        columns[name] = (
            np.array([0 if v is None else v for v in values], dtype=np.int64),
            np.array([v is not None for v in values], dtype=np.bool_),
        )
    return PowerSeries(
        NODE,
        int(block.get("device_id", 0)),
        int(block.get("session", 0)),
        mono,
        *columns["power_mw"],
        *columns["energy_counter_mj"],
    )


def _sampling(given: Json) -> Sampling:
    """The protocol's rules with the vector's own period."""
    from harness.bundle.derive import sampling_rules

    period = int(given.get("nominal_period_us", 500_000))
    return sampling_rules(load_protocol(), {"sampling": {"nominal_period_us": period}})
