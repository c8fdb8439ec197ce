"""A benchmark's score from its items: means, standard errors, and differences between two models.

Items of one group (a subject, a dialogue) are not independent. The standard error of a mean sums residuals
within each group before it squares them (Liang and Zeger 1986), which is what a bootstrap over groups
converges to, without random numbers; without groups every item is its own. Two models asked the same items
are compared item by item: what makes an item hard for both cancels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from harness.accounting.interval import Interval
from harness.accounting.quality import Z95

Aggregation = Literal["mean", "group_mean"]
Verdict = Literal["better", "worse", "tie"]


class ItemScores(NamedTuple):
    """Scores of items in order.

    Attributes:
        scores: One an item; None where none could be read.
        groups: One an item, None where it has none; or empty: no item has one.
        aggregation: mean of all items, or group_mean: mean of the groups' means.
    """

    scores: Sequence[float | None]
    groups: Sequence[str | None] = ()
    aggregation: Aggregation = "mean"


def summary(items: ItemScores) -> tuple[float, float | None]:
    """(score, standard error) of the items that have a score.

    The error of a mean is sqrt(G / (G - 1) * sum over groups of (sum of residuals)^2) / n, over G groups;
    of a mean of group means it is sqrt(sum of s_g^2 / n_g) / G, and None where a group has one item only.

    Raises:
        ValueError: No item has a score.
    """
    pairs = [(score, group) for score, group in zip(items.scores, _groups(items), strict=True)]
    known = [(score, group) for score, group in pairs if score is not None]
    if not known:
        raise ValueError("no item has a score")
    by_group: dict[str, list[float]] = defaultdict(list)
    for score, group in known:
        by_group[group].append(score)
    if items.aggregation == "group_mean":
        return _group_mean(list(by_group.values()))
    mean = math.fsum(score for score, _ in known) / len(known)
    if len(by_group) < 2:
        return mean, None
    squares = math.fsum(math.fsum(x - mean for x in members) ** 2 for members in by_group.values())
    factor = len(by_group) / (len(by_group) - 1)
    return mean, math.sqrt(factor * squares) / len(known)


def _group_mean(groups: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    means = [math.fsum(members) / len(members) for members in groups]
    score = math.fsum(means) / len(means)
    if min(len(members) for members in groups) < 2:
        return score, None
    variances = [
        math.fsum((x - mean) ** 2 for x in members) / (len(members) - 1) / len(members)
        for members, mean in zip(groups, means, strict=True)
    ]
    return score, math.sqrt(math.fsum(variances)) / len(groups)


def _groups(items: ItemScores) -> list[str]:
    """A group for every item; one without a group is alone in its own."""
    given = list(items.groups) or [None] * len(items.scores)
    return [f"item {number}" if group is None else f"group {group}" for number, group in enumerate(given)]


class PairedQuality(NamedTuple):
    """Q of one model less Q of another, over the same items.

    Attributes:
        difference: With its 95 % interval.
        verdict: Of the first model: better or worse where the interval excludes 0, else a tie.
    """

    difference: Interval
    verdict: Verdict


def paired_quality(
    ours: Mapping[str, ItemScores], theirs: Mapping[str, ItemScores], teacher: Mapping[str, float]
) -> PairedQuality | None:
    """Compare Q of two students of one teacher, item by item.

    Q differs by the mean over benchmarks of (mean of item differences) / (teacher's score), and its
    standard error is that of these means alone: the teacher's own error scales both students alike and
    decides nothing between them.

    Args:
        ours: Benchmark to item scores.
        theirs: The same benchmarks, items and groups, in the same order.
        teacher: Benchmark to the teacher's score, above 0.

    Returns:
        None where a benchmark is missing, an item lacks a score, or an error is unknown.
    """
    if not teacher or ours.keys() != teacher.keys() or theirs.keys() != teacher.keys():
        return None
    parts, variances = [], []
    for name, score in teacher.items():
        mine, other = ours[name], theirs[name]
        alike = len(mine.scores) == len(other.scores) and _groups(mine) == _groups(other)
        if not alike or mine.aggregation != other.aggregation or score <= 0:
            return None
        gaps: list[float | None] = []
        for a, b in zip(mine.scores, other.scores, strict=True):
            if a is None or b is None:
                return None
            gaps.append(a - b)
        if not gaps:
            return None
        mean, stderr = summary(ItemScores(gaps, mine.groups, mine.aggregation))
        if stderr is None:
            return None
        parts.append(mean / score)
        variances.append((stderr / score) ** 2)
    count = len(parts)
    best, half = math.fsum(parts) / count, Z95 * math.sqrt(math.fsum(variances)) / count
    difference = Interval(best, best - half, best + half)
    verdict: Verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "tie"
    return PairedQuality(difference, verdict)
