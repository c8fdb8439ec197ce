"""Readers for the JSON files of the authors' harness: stage records, summaries, environments,
configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.interop.imported import Host, LoggedGpu
from harness.interop.log_files import FIX_FILE, Fields
from harness.interop.reference.records import RecordKind, ReferenceStage, RunConfig

_STAGE_KEYS = ("gpu_energy_joules", "duration_seconds", "gpu_power_samples")


def is_stage_record(value: Mapping[str, Any]) -> bool:
    """True for a stage JSON of any generation (a configuration also has `stage_id`, but no energy)."""
    return ("stage_id" in value or "stage_name" in value) and any(key in value for key in _STAGE_KEYS)


def is_summary(value: Mapping[str, Any]) -> bool:
    """True for an experiment_summary.json, whoever wrote it."""
    return isinstance(value.get("stages"), Mapping) and (
        "experiment_id" in value or "experiment_name" in value
    )


def parse_stage(value: Mapping[str, Any], path: Path, *, in_summary: bool = False) -> ReferenceStage:
    """One stage record of any layout (22 keys, old 19 keys, partial, rebuilt, many nulls).

    Raises:
        KitError: A field has the wrong type or is negative where that is impossible.
    """
    fields = Fields(value, path)
    stage_id = fields.text("stage_id") or fields.text("stage_name") or path.stem
    old = "codecarbon_energy_kwh" in value and "total_codecarbon_energy_kwh" not in value
    return ReferenceStage(
        path=path,
        kind=_record_kind(value, in_summary=in_summary),
        stage_id=stage_id,
        stage_name=fields.text("stage_name") or stage_id,
        start_s=fields.number("start_time"),
        end_s=fields.number("end_time"),
        duration_s=fields.number("duration_seconds", minimum=0.0),
        tokens=fields.count("tokens_processed"),
        gpu_energy_j=fields.number("gpu_energy_joules"),
        gpu_avg_w=fields.number("gpu_avg_power_watts"),
        gpu_peak_w=fields.number("gpu_peak_power_watts"),
        watts=fields.numbers("gpu_power_samples"),
        cpu_energy_j=fields.number("cpu_energy_joules"),
        total_energy_j=fields.number("total_energy_joules"),
        total_energy_kwh=fields.number("total_energy_kwh"),
        codecarbon_total_kwh=fields.number("codecarbon_energy_kwh" if old else "total_codecarbon_energy_kwh"),
        codecarbon_cpu_kwh=fields.number("codecarbon_cpu_energy_kwh"),
        codecarbon_gpu_kwh=fields.number("codecarbon_gpu_energy_kwh"),
        codecarbon_ram_kwh=fields.number("codecarbon_ram_energy_kwh"),
        poll_ms=fields.number("nvml_poll_interval_ms", minimum=0.0),
        snapshot_step=_step(fields.count("snapshot_step"), path),
        old_schema=old,
    )


def parse_summary(value: Mapping[str, Any], path: Path) -> tuple[ReferenceStage, ...]:
    """The stage entries of an experiment summary.

    Raises:
        KitError: An entry is not an object, or one of its fields is malformed.
    """
    records = []
    for key, entry in value["stages"].items():
        if not isinstance(entry, Mapping):
            raise KitError(
                f"stage {key!r} holds a {type(entry).__name__}",
                where=str(path),
                expected="an object with the stage's metrics",
                fix=FIX_FILE,
            )
        records.append(parse_stage({"stage_id": key, **entry}, path, in_summary=True))
    return tuple(records)


def parse_environment(value: Mapping[str, Any], path: Path) -> Host:
    """environment_*.json; the host name is reduced to a digest that never leaves the importer.

    Raises:
        KitError: A section has the wrong shape.
    """
    fields = Fields(value, path)
    cpu, memory = fields.section("cpu"), fields.section("memory")
    software, git = fields.section("software"), fields.section("git_info")
    gpus, total_gb = fields.objects("gpus"), memory.number("total_gb")
    return Host(
        key=hashlib.sha256((fields.text("hostname") or str(path.parent)).encode()).hexdigest(),
        gpus=tuple(_gpu(gpu, position) for position, gpu in enumerate(gpus)),
        cpu_model=cpu.text("brand"),
        cpu_count=cpu.count("logical_cores"),
        mem_mib=None if total_gb is None else round(total_gb * 1024),
        driver=gpus[0].text("driver_version") if gpus else None,
        cuda=software.text("cuda_version"),
        python=software.text("python_version"),
        torch=software.text("pytorch_version"),
        git_commit=git.text("commit_hash"),
        git_dirty=git.flag("is_dirty"),
    )


def parse_config(value: Mapping[str, Any], path: Path) -> RunConfig:
    """config_*.json: {stage_name, stage_id, config}."""
    fields = Fields(value, path)
    stage_id = fields.text("stage_id") or path.parent.name
    config = value.get("config")
    return RunConfig(
        stage_id=stage_id,
        stage_name=fields.text("stage_name") or stage_id,
        values=config if isinstance(config, Mapping) else {},
    )


def _gpu(fields: Fields, position: int) -> LoggedGpu:
    index = fields.count("index")
    return LoggedGpu(
        index=position if index is None else index,
        name=fields.text("name"),
        mem_mib=fields.count("memory_total_mb"),
        power_limit_w=fields.number("power_limit_watts"),
    )


def _record_kind(value: Mapping[str, Any], *, in_summary: bool) -> RecordKind:
    if value.get("snapshot_type") == "reconstructed" or value.get("source") == "power_log_reconstructed":
        return "reconstructed"
    if value.get("snapshot") is True:
        return "snapshot"
    return "summary" if in_summary else "final"


def _step(recorded: int | None, path: Path) -> int | None:
    """Step of a partial record: the field, else the file name (whose text order is not step order)."""
    if recorded is not None:
        return recorded
    _, marker, tail = path.stem.rpartition("step_")
    return int(tail) if marker and tail.isascii() and tail.isdigit() and len(tail) < 16 else None
