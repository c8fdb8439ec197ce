"""Makes a valid bundle of any length: by default 30 days of 8 GPUs at 2 Hz, 41.5 million rows.

    python scripts/make_large_bundle.py --out DIR [--days 30] [--gpus 8] [--rapl] [--seed 1]

Power is a level a stage, with drift and noise; the energy counter of each device is the exact integral of the
straight lines between its samples, so counter and power integral agree and every joule can be checked. Stages
tile the time with a few holes between them. Rows are made and written in blocks: memory does not grow with
--days, but for the columns of one device that the accounting needs: the rows are made twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.bundle import BundleWriter, canonical_json
from harness.bundle.derive import derive, device_limits, sampling_rules
from harness.bundle.writer import conform
from harness.spec import load_protocol
from tests.bundle.make import manifest

PERIOD_US = 500_000
BLOCK_ROWS = 1 << 20
MONO_0 = 3_600_000_000
UTC_0 = 1_790_000_000_000_000
LIMIT_MW = 700_000
RAPL_RANGE_UJ = 262_143_328_850

# kind, share of the time, mean power of a device in W, its slow swing in W, tokens a second and device
PLAN = (
    ("prerun", 0.004, 95.0, 4.0, None),
    ("preprocess", 0.03, 110.0, 10.0, 40_000),
    ("teacher_generate", 0.22, 540.0, 30.0, 900),
    ("teacher_logits", 0.18, 610.0, 25.0, 5_000),
    ("student_train", 0.12, 655.0, 12.0, 21_000),
    ("evaluate", 0.05, 380.0, 60.0, 3_000),
    ("sweep", 0.16, 590.0, 45.0, 18_000),
    ("student_train", 0.14, 650.0, 15.0, 21_000),
    ("evaluate", 0.05, 390.0, 55.0, 3_000),
    ("judge", 0.03, 300.0, 40.0, 500),
    ("idle", 0.01, 92.0, 2.0, None),
)
HOLE_W = 96.0
RECORDED = (
    *("parent_uid", "tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated"),
    "command_sha256",
)
"""Columns of `stages` that a stage may leave unknown."""


@dataclass
class Piece:
    """A stretch of constant level: a stage, or a hole when `kind` is None. Times are CLOCK_MONOTONIC, us."""

    kind: str | None
    start_us: int
    end_us: int
    mean_w: float
    swing_w: float
    token_rate: int | None


@dataclass
class Boundary:
    """A boundary and, per device, when it was and what the counter and the power were."""

    mono_us: int
    at: dict[int, tuple[int, int, int]] = field(default_factory=dict)


def plan_pieces(duration_us: int) -> list[Piece]:
    """Stages one after another, a hole of a few seconds after every third."""
    pieces: list[Piece] = []
    hole_us = min(37_250_000, duration_us // 200)
    at = MONO_0
    for number, (kind, share, mean_w, swing_w, rate) in enumerate(PLAN):
        length = int(duration_us * share)
        if number == len(PLAN) - 1:
            length = MONO_0 + duration_us - at
        pieces.append(Piece(kind, at, at + length, mean_w, swing_w, rate))
        at += length
        if number % 3 == 2 and number < len(PLAN) - 1:
            pieces.append(Piece(None, at, at + hole_us, HOLE_W, 2.0, None))
            at += hole_us
    return pieces


class Device:
    """One simulated GPU; `blocks` may be run through several times and gives the same rows."""

    def __init__(self, number: int, ticks: int, pieces: list[Piece], seed: int) -> None:
        self.number = number
        self.ticks = ticks
        self.pieces = pieces
        self.seed = seed
        self.phase_us = 1_700 + 3_100 * number

    def blocks(self, boundaries: list[Boundary] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Columns of power in blocks. With `boundaries`, notes what the device showed at each of them."""
        energy_mj = 5.0e9 + 1.0e8 * self.number
        last: tuple[int, int] | None = None
        edges = np.array([p.start_us for p in self.pieces[1:]], np.int64)
        means = np.array([p.mean_w for p in self.pieces])
        swings = np.array([p.swing_w for p in self.pieces])
        for first in range(0, self.ticks, BLOCK_ROWS):
            tick = np.arange(first, min(first + BLOCK_ROWS, self.ticks), dtype=np.int64)
            rng = np.random.default_rng([self.seed, self.number, first])
            size = len(tick)
            read_us = (640 + rng.gamma(2.0, 45.0, size)).astype(np.int32)
            mono = (
                MONO_0
                - PERIOD_US
                + tick * PERIOD_US
                + self.phase_us
                + rng.gamma(2.0, 30.0, size).astype(np.int64)
            )
            piece = np.searchsorted(edges, mono, side="right")
            slow = np.sin(tick * (2 * np.pi / 1_313.0) + self.number) * swings[piece]
            watts = means[piece] * (1 + 0.01 * self.number) + slow + rng.normal(0, 0.8 * swings[piece])
            power = np.clip(watts * 1000, 60_000, LIMIT_MW).astype(np.int64)
            # between samples power runs straight: joules up to each tick are a running sum of trapezoids
            mono_before = np.concatenate(([mono[0] if last is None else last[0]], mono[:-1]))
            power_before = np.concatenate(([power[0] if last is None else last[1]], power[:-1]))
            running = energy_mj + np.cumsum((mono - mono_before) * (power + power_before) / 2e6)
            if boundaries is not None:
                self._note(boundaries, mono, power, running, last, energy_mj)
            energy_mj, last = float(running[-1]), (int(mono[-1]), int(power[-1]))
            busy = means[piece] > 120
            yield {
                "device_id": np.full(size, self.number, np.int16),
                "session": np.zeros(size, np.int16),
                "t_us": UTC_0 - MONO_0 + mono + (tick // 600_000) + rng.integers(0, 3, size),
                "mono_us": mono,
                "power_mw": power.astype(np.int32),
                "power_average_mw": ((power + power_before) // 2).astype(np.int32),
                "energy_counter_mj": running.astype(np.int64),
                "util_pct": np.where(busy, rng.integers(96, 101, size), 0).astype(np.uint8),
                "mem_used_mib": np.where(busy, 61_440 + 97 * piece, 512).astype(np.int32),
                "temp_c": (30 + watts / 17 + rng.normal(0, 0.3, size)).astype(np.uint8),
                "sm_clock_mhz": np.where(busy, 1980 - 15 * rng.binomial(3, 0.05, size), 345).astype(
                    np.uint16
                ),
                "throttle_bits": np.where(power >= LIMIT_MW - 20_000, 4, np.where(busy, 0, 1)).astype(
                    np.uint64
                ),
                "power_limit_mw": np.full(size, LIMIT_MW, np.int32),
                "read_us": read_us,
            }

    def _note(
        self,
        boundaries: list[Boundary],
        mono: np.ndarray,
        power: np.ndarray,
        running: np.ndarray,
        last: tuple[int, int] | None,
        energy_mj: float,
    ) -> None:
        for boundary in boundaries:
            at = boundary.mono_us + self.phase_us // 2
            begins = mono[0] if last is None else last[0]
            if self.number in boundary.at or not begins <= at <= mono[-1]:
                continue
            after = int(np.searchsorted(mono, at))
            before = after - 1
            t0, p0 = (
                (int(mono[before]), int(power[before])) if after else (last or (int(mono[0]), int(power[0])))
            )
            e0 = float(running[before]) if after else energy_mj
            t1, p1 = int(mono[after]), int(power[after])
            now = p0 + (p1 - p0) * (at - t0) / (t1 - t0) if t1 > t0 else float(p0)
            boundary.at[self.number] = (at, int(e0 + (at - t0) * (p0 + now) / 2e6), int(now))


def stage_rows(pieces: list[Piece], boundaries: list[Boundary], gpus: int) -> list[dict[str, Any]]:
    """Recorded columns of the stages; holes are left to the accounting."""
    rows: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if piece.kind is None:
            continue
        opens, closes = boundaries[number], boundaries[number + 1]
        starts = [opens.at[d][0] for d in range(gpus)]
        ends = [closes.at[d][0] for d in range(gpus)]
        seconds = (piece.end_us - piece.start_us) / 1e6
        tokens = None if piece.token_rate is None else int(piece.token_rate * seconds * gpus)
        positions = None if tokens is None else int(tokens * 1.07)
        counted = {"tokens_processed": tokens, "tokens_positions": positions}
        if piece.kind in ("student_train", "sweep"):
            counted["tokens_trained"] = tokens
        if piece.kind == "teacher_generate":
            counted["tokens_generated"] = tokens
        rows.append(
            dict.fromkeys(RECORDED)
            | {"stage_uid": len(rows), "name": f"{piece.kind}-{len(rows):02d}", "stage": piece.kind}
            | {"attempt": 1, "status": "completed", "node_id": "node-00", "session": 0}
            | {"clock_id": "5b1f0c9e2a7d4f60", "boundary_start": number, "boundary_end": number + 1}
            | {"t_start_us": UTC_0 - MONO_0 + min(starts), "t_end_us": UTC_0 - MONO_0 + max(ends)}
            | {"mono_start_us": min(starts), "mono_end_us": max(ends), "device_ids": list(range(gpus))}
            | {"device_start_us": starts, "device_end_us": ends, **counted, "token_denominator": 30_000_000}
            | {"exit_code": 0, "process_cpu_s": seconds * 1.5, "flags": [], "produces": [], "consumes": []}
        )
    return rows


def counter_rows(boundaries: list[Boundary], gpus: int, ticks: int, rapl: bool) -> Iterator[pa.RecordBatch]:
    """Rows of counters in key order: GPUs at the boundaries, then RAPL zones at every tick when wanted."""
    schema = load_protocol().arrow_schema("counters")
    gpu = [
        {
            "node_id": "node-00",
            "source": "nvml",
            "device_id": device,
            "zone": None,
            "session": 0,
            "t_us": UTC_0 - MONO_0 + b.at[device][0],
            "mono_us": b.at[device][0],
            "uncertainty_us": 500,
            "value": b.at[device][1],
            "unit": "mJ",
            "range": None,
            "boundary": number,
            "method": "tick",
            "power_mw": b.at[device][2],
        }
        for device in range(gpus)
        for number, b in enumerate(boundaries)
    ]
    yield from pa.Table.from_pylist(gpu, schema=schema).to_batches()
    if not rapl:
        return
    for zone, watts in (("dram-0", 24.0), ("package-0", 180.0)):
        extra = np.array([b.mono_us for b in boundaries], np.int64)
        own = MONO_0 - PERIOD_US + np.arange(ticks, dtype=np.int64) * PERIOD_US + 211
        mono = np.concatenate((own, extra))
        order = np.argsort(mono, kind="stable")
        mono = mono[order]
        boundary = np.concatenate((np.full(len(own), -1), np.arange(len(extra))))[order]
        value = ((mono - mono[0]) * watts).astype(np.int64) % RAPL_RANGE_UJ
        for first in range(0, len(mono), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            size = len(mono[part])
            words = {"node_id": "node-00", "source": "rapl", "zone": zone, "unit": "uJ"}
            columns: dict[str, Any] = {name: pa.repeat(word, size) for name, word in words.items()}
            columns |= {
                "session": pa.array(np.zeros(size, np.int16)),
                "t_us": pa.array(UTC_0 - MONO_0 + mono[part]),
                "mono_us": pa.array(mono[part]),
                "uncertainty_us": pa.array(np.full(size, 40, np.int32)),
                "value": pa.array(value[part]),
                "range": pa.array(np.full(size, RAPL_RANGE_UJ, np.int64)),
                "boundary": pa.array(boundary[part].astype(np.int32), mask=boundary[part] < 0),
                "method": pa.array(np.where(boundary[part] < 0, "poll", "immediate")),
            }
            table = pa.table(columns)
            yield from conform(table, load_protocol().tables["counters"], schema).to_batches()


def manifest_of(gpus: int, ticks: int, rapl: bool) -> dict[str, Any]:
    """The manifest but for what the writer fills in."""
    made = manifest()
    limits = {"mem_mib": 81_559, "power_limit_mw": LIMIT_MW, "default_power_limit_mw": LIMIT_MW}
    device = made["hardware"]["devices"][0] | limits | {"model": "Simulated GPU", "mig": False}
    session = {
        "ticks": ticks,
        "missed_ticks": 0,
        "jitter_p50_us": 50,
        "jitter_p95_us": 140,
        "jitter_max_us": 700,
    }
    processor = dict.fromkeys(("cpu", "dram"), "measured" if rapl else "absent")
    return made | {
        "name": "simulated-large",
        "created_t_us": UTC_0,
        "pipeline": {},
        "hardware": made["hardware"] | {"devices": [device | {"device_id": d} for d in range(gpus)]},
        "sampling": made["sampling"] | {"sessions": [made["sampling"]["sessions"][0] | session]},
        "boundary": {"gpu": "measured", **processor},
        "factors": {"pue": None, "region": None},
        "reference_tokens": 30_000_000,
    }


def event_rows(pieces: list[Piece], stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Begin and end of the one session, and between them what each stage reported of its tokens."""
    found: list[tuple[str, int, int | None, str | None]] = [("session_start", MONO_0, None, None)]
    for row in stages:
        counts = {name: row[name] for name in row if name.startswith("tokens_") and row[name] is not None}
        if counts:
            detail = canonical_json(counts).decode()
            found.append(("stage_tokens", row["mono_end_us"], row["stage_uid"], detail))
    found.append(("session_end", pieces[-1].end_us, None, None))
    return [
        {
            "event_id": number, "session": 0, "t_us": UTC_0 - MONO_0 + mono, "mono_us": mono, "kind": kind,
            "stage_uid": stage_uid, "device_id": None, "severity": "info", "detail": detail,
        }
        for number, (kind, mono, stage_uid, detail) in enumerate(found)
    ]  # fmt: skip


def make_bundle(out: Path, *, days: float, gpus: int, rapl: bool = False, seed: int = 1) -> int:
    """Write the bundle.

    Returns:
        Rows of power.
    """
    protocol = load_protocol()
    duration_us = int(days * 86_400e6)
    pieces = plan_pieces(duration_us)
    ticks = duration_us // PERIOD_US + 3  # one tick before the first boundary and one after the last
    boundaries = [Boundary(p.start_us) for p in pieces] + [Boundary(pieces[-1].end_us)]
    devices = [Device(number, ticks, pieces, seed) for number in range(gpus)]
    writer = BundleWriter(out, protocol)

    def power() -> Iterator[pa.RecordBatch]:
        for device in devices:
            for block in device.blocks(boundaries):
                node = pa.repeat("node-00", len(block["mono_us"]))
                yield pa.RecordBatch.from_pydict({"node_id": node, **block})

    rows = writer.write_table("power", power())
    manifest = manifest_of(gpus, ticks, rapl)
    writer.write_table("counters", counter_rows(boundaries, gpus, ticks, rapl))
    recorded = pa.Table.from_batches(
        list(counter_rows(boundaries, gpus, ticks, rapl)), protocol.arrow_schema("counters")
    )
    recorded_stages = stage_rows(pieces, boundaries, gpus)
    rules, limits = sampling_rules(protocol, manifest), device_limits(manifest)
    stages = derive(recorded_stages, recorded, power(), rules, limits).stages
    writer.write_table("stages", stages)
    writer.write_table("events", event_rows(pieces, recorded_stages))
    writer.write_manifest(manifest)
    return rows


def main() -> None:
    """Parse the arguments and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the bundle into")
    parser.add_argument("--days", type=float, default=30.0, help="length of the run")
    parser.add_argument("--gpus", type=int, default=8, help="number of devices")
    parser.add_argument("--rapl", action="store_true", help="add two RAPL zones read at every tick")
    parser.add_argument("--seed", type=int, default=1, help="seed of the noise")
    args = parser.parse_args()
    began = time.monotonic()
    rows = make_bundle(args.out, days=args.days, gpus=args.gpus, rapl=args.rapl, seed=args.seed)
    size = sum(path.stat().st_size for path in args.out.rglob("*.parquet"))
    print(f"{args.out}: {rows:,} rows of power, {size / 1e6:.0f} MB, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
