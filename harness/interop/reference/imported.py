"""GPU energy of a stage of which only the total is left: what it can have been, given that nobody knows
when it was sampled.

The harness keeps watts without times. Its poller waits one period after each read, so n readings cover at
most about n periods; whatever the stage lasted longer was not sampled, and the recorded trapezoid bridged
it with some power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_PERIOD_S = 0.5
AVERAGING_LAG_S = 0.5
"""NVML's power on H100 is a trailing mean of one second: it shows what happened half a second ago."""

UNKNOWN_LIMIT_W = 1_000.0
"""Ceiling where neither limit nor peak is on record: the largest limit of a board that NVML reported when the
reference harness was written."""

CODECARBON_REL = 0.05
"""CodeCarbon takes the GPU's energy counter: within 0.5 % of the trapezoid on eleven long published stages,
but which version did what is not on record, so the vendor's 5 % for board power stands for both."""
CODECARBON_EDGE_S = 4.0
"""Its tracker opens and closes seconds away from the work (1.6 s cold start, 15 s schedule cut short at the
end)."""


@dataclass(frozen=True, slots=True)
class ImportedEnergy:
    """A recorded total with the interval it deserves, joules.

    Attributes:
        boundary_j: Half-width of the edge term.
        gap_j: Half-width of the term for time that was not sampled.
        in_gaps_j: Part of the total that stands for time that was not sampled.
        samples: Readings behind the total; 0 when unknown.
        unsampled_us: Time that the readings cannot have covered.
    """

    energy_j: float
    low_j: float
    high_j: float
    boundary_j: float
    gap_j: float
    in_gaps_j: float
    samples: int
    unsampled_us: int
    missed: int


def bound_recorded_total(
    energy_j: float,
    duration_s: float,
    watts: Sequence[float],
    *,
    period_s: float | None,
    limit_w: float | None,
    peak_w: float | None,
) -> ImportedEnergy:
    """Put an interval around a recorded GPU total.

    Args:
        energy_j: The record's GPU energy, J.
        duration_s: Length of the stage, s.
        watts: Readings without times, summed over GPUs, W; may be empty.
        period_s: Poll period, s; the harness's default when None.
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
    if not usable or duration_s <= 0:
        # Not one reading is left: any power the board can draw is possible for the whole time.
        return ImportedEnergy(
            energy_j=energy_j,
            low_j=0.0,
            high_j=max(energy_j, ceiling * duration_s),
            boundary_j=0.0,
            gap_j=max(energy_j, ceiling * duration_s) / 2,
            in_gaps_j=energy_j,
            samples=0,
            unsampled_us=round(duration_s * 1e6),
            missed=round(duration_s / period),
        )
    covered = min(duration_s, len(usable) * period)
    unsampled = duration_s - covered
    if unsampled < max(period, 1e-3 * duration_s):
        # A tick is a fraction of a millisecond late each time; that adds up to drift, not to a gap.
        covered, unsampled = duration_s, 0.0
    seen = math.fsum(usable) / len(usable) * covered
    low = min(energy_j, seen if unsampled else energy_j)
    high = max(energy_j, seen + unsampled * ceiling if unsampled else energy_j)
    edge = AVERAGING_LAG_S * (_swing(usable[:4], ceiling) + _swing(usable[-4:], ceiling))
    edge = min(edge, ceiling * duration_s)
    return ImportedEnergy(
        energy_j=energy_j,
        low_j=max(0.0, low - edge),
        high_j=max(energy_j, min(high + edge, ceiling * duration_s)),
        boundary_j=edge,
        gap_j=(high - low) / 2,
        in_gaps_j=max(0.0, energy_j - seen) if unsampled else 0.0,
        samples=len(usable),
        unsampled_us=round(unsampled * 1e6),
        missed=round(unsampled / period),
    )


def bound_codecarbon_total(energy_j: float, duration_s: float) -> ImportedEnergy:
    """Put an interval around the GPU energy of an emissions.csv row, joules.

    Args:
        energy_j: CodeCarbon's GPU energy, J.
        duration_s: Length of the tracker's run, s.
    """
    mean_w = energy_j / duration_s if duration_s > 0 else 0.0
    half = CODECARBON_REL * energy_j + mean_w * CODECARBON_EDGE_S
    return ImportedEnergy(
        energy_j=energy_j,
        low_j=max(0.0, energy_j - half),
        high_j=energy_j + half,
        boundary_j=half,
        gap_j=0.0,
        in_gaps_j=0.0,
        samples=0,
        unsampled_us=round(duration_s * 1e6),
        missed=round(duration_s / DEFAULT_PERIOD_S),
    )


def _swing(watts: Sequence[float], ceiling: float) -> float:
    """Range of power near one end of a stage; with a single reading it is unknown, up to the ceiling."""
    return max(watts) - min(watts) if len(watts) > 1 else ceiling
