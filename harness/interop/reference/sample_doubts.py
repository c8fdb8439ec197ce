"""What samples say of a run: gaps with the joules at stake, steps of the clock, and whether the record
agrees."""

from __future__ import annotations

import math

import numpy as np

from harness.accounting import PowerIntegral, Sampling, integrate_power
from harness.interop.imported import TOTAL_ONLY, US_PER_S, Doubt, Samples, warning
from harness.interop.reference.attempts import StageRun

_DISAGREE_REL = 0.01


def sample_doubts(
    attempt: StageRun, *, gpus: int | None, limit_w: float | None, sampling: Sampling
) -> list[Doubt]:
    """Doubts about the samples of an attempt.

    Args:
        attempt: The run.
        gpus: Number of GPUs its logs state, None if they do not.
        limit_w: Power limits of its GPUs together, W.
        sampling: Rules with the period of the logs.
    """
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
