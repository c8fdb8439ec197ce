"""Intervals for totals that nobody can recompute: what a stage's GPU energy can have been.

A log may keep watts without times. A poller that waits one period after each read covers at most about n
periods with n readings; whatever the stage lasted longer was not sampled, and the recorded trapezoid bridged
it with some power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.interop.imported import StatedEnergy

DEFAULT_PERIOD_S = 0.5
AVERAGING_LAG_S = 0.5
"""NVML's power on H100 is a trailing mean of one second: it shows what happened half a second ago."""

UNKNOWN_LIMIT_W = 1_000.0
"""Ceiling where neither limit nor peak is on record: the largest limit of a board that NVML reported when the
reference harness was written."""

CODECARBON_REL = 0.05
"""CodeCarbon takes the GPU's energy counter: within 0.5 % of the trapezoid on eleven long published stages,
but which version did what is not on record, so the vendor's 5 % for board power stands for both."""
ESTIMATE_HIGH = 2.0
"""An estimate of CodeCarbon is stated as 0 ... 2 x itself, as the accounting states it for our own runs."""
CODECARBON_EDGE_S = 4.0
"""Its tracker opens and closes seconds away from the work (1.6 s cold start, 15 s schedule cut short at the
end)."""


def bound_recorded_total(
    energy_j: float,
    duration_s: float,
    watts: Sequence[float],
    *,
    period_s: float | None,
    limit_w: float | None,
    peak_w: float | None,
) -> StatedEnergy:
    """Put an interval around a recorded GPU total.

    Args:
        energy_j: The record's GPU energy, J.
        duration_s: Length of the stage, s.
        watts: Readings without times, summed over GPUs, W; may be empty.
        period_s: Poll period, s; 0.5 s when None.
        limit_w: Power limits of the GPUs together, W; None if unknown.
        peak_w: Recorded peak, W; bounds the power where there are neither readings nor a limit.

    Returns:
        The total with bounds: unsampled time holds between nothing and the larger of limit and peak, the
        bounds that always hold; each end of the stage may be off by the sensor's lag times the swing of
        power there.
    """
    period = period_s or DEFAULT_PERIOD_S
    usable = [watt for watt in watts if watt > 0 and math.isfinite(watt)]
    mean = energy_j / duration_s if duration_s > 0 else 0.0
    ceiling = max([mean, limit_w or peak_w or UNKNOWN_LIMIT_W, peak_w or 0.0, *usable])
    most = max(energy_j, ceiling * duration_s)
    if not usable or duration_s <= 0:
        # Not one reading is left: any power the board can draw is possible for the whole time.
        return StatedEnergy(
            energy_j,
            0.0,
            most,
            gap_j=most / 2,
            in_gaps_j=energy_j,
            missed=round(duration_s / period),
            unsampled_us=round(duration_s * 1e6),
        )
    covered = min(duration_s, len(usable) * period)
    unsampled = duration_s - covered
    if unsampled < max(period, 1e-3 * duration_s):
        # A tick is a fraction of a millisecond late each time; that adds up to drift, not to a gap.
        covered, unsampled = duration_s, 0.0
    low = high = energy_j
    in_gaps = 0.0
    if unsampled:
        seen = math.fsum(usable) / len(usable) * covered
        low, high = min(energy_j, seen), max(energy_j, seen + unsampled * ceiling)
        in_gaps = max(0.0, energy_j - seen)
    edge = AVERAGING_LAG_S * (_swing(usable[:4], ceiling) + _swing(usable[-4:], ceiling))
    edge = min(edge, ceiling * duration_s)
    return StatedEnergy(
        energy_j,
        low_j=max(0.0, low - edge),
        high_j=max(energy_j, min(high + edge, ceiling * duration_s)),
        boundary_j=edge,
        gap_j=(high - low) / 2,
        in_gaps_j=in_gaps,
        samples=len(usable),
        missed=round(unsampled / period),
        unsampled_us=round(unsampled * 1e6),
    )


def bound_codecarbon_total(energy_j: float, duration_s: float) -> StatedEnergy:
    """Put an interval around the GPU energy of an emissions.csv row, joules."""
    mean_w = energy_j / duration_s if duration_s > 0 else 0.0
    half = CODECARBON_REL * energy_j + mean_w * CODECARBON_EDGE_S
    return StatedEnergy(
        energy_j,
        low_j=max(0.0, energy_j - half),
        high_j=energy_j + half,
        boundary_j=half,
        missed=round(duration_s / DEFAULT_PERIOD_S),
        unsampled_us=round(duration_s * 1e6),
    )


def bound_estimate(energy_j: float, *, least_high_j: float = 0.0) -> StatedEnergy:
    """Put an interval around an estimate of CPU or DRAM energy, joules: 0 .. 2 x itself or `least_high_j`."""
    return StatedEnergy(energy_j, 0.0, max(ESTIMATE_HIGH * energy_j, least_high_j))


def _swing(watts: Sequence[float], ceiling: float) -> float:
    """Range of power near one end of a stage; with a single reading it is unknown, up to the ceiling."""
    return max(watts) - min(watts) if len(watts) > 1 else ceiling
