"""What may be stored of a record, and why not more: tokens, CPU and DRAM energy, GPU total, each with its
doubts; and what the samples say of a run.

The harness has one token count; what it meant depends on the kind: label tokens in training and caching,
sampled tokens with padding in generation, examples in preprocessing, nothing in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.accounting import PowerIntegral, Sampling, integrate_power
from harness.accounting.rounding import J_PER_KWH
from harness.interop.bounds import ESTIMATE_HIGH, bound_codecarbon_total, bound_estimate, bound_recorded_total
from harness.interop.codecarbon import emission_doubts
from harness.interop.imported import (
    TOTAL_ONLY,
    US_PER_S,
    Doubt,
    Samples,
    StatedEnergy,
    error,
    info,
    warning,
)
from harness.interop.reference.attempts import StageRun
from harness.interop.reference.identity import Identity
from harness.interop.reference.records import ReferenceStage

LEAST_CPU_W = 5.0
"""Below this a host that feeds a GPU cannot be: published logs hold 4.2 W and 0.4 W beside 21-42 W."""
MOST_CPU_W = 2_000.0
FALLBACK_CPU_W = 42.5
"""CodeCarbon's constant for a CPU it does not know: half of 85 W."""

_DISAGREE_REL = 0.01

_TOKEN_COLUMN = {
    "teacher_logits": "tokens_trained",
    "student_train": "tokens_trained",
    "teacher_generate": "tokens_generated",
}


@dataclass(frozen=True, slots=True)
class Believed:
    """What a stage row takes from its record.

    Attributes:
        tokens: Count by column of `stages`.
        gpu: The recorded GPU total with its interval; None when samples speak, or nothing is known.
    """

    tokens: Mapping[str, int]
    gpu: StatedEnergy | None
    cpu: StatedEnergy | None
    dram: StatedEnergy | None
    doubts: tuple[Doubt, ...]


def examine(attempt: StageRun, identity: Identity, *, gpus: int | None, limit_w: float | None) -> Believed:
    """Decide what to believe of an attempt."""
    doubts = [info("wall_clock", clock="unix time of the host")]
    if not identity.certain:
        doubts.append(warning("kind_guessed", kind=identity.kind, from_name=identity.evidence))
    if attempt.record is not None:
        doubts.extend(_record_doubts(attempt, attempt.record))
    if gpus is None:
        doubts.append(warning("hardware_unknown", assumed_gpus=1))
    tokens = _tokens(attempt, identity.kind, doubts)
    gpu = _gpu(attempt, gpus, limit_w, doubts)
    cpu, dram = _cpu_and_dram(attempt, doubts)
    return Believed(tokens, gpu, cpu, dram, (*attempt.doubts, *doubts))


def _record_doubts(attempt: StageRun, record: ReferenceStage) -> list[Doubt]:
    found = []
    if record.kind == "snapshot":
        observed: dict[str, object] = {
            "step": record.snapshot_step,
            "partial_records": len(attempt.snapshots),
        }
        if attempt.tail_end_us is not None:
            observed["went_on_for_s"] = (attempt.tail_end_us - attempt.end_us) / US_PER_S
        found.append(warning("snapshot", **observed))
    if record.kind == "reconstructed":
        found.append(warning("reconstructed", recorded_tokens=record.tokens))
    if record.old_schema:
        found.append(info("old_schema", codecarbon_total_kwh=record.codecarbon_total_kwh))
    if record.duration_s is not None and abs(record.duration_s - attempt.duration_s) > 1.0:
        found.append(
            warning("duration_differs", duration_s=record.duration_s, end_minus_start_s=attempt.duration_s)
        )
    total_j, total_kwh = record.total_energy_j, record.total_energy_kwh
    if total_j and total_kwh and not math.isclose(total_kwh * J_PER_KWH, total_j, rel_tol=1e-3):
        found.append(error("units_differ", total_energy_j=total_j, total_energy_kwh=total_kwh))
    return found


def _tokens(attempt: StageRun, kind: str, doubts: list[Doubt]) -> dict[str, int]:
    """Which of our columns the count belongs to; 0 means that nobody counted."""
    record = attempt.record
    count = None if record is None else record.tokens
    column = _TOKEN_COLUMN.get(kind)
    if not count or count < 0:
        doubts.append(warning("tokens_unknown", recorded_tokens=count))
    elif kind == "preprocess":
        doubts.append(warning("tokens_are_examples", examples=count))
    elif column is None:
        doubts.append(warning("tokens_unknown", recorded_tokens=count, kind=kind))
    elif record is not None and record.kind == "reconstructed":
        # The rebuilding script takes the text-wise last partial record, often not the last one.
        doubts.append(error("tokens_reconstructed", recorded_tokens=count))
    else:
        generated = column == "tokens_generated"
        doubts.append(
            _generation_doubt(attempt, count)
            if generated
            else info("tokens_repeat_epochs", label_tokens_over_all_passes=count)
        )
        return {column: count}
    return {}


def _generation_doubt(attempt: StageRun, count: int) -> Doubt:
    """Generated slices are counted with their padding; where the cap is on record the excess shows."""
    config = attempt.folder.config
    prompts = config and config.get("synthetic_data.max_gen_examples")
    cap = config and config.get("synthetic_data.generation.max_new_tokens")
    if not (isinstance(prompts, int) and isinstance(cap, int) and prompts > 0):
        return warning("tokens_include_padding", tokens=count, prompts=None, cap_tokens_per_prompt=None)
    doubt, flag = (
        (error, "tokens_above_cap") if count > prompts * cap else (warning, "tokens_include_padding")
    )
    return doubt(
        flag, tokens=count, prompts=prompts, cap_tokens_per_prompt=cap, tokens_per_prompt=count / prompts
    )


def _gpu(
    attempt: StageRun, gpus: int | None, limit_w: float | None, doubts: list[Doubt]
) -> StatedEnergy | None:
    record, emission = attempt.record, attempt.emission
    energy = None if record is None else record.gpu_energy_j
    if energy is not None and energy < 0:
        doubts.append(error("gpu_negative", recorded_gpu_energy_j=energy))
        energy = None
    if attempt.power is not None:
        return None
    if not energy and emission is not None and emission.gpu_kwh and emission.gpu_kwh > 0:
        doubts.append(warning("gpu_from_codecarbon", codecarbon_gpu_kwh=emission.gpu_kwh))
        return bound_codecarbon_total(emission.gpu_kwh * J_PER_KWH, attempt.duration_s)
    if record is None and emission is not None and emission.without_gpu:
        return None
    if not energy or record is None:
        doubts.append(error("gpu_unknown", recorded_gpu_energy_j=energy))
        return None
    watts = record.watts
    if watts and gpus is not None and gpus > 1:
        doubts.append(warning("multi_gpu_summed", gpus=gpus))
    stated = bound_recorded_total(
        energy,
        attempt.duration_s,
        watts,
        period_s=record.poll_s,
        limit_w=limit_w,
        peak_w=record.gpu_peak_w,
    )
    doubts.append(warning("no_sample_times", readings=len(watts), unsampled_s=stated.unsampled_us / US_PER_S))
    mean_j = math.fsum(watts) / len(watts) * attempt.duration_s if watts else None
    if watts and mean_j is not None and math.fsum(watts) and not math.isclose(mean_j, energy, rel_tol=0.2):
        doubts.append(warning("gpu_energy_vs_watts", recorded_gpu_energy_j=energy, mean_x_time_j=mean_j))
    return stated


def _cpu_and_dram(attempt: StageRun, doubts: list[Doubt]) -> tuple[StatedEnergy | None, StatedEnergy | None]:
    record, emission = attempt.record, attempt.emission
    cpu_j = cpu_kwh = ram_kwh = stale = None
    if emission is not None:
        doubts += emission_doubts(emission)
        cpu_kwh, ram_kwh = emission.cpu_kwh, emission.ram_kwh
        cpu_j = None if cpu_kwh is None else cpu_kwh * J_PER_KWH
    if record is not None:
        cpu_j, cpu_kwh, ram_kwh = record.cpu_energy_j, record.codecarbon_cpu_kwh, record.codecarbon_ram_kwh
        stale = _stale_block(attempt, record)
    if cpu_j is not None and cpu_j < 0:
        # The harness unwraps the sum of packages with one package's range.
        doubts.append(error("rapl_negative", recorded_cpu_energy_j=cpu_j))
        cpu_j = None
    elif not cpu_j:
        doubts.append(info("cpu_unknown", recorded_cpu_energy_j=cpu_j))
        cpu_j = None
    from_codecarbon = bool(cpu_j and cpu_kwh) and math.isclose(
        cpu_j or 0.0, (cpu_kwh or 0.0) * J_PER_KWH, rel_tol=1e-6
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
    doubts.append(info("dram_estimated", codecarbon_ram_kwh=ram_kwh, mean_w=mean_w))
    return cpu, bound_estimate(ram_j)


def _cpu(cpu_j: float, attempt: StageRun, from_codecarbon: bool, doubts: list[Doubt]) -> StatedEnergy:
    watts = cpu_j / attempt.duration_s if attempt.duration_s > 0 else math.inf
    shown_w = watts if watts < 1e9 else None
    least_high_j = 0.0
    if not LEAST_CPU_W <= watts <= MOST_CPU_W:
        doubts.append(warning("cpu_watts_implausible", mean_w=shown_w))
        least_high_j = ESTIMATE_HIGH * LEAST_CPU_W * attempt.duration_s
    if from_codecarbon:
        doubts.append(info("cpu_from_codecarbon", mean_w=shown_w))
        if math.isclose(watts, FALLBACK_CPU_W, rel_tol=0.02):
            doubts.append(warning("cpu_constant_fallback", mean_w=watts))
        if attempt.emission is not None and attempt.emission.tracking_mode == "machine":
            doubts.append(warning("cpu_of_whole_node", tracking_mode="machine"))
        return bound_estimate(cpu_j, least_high_j=least_high_j)
    # Only two RAPL readings a stage, wraps counted at most once: the figure may lack any number of wraps.
    doubts.append(warning("rapl_two_readings", recorded_cpu_energy_j=cpu_j, mean_w=watts))
    return bound_estimate(cpu_j, least_high_j=max(least_high_j, MOST_CPU_W * attempt.duration_s))


def _stale_block(attempt: StageRun, record: ReferenceStage) -> Doubt | None:
    """The CodeCarbon figures of a record that cannot be this run's own, or None.

    A partial record reads emissions.csv before the running tracker has written to it, so what it finds is
    an earlier run's row of the same project. A final record is checked against its own GPU energy.
    """
    gpu_kwh, gpu_j = record.codecarbon_gpu_kwh, record.gpu_energy_j
    observed: dict[str, object] = {
        "codecarbon_cpu_kwh": record.codecarbon_cpu_kwh,
        "codecarbon_gpu_kwh": gpu_kwh,
        "recorded_gpu_kwh": None if gpu_j is None else gpu_j / J_PER_KWH,
    }
    if not any(record.codecarbon_block):
        return None
    if record.kind == "snapshot":
        if len({snapshot.codecarbon_block for snapshot in attempt.snapshots}) > 1:
            return None
        observed["constant_over_partial_records"] = len(attempt.snapshots)
        return error("codecarbon_stale", **observed)
    long_enough = attempt.duration_s > 60.0
    if long_enough and gpu_kwh and gpu_j and not math.isclose(gpu_kwh * J_PER_KWH, gpu_j, rel_tol=0.2):
        return error("codecarbon_stale", **observed)
    return None


def sample_doubts(
    attempt: StageRun, *, gpus: int | None, limit_w: float | None, sampling: Sampling
) -> list[Doubt]:
    """Doubts about the samples of an attempt."""
    power = attempt.power
    if power is None:
        return []
    found = []
    if power.gpus == (TOTAL_ONLY,):
        if gpus not in (None, 1):
            found.append(warning("multi_gpu_summed", gpus=gpus))
    elif gpus is not None and len(power.gpus) != gpus:
        found.append(warning("gpu_count_differs", in_power_log=len(power.gpus), in_environment=gpus))
    if power.steps_back:
        found.append(warning("clock_step", steps_back=power.steps_back))
    integral = _total_integral(power, attempt.start_us, attempt.end_us, limit_w, sampling)
    if integral is None or integral.energy_j is None:
        return found
    if integral.gap_us:
        inside = power.between(attempt.start_us, attempt.end_us)
        found.append(
            warning(
                "gap",
                gaps=int(np.count_nonzero(np.diff(inside.t_us) > sampling.gap_us)),
                gap_s=integral.gap_us / US_PER_S,
                longest_gap_s=integral.longest_gap_us / US_PER_S,
                share_of_stage=integral.gap_us / max(1, attempt.end_us - attempt.start_us),
                energy_in_gaps_j=integral.energy_in_gaps_j,
                energy_in_gaps_j_low_at_least_power_seen=integral.gap_low_j,
                energy_in_gaps_j_high=integral.gap_high_j,
            )
        )
    recorded = None if attempt.record is None else attempt.record.gpu_energy_j
    if recorded and not math.isclose(recorded, integral.energy_j, rel_tol=_DISAGREE_REL):
        found.append(
            warning("recorded_differs", recorded_gpu_energy_j=recorded, integral_j=integral.energy_j)
        )
    return found


def _total_integral(
    power: Samples, start_us: int, end_us: int, limit_w: float | None, sampling: Sampling
) -> PowerIntegral | None:
    """Power integral over all GPUs with the gaps bounded by what was seen: least reading .. limit or
    largest reading."""
    total = power.total_w
    valid = np.isfinite(total)
    if not valid.any():
        return None
    milliwatts = np.where(valid, np.round(total * 1000), 0).astype(np.int64)
    return integrate_power(
        power.t_us,
        milliwatts,
        valid,
        start_us,
        end_us,
        gap_us=sampling.gap_us,
        min_mw=float(milliwatts[valid].min()),
        max_mw=max(float(milliwatts[valid].max()), (limit_w or 0.0) * 1000),
        period_us=sampling.nominal_period_us,
    )
