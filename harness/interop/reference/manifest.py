"""The manifest of an import: what the logs say of the run, without paths, users, hosts and job numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from harness import __version__
from harness.accounting import Sampling
from harness.bundle import scrub
from harness.interop.reference.devices import DeviceMap
from harness.interop.reference.judge import Imported
from harness.interop.reference.naming import safe_name
from harness.interop.reference.records import US_PER_S, Environment, RunConfig

_KEPT = (
    "pipeline",
    "experiment.seed",
    "data.dataset_choice",
    "data.max_sequence_length",
    "data.tokenizer_name",
    "model.teacher",
    "model.student",
    "training.batch_size",
    "training.eval_batch_size",
    "training.gradient_accumulation_steps",
    "training.optimizer",
    "training.learning_rate",
    "training.num_epochs",
    "training.save_steps",
    "training.eval_steps",
    "distillation.alpha",
    "distillation.temperature",
    "distillation.top_k_logits",
    "synthetic_data.max_gen_examples",
    "synthetic_data.generation.max_new_tokens",
    "synthetic_data.generation.temperature",
    "synthetic_data.generation.top_p",
    "energy.nvml_poll_interval_ms",
    "energy.total_energy_policy",
)
"""Configuration keys that say what was run. A list of what may pass: the rest holds paths and names of
people."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def build_manifest(
    decided: Sequence[Imported], devices: DeviceMap, sampling: Sampling, *, name: str, ticks: dict[int, int]
) -> dict[str, Any]:
    """Manifest fields but those the writer fills in.

    Args:
        decided: The attempts.
        devices: Nodes and devices they were placed on.
        sampling: Rules with the period of the logs.
        name: Name of the import.
        ticks: Samples with times, by session.
    """
    environments = [item.attempt.folder.environment for item in decided]
    known = [environment for environment in environments if environment is not None]
    estimated = any(item.figures.cpu is not None for item in decided)
    dram = any(item.figures.dram is not None for item in decided)
    labels = ["imported", "wall_clock"]
    labels += ["cpu_estimated"] if estimated else []
    labels += ["several_nodes"] if len({item.place.node_id for item in decided}) > 1 else []
    complete = all(item.attempt.status == "completed" for item in decided)
    return {
        "name": name,
        "method": _method(decided),
        "status": "complete" if complete else "partial",
        "created_t_us": min(item.attempt.start_us for item in decided),
        "labels": sorted(labels),
        "pipeline": {"source": "reference harness", "stages": [_stage_config(item) for item in decided]},
        "hardware": {
            "devices": [device.manifest_entry() for device in devices.devices],
            "cpu_model": _same(environment.cpu_model for environment in known),
            "cpu_count": _same(environment.cpu_count for environment in known),
            "mem_mib": _same(environment.mem_mib for environment in known),
        },
        "software": _software(known),
        "sampling": {
            "nominal_period_us": sampling.nominal_period_us,
            "sampler_version": "reference harness, NVMLPoller thread",
            "clock": "UTC",
            "boundary_mode": "sample",
            "sessions": [_session(item, ticks.get(item.session)) for item in decided],
        },
        "boundary": {
            "gpu": "measured"
            if any(item.figures.gpu or item.attempt.power for item in decided)
            else "absent",
            "cpu": "estimated" if estimated else "absent",
            "dram": "estimated" if dram else "absent",
        },
        "factors": {"pue": None, "region": _region(decided)},
        "reference_tokens": None,
        "shared_node": None,
    }


def run_id_of(decided: Sequence[Imported]) -> str:
    """A ULID that depends on the logs alone: importing them again gives the same run."""
    parts = [
        (
            item.identity.name,
            item.attempt.start_us,
            item.attempt.end_us,
            item.attempt.status,
            item.place.node_id,
        )
        for item in decided
    ]
    digest = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:10], "big")
    milliseconds = min(item.attempt.start_us for item in decided) * 1000 // US_PER_S
    number = (milliseconds % 2**48) << 80 | digest
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _method(decided: Sequence[Imported]) -> str:
    """`kd` if every configuration says so and the teacher's energy is in these logs, else `other`.

    A plain SFT run cannot be told from a synthetic one, and a student without its teacher is no whole
    pipeline.
    """
    pipelines = {str(config.get("pipeline")) for config in _configs(decided)}
    teacher = any(item.identity.kind == "teacher_logits" for item in decided)
    return "kd" if pipelines == {"kd"} and teacher else "other"


def _configs(decided: Sequence[Imported]) -> list[RunConfig]:
    return [item.attempt.folder.config for item in decided if item.attempt.folder.config is not None]


def _stage_config(item: Imported) -> dict[str, Any]:
    config = item.attempt.folder.config
    kept = {} if config is None else {key: config.get(key) for key in _KEPT}
    clean = {
        key: scrub(value) if isinstance(value, str) else value
        for key, value in kept.items()
        if isinstance(value, str | int | float | bool)
    }
    return {"session": item.session, "name": item.identity.name, "config": clean}


def _software(known: Sequence[Environment]) -> dict[str, Any]:
    return {
        "kit_version": __version__,
        "python": _same(environment.python for environment in known),
        "driver": _same(environment.driver for environment in known),
        "cuda": _same(environment.cuda for environment in known),
        "torch": _same(environment.torch for environment in known),
        "git_commit": _same(environment.git_commit for environment in known),
        "git_dirty": _same(environment.git_dirty for environment in known),
        "lock_sha256": None,
        "image_digest": None,
    }


def _session(item: Imported, ticks: int | None) -> dict[str, Any]:
    wall_s = ((item.attempt.tail_end_us or item.attempt.end_us) - item.attempt.start_us) / US_PER_S
    return {
        "session": item.session,
        "ticks": ticks,
        "missed_ticks": None,
        "jitter_p50_us": None,
        "jitter_p95_us": None,
        "jitter_max_us": None,
        "sampler_cpu_s": None,
        "sampler_wall_s": wall_s,
        "scheduling": "thread of the measured process",
    }


def _region(decided: Sequence[Imported]) -> str | None:
    region = _same(config.get("energy.country_iso_code") for config in _configs(decided))
    return safe_name(region) if isinstance(region, str) else None


def _same(values: Iterable[Any]) -> Any:
    """The value all agree on, else None: a manifest says nothing rather than something half true."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
