"""Decides all about an attempt before a row is written: where it ran, what it was, what is in doubt."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.accounting import PowerIntegral, Sampling, integrate_power
from harness.interop.reference.attempts import Attempt
from harness.interop.reference.devices import DeviceMap, Placement
from harness.interop.reference.figures import Figures, examine
from harness.interop.reference.naming import Identity, identify, safe_name
from harness.interop.reference.plan import Plan, stage_id_of
from harness.interop.reference.read_csv import TOTAL_ONLY
from harness.interop.reference.records import J_PER_KWH, US_PER_S, Doubt
from harness.spec import load_protocol

_DISAGREE_REL = 0.01


@dataclass(frozen=True, slots=True)
class Imported:
    """One attempt with everything decided about it."""

    session: int
    attempt: Attempt
    number: int
    place: Placement
    identity: Identity
    figures: Figures
    doubts: tuple[Doubt, ...]


def decide(plan: Plan, devices: DeviceMap, sampling: Sampling) -> list[Imported]:
    """Name, place and judge every attempt of a plan."""
    tokens = Counter(
        (attempt.record.tokens, attempt.record.stage_id)
        for attempt in plan.attempts
        if attempt.record is not None and attempt.record.tokens
    )
    sharing = Counter(count for count, _ in tokens)
    numbers: Counter[tuple[str, str, str]] = Counter()
    decided = []
    for session, attempt in enumerate(plan.attempts):
        place = devices.place(attempt)
        identity = identify(attempt, _mean_w(attempt), place.limit_w)
        figures = examine(attempt, identity, gpus=place.known_gpus, limit_w=place.limit_w)
        doubts = [*figures.doubts, *_sample_doubts(attempt, place, sampling)]
        count = None if attempt.record is None else attempt.record.tokens
        if count and sharing[count] > 1 and figures.tokens:
            doubts.append(Doubt("tokens_repeated", "warning", {"tokens": count, "stages": sharing[count]}))
        if attempt.folder.name not in (stage_id_of(attempt), "stages"):
            doubts.append(
                Doubt(
                    "stage_name_lost",
                    "info",
                    {"folder": safe_name(attempt.folder.name), "filed_as": safe_name(stage_id_of(attempt))},
                )
            )
        stage = (place.node_id, identity.name, identity.kind)
        numbers[stage] += 1
        decided.append(Imported(session, attempt, numbers[stage], place, identity, figures, tuple(doubts)))
    return _without_teacher(decided)


def _without_teacher(decided: list[Imported]) -> list[Imported]:
    """Flag the students of which nobody in these logs paid the teacher."""
    protocol = load_protocol()
    if any(item.identity.kind in protocol.kinds("teacher") for item in decided):
        return decided
    doubt = Doubt("teacher_not_in_logs", "warning", {"stages": len(decided)})
    return [
        replace(item, doubts=(*item.doubts, doubt))
        if item.identity.kind in protocol.kinds("student")
        else item
        for item in decided
    ]


def _mean_w(attempt: Attempt) -> float | None:
    """Mean power over all GPUs, W."""
    if attempt.power is not None and len(attempt.power.t_us):
        return float(np.nanmean(attempt.power.total_w)) if np.isfinite(attempt.power.total_w).any() else None
    if attempt.record is not None and attempt.record.gpu_avg_w:
        return attempt.record.gpu_avg_w
    if attempt.emission is not None and attempt.emission.gpu_kwh and attempt.duration_s > 0:
        return attempt.emission.gpu_kwh * J_PER_KWH / attempt.duration_s
    return None


def total_integral(attempt: Attempt, place: Placement, sampling: Sampling) -> PowerIntegral | None:
    """Power integral over all GPUs with the gaps bounded by what was seen: least reading .. limit or
    largest reading."""
    power = attempt.power
    if power is None:
        return None
    total = power.total_w
    valid = np.isfinite(total)
    if not valid.any():
        return None
    milliwatts = np.where(valid, np.round(total * 1000), 0).astype(np.int64)
    return integrate_power(
        power.t_us,
        milliwatts,
        valid,
        attempt.start_us,
        attempt.end_us,
        gap_us=sampling.gap_us,
        min_mw=float(milliwatts[valid].min()),
        max_mw=max(float(milliwatts[valid].max()), (place.limit_w or 0.0) * 1000),
        period_us=sampling.nominal_period_us,
    )


def _sample_doubts(attempt: Attempt, place: Placement, sampling: Sampling) -> list[Doubt]:
    """What the samples say: gaps with the joules at stake, steps of the clock, and whether the record
    agrees."""
    power, integral = attempt.power, total_integral(attempt, place, sampling)
    if power is None:
        return []
    found = []
    if place.known_gpus is not None and power.gpus != (TOTAL_ONLY,) and len(power.gpus) != place.known_gpus:
        observed: dict[str, Any] = {"in_power_log": len(power.gpus), "in_environment": place.known_gpus}
        found.append(Doubt("gpu_count_differs", "warning", observed))
    if power.gpus == (TOTAL_ONLY,) and place.known_gpus not in (None, 1):
        found.append(Doubt("multi_gpu_summed", "warning", {"gpus": place.known_gpus}))
    if power.steps_back:
        found.append(Doubt("clock_step", "warning", {"steps_back": power.steps_back}))
    if integral is None or integral.energy_j is None:
        return found
    if integral.gap_us:
        inside = power.between(attempt.start_us, attempt.end_us)
        gaps = int(np.count_nonzero(np.diff(inside.t_us) > sampling.gap_us))
        observed = {
            "gaps": gaps,
            "gap_s": integral.gap_us / US_PER_S,
            "longest_gap_s": integral.longest_gap_us / US_PER_S,
            "share_of_stage": integral.gap_us / max(1, attempt.end_us - attempt.start_us),
            "energy_in_gaps_j": integral.energy_in_gaps_j,
            "energy_in_gaps_j_low_at_least_power_seen": integral.gap_low_j,
            "energy_in_gaps_j_high": integral.gap_high_j,
        }
        found.append(Doubt("gap", "warning", observed))
    recorded = None if attempt.record is None else attempt.record.gpu_energy_j
    if recorded and not math.isclose(recorded, integral.energy_j, rel_tol=_DISAGREE_REL):
        observed = {"recorded_gpu_energy_j": recorded, "integral_j": integral.energy_j}
        found.append(Doubt("recorded_differs", "warning", observed))
    return found
