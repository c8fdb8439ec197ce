"""Small valid bundles to read, damage and compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.bundle import BundleWriter, canonical_json, file_sha256, logical_digest
from harness.spec import Protocol, load_protocol


def manifest() -> dict[str, Any]:
    """A manifest but for the fields that the writer fills in."""
    unknown = ("driver", "cuda", "torch", "git_commit", "git_dirty", "lock_sha256", "image_digest")
    device = {"device_id": 0, "vendor": "nvidia", "model": "Simulated", "counter_scope": None}
    numbers = ("mem_mib", "power_limit_mw", "default_power_limit_mw")
    switches = ("mig", "persistence", "counter_supported", "instant_supported", "average_supported")
    device |= dict.fromkeys(numbers, 1000) | dict.fromkeys(switches, True)
    session = ("ticks", "missed_ticks", "jitter_p50_us", "jitter_p95_us", "jitter_max_us", "sampler_cpu_s")
    return {
        "name": "small",
        "method": "kd",
        "status": "complete",
        "created_t_us": 1_790_000_000_000_000,
        "labels": ["simulated"],
        "pipeline": {"stages": [{"name": "a"}]},
        "hardware": {"devices": [device], "cpu_model": None, "cpu_count": 2, "mem_mib": None},
        "software": {"kit_version": "0.1.0", "python": "3.11.7", **dict.fromkeys(unknown)},
        "sampling": {
            "nominal_period_us": 500_000,
            "sampler_version": "simulated",
            "clock": "CLOCK_MONOTONIC",
            "sessions": [{"session": 0, **dict.fromkeys(session), "sampler_wall_s": 1.5, "scheduling": None}],
        },
        "boundary": {"gpu": "measured", "cpu": "absent", "dram": "absent"},
        "factors": {"pue": 1.2, "region": None},
        "reference_tokens": None,
        "shared_node": False,
    }


def small_groups(rows: int, parts: int = 1 << 30) -> Protocol:
    """The protocol with row groups of `rows` rows and files of `parts` rows, for tests of their seams."""
    protocol = load_protocol()
    container = replace(protocol.container, row_group_rows=rows, part_rows=parts)
    return replace(protocol, container=container)


def power_rows(
    device: int, session: int, ticks: int, *, node: str = "node-00", seed: int = 0
) -> pa.RecordBatch:
    """Rows of one power series with nulls in every nullable column."""
    rng = np.random.default_rng([seed, device, session])
    columns: dict[str, Any] = {
        "node_id": pa.repeat(node, ticks),
        "device_id": pa.array(np.full(ticks, device, np.int16)),
        "session": pa.array(np.full(ticks, session, np.int16)),
        "t_us": pa.array(1_790_000_000_000_000 + np.arange(ticks) * 500_000 + rng.integers(0, 99, ticks)),
        "mono_us": pa.array(np.arange(ticks) * 500_000 + rng.integers(0, 99, ticks)),
    }
    for name, kind in (
        ("power_mw", pa.int32()), ("power_average_mw", pa.int32()), ("energy_counter_mj", pa.int64()),
        ("util_pct", pa.uint8()), ("mem_used_mib", pa.int32()), ("temp_c", pa.uint8()),
        ("sm_clock_mhz", pa.uint16()), ("throttle_bits", pa.uint64()), ("power_limit_mw", pa.int32()),
        ("read_us", pa.int32()),
    ):  # fmt: skip
        values = rng.integers(0, 200, ticks)
        columns[name] = pa.array(values, kind, mask=rng.random(ticks) < 0.1)
    return pa.RecordBatch.from_pydict(columns)


def stage_row(uid: int = 0, **changes: Any) -> dict[str, Any]:
    """A complete row of stages."""
    return {
        "stage_uid": uid, "name": "train", "stage": "student_train", "attempt": 1, "status": "completed",
        "node_id": "node-00", "session": 0, "clock_id": "c0", "t_start_us": 1, "t_end_us": 2,
        "mono_start_us": 1, "mono_end_us": 2, "boundary_start": 0, "boundary_end": 1, "device_ids": [0, 1],
        "device_start_us": [1, 1], "device_end_us": [2, 2], "device_energy_j": [1.5, 2.5],
        "gpu_energy_j": 4.0, "gpu_energy_method": "counter_tick", "cpu_energy_method": "absent",
        "dram_energy_method": "absent", "samples": 3, "missed_samples": 0, "longest_gap_us": 0, "gap_us": 0,
        "flags": ["short_stage"], "produces": [], "consumes": ["sha256:00"],
    } | changes  # fmt: skip


def write_small(
    folder: Path, protocol: Protocol | None = None, *, ticks: int = 50, **options: Any
) -> BundleWriter:
    """A bundle with two devices, two sessions and a stage."""
    writer = BundleWriter(folder, protocol, **options)
    writer.write_table("power", (power_rows(d, s, ticks) for d in range(2) for s in range(2)))
    writer.write_table("stages", [stage_row()])
    writer.write_manifest(manifest())
    return writer


def digest_files(paths: Sequence[Path], schema: pa.Schema) -> str:
    """Logical digest of a table stored in some files, in the order of their rows."""
    words = [field.name for field in schema if field.type == pa.string()]
    files = [pq.ParquetFile(path, read_dictionary=words) for path in paths]
    return logical_digest((batch for file in files for batch in file.iter_batches(1000)), schema)


def refresh_manifest(folder: Path) -> None:
    """Give a manifest the entries of the files that lie there after one was edited."""
    protocol = load_protocol()
    listed = json.loads((folder / "manifest.json").read_bytes())
    for entry in listed["files"]:
        path = folder / entry["path"]
        table = entry["path"].split("/")[0].removesuffix(".parquet")
        entry |= {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "rows": pq.read_metadata(path).num_rows,
            "logical_sha256": digest_files([path], protocol.arrow_schema(table)),
        }
    (folder / "manifest.json").write_bytes(canonical_json(listed))
