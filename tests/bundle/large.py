"""A valid bundle of any length, with the columns and the noise of a real one.

Power is a level a stage, with drift and noise; the energy counter of each device is the exact integral of the
straight lines between its samples, so that counter and power integral agree. Stages tile the time with a hole
after every third.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from harness.bundle import BundleWriter
from harness.bundle.derive import derive, device_limits, sampling_rules
from harness.spec import load_protocol
from tests.bundle.make import manifest, stage_row

PERIOD_US = 500_000
MONO_0 = 3_600_000_000
UTC_US = 1_790_000_000_000_000 - MONO_0
LIMIT_MW = 700_000
RAPL_RANGE_UJ = 262_143_328_850
COMMON = {"node_id": "node-00", "session": 0}
NULLS = dict.fromkeys(("device_id", "zone", "range", "power_mw", "boundary"))
RECORDED = dict.fromkeys(
    ("parent_uid", "tokens_trained", "tokens_positions", "tokens_generated", "process_cpu_s", "exit_code")
)


class Piece(NamedTuple):
    """A stretch of time; its share of all, mean power and slow swing of a device in W, tokens a second."""

    kind: str | None
    share: float
    mean_w: float
    swing_w: float
    rate: int | None = None


HOLE = Piece(None, 0.005, 96.0, 2.0)
PIECES = (
    Piece("prerun", 0.004, 95.0, 4.0),
    Piece("preprocess", 0.03, 110.0, 10.0, 40_000),
    Piece("teacher_generate", 0.22, 540.0, 30.0, 900),
    HOLE,
    Piece("teacher_logits", 0.18, 610.0, 25.0, 5_000),
    Piece("student_train", 0.12, 655.0, 12.0, 21_000),
    Piece("evaluate", 0.05, 380.0, 60.0, 3_000),
    HOLE,
    Piece("sweep", 0.16, 590.0, 45.0, 18_000),
    Piece("student_train", 0.14, 650.0, 15.0, 21_000),
    Piece("evaluate", 0.05, 390.0, 55.0, 3_000),
    HOLE,
    Piece("judge", 0.03, 300.0, 40.0, 500),
    Piece("idle", 0.001, 92.0, 2.0),
)


def _power(number: int, ticks: int, edges: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of one device, and its energy in mJ at each sample."""
    rng = np.random.default_rng([seed, number])
    tick = np.arange(ticks, dtype=np.int64)
    mono = MONO_0 + (tick - 1) * PERIOD_US + 1_700 + 3_100 * number + rng.gamma(2.0, 30.0, ticks).astype(int)
    piece = np.searchsorted(edges[1:-1], mono, side="right")
    mean, swing = (np.array([getattr(p, name) for p in PIECES])[piece] for name in ("mean_w", "swing_w"))
    watts = mean * (1 + 0.01 * number) + np.sin(tick * (2 * np.pi / 1_313.0)) * swing
    power = np.clip((watts + rng.normal(0, 0.8 * swing)) * 1000, 60_000, LIMIT_MW).astype(np.int64)
    before = np.concatenate((power[:1], power[:-1]))
    energy = 5.0e9 + np.cumsum(np.diff(mono, prepend=mono[0]) * (power + before) / 2e6)
    busy = mean > 120
    columns = {
        "device_id": np.full(ticks, number, np.int16),
        "session": np.zeros(ticks, np.int16),
        "t_us": UTC_US + mono + rng.integers(0, 3, ticks),
        "mono_us": mono,
        "power_mw": power.astype(np.int32),
        "power_average_mw": ((power + before) // 2).astype(np.int32),
        "energy_counter_mj": energy.astype(np.int64),
        "util_pct": np.where(busy, rng.integers(96, 101, ticks), 0).astype(np.uint8),
        "mem_used_mib": np.where(busy, 61_440 + 97 * piece, 512).astype(np.int32),
        "temp_c": (30 + power / 17_000 + rng.normal(0, 0.3, ticks)).astype(np.uint8),
        "sm_clock_mhz": np.where(busy, 1980 - 15 * rng.binomial(3, 0.05, ticks), 345).astype(np.uint16),
        "throttle_bits": np.where(power >= LIMIT_MW - 20_000, 4, np.where(busy, 0, 1)).astype(np.uint64),
        "power_limit_mw": np.full(ticks, LIMIT_MW, np.int32),
        "read_us": (640 + rng.gamma(2.0, 45.0, ticks)).astype(np.int32),
    }
    return columns, energy


def _reading(columns: dict[str, np.ndarray], energy: np.ndarray, at: int) -> dict[str, int]:
    """What the counter and the power of a device are at a moment."""
    mono, power = columns["mono_us"], columns["power_mw"]
    last, now = int(np.searchsorted(mono, at)) - 1, float(np.interp(at, mono, power))
    value = int(energy[last] + (at - mono[last]) * (power[last] + now) / 2e6)
    return {"mono_us": at, "t_us": UTC_US + at, "value": value, "power_mw": int(now)}


def _zone_rows(zone: str, watts: float, ticks: int, edges: np.ndarray) -> list[dict[str, Any]]:
    """Readings of a RAPL zone at every tick and at the boundaries."""
    polls = [(MONO_0 + (tick - 1) * PERIOD_US + 211, None) for tick in range(ticks)]
    marks = [(int(edge), number) for number, edge in enumerate(edges)]
    row = {**COMMON, **NULLS, "source": "rapl", "zone": zone, "unit": "uJ", "range": RAPL_RANGE_UJ}
    return [
        {**row, "t_us": UTC_US + at, "mono_us": at, "uncertainty_us": 40, "boundary": boundary}
        | {"value": int((at - MONO_0 + PERIOD_US) * watts) % RAPL_RANGE_UJ}
        | {"method": "poll" if boundary is None else "immediate"}
        for at, boundary in sorted([*polls, *marks], key=lambda pair: pair[0])
    ]


def make_bundle(out: Path, *, days: float, gpus: int, rapl: bool = False, seed: int = 1) -> int:
    """Write the bundle.

    Args:
        out: Its folder.
        days: Length of the run.
        gpus: Number of devices.
        rapl: Whether two RAPL zones are read at every tick.
        seed: Of the noise.

    Returns:
        Rows of power.
    """
    protocol, length_us = load_protocol(), int(days * 86_400e6)
    shares = np.cumsum([0.0, *(piece.share for piece in PIECES)])
    edges = MONO_0 + np.rint(shares / shares[-1] * length_us).astype(np.int64)
    ticks = length_us // PERIOD_US + 3  # one tick before the first boundary and one after the last
    devices = [_power(number, ticks, edges, seed) for number in range(gpus)]
    # A device is read some time after the boundary.
    at = [[int(edge) + 850 + 1_550 * number for number in range(gpus)] for edge in edges]
    readings = [
        {**COMMON, **NULLS, "source": "nvml", "device_id": device, "uncertainty_us": 500, "unit": "mJ"}
        | {"boundary": number, "method": "tick", **_reading(*devices[device], at[number][device])}
        for device in range(gpus)
        for number in range(len(edges))
    ]
    for zone, watts in (("dram-0", 24.0), ("package-0", 180.0)) if rapl else ():
        readings += _zone_rows(zone, watts, ticks, edges)
    stages: list[dict[str, Any]] = []
    for number, piece in enumerate(PIECES):
        if piece.kind is None:
            continue
        starts, ends = at[number], at[number + 1]
        tokens = piece.rate and int(piece.rate * (ends[0] - starts[0]) / 1e6 * gpus)
        stages.append(
            {**RECORDED, **stage_row(len(stages)), **COMMON, "name": f"{piece.kind}-{len(stages):02d}"}
            | {"stage": piece.kind, "boundary_start": number, "boundary_end": number + 1}
            | {"mono_start_us": min(starts), "mono_end_us": max(ends), "device_ids": list(range(gpus))}
            | {"t_start_us": UTC_US + min(starts), "t_end_us": UTC_US + max(ends)}
            | {"device_start_us": starts, "device_end_us": ends, "tokens_processed": tokens}
            | {"flags": [], "consumes": []}
        )
    # What each stage reported of its tokens, within the one session.
    events: list[dict[str, Any]] = [{"kind": "session_start", "mono_us": MONO_0}]
    for row in stages:
        if row["tokens_processed"] is not None:
            detail = json.dumps({"tokens_processed": row["tokens_processed"]}, separators=(",", ":"))
            events.append({"kind": "stage_tokens", "mono_us": row["mono_end_us"], "detail": detail})
            events[-1]["stage_uid"] = row["stage_uid"]
    events.append({"kind": "session_end", "mono_us": int(edges[-1])})
    blank = {"session": 0, "stage_uid": None, "device_id": None, "severity": "info", "detail": None}
    made = manifest() | {"pipeline": {}}
    made["sampling"]["sessions"][0] |= {"ticks": ticks, "sampler_wall_s": length_us / 1e6 + 2}
    device = made["hardware"]["devices"][0] | {"model": "Simulated GPU", "mem_mib": 81_559, "mig": False}
    device |= {"power_limit_mw": LIMIT_MW, "default_power_limit_mw": LIMIT_MW}
    made["hardware"]["devices"] = [device | {"device_id": number} for number in range(gpus)]
    made["boundary"] |= dict.fromkeys(("cpu", "dram"), "measured" if rapl else "absent")
    batches = [
        pa.RecordBatch.from_pydict({"node_id": pa.repeat("node-00", ticks), **columns})
        for columns, _ in devices
    ]
    writer = BundleWriter(out, protocol)
    rows = writer.write_table("power", iter(batches))
    writer.write_table("counters", readings)
    recorded = pa.Table.from_pylist(readings, protocol.arrow_schema("counters"))
    rules, limits = sampling_rules(protocol, made), device_limits(made)
    writer.write_table("stages", derive(stages, recorded, batches, rules, limits).stages)
    writer.write_table(
        "events",
        [
            {"event_id": number, **blank, "t_us": UTC_US + event["mono_us"], **event}
            for number, event in enumerate(events)
        ],
    )
    writer.write_manifest(made)
    return rows
