"""Finds the refresh period behind moments at which a shown value changed.

A reading changes only at refreshes, but not at every refresh: two in a row may show the same value. So
the period is not the mean distance of changes; it is the longest period whose grid all changes lie on.
That is sought as the lowest frequency at which the changes are in phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.gpucheck.probe.record import Changes, Floats

_SCANNED = 300  # changes that go into the search; all go into the fit
_STEPS_PER_CYCLE = 10
_LEAST_IN_PHASE = 0.75  # mean resultant length that a jitter of a tenth of the period still reaches
_CHANCE = 0.01
_FASTEST_US = 2_000.0


@dataclass(frozen=True)
class Refresh:
    """A refresh period.

    Attributes:
        period_us: The period; for an irregular one the median distance of changes.
        error_us: Its standard error.
        jitter_us: Standard deviation of the changes about the grid, beyond what the reading itself blurs.
        count: Changes it rests on.
        regular: Whether the changes lie on a grid.
    """

    period_us: float
    error_us: float
    jitter_us: float
    count: int
    regular: bool


def find_refresh(changes: Changes) -> Refresh | None:
    """The refresh period behind `changes`, None when there are too few to tell.

    The criterion: with n random phases the resultant length R exceeds r with probability exp(-n r^2)
    (Rayleigh's test); the threshold keeps a chance hit among all frequencies tried below one in a hundred.
    """
    changes = changes.sharp()
    at = changes.at_us - (changes.at_us[0] if len(changes) else 0.0)
    if len(at) < 6:
        return None
    gaps = np.diff(at)
    longest = 1.3 * float(np.percentile(gaps, 5))
    shortest = max(_FASTEST_US, 4.0 * float(np.median(changes.half_width_us)))
    period = _search(at[:_SCANNED], shortest, longest) if longest > shortest else None
    if period is not None:
        fit = _fit(at, period, changes.half_width_us)
        if fit is not None:
            return fit
    if len(at) < 20:
        return None
    spread = float(np.percentile(gaps, 75) - np.percentile(gaps, 25)) / 1.349
    return Refresh(float(np.median(gaps)), 1.25 * spread / math.sqrt(len(gaps)), spread, len(at), False)


def _search(at: Floats, shortest: float, longest: float) -> float | None:
    span = float(at[-1] - at[0])
    step = 1.0 / (_STEPS_PER_CYCLE * span)
    frequencies = np.arange(1.0 / longest, 1.0 / shortest, step)
    independent = max(1.0, span / shortest)
    needed = max(_LEAST_IN_PHASE, math.sqrt(math.log(independent / _CHANCE) / len(at)))
    if needed > 0.99 or not len(frequencies):
        return None
    for chunk in np.array_split(frequencies, max(1, len(frequencies) // 2_000)):
        in_phase = _resultant(at, chunk)
        hits = np.flatnonzero(in_phase >= needed)
        if len(hits):
            # The first hit is the foot of a peak: its summit lies within one cycle over the span.
            near = np.arange(chunk[hits[0]], chunk[hits[0]] + 1.0 / span, step / 5)
            return float(1.0 / near[int(np.argmax(_resultant(at, near)))])
    return None


def _resultant(at: Floats, frequencies: Floats) -> Floats:
    angles = 2.0 * math.pi * np.outer(frequencies, at)
    lengths: Floats = np.hypot(np.cos(angles).mean(axis=1), np.sin(angles).mean(axis=1))
    return lengths


def _fit(at: Floats, period: float, half_width: Floats) -> Refresh | None:
    """Least squares of the change times on their grid numbers, counted on from change to change."""
    steps = np.maximum(1.0, np.rint(np.diff(at) / period))
    numbers = np.concatenate(([0.0], np.cumsum(steps)))
    for _ in range(3):
        slope, start = np.polyfit(numbers, at, 1)
        again = np.rint((at - start) / slope)
        if np.array_equal(again, numbers):
            break
        numbers = again
    residual = at - (slope * numbers + start)
    spread = float(residual.std())
    if spread > 0.2 * slope or numbers[-1] <= 0:
        return None
    error = spread / math.sqrt(float(((numbers - numbers.mean()) ** 2).sum()))
    # A read's bracket is a uniform error of that half-width.
    blur = float(np.mean(half_width**2)) / 3.0
    return Refresh(float(slope), error, math.sqrt(max(0.0, spread**2 - blur)), len(at), True)
