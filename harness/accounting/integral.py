"""Energy from power samples: trapezoid on irregular ticks, with gaps found, measured and bounded.

The samples are the knots of a piecewise linear curve, held constant before the first and after the last one.
A window cuts that curve, so splitting a window never changes the sum. 1 mW x 1 us = 1 nJ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.accounting.error_model import (
    INDEPENDENT,
    NJ,
    NOTHING,
    POWER_STEP_MW,
    RANDOM_GAPS,
    Spread,
    gap_error,
    student_95,
)
from harness.accounting.series import Bools, Int64, Ints

_BLOCK = 1 << 17
"""Samples handled at once: the working set stays in the processor's cache and memory is bounded."""


class PowerIntegral(NamedTuple):
    """Energy of one window from power samples.

    Attributes:
        energy_j: joules, gaps included by trapezoid; None when the series has no valid sample at all.
        samples: valid samples in [start, end).
        missed: failed reads in [start, end) plus, where the period is known, ticks that never came.
        longest_gap_us: longest part of the window in one gap; 0 without one.
        gap_us: part of the window that lies in gaps.
        energy_in_gaps_j: what the trapezoid put into the gaps.
        gap_low_j: least energy the gaps can hold.
        gap_high_j: most energy the gaps can hold.
        sampling_j: 95 % half-width of the sampling error outside gaps (`error_model`).
        gap_spread: 95 % interval of what few gaps hold, around `energy_in_gaps_j` and inside the two bounds;
            the bounds themselves where `gap_is_bound`.
        gap_is_bound: more of the window lies in gaps than what was seen can speak for.
    """

    energy_j: float | None
    samples: int
    missed: int
    longest_gap_us: int
    gap_us: int
    energy_in_gaps_j: float
    gap_low_j: float
    gap_high_j: float
    sampling_j: float
    gap_spread: Spread = NOTHING
    gap_is_bound: bool = False

    @property
    def gap_bound(self) -> Spread:
        """Bounds of what the gaps hold, around `energy_in_gaps_j`."""
        return Spread(self.energy_in_gaps_j - self.gap_low_j, self.gap_high_j - self.energy_in_gaps_j)

    @property
    def low_j(self) -> float | None:
        """Lower bound by gaps alone, joules."""
        return None if self.energy_j is None else self.energy_j - self.energy_in_gaps_j + self.gap_low_j

    @property
    def high_j(self) -> float | None:
        """Upper bound by gaps alone, joules."""
        return None if self.energy_j is None else self.energy_j - self.energy_in_gaps_j + self.gap_high_j


class _Sums:
    """Running sums over cells; a cell is the stretch between two neighbouring knots."""

    def __init__(self, gap_us: int) -> None:
        self.gap_limit_us = gap_us
        self.energy: list[float] = []
        self.gap_energy: list[float] = []
        self.gap_us = 0
        self.gap_square_us2 = 0.0
        self.longest_us = 0
        # Of cells outside gaps: sum of (dP h)^2, cut ones by their share; sum of dP^2; their number.
        self.square = 0.0
        self.difference = 0.0
        self.cells_seen = 0
        # Squared lengths over which one sample stands alone.
        self.held_us2 = 0.0

    def edge(self, cell: tuple[int, float, int, float], start_us: int, end_us: int) -> None:
        """Add the part [start, end) of a cell between two samples, given as (time, power, time, power)."""
        t0, p0, t1, p1 = cell
        width = end_us - start_us
        energy = 0.5 * (_lerp(*cell, start_us) + _lerp(*cell, end_us)) * width
        self.energy.append(energy)
        if t1 - t0 > self.gap_limit_us:
            self._gap(width, energy)
        else:
            # A window inside one cell: the larger part, up to one of its ends, bounds what is cut out of it.
            share = min(_cut((end_us - t0) / (t1 - t0)), _cut((t1 - start_us) / (t1 - t0)))
            self.square += ((p1 - p0) * (t1 - t0)) ** 2 * share
            self.difference += (p1 - p0) ** 2
            self.cells_seen += 1

    def hold(self, power: float, width_us: int, reach_us: int | None = None) -> None:
        """Add a stretch with a sample on one side only, `reach_us` from its far end; its width if None."""
        self.energy.append(power * width_us)
        if (width_us if reach_us is None else reach_us) > self.gap_limit_us:
            self._gap(width_us, power * width_us)
        else:
            self.held_us2 += float(width_us) ** 2

    def _gap(self, width_us: int, energy: float) -> None:
        self.longest_us = max(self.longest_us, width_us)
        self.gap_us += width_us
        self.gap_square_us2 += float(width_us) ** 2
        self.gap_energy.append(energy)

    def cells(self, t: Int64, p: npt.NDArray[np.float64]) -> None:
        """Add whole cells between the knots (t, p)."""
        dt = t[1:] - t[:-1]
        width = dt.astype(np.float64)
        energy = (p[1:] + p[:-1]) * width
        energy *= 0.5
        self.energy.append(float(energy.sum()))
        longest = int(dt.max())
        difference = p[1:] - p[:-1]
        if longest > self.gap_limit_us:
            self.longest_us = max(self.longest_us, longest)
            gaps = dt > self.gap_limit_us
            self.gap_us += int(dt[gaps].sum())
            self.gap_square_us2 += float(np.dot(width[gaps], width[gaps]))
            self.gap_energy.append(float(energy[gaps].sum()))
            difference, width = difference[~gaps], width[~gaps]
        self.difference += float(np.dot(difference, difference))
        self.cells_seen += difference.shape[0]
        difference *= width
        self.square += float(np.dot(difference, difference))

    def sampling_j(self, lone_mw: float, width_us: int) -> float:
        """95 % half-width of the sampling error.

        Args:
            lone_mw: stands for what no two samples tell.
            width_us: length of the window.
        """
        mean = self.difference / self.cells_seen if self.cells_seen else lone_mw**2
        variance = INDEPENDENT * self.square + self.held_us2 * mean
        step = 0.95 * POWER_STEP_MW * (width_us - self.gap_us)
        return math.hypot(student_95(self.cells_seen) * math.sqrt(variance), step) * NJ


def _cut(share: float) -> float:
    """Error variance of a cell of which the first or last `share` is inside, over that of a whole one.

    A step at a moment uniform in the cell leaves (share^3 / 3 - share^4 / 4) (dP h)^2, 1 / 12 of it for all.
    """
    return 12.0 * (share**3 / 3.0 - share**4 / 4.0)


def last_valid(valid: Bools, stop: int) -> int:
    """Index of the last true entry before `stop`, or -1."""
    if stop > 0 and valid[stop - 1]:
        return stop - 1
    while stop > 0:
        start = max(0, stop - 4096)
        hits = np.flatnonzero(valid[start:stop])
        if hits.size:
            return start + int(hits[-1])
        stop = start
    return -1


def first_valid(valid: Bools, start: int) -> int:
    """Index of the first true entry from `start` on, or -1."""
    size = valid.shape[0]
    if start < size and valid[start]:
        return start
    while start < size:
        stop = min(size, start + 4096)
        hits = np.flatnonzero(valid[start:stop])
        if hits.size:
            return start + int(hits[0])
        start = stop
    return -1


def _lerp(t0: int, p0: float, t1: int, p1: float, t: int) -> float:
    return p0 if t1 == t0 else p0 + (p1 - p0) * ((t - t0) / (t1 - t0))


def missing_ticks(mono_us: Int64, lo: int, hi: int, start_us: int, end_us: int, period_us: int) -> int:
    """Ticks in [start, end) that left no row at all, placed evenly into the holes between rows.

    Args:
        mono_us: (n,) times of all rows, failed reads included.
        lo: first row in the window.
        hi: one past the last row in the window.
        start_us: window start.
        end_us: window end.
        period_us: planned distance of two ticks.
    """
    size = mono_us.shape[0]
    if size == 0:
        return (end_us - start_us) // period_us
    missing = 0
    if lo == 0:
        missing += max(0, (int(mono_us[0]) - start_us) // period_us)
        missing -= max(0, (int(mono_us[0]) - end_us) // period_us)
    if hi == size:
        # Ticks at last + k * period, k >= 1, inside [start, end).
        past = int(mono_us[-1])
        missing += max(0, -(-(end_us - past) // period_us) - 1)
        missing -= max(0, -(-(start_us - past) // period_us) - 1)
    first = max(0, lo - 1)
    last = min(size - 1, hi)
    for block in range(first, last, _BLOCK):
        t = mono_us[block : min(last, block + _BLOCK) + 1]
        dt = t[1:] - t[:-1]
        for i in (dt > period_us + period_us // 2).nonzero()[0]:
            width = int(dt[i])
            count = (width + period_us // 2) // period_us - 1
            left = int(t[i])
            # The k-th missing tick stands at left + k * width / (count + 1); count those in [start, end).
            before_end = min(count, max(0, -(-(end_us - left) * (count + 1) // width) - 1))
            before_start = min(count, max(0, -(-(start_us - left) * (count + 1) // width) - 1))
            missing += before_end - before_start
    return missing


def integrate_power(
    mono_us: Int64,
    power_mw: Ints,
    valid: Bools,
    start_us: int,
    end_us: int,
    *,
    gap_us: int,
    min_mw: float | None = None,
    max_mw: float | None = None,
    period_us: int | None = None,
) -> PowerIntegral:
    """Integrate power over [start_us, end_us].

    Between samples power is linear (PROTOCOL: trapezoid with interpolation at both ends from the neighbours
    outside the window). Two neighbouring valid samples further apart than `gap_us` leave a gap, and so does a
    window end further than that from the only sample on its side. Energy in a gap is estimated all the same
    and bounded by gap length x [min_mw, max_mw].

    Args:
        mono_us: (n,) sample times, strictly increasing.
        power_mw: (n,) readings in mW.
        valid: (n,) false where the read failed.
        start_us: window start, same clock.
        end_us: window end.
        gap_us: longest distance of two samples that is not a gap.
        min_mw: least power a gap can hide; 0 when not given, the only bound that always holds.
        max_mw: most power a gap can hide, usually the power limit; raised to the largest reading of the
            series.
        period_us: planned sampling period; when given, ticks that left no row count as missed.

    Returns:
        The energy with its terms, joules.

    Raises:
        ValueError: if the window ends before it starts.
    """
    if end_us < start_us:
        raise ValueError(f"window ends before it starts: {start_us} > {end_us}")
    lo, hi = (int(mono_us.searchsorted(t)) for t in (start_us, end_us))
    samples = int(np.count_nonzero(valid[lo:hi]))
    missed = hi - lo - samples
    if period_us is not None:
        missed += missing_ticks(mono_us, lo, hi, start_us, end_us, period_us)
    before, after = last_valid(valid, lo), first_valid(valid, hi)
    if samples == 0 and before < 0 and after < 0:
        width = end_us - start_us
        return PowerIntegral(None, 0, missed, width, width, 0.0, 0.0, 0.0, 0.0)

    sums = _Sums(gap_us)
    left = None if before < 0 else (int(mono_us[before]), float(power_mw[before]))
    right = None if after < 0 else (int(mono_us[after]), float(power_mw[after]))
    if samples == 0:
        _empty_window(sums, left, right, start_us, end_us)
    else:
        head, tail = first_valid(valid, lo), last_valid(valid, hi)
        head_t, head_p = int(mono_us[head]), float(power_mw[head])
        tail_t, tail_p = int(mono_us[tail]), float(power_mw[tail])
        if left is None:
            sums.hold(head_p, head_t - start_us)
        else:
            sums.edge((*left, head_t, head_p), start_us, head_t)
        _inner_cells(sums, mono_us, power_mw, valid, head, tail)
        if right is None:
            sums.hold(tail_p, end_us - tail_t)
        else:
            sums.edge((tail_t, tail_p, *right), tail_t, end_us)

    in_gaps = math.fsum(sums.gap_energy) * NJ
    low = high = in_gaps
    spread = NOTHING
    if sums.gap_us:
        low = min(in_gaps, sums.gap_us * (min_mw or 0.0) * NJ)
        if max_mw is None:
            max_mw = float(power_mw[valid].max())
        high = max(in_gaps, sums.gap_us * max_mw * NJ)
        near = slice(max(0, before), after + 1 if after >= 0 else hi)
        share = sums.gap_us / (end_us - start_us)
        spread = Spread(in_gaps - low, high - in_gaps)
        if share <= RANDOM_GAPS:
            half = gap_error(sums.gap_square_us2, share, *_variance_and_top(power_mw[near], valid[near]))
            spread = spread.capped(Spread(half, half))
    lone_mw = float(power_mw[first_valid(valid, lo if samples else max(0, before))])
    return PowerIntegral(
        energy_j=math.fsum(sums.energy) * NJ,
        samples=samples,
        missed=missed,
        longest_gap_us=sums.longest_us,
        gap_us=sums.gap_us,
        energy_in_gaps_j=in_gaps,
        gap_low_j=low,
        gap_high_j=high,
        sampling_j=sums.sampling_j(lone_mw, end_us - start_us),
        gap_spread=spread,
        gap_is_bound=sums.gap_us > RANDOM_GAPS * (end_us - start_us),
    )


def _variance_and_top(power_mw: Ints, valid: Bools) -> tuple[float, float]:
    """Variance and largest of the valid samples, block by block."""
    count, total, squares, top = 0, 0.0, 0.0, 0.0
    first = float(power_mw[first_valid(valid, 0)])
    for start in range(0, power_mw.shape[0], _BLOCK):
        block = power_mw[start : start + _BLOCK][valid[start : start + _BLOCK]].astype(np.float64) - first
        count += block.shape[0]
        top = max(top, first + float(block.max(initial=-first)))
        total += float(block.sum())
        squares += float(np.dot(block, block))
    return max(0.0, squares / count - (total / count) ** 2), top


def _empty_window(
    sums: _Sums, left: tuple[int, float] | None, right: tuple[int, float] | None, start_us: int, end_us: int
) -> None:
    """A window between two samples, or beyond the first or last one."""
    if left is not None and right is not None:
        sums.edge((*left, *right), start_us, end_us)
    elif left is not None:
        sums.hold(left[1], end_us - start_us, end_us - left[0])
    elif right is not None:
        sums.hold(right[1], end_us - start_us, right[0] - start_us)


def _inner_cells(sums: _Sums, mono_us: Int64, power_mw: Ints, valid: Bools, head: int, tail: int) -> None:
    """Add every cell between the valid samples at index `head` and `tail`, block by block."""
    index = head
    while index < tail:
        stop = min(tail, index + _BLOCK)
        t, p, ok = mono_us[index : stop + 1], power_mw[index : stop + 1], valid[index : stop + 1]
        if not ok.all():
            stop = last_valid(valid, stop + 1)
            if stop == index:
                stop = first_valid(valid, index + 1)
                t, p = mono_us[[index, stop]], power_mw[[index, stop]]
            else:
                t, p = t[ok], p[ok]
        sums.cells(t, p.astype(np.float64))
        index = stop
