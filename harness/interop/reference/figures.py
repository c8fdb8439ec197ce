"""What may be stored of a record, and why not more: tokens, CPU and DRAM energy, GPU total, each with its
doubts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.interop.reference.attempts import Attempt
from harness.interop.reference.imported import (
    ImportedEnergy,
    bound_codecarbon_total,
    bound_recorded_total,
)
from harness.interop.reference.naming import Identity, TokenColumn, token_column
from harness.interop.reference.records import J_PER_KWH, US_PER_S, Doubt, ReferenceStage

ESTIMATE_HIGH = 2.0
"""An estimate of CodeCarbon is stated as 0 ... 2 x itself, as the accounting states it for our own runs."""

LEAST_CPU_W = 5.0
"""Below this a host that feeds a GPU cannot be: published logs hold 4.2 W and 0.4 W beside 21-42 W."""
MOST_CPU_W = 2_000.0
FALLBACK_CPU_W = 42.5
"""CodeCarbon's constant for a CPU it does not know: half of 85 W."""
_SAME = 0.02


@dataclass(frozen=True, slots=True)
class PartFigure:
    """CPU or DRAM energy of a stage, joules."""

    energy_j: float
    low_j: float
    high_j: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a stage row takes from its record.

    Attributes:
        gpu: The recorded GPU total with its interval; None when samples speak, or nothing is known.
    """

    tokens: Mapping[TokenColumn, int] = field(default_factory=dict)
    gpu: ImportedEnergy | None = None
    cpu: PartFigure | None = None
    dram: PartFigure | None = None
    doubts: tuple[Doubt, ...] = ()


def examine(attempt: Attempt, identity: Identity, *, gpus: int | None, limit_w: float | None) -> Figures:
    """Decide what to believe of an attempt.

    Args:
        attempt: The run.
        identity: Its name and kind.
        gpus: Number of GPUs, None if unknown.
        limit_w: Their power limits together, W.
    """
    doubts: list[Doubt] = [Doubt("wall_clock", "info", {"clock": "unix time of the host"})]
    if not identity.certain:
        doubts.append(
            Doubt("kind_guessed", "warning", {"kind": identity.kind, "from_name": identity.evidence})
        )
    doubts.extend(_record_doubts(attempt))
    if gpus is None:
        doubts.append(Doubt("hardware_unknown", "warning", {"assumed_gpus": 1}))
    tokens = _tokens(attempt, identity.kind, doubts)
    gpu = _gpu(attempt, gpus, limit_w, doubts)
    cpu, dram = _cpu_and_dram(attempt, doubts)
    return Figures(tokens, gpu, cpu, dram, (*attempt.doubts, *doubts))


def _record_doubts(attempt: Attempt) -> list[Doubt]:
    record = attempt.record
    if record is None:
        return []
    found = []
    if record.kind == "snapshot":
        observed: dict[str, object] = {
            "step": record.snapshot_step,
            "partial_records": len(attempt.snapshots),
        }
        if attempt.tail_end_us is not None:
            observed["went_on_for_s"] = (attempt.tail_end_us - attempt.end_us) / US_PER_S
        found.append(Doubt("snapshot", "warning", observed))
    if record.kind == "reconstructed":
        found.append(Doubt("reconstructed", "warning", {"recorded_tokens": record.tokens}))
    if record.old_schema:
        found.append(Doubt("old_schema", "info", {"codecarbon_total_kwh": record.codecarbon_total_kwh}))
    if record.duration_s is not None and abs(record.duration_s - attempt.duration_s) > 1.0:
        observed = {"duration_s": record.duration_s, "end_minus_start_s": attempt.duration_s}
        found.append(Doubt("duration_differs", "warning", observed))
    total_j, total_kwh = record.total_energy_j, record.total_energy_kwh
    if total_j and total_kwh and not math.isclose(total_kwh * J_PER_KWH, total_j, rel_tol=1e-3):
        found.append(
            Doubt("units_differ", "error", {"total_energy_j": total_j, "total_energy_kwh": total_kwh})
        )
    return found


def _tokens(attempt: Attempt, kind: str, doubts: list[Doubt]) -> dict[TokenColumn, int]:
    """The harness has one count; which of ours it is depends on the kind, and 0 means that nobody counted."""
    record = attempt.record
    count = None if record is None else record.tokens
    column = token_column(kind)
    if not count or count < 0:
        doubts.append(Doubt("tokens_unknown", "warning", {"recorded_tokens": count}))
        return {}
    if kind == "preprocess":
        doubts.append(Doubt("tokens_are_examples", "warning", {"examples": count}))
        return {}
    if column is None:
        doubts.append(Doubt("tokens_unknown", "warning", {"recorded_tokens": count, "kind": kind}))
        return {}
    if record is not None and record.kind == "reconstructed":
        # The rebuilding script takes the text-wise last partial record, often not the last one.
        doubts.append(Doubt("tokens_reconstructed", "error", {"recorded_tokens": count}))
        return {}
    if column == "tokens_generated":
        doubts.append(_generation_doubt(attempt, count))
    else:
        doubts.append(Doubt("tokens_repeat_epochs", "info", {"label_tokens_over_all_passes": count}))
    return {column: count}


def _generation_doubt(attempt: Attempt, count: int) -> Doubt:
    """Generated slices are counted with their padding; where the cap is on record the excess shows."""
    config = attempt.folder.config
    prompts = config.get("synthetic_data.max_gen_examples") if config is not None else None
    cap = config.get("synthetic_data.generation.max_new_tokens") if config is not None else None
    observed: dict[str, object] = {"tokens": count, "prompts": None, "cap_tokens_per_prompt": None}
    if isinstance(prompts, int) and isinstance(cap, int) and prompts > 0:
        observed = {
            "tokens": count,
            "prompts": prompts,
            "cap_tokens_per_prompt": cap,
            "tokens_per_prompt": count / prompts,
        }
        if count > prompts * cap:
            return Doubt("tokens_above_cap", "error", observed)
    return Doubt("tokens_include_padding", "warning", observed)


def _gpu(
    attempt: Attempt, gpus: int | None, limit_w: float | None, doubts: list[Doubt]
) -> ImportedEnergy | None:
    record, emission = attempt.record, attempt.emission
    energy = None if record is None else record.gpu_energy_j
    if energy is not None and energy < 0:
        doubts.append(Doubt("gpu_negative", "error", {"recorded_gpu_energy_j": energy}))
        energy = None
    if attempt.power is not None:
        return None
    from_codecarbon = False
    if not energy and emission is not None and emission.gpu_kwh and emission.gpu_kwh > 0:
        energy, from_codecarbon = emission.gpu_kwh * J_PER_KWH, True
        doubts.append(Doubt("gpu_from_codecarbon", "warning", {"codecarbon_gpu_kwh": emission.gpu_kwh}))
    if not energy:
        doubts.append(Doubt("gpu_unknown", "error", {"recorded_gpu_energy_j": energy}))
        return None
    if from_codecarbon:
        return bound_codecarbon_total(energy, attempt.duration_s)
    watts = () if record is None else record.watts
    if watts and gpus is not None and gpus > 1:
        doubts.append(Doubt("multi_gpu_summed", "warning", {"gpus": gpus}))
    imported = bound_recorded_total(
        energy,
        attempt.duration_s,
        watts,
        period_s=None if record is None else record.poll_s,
        limit_w=limit_w,
        peak_w=None if record is None else record.gpu_peak_w,
    )
    observed = {"readings": len(watts), "unsampled_s": imported.unsampled_us / US_PER_S}
    doubts.append(Doubt("no_sample_times", "warning", observed))
    mean_w = math.fsum(watts) / len(watts) if watts else None
    if mean_w and not math.isclose(mean_w * attempt.duration_s, energy, rel_tol=0.2):
        from_mean = mean_w * attempt.duration_s
        doubts.append(
            Doubt(
                "gpu_energy_vs_watts",
                "warning",
                {"recorded_gpu_energy_j": energy, "mean_x_time_j": from_mean},
            )
        )
    return imported


def _cpu_and_dram(attempt: Attempt, doubts: list[Doubt]) -> tuple[PartFigure | None, PartFigure | None]:
    record, emission = attempt.record, attempt.emission
    if emission is not None:
        observed = {"version": emission.version, "tracking_mode": emission.tracking_mode}
        doubts.append(Doubt("codecarbon_version", "info", observed))
    if record is None:
        cpu_kwh = None if emission is None else emission.cpu_kwh
        ram_kwh = None if emission is None else emission.ram_kwh
        cpu_j = None if cpu_kwh is None else cpu_kwh * J_PER_KWH
    else:
        cpu_j, cpu_kwh, ram_kwh = record.cpu_energy_j, record.codecarbon_cpu_kwh, record.codecarbon_ram_kwh
    stale = None if record is None else _stale_block(attempt, record)
    if cpu_j is not None and cpu_j < 0:
        # The harness unwraps the sum of packages with one package's range.
        doubts.append(Doubt("rapl_negative", "error", {"recorded_cpu_energy_j": cpu_j}))
        cpu_j = None
    elif not cpu_j:
        doubts.append(Doubt("cpu_unknown", "info", {"recorded_cpu_energy_j": cpu_j}))
        cpu_j = None
    from_codecarbon = (
        cpu_j is not None
        and bool(cpu_kwh)
        and math.isclose(cpu_j, (cpu_kwh or 0.0) * J_PER_KWH, rel_tol=1e-6)
    )
    if stale is not None:
        doubts.append(stale)
        ram_kwh = None
        cpu_j = None if from_codecarbon else cpu_j
    cpu = None if cpu_j is None else _cpu(cpu_j, attempt, from_codecarbon, doubts)
    if not ram_kwh or ram_kwh < 0:
        return cpu, None
    ram_j = ram_kwh * J_PER_KWH
    mean_w = ram_j / attempt.duration_s if attempt.duration_s > 0 else None
    doubts.append(Doubt("dram_estimated", "info", {"codecarbon_ram_kwh": ram_kwh, "mean_w": mean_w}))
    return cpu, PartFigure(ram_j, 0.0, ESTIMATE_HIGH * ram_j)


def _cpu(cpu_j: float, attempt: Attempt, from_codecarbon: bool, doubts: list[Doubt]) -> PartFigure:
    watts = cpu_j / attempt.duration_s if attempt.duration_s > 0 else math.inf
    high = ESTIMATE_HIGH * cpu_j
    if not LEAST_CPU_W <= watts <= MOST_CPU_W:
        doubts.append(Doubt("cpu_watts_implausible", "warning", {"mean_w": watts if watts < 1e9 else None}))
        high = max(high, ESTIMATE_HIGH * LEAST_CPU_W * attempt.duration_s)
    if from_codecarbon:
        doubts.append(Doubt("cpu_from_codecarbon", "info", {"mean_w": watts if watts < 1e9 else None}))
        mode = None if attempt.emission is None else attempt.emission.tracking_mode
        if math.isclose(watts, FALLBACK_CPU_W, rel_tol=_SAME):
            doubts.append(Doubt("cpu_constant_fallback", "warning", {"mean_w": watts}))
        if mode == "machine":
            doubts.append(Doubt("cpu_of_whole_node", "warning", {"tracking_mode": mode}))
        return PartFigure(cpu_j, 0.0, high)
    # Only two RAPL readings a stage, wraps counted at most once: the figure may lack any number of wraps.
    doubts.append(Doubt("rapl_two_readings", "warning", {"recorded_cpu_energy_j": cpu_j, "mean_w": watts}))
    return PartFigure(cpu_j, 0.0, max(high, MOST_CPU_W * attempt.duration_s))


def _stale_block(attempt: Attempt, record: ReferenceStage) -> Doubt | None:
    """The CodeCarbon figures of a record that cannot be this run's own, or None.

    A partial record reads emissions.csv before the running tracker has written to it, so what it finds is
    an earlier run's row of the same project. A final record is checked against its own GPU energy.
    """
    block = record.codecarbon_block
    if not any(block):
        return None
    gpu_kwh, gpu_j = record.codecarbon_gpu_kwh, record.gpu_energy_j
    observed: dict[str, object] = {
        "codecarbon_cpu_kwh": record.codecarbon_cpu_kwh,
        "codecarbon_gpu_kwh": gpu_kwh,
        "recorded_gpu_kwh": None if gpu_j is None else gpu_j / J_PER_KWH,
    }
    if record.kind == "snapshot":
        blocks = {snapshot.codecarbon_block for snapshot in attempt.snapshots}
        if len(blocks) > 1:
            return None
        observed["constant_over_partial_records"] = len(attempt.snapshots)
        return Doubt("codecarbon_stale", "error", observed)
    long_enough = attempt.duration_s > 60.0
    if long_enough and gpu_kwh and gpu_j and not math.isclose(gpu_kwh * J_PER_KWH, gpu_j, rel_tol=0.2):
        return Doubt("codecarbon_stale", "error", observed)
    return None
