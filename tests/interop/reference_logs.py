"""Writes small log folders as the authors' harness writes them, every layout, for tests that need no real
logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

T0 = 1_769_400_000.0
KWH = 3_600_000.0

EMISSION_COLUMNS = (
    "timestamp,project_name,run_id,experiment_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,"
    "cpu_energy,gpu_energy,ram_energy,energy_consumed,country_name,country_iso_code,region,cloud_provider,"
    "cloud_region,os,python_version,codecarbon_version,cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,"
    "ram_total_size,tracking_mode,on_cloud,pue"
)


def stage_record(
    stage_id: str, *, start: float = T0, seconds: float = 100.0, **changes: Any
) -> dict[str, Any]:
    """A 22-key stage JSON of 200 W for `seconds`, consistent in itself."""
    gpu_j, cpu_j = 200.0 * seconds, 20.0 * seconds
    record: dict[str, Any] = {
        "stage_id": stage_id,
        "stage_name": stage_id,
        "start_time": start,
        "end_time": start + seconds,
        "duration_seconds": seconds,
        "tokens_processed": 5000,
        "gpu_energy_joules": gpu_j,
        "gpu_avg_power_watts": 200.0,
        "gpu_peak_power_watts": 210.0,
        "gpu_power_samples": [200.0] * int(seconds * 2),
        "total_codecarbon_energy_kwh": (gpu_j + cpu_j + seconds) / KWH,
        "codecarbon_emissions_kg": 0.001,
        "codecarbon_cpu_energy_kwh": cpu_j / KWH,
        "codecarbon_gpu_energy_kwh": gpu_j / KWH,
        "codecarbon_ram_energy_kwh": seconds / KWH,
        "cpu_energy_joules": cpu_j,
        "total_energy_joules": gpu_j + cpu_j,
        "total_energy_kwh": (gpu_j + cpu_j) / KWH,
        "joules_per_token": (gpu_j + cpu_j) / 5000,
        "kwh_total": (gpu_j + cpu_j) / KWH,
        "tokens_per_second": 5000 / seconds,
        "nvml_poll_interval_ms": 500,
    }
    return record | changes


def old_record(stage_id: str, **changes: Any) -> dict[str, Any]:
    """The 19-key layout: one CodeCarbon energy, CPU energy 0."""
    record = stage_record(stage_id, cpu_energy_joules=0.0)
    for key in [key for key in record if key.startswith(("codecarbon_", "total_codecarbon"))]:
        del record[key]
    return record | {"codecarbon_energy_kwh": 0.001, "codecarbon_emissions_kg": 0.0001} | changes


def snapshot(stage_id: str, step: int, *, seconds: float, **changes: Any) -> dict[str, Any]:
    """A partial record; its CodeCarbon block is zero, as when no earlier run has written one."""
    block = {key: 0.0 for key in stage_record(stage_id) if "codecarbon" in key} | {"cpu_energy_joules": 0.0}
    extra = {
        "snapshot": True,
        "snapshot_type": "checkpoint",
        "snapshot_step": step,
        "snapshot_time": "2026-01-27T20:22:06.885590",
        "tokens_processed": step * 10,
    }
    return stage_record(stage_id, seconds=seconds) | block | extra | changes


class HarnessRun:
    """One run directory of the harness."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage_dir(self, name: str) -> Path:
        folder = self.root / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def stage(self, record: Mapping[str, Any], *, folder: str | None = None) -> Path:
        """Write a stage JSON or a partial record where the harness puts it."""
        stage_id = str(record["stage_id"])
        suffix = f"__step_{record['snapshot_step']}" if record.get("snapshot") is True else ""
        path = self.stage_dir(folder or stage_id) / f"{stage_id}{suffix}.json"
        return self.write_json(path, record)

    def flat(self, record: Mapping[str, Any]) -> Path:
        """Write the older layout: stages/<id>.json."""
        (self.root / "stages").mkdir(parents=True, exist_ok=True)
        return self.write_json(self.root / "stages" / f"{record['stage_id']}.json", record)

    def summary(self, *records: Mapping[str, Any], folder: str | None = None) -> Path:
        """Write an experiment_summary.json into the run directory or a stage folder."""
        stages = {
            str(r["stage_id"]): {k: v for k, v in r.items() if k != "gpu_power_samples"} for r in records
        }
        summary = {"experiment_id": "e_1", "experiment_name": "e", "stages": stages}
        self.root.mkdir(parents=True, exist_ok=True)
        parent = self.root if folder is None else self.stage_dir(folder)
        return self.write_json(parent / "experiment_summary.json", summary)

    def config(self, name: str, *, stage_name: str | None = None, **values: Any) -> Path:
        config = {
            "output": {"run_dir": "/home/alice/secret-project/logs"},
            "data": {"dataset_path": "/scratch/alice/data", "dataset_choice": "tulu"},
            "pipeline": "kd",
            "energy": {"country_iso_code": "CAN"},
        }
        body = {"stage_name": stage_name or name, "stage_id": name, "config": config | values}
        return self.write_json(self.stage_dir(name) / f"config_{name}__{name}.json", body)

    def environment(
        self, name: str, *, gpus: int = 1, host: str = "nodename42", limit_w: float = 700.0
    ) -> Path:
        gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_total_mb": 81559.0, "driver_version": "570.148.08"}
        body = {
            "hostname": host,
            "gpus": [{"index": i, "power_limit_watts": limit_w, **gpu} for i in range(gpus)],
            "cpu": {"brand": "Intel(R) Xeon(R) Gold 6442Y", "logical_cores": 48},
            "memory": {"total_gb": 2015.4},
            "software": {
                "python_version": "3.10.13",
                "pytorch_version": "2.6.0+cu124",
                "cuda_version": "12.4",
            },
            "git_info": {
                "commit_hash": "1003a3d8",
                "is_dirty": True,
                "remote_url": "https://host.invalid/alice/x",
            },
            "slurm_info": {"job_id": "1985933", "node_name": host},
        }
        return self.write_json(self.stage_dir(name) / f"environment_{name}__{name}.json", body)

    def power(
        self,
        name: str,
        rows: Sequence[tuple[float, Sequence[float]]],
        *,
        header: bool = True,
        append: bool = False,
        gpus: Sequence[int] | None = None,
    ) -> Path:
        """Write rows of (unix seconds, watts of each GPU) as csv.writer does, CRLF included."""
        path = self.stage_dir(name) / "power_log.csv"
        ids = list(gpus) if gpus is not None else list(range(len(rows[0][1])))
        lines = []
        if header:
            lines.append(",".join(["timestamp", *[f"gpu_{i}_power_w" for i in ids], "total_power_w"]))
        lines += [",".join([repr(t), *map(repr, watts), repr(sum(watts))]) for t, watts in rows]
        with path.open("a" if append else "w", newline="") as file:
            file.write("".join(line + "\r\n" for line in lines))
        return path

    def emissions(self, *rows: Mapping[str, Any], columns: str = EMISSION_COLUMNS) -> Path:
        folder = self.root / "codecarbon"
        folder.mkdir(parents=True, exist_ok=True)
        names = columns.split(",")
        lines = [columns, *[",".join(str(row.get(name, "")) for name in names) for row in rows]]
        path = folder / "emissions.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    @staticmethod
    def write_json(path: Path, body: Mapping[str, Any]) -> Path:
        path.write_text(json.dumps(body, indent=2))
        return path


def emission(
    project: str, *, seconds: float = 100.0, ended: str = "2026-01-25T23:01:40", **changes: Any
) -> dict[str, Any]:
    """A CodeCarbon row that fits `stage_record` (its end, T0 + 100 s, in a zone five hours behind UTC)."""
    row = {
        "timestamp": ended,
        "project_name": project,
        "duration": seconds + 1.5,
        "cpu_power": 20.0,
        "cpu_energy": 20.0 * seconds / KWH,
        "gpu_energy": 200.0 * seconds / KWH,
        "ram_energy": seconds / KWH,
        "energy_consumed": 221.0 * seconds / KWH,
        "codecarbon_version": "3.2.1",
        "tracking_mode": "process",
        "cpu_model": "AMD EPYC 9654",
        "cpu_count": 16,
        "gpu_count": 1,
        "gpu_model": "1 x NVIDIA H100 80GB HBM3",
        "python_version": "3.11.5",
        "os": "Linux-5.14.0-570.52.1.el9_6.x86_64",
    }
    return row | changes


def even_rows(
    start: float, seconds: float, watts: Sequence[float], period: float = 0.5
) -> list[tuple[float, list[float]]]:
    """Samples at a steady period over [start, start + seconds]."""
    return [(start + i * period, list(watts)) for i in range(int(seconds / period) + 1)]
