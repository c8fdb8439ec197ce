"""Series of one measurement shown as two: the same steps of power or counter, scaled, shifted or noisy.

What is compared is the logarithm of the ratio of neighbouring readings. A factor cancels in it, a shift in
time does not touch it, and a milliwatt more or less moves it by millionths, where a working card's own noise
moves it by thousandths. Windows of eight such steps get a print each, and which windows are kept is chosen by
the print itself, so that a copy keeps the same ones; only series that share a print are laid side by side.
The work grows with the number of series, not of pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.validate.power_signal import kinds, windows

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

STEP = 1e-4
"""Width of a bin of steps: wide against a milliwatt of 100 W, narrow against a card's noise."""

SAME = 3e-5
"""Steps that differ by less are one: 1 mW of 80 W at both ends, twice."""

WINDOW = 8
DIFFERENT = 6
"""Bins that a window must touch: a flat load is like any other."""

KEPT = 64
"""Prints kept of a series, the smallest ones."""

ALIGNED = 64
"""Steps laid side by side, half a minute; of unrelated series one in fifty agrees."""

AGREE = 0.5
DENIED = 3
"""Shared prints that may turn out to be chance before two series are called different."""

MANY_WINDOWS = 1 << 14
_BLOCK = 1 << 18
_ODD = np.uint64(0x9E3779B97F4A7C15)
_WEIGHTS = np.cumprod(np.full(WINDOW, _ODD, np.uint64))


@dataclass(frozen=True)
class Trace:
    """What a series is recognised by.

    Attributes:
        prints: (k,) of its windows, k at most `KEPT`.
        around: (k, ALIGNED) steps around each window; NaN beyond the series' ends.
    """

    prints: npt.NDArray[np.uint64]
    around: npt.NDArray[np.float32]


def trace(values: Ints) -> Trace:
    """The trace of a series.

    Args:
        values: (n,) readings: power in mW, or what a counter rose by between two readings in mJ; those
            below 1 are left out.
    """
    good = values[values > 0]
    sparse = 1
    while good.shape[0] // sparse > MANY_WINDOWS:
        sparse *= 2
    prints: list[npt.NDArray[np.uint64]] = []
    around: list[npt.NDArray[np.float32]] = []
    margin = ALIGNED // 2
    for start in range(0, max(0, good.shape[0] - WINDOW), _BLOCK):
        first = max(0, start - margin)
        part = good[first : start + _BLOCK + WINDOW + margin]
        steps = np.full(2 * margin + max(0, part.shape[0] - 1), np.nan, np.float32)
        steps[margin : margin + part.shape[0] - 1] = np.diff(np.log(part.astype(np.float64)))
        found, places = _windows(steps[margin : margin + part.shape[0] - 1], sparse)
        rows = windows(steps, ALIGNED)[places]
        prints.append(found)
        around.append(rows)
    if not prints:
        return Trace(np.zeros(0, np.uint64), np.zeros((0, ALIGNED), np.float32))
    every = np.concatenate(prints)
    kept = np.unique(every, return_index=True)[1][:KEPT]
    return Trace(every[kept], np.concatenate(around)[kept])


def power_and_rises(power_mw: Ints, counter_mj: Ints) -> tuple[Trace, Trace]:
    """Traces of a series: of its valid power readings, and of what its counter rose by between readings."""
    return trace(power_mw), trace(np.diff(counter_mj))


def _windows(steps: Floats, sparse: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The smallest prints of a block, and where their windows begin; content chooses every `sparse`-th."""
    count = steps.shape[0] - WINDOW + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    bins = np.rint(steps / STEP).astype(np.int64)
    cheap = bins[:count].astype(np.uint64) * _ODD + bins[1 : count + 1].astype(np.uint64)
    cheap *= _ODD
    chosen = np.flatnonzero((cheap >> np.uint64(40)) & np.uint64(sparse - 1) == 0)
    rows = windows(bins, WINDOW)[chosen]
    varied = kinds(rows) >= DIFFERENT
    prints = (rows[varied].astype(np.uint64) * _WEIGHTS).sum(axis=1, dtype=np.uint64)
    prints ^= prints >> np.uint64(31)
    prints *= _ODD
    prints ^= prints >> np.uint64(29)
    kept = np.argsort(prints, kind="stable")[:KEPT]
    return prints[kept], chosen[varied][kept].astype(np.int64)


def alike(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Whether the steps around two windows are the same, as far as both have steps that tell."""
    known = np.isfinite(one) & np.isfinite(other)
    told = known & ((np.abs(one) > SAME) | (np.abs(other) > SAME))
    count = int(told.sum())
    return count >= ALIGNED // 2 and int((np.abs(one - other)[told] <= SAME).sum()) > AGREE * count


def pairs(traces: Sequence[Iterable[Trace]]) -> list[tuple[int, int]]:
    """Numbers of the series that hold the same readings, the smaller first; of many alike each has a partner.

    Args:
        traces: those of each series.
    """
    flat = [(number, own) for number, all_of_it in enumerate(traces) for own in all_of_it]
    if not flat:
        return []
    prints = np.concatenate([own.prints for _, own in flat])
    whose = np.repeat(np.arange(len(flat)), [own.prints.shape[0] for _, own in flat])
    place = np.concatenate([np.arange(own.prints.shape[0]) for _, own in flat])
    order = np.argsort(prints, kind="stable")
    found: set[tuple[int, int]] = set()
    denied: Counter[tuple[int, int]] = Counter()
    for i in np.flatnonzero(prints[order][1:] == prints[order][:-1]):
        x, y = int(order[i]), int(order[i + 1])
        (a, one), (b, other) = flat[whose[x]], flat[whose[y]]
        pair = min(a, b), max(a, b)
        if a == b or pair in found or denied[pair] >= DENIED:
            continue
        if alike(one.around[place[x]], other.around[place[y]]):
            found.add(pair)
        else:
            denied[pair] += 1
    return sorted(found)
