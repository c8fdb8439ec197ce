"""What a power series shows beside its energy: its range, its variety, whether parts of it were copied.

Pure functions on arrays of one series, in blocks, so that a month of samples needs no memory of its own.

A block of real readings never occurs twice: the milliwatts of a working card are noise. Every window of 64
samples with enough different values gets a fingerprint; which windows are looked at is chosen by the values
themselves, so the same block is found again wherever it was pasted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Prints = npt.NDArray[np.uint64]

WINDOW = 64
"""Samples of a fingerprint: half a minute at the nominal period."""

VARIED = 32
"""Different values a window needs before its return is remarkable; a flat or two-level load has fewer."""

MANY_PRINTS = 1 << 14
"""Windows kept of a series at most, about; a longer series is looked at more sparsely."""

OVER_LIMIT, BELOW_IDLE = 1.15, 0.9
"""Shares of the power limit and of the idle power beyond which a reading has to be explained."""

HOT, COLD = 0.6, 1.05
"""Shares of the limit above which an idle card is no longer idle, and of the idle power up to which a card
does nothing."""

_BLOCK = 1 << 18
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_WEIGHTS = np.cumprod(np.full(WINDOW, _ODD, np.uint64))


@dataclass(frozen=True)
class Replay:
    """A block of samples that occurs again later: `length` samples from `first_us` and from `again_us`."""

    first_us: int
    again_us: int
    length: int
    energy_j: float


@dataclass(frozen=True)
class Constant:
    """The longest stretch of one and the same reading."""

    start_us: int
    end_us: int
    samples: int
    power_mw: int


@dataclass(frozen=True)
class SignalFacts:
    """One power series.

    Attributes:
        samples: valid readings above 0.
        late: periods longer than twice the nominal one.
        periods: all periods.
        spacing_us: their median; 0 without any.
        distinct: different values among the first million.
        step_mw: greatest common divisor of those values.
        max_mw: largest reading.
        limit_mw: power limit that the samples themselves carry first; None if they carry none.
        over: readings above the allowed share of the limit in force, and where the largest one is.
        idle_mw: median power in stages of kind idle; None without one.
        below_idle: readings below the allowed share of that.
        util_samples: readings with a utilisation.
        util_max: the highest of them, %.
        idle_but_hot: of those, no kernel ran and power was high.
        busy_but_cold: of those, kernels always ran and power was that of an idle card.
        constant: longest run of one value; None for an empty series.
        digest: sha256 of the values in order; None where too few or too uniform to tell anything.
        prints: sorted fingerprints of its windows.
        replay: the longest block found twice.
    """

    samples: int
    late: int
    periods: int
    spacing_us: float
    distinct: int
    step_mw: int
    max_mw: int
    limit_mw: int | None
    over: tuple[int, int, int]
    idle_mw: float | None
    below_idle: int
    util_samples: int
    util_max: int
    idle_but_hot: int
    busy_but_cold: int
    constant: Constant | None
    digest: str | None
    prints: Prints
    replay: Replay | None


def look_at(
    mono_us: Ints,
    power_mw: Ints,
    valid: Bools,
    *,
    period_us: int,
    limit_mw: tuple[Ints, Bools] | None = None,
    util_pct: tuple[Ints, Bools] | None = None,
    device_limit_mw: int | None = None,
    idle_windows: Sequence[tuple[int, int]] = (),
) -> SignalFacts:
    """Everything that the plausibility rules ask of one series.

    Args:
        mono_us: (n,) times, increasing.
        power_mw: (n,) readings.
        valid: (n,) false where a read failed.
        period_us: nominal sampling period.
        limit_mw: (n,) limit in force and its validity, if sampled.
        util_pct: (n,) utilisation and its validity, if sampled.
        device_limit_mw: limit from the manifest, where no sample carries one.
        idle_windows: windows of idle stages, from which the idle power is taken.
    """
    good = valid & (power_mw > 0)
    times, values = (mono_us, power_mw) if good.all() else (mono_us[good], power_mw[good])
    idle = _idle_power(times, values, idle_windows)
    over = [0, 0, 0]
    below = used = busiest = hot = cold = late = 0
    first_limit: int | None = None
    for start in range(0, power_mw.shape[0], _BLOCK):
        part = slice(start, start + _BLOCK)
        late += int(np.count_nonzero(np.diff(mono_us[start : start + _BLOCK + 1]) > 2 * period_us))
        power, ok = power_mw[part].astype(np.float32), good[part]
        limits = np.full(power.shape, device_limit_mw or np.inf, np.float32)
        if limit_mw is not None:
            known = limit_mw[1][part] & (limit_mw[0][part] > 0)
            limits[known] = limit_mw[0][part][known]
            if first_limit is None and known.any():
                first_limit = int(limit_mw[0][part][known.argmax()])
        above = ok & (power > OVER_LIMIT * limits)
        if above.any():
            worst = int(np.where(above, power, 0).argmax())
            over[0] += int(above.sum())
            if power[worst] > over[1]:
                over[1:] = [int(power[worst]), int(limits[worst])]
        if idle is not None:
            below += int(np.count_nonzero(ok & (power < BELOW_IDLE * idle)))
        if util_pct is not None:
            util, seen = util_pct[0][part], util_pct[1][part] & ok
            used += int(np.count_nonzero(seen))
            busiest = max(busiest, int(util[seen].max(initial=0)))
            hot += int(np.count_nonzero(seen & (util == 0) & (power > HOT * limits)))
            if idle is not None:
                cold += int(np.count_nonzero(seen & (util >= 95) & (power <= COLD * idle)))
    different = np.unique(values[: 1 << 20])
    varied = different.shape[0] >= VARIED and values.shape[0] >= WINDOW
    prints, places = fingerprints(values) if varied else (_NONE, np.zeros(0, np.int64))
    return SignalFacts(
        samples=int(values.shape[0]),
        late=late,
        periods=max(0, mono_us.shape[0] - 1),
        spacing_us=float(np.median(np.diff(mono_us))) if mono_us.shape[0] > 1 else 0.0,
        distinct=int(different.shape[0]),
        step_mw=int(np.gcd.reduce(different)) if different.size else 0,
        max_mw=int(values.max()) if values.size else 0,
        limit_mw=first_limit,
        over=(over[0], over[1], over[2]),
        idle_mw=idle,
        below_idle=below,
        util_samples=used,
        util_max=busiest,
        idle_but_hot=hot,
        busy_but_cold=cold,
        constant=longest_constant(times, values),
        digest=hashlib.sha256(np.ascontiguousarray(values, "<i4").data).hexdigest() if varied else None,
        prints=np.sort(prints),
        replay=find_replay(times, values, prints, places),
    )


_NONE: Prints = np.zeros(0, np.uint64)


def _idle_power(times: Ints, values: Ints, windows: Sequence[tuple[int, int]]) -> float | None:
    """Median reading in idle windows; None where they hold fewer than ten."""
    parts = [values[slice(*np.searchsorted(times, window))] for window in windows]
    found = np.concatenate(parts) if parts else values[:0]
    return float(np.median(found)) if found.shape[0] >= 10 else None


def longest_constant(times: Ints, values: Ints) -> Constant | None:
    """The longest run of equal readings."""
    if not values.size:
        return None
    edges = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.shape[0]]))
    longest = int(np.argmax(np.diff(edges)))
    start, stop = int(edges[longest]), int(edges[longest + 1])
    return Constant(int(times[start]), int(times[stop - 1]), stop - start, int(values[start]))


def fingerprints(values: Ints) -> tuple[Prints, npt.NDArray[np.int64]]:
    """Fingerprints of windows of 64 readings and where they begin, windows of little variety left out.

    Which windows are taken depends on their first readings alone: every 2^k-th by a hash of them, with 2^k
    such that about `MANY_PRINTS` remain. The choice for a longer series is a part of that for a shorter one.

    Args:
        values: (n,) valid readings in mW.
    """
    sparse = 1
    while values.shape[0] // sparse > MANY_PRINTS:
        sparse *= 2
    found: list[Prints] = []
    places: list[npt.NDArray[np.int64]] = []
    last = values.shape[0] - WINDOW + 1
    for start in range(0, max(0, last), _BLOCK):
        x = values[start : min(start + _BLOCK, last) + WINDOW - 1].astype(np.uint64)
        size = x.shape[0] - WINDOW + 1
        hashed = x[:size] * _ODD + x[1 : size + 1] * _MIX + x[2 : size + 2]
        hashed ^= hashed >> np.uint64(31)
        hashed *= _MIX
        chosen = np.flatnonzero((hashed >> np.uint64(40)) & np.uint64(sparse - 1) == 0)
        for at in range(0, chosen.shape[0], MANY_PRINTS):
            some = chosen[at : at + MANY_PRINTS]
            rows = windows(x, WINDOW)[some]
            keep = kinds(rows) >= VARIED
            prints = (rows[keep] * _WEIGHTS).sum(axis=1, dtype=np.uint64)
            prints ^= prints >> np.uint64(33)
            found.append(prints)
            places.append(some[keep].astype(np.int64) + start)
    if not found:
        return _NONE, np.zeros(0, np.int64)
    return np.concatenate(found), np.concatenate(places)


def windows(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """(n - size + 1, size) view of every window of contiguous values."""
    shape = max(0, values.shape[0] - size + 1), size
    return np.ndarray(shape, values.dtype, values.data, strides=values.strides * 2)


def kinds(rows: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """How many different values each row holds."""
    ordered = np.sort(rows, axis=1)
    changes: npt.NDArray[np.intp] = np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return changes + 1


def find_replay(times: Ints, values: Ints, prints: Prints, places: npt.NDArray[np.int64]) -> Replay | None:
    """The longest block that occurs twice in a series.

    Args:
        times: (n,) times of the readings.
        values: (n,) readings in mW.
        prints: fingerprints of windows.
        places: where the windows begin.
    """
    order = np.argsort(prints, kind="stable")
    same = np.flatnonzero(prints[order][1:] == prints[order][:-1])
    best: Replay | None = None
    for i in same[:: max(1, same.shape[0] // 64)]:
        first, again = sorted((int(places[order[i]]), int(places[order[i + 1]])))
        back = _agreement(values[:first][::-1], values[:again][::-1])
        length = back + _agreement(values[first:], values[again:])
        if length >= WINDOW and (best is None or length > best.length):
            a, b = first - back, again - back
            end = min(b + length, times.shape[0]) - 1
            mean_mw = float(values[b : b + length].mean())
            energy = mean_mw * float(times[end] - times[b]) * 1e-9
            best = Replay(int(times[a]), int(times[b]), length, energy)
    return best


def _agreement(a: Ints, b: Ints) -> int:
    """How many readings agree from the beginning on."""
    size = min(a.shape[0], b.shape[0])
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if differ.size else size
