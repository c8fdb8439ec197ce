"""Readers for the JSON files of the authors' harness: stage records, summaries, environments,
configurations."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.interop.reference.records import Environment, Gpu, RecordKind, ReferenceStage, RunConfig

LARGEST = 1e15
"""No figure of a stage is larger in its own unit (1e15 J: a power plant for days); it fits an int64."""

_STAGE_KEYS = ("gpu_energy_joules", "duration_seconds", "gpu_power_samples")


def load_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        KitError: The file cannot be read, is not UTF-8, not JSON, or not an object; names file, line and
        column.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise KitError(
            f"cannot be read ({error.strerror})", where=str(path), fix="check the file's permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise KitError(
            f"byte {error.start} is not UTF-8 text", where=str(path), expected="a JSON file", fix=_MOVE_AWAY
        ) from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise KitError(
            "the file ends in the middle (truncated JSON)" if cut else f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}:{error.colno}",
            expected="a complete JSON object as the harness writes it",
            fix=_MOVE_AWAY,
        ) from error
    except RecursionError as error:
        raise KitError(
            "nested too deeply", where=str(path), expected="a stage record", fix=_MOVE_AWAY
        ) from error
    if not isinstance(value, dict):
        raise KitError(
            f"holds a {type(value).__name__}", where=str(path), expected="a JSON object", fix=_MOVE_AWAY
        )
    return value


_MOVE_AWAY = (
    "copy the file again from the machine that wrote it, or move it out of the folder and import the rest"
)


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
    reader = _Fields(value, path)
    stage_id = reader.text("stage_id") or reader.text("stage_name") or path.stem
    old = "codecarbon_energy_kwh" in value and "total_codecarbon_energy_kwh" not in value
    tokens = reader.number("tokens_processed")
    return ReferenceStage(
        path=path,
        kind=_record_kind(value, in_summary=in_summary),
        stage_id=stage_id,
        stage_name=reader.text("stage_name") or stage_id,
        start_s=reader.number("start_time"),
        end_s=reader.number("end_time"),
        duration_s=reader.number("duration_seconds", minimum=0.0),
        tokens=None if tokens is None else round(tokens),
        gpu_energy_j=reader.number("gpu_energy_joules"),
        gpu_avg_w=reader.number("gpu_avg_power_watts"),
        gpu_peak_w=reader.number("gpu_peak_power_watts"),
        watts=reader.numbers("gpu_power_samples"),
        cpu_energy_j=reader.number("cpu_energy_joules"),
        total_energy_j=reader.number("total_energy_joules"),
        total_energy_kwh=reader.number("total_energy_kwh"),
        codecarbon_total_kwh=reader.number("codecarbon_energy_kwh" if old else "total_codecarbon_energy_kwh"),
        codecarbon_cpu_kwh=reader.number("codecarbon_cpu_energy_kwh"),
        codecarbon_gpu_kwh=reader.number("codecarbon_gpu_energy_kwh"),
        codecarbon_ram_kwh=reader.number("codecarbon_ram_energy_kwh"),
        poll_ms=reader.number("nvml_poll_interval_ms", minimum=0.0),
        snapshot_step=_step(reader.number("snapshot_step"), path),
        old_schema=old,
    )


def parse_summary(value: Mapping[str, Any], path: Path) -> tuple[ReferenceStage, ...]:
    """The stage entries of an experiment summary.

    Raises:
        KitError: An entry is not an object, or one of its fields is malformed.
    """
    stages = value["stages"]
    records = []
    for key, entry in stages.items():
        if not isinstance(entry, Mapping):
            raise KitError(
                f"stage {key!r} holds a {type(entry).__name__}",
                where=str(path),
                expected="an object with the stage's metrics",
                fix=_MOVE_AWAY,
            )
        records.append(parse_stage({"stage_id": key, **entry}, path, in_summary=True))
    return tuple(records)


def parse_environment(value: Mapping[str, Any], path: Path) -> Environment:
    """environment_*.json; the host name is reduced to a digest that never leaves the importer.

    Raises:
        KitError: A section has the wrong shape.
    """
    top = _Fields(value, path)
    cpu, memory = top.section("cpu"), top.section("memory")
    software, git = top.section("software"), top.section("git_info")
    gpus = tuple(_parse_gpu(_Fields(gpu, path), position) for position, gpu in enumerate(top.objects("gpus")))
    first = top.objects("gpus")[:1]
    driver = _Fields(first[0], path).text("driver_version") if first else None
    total_gb = memory.number("total_gb")
    count = cpu.number("logical_cores")
    dirty = git.raw("is_dirty")
    return Environment(
        path=path,
        host_key=hashlib.sha256((top.text("hostname") or str(path.parent)).encode()).hexdigest(),
        gpus=gpus,
        cpu_model=cpu.text("brand"),
        cpu_count=None if count is None else round(count),
        mem_mib=None if total_gb is None else round(total_gb * 1024),
        driver=driver,
        cuda=software.text("cuda_version"),
        python=software.text("python_version"),
        torch=software.text("pytorch_version"),
        transformers=software.text("transformers_version"),
        git_commit=git.text("commit_hash"),
        git_dirty=dirty if isinstance(dirty, bool) else None,
    )


def parse_config(value: Mapping[str, Any], path: Path) -> RunConfig:
    """config_*.json: {stage_name, stage_id, config}."""
    reader = _Fields(value, path)
    stage_id = reader.text("stage_id") or path.parent.name
    config = value.get("config")
    return RunConfig(
        path=path,
        stage_id=stage_id,
        stage_name=reader.text("stage_name") or stage_id,
        values=config if isinstance(config, Mapping) else {},
    )


def _parse_gpu(gpu: _Fields, position: int) -> Gpu:
    index, total, free = gpu.number("index"), gpu.number("memory_total_mb"), gpu.number("memory_free_mb")
    return Gpu(
        index=position if index is None else round(index),
        name=gpu.text("name"),
        memory_total_mib=None if total is None else round(total),
        memory_free_mib=None if free is None else round(free),
        power_limit_w=gpu.number("power_limit_watts"),
    )


def _record_kind(value: Mapping[str, Any], *, in_summary: bool) -> RecordKind:
    if value.get("snapshot_type") == "reconstructed" or value.get("source") == "power_log_reconstructed":
        return "reconstructed"
    if value.get("snapshot") is True:
        return "snapshot"
    return "summary" if in_summary else "final"


def _step(recorded: float | None, path: Path) -> int | None:
    """Step of a partial record: the field, else the file name (whose text order is not step order)."""
    if recorded is not None:
        return round(recorded)
    _, marker, tail = path.stem.rpartition("step_")
    return int(tail) if marker and tail.isascii() and tail.isdigit() and len(tail) < 16 else None


class _Fields:
    """Typed access to one JSON object; a wrong type is an error that names file and field."""

    def __init__(self, value: Mapping[str, Any], path: Path) -> None:
        self._value = value
        self._path = path

    def raw(self, key: str) -> Any:
        return self._value.get(key)

    def text(self, key: str) -> str | None:
        value = self._value.get(key)
        if value is None or isinstance(value, str):
            return value or None
        raise self._wrong(key, value, "text")

    def number(self, key: str, *, minimum: float | None = None) -> float | None:
        value = self._value.get(key)
        if value is None:
            return None
        number = _as_number(value)
        if number is None or abs(number) > LARGEST:
            raise self._wrong(key, value, f"a number up to {LARGEST:g}, or null")
        if minimum is not None and number < minimum:
            raise self._wrong(key, value, f"a number of at least {minimum:g}")
        return number

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self._value.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list of numbers")
        numbers = [_as_number(item) for item in value]
        for position, number in enumerate(numbers):
            if number is None or abs(number) > LARGEST:
                raise self._wrong(f"{key}[{position}]", value[position], f"a number up to {LARGEST:g}")
        return tuple(number for number in numbers if number is not None)

    def section(self, key: str) -> _Fields:
        value = self._value.get(key)
        if value is None:
            return _Fields({}, self._path)
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return _Fields(value, self._path)

    def objects(self, key: str) -> list[Mapping[str, Any]]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self._wrong(key, value, "a list of objects")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> KitError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return KitError(
            f"field {key} is {shown}", where=str(self._path), expected=f"{key}: {expected}", fix=_MOVE_AWAY
        )


def _as_number(value: object) -> float | None:
    """A finite float; text as some tables write it ("47680.0") counts, a boolean does not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
