"""Pareto frontier of cost against quality, with ties where the intervals allow no order.

A point dominates another when it has no less quality at no more cost and is better in one of the two. By the
best values that is a fact of arithmetic; it is a claim only where it holds for every value inside the
intervals, and of costs that share scales where the interval of their ratio excludes 1. Where it does not, the
two are a tie: neither is said to beat the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.accounting.interval import Interval
from harness.accounting.shared_scales import Energy, Scales, ratio


class ParetoPoint(NamedTuple):
    """A figure of cost and one of quality, each with its interval.

    Attributes:
        name: unique among the points compared.
        cost: less is better, any unit.
        quality: more is better.
        scaled: the cost by the scales it shares with others; None where none are known.
    """

    name: str
    cost: Interval
    quality: Interval
    scaled: Energy | None = None


class Standing(NamedTuple):
    """Where a point stands among the others.

    Attributes:
        dominated_by: names of points that are better beyond doubt.
        ties: names of points that are better by the best values alone.
    """

    name: str
    dominated_by: tuple[str, ...]
    ties: tuple[str, ...]

    @property
    def on_frontier(self) -> bool:
        """Whether no point is better by the best values."""
        return not self.dominated_by and not self.ties

    @property
    def may_be_on_frontier(self) -> bool:
        """Whether no point is better beyond doubt."""
        return not self.dominated_by


def pareto_frontier(points: Sequence[ParetoPoint], scales: Scales | None = None) -> list[Standing]:
    """Compare every point with every other one.

    Args:
        points: names must be unique.
        scales: ranges of the scales that the costs name.

    Returns:
        One standing a point, in the order given; names in it in the order of rising cost.

    Raises:
        ValueError: if two points have one name.
    """
    if len({p.name for p in points}) < len(points):
        raise ValueError("two points have one name")
    ordered = sorted(points, key=lambda p: (p.cost.best, -p.quality.best))
    found = []
    for point in points:
        better = [other for other in ordered if dominates(other, point)]
        clear = [other for other in better if dominates_surely(other, point, scales or {})]
        ties = [other for other in better if other not in clear]
        found.append(Standing(point.name, tuple(o.name for o in clear), tuple(o.name for o in ties)))
    return found


def dominates(one: ParetoPoint, other: ParetoPoint) -> bool:
    """Whether `one` is better than `other` by the best values."""
    no_worse = one.cost.best <= other.cost.best and one.quality.best >= other.quality.best
    return no_worse and (one.cost.best, one.quality.best) != (other.cost.best, other.quality.best)


def dominates_surely(one: ParetoPoint, other: ParetoPoint, scales: Scales) -> bool:
    """Whether `one` is better than `other` for every value inside the intervals.

    Two figures that are exactly the same, such as two shares of right answers without a standard error, are
    no doubt; two intervals that merely overlap are.
    """
    no_dearer, cheaper = one.cost.high <= other.cost.low, one.cost.high < other.cost.low
    if one.scaled is not None and other.scaled is not None:
        times = ratio(one.scaled, other.scaled, scales)
        if times is not None:
            no_dearer, cheaper = times.high <= 1, times.high < 1
    no_worse = one.quality.low >= other.quality.high
    better = cheaper or one.quality.low > other.quality.high
    return no_dearer and no_worse and better
