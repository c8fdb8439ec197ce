"""`import_reference`: a log folder of the authors' harness becomes a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.accounting import Sampling
from harness.bundle import scrub
from harness.interop.imported import (
    ImportedDevice,
    ImportedRun,
    ImportedStage,
    LoggedGpu,
    Machines,
    info,
    safe_name,
    warning,
)
from harness.interop.reference.attempts import StageRun
from harness.interop.reference.copies import distinct_attempts
from harness.interop.reference.discover import discover
from harness.interop.reference.doubts import examine, sample_doubts
from harness.interop.reference.identity import identify
from harness.interop.reference.records import RunConfig
from harness.interop.write import ImportResult, refuse_used, sampling_of, write_bundle
from harness.spec import load_protocol

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


def import_reference(path: Path, out: Path, *, name: str | None = None) -> ImportResult:
    """Turn a log folder of the authors' harness into a bundle.

    Args:
        path: A stage file, a stage folder, a `stages` folder, a run folder, or a folder with many.
        out: Folder of the bundle; must be empty or absent.
        name: Name of the run in the manifest; the folder's by default.

    Raises:
        KitError: Nothing to import, a malformed file (with its line), or `out` holds something already.
    """
    refuse_used(out)
    tree = discover(path)
    attempts, unplaced, copies = distinct_attempts(tree)
    protocol = load_protocol()
    sampling = sampling_of(protocol, [a.record.poll_s for a in attempts if a.record is not None])
    machines = Machines()
    stages = _stages(attempts, machines, sampling)
    configs = [attempt.folder.config for attempt in attempts if attempt.folder.config is not None]
    regions = {config.get("energy.country_iso_code") for config in configs}
    region = regions.pop() if len(regions) == 1 else None
    run = ImportedRun(
        source="reference harness",
        sampler="reference harness, NVMLPoller thread",
        scheduling="thread of the measured process",
        method=_method(stages, configs),
        stages=stages,
        devices=machines.devices,
        region=region if isinstance(region, str) else None,
        copies=copies,
        unplaced=tuple(
            warning(
                "record_without_time",
                stage=safe_name(record.stage_id),
                recorded_gpu_energy_j=record.gpu_energy_j,
            )
            for record in unplaced
        ),
        ignored_files=tree.ignored,
    )
    return write_bundle(run, out, safe_name(scrub(name or path.resolve().name)), sampling, protocol)


def _stages(attempts: Sequence[StageRun], machines: Machines, sampling: Sampling) -> list[ImportedStage]:
    """Name, place and judge every attempt."""
    counted = {(a.record.tokens, a.record.stage_id) for a in attempts if a.record and a.record.tokens}
    sharing = Counter(count for count, _ in counted)
    stages = []
    for attempt in attempts:
        node_id, devices, gpus = _place(attempt, machines)
        limits_mw = [device.power_limit_mw for device in devices]
        known = [limit for limit in limits_mw if limit is not None]
        limit_w = sum(known) / 1000 if known and len(known) == len(limits_mw) else None
        identity = identify(attempt, limit_w)
        believed = examine(attempt, identity, gpus=gpus, limit_w=limit_w)
        doubts = [*believed.doubts, *sample_doubts(attempt, gpus=gpus, limit_w=limit_w, sampling=sampling)]
        count = None if attempt.record is None else attempt.record.tokens
        if count and sharing[count] > 1 and believed.tokens:
            doubts.append(warning("tokens_repeated", tokens=count, stages=sharing[count]))
        if attempt.folder.name not in (attempt.stage_id, "stages"):
            folder, filed_as = safe_name(attempt.folder.name), safe_name(attempt.stage_id)
            doubts.append(info("stage_name_lost", folder=folder, filed_as=filed_as))
        stages.append(
            ImportedStage(
                name=identity.name,
                kind=identity.kind,
                status=attempt.status,
                node_id=node_id,
                devices=devices,
                start_us=attempt.start_us,
                end_us=attempt.end_us,
                tail_end_us=attempt.tail_end_us,
                samples=attempt.power,
                tokens=believed.tokens,
                gpu=believed.gpu,
                cpu=believed.cpu,
                dram=believed.dram,
                doubts=tuple(doubts),
                config=_config(attempt.folder.config),
                host=attempt.folder.environment,
            )
        )
    protocol = load_protocol()
    if any(stage.kind in protocol.kinds("teacher") for stage in stages):
        return stages
    # Nobody in these logs paid the teacher of these students.
    unpaid = warning("teacher_not_in_logs", stages=len(stages))
    return [
        replace(stage, doubts=(*stage.doubts, unpaid)) if stage.kind in protocol.kinds("student") else stage
        for stage in stages
    ]


def _place(attempt: StageRun, machines: Machines) -> tuple[str, tuple[ImportedDevice, ...], int | None]:
    """Node, devices and the number of GPUs that the logs state."""
    host, emission = attempt.folder.environment, attempt.emission
    gpus: tuple[LoggedGpu, ...] = () if host is None else host.gpus
    number = len({gpu.index for gpu in gpus}) or None
    if not gpus and emission is not None:
        gpus = emission.gpus
        number = emission.gpu_count or len(gpus) or None
    # Logs without an environment file may come from any machine: one unknown node for each run directory.
    key = host.key if host is not None else f"unknown {attempt.folder.run_dir}"
    indices = None if attempt.power is None else attempt.power.gpus
    if attempt.record is None and attempt.power is None and emission is not None and emission.without_gpu:
        indices = ()
    return *machines.place(key, gpus, indices), number


def _config(config: RunConfig | None) -> dict[str, Any]:
    kept = {} if config is None else {key: config.get(key) for key in _KEPT}
    return {key: value for key, value in kept.items() if isinstance(value, str | int | float | bool)}


def _method(stages: Sequence[ImportedStage], configs: Sequence[RunConfig]) -> str:
    """`kd` if every configuration says so and the teacher's energy is in these logs, else `other`.

    A plain SFT run cannot be told from a synthetic one, and a student without its teacher is no whole
    pipeline.
    """
    pipelines = {str(config.get("pipeline")) for config in configs}
    teacher = any(stage.kind == "teacher_logits" for stage in stages)
    return "kd" if pipelines == {"kd"} and teacher else "other"
