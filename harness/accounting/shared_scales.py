"""What is common cancels: energies as multiples of scales that several of them share.

A sensor's gain, or the watts that an estimate gives to a CPU second, is no error of one stage: it is one
unknown number in all stages of a device or machine. An energy is therefore a sum

    E(g) = sum over parts of (product of the part's scales in g) x joules

with an interval for the joules of each part, which holds what differs from stage to stage, and a range for
each scale, whose best value is 1. Ratios, N* and T* are linear-fractional in every single scale and monotone
in every part, so their extremes lie at the corners of the box of scales and at ends of the parts. A corner at
which every term vanishes says nothing (0 / 0); its neighbours hold the limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from harness.accounting.interval import Interval, total

Key = tuple[str, ...]
"""Names of the scales that multiply a part; () for a part that shares nothing."""

Energy = Mapping[Key, Interval]
"""Joules at the best value of every scale, by what multiplies them."""

Scales = Mapping[str, tuple[float, float]]
"""Name -> least and largest value; 1 lies between."""

MOST_SCALES = 10
"""Scales whose corners are visited, 2^10; the rest widen their parts, which can only widen a result."""


def alone(energy: Interval) -> Energy:
    """An energy that shares no scale."""
    return {(): energy}


def added(energies: Iterable[Energy]) -> Energy:
    """Sum, scale by scale."""
    parts: dict[Key, list[Interval]] = {}
    for energy in energies:
        for key, joules in energy.items():
            parts.setdefault(key, []).append(joules)
    return {key: total(items) for key, items in parts.items()}


def at(energy: Energy, gains: Mapping[str, float]) -> Interval:
    """The energy where each scale has one value; a scale that is not named has its best one."""
    factors = {key: math.prod(gains.get(name, 1.0) for name in key) for key in energy}
    return total(joules.scale(factors[key]) for key, joules in energy.items())


def absolute(energy: Energy, scales: Scales) -> Interval:
    """The energy with everything that is not known of its scales in low and high."""
    return total(_widened(energy, scales, frozenset()).values())


def ratio(one: Energy, other: Energy, scales: Scales) -> Interval | None:
    """How many times another energy one is; None where the other is nothing by its best value.

    Args:
        one: numerator.
        other: denominator.
        scales: ranges of every scale that either names.
    """
    below = at(other, {}).best
    if below <= 0:
        return None
    best, low, high = at(one, {}).best / below, math.inf, 0.0
    for a, b in corners((one, other), scales):
        low = min(low, a.low / b.high) if b.high > 0 else low
        high = max(high, a.high / b.low if b.low > 0 else math.inf)
    return Interval(best, min(low, best), max(high, best))


def difference(one: Energy, other: Energy, scales: Scales) -> Interval:
    """One energy less another; a scale that both share is taken once."""
    found = [a - b for a, b in corners((one, other), scales)]
    best = at(one, {}).best - at(other, {}).best
    return Interval(best, min(best, *(f.low for f in found)), max(best, *(f.high for f in found)))


def corners(energies: Iterable[Energy], scales: Scales) -> Iterator[tuple[Interval, ...]]:
    """The energies at each corner of the box of scales at which not all of them vanish.

    Args:
        energies: as many as a figure is formed of.
        scales: ranges of every scale that they name.
    """
    given = list(energies)
    weight: dict[str, float] = {}
    for energy in given:
        for key, joules in energy.items():
            for name in key:
                low, high = scales[name]
                weight[name] = weight.get(name, 0.0) + joules.high * (high - low)
    names = sorted(weight, key=lambda name: (-weight[name], name))[:MOST_SCALES]
    given = [_widened(energy, scales, frozenset(names)) for energy in given]
    for gains in product(*(scales[name] for name in names)):
        found = tuple(at(energy, dict(zip(names, gains, strict=True))) for energy in given)
        if not names or any(energy.high > 0 for energy in found):
            yield found


def _widened(energy: Energy, scales: Scales, kept: frozenset[str]) -> Energy:
    """The energy with only the scales of `kept`; what the others leave open is in low and high."""
    parts = []
    for key, joules in energy.items():
        rest = [scales[name] for name in key if name not in kept]
        low, high = (math.prod(ends[side] for ends in rest) for side in (0, 1))
        wide = Interval(joules.best, min(joules.best, joules.low * low), max(joules.best, joules.high * high))
        parts.append({tuple(name for name in key if name in kept): wide})
    return added(parts)
