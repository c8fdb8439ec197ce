"""Means of items against closed forms and a bootstrap; pairs against a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from harness.accounting.item_scores import ItemScores, paired_quality, summary


def test_without_groups_it_is_the_standard_error_of_a_mean() -> None:
    scores = [1.0, 0.0, None, 1.0, 1.0]
    known = np.array([1.0, 0.0, 1.0, 1.0])
    mean, stderr = summary(ItemScores(scores))
    assert mean == 0.75 and stderr == pytest.approx(known.std(ddof=1) / 2)
    assert summary(ItemScores(scores, [None] * 5)) == (mean, stderr)
    assert summary(ItemScores([0.5])) == (0.5, None)
    with pytest.raises(ValueError, match="no item"):
        summary(ItemScores([None, None]))


def test_the_error_of_groups_is_that_of_a_bootstrap_over_them() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 12, 60)
    level = rng.normal(0.5, 0.2, 60)
    groups = np.repeat(np.arange(60), sizes)
    scores = np.clip(level[groups] + rng.normal(0, 0.1, len(groups)), 0, 1)
    mean, stderr = summary(ItemScores(list(scores), [str(g) for g in groups]))
    sums, counts = (np.bincount(groups, weights=w) for w in (scores, np.ones(len(groups))))
    drawn = rng.integers(0, 60, (4000, 60))
    boot = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    assert mean == pytest.approx(scores.mean())
    assert stderr == pytest.approx(boot.std(ddof=1), rel=0.06)
    alone = summary(ItemScores(list(scores)))[1]
    assert alone is not None and stderr is not None and stderr > 1.5 * alone


def test_a_mean_of_group_means_weighs_groups_alike() -> None:
    items = ItemScores([1.0, 3.0, 5.0, 10.0, 8.0], ["a", "a", "a", "b", "b"], "group_mean")
    mean, stderr = summary(items)
    assert mean == 6.0
    assert stderr == pytest.approx(np.sqrt(4 / 3 + 2 / 2) / 2)
    assert summary(ItemScores([1.0, 2.0, 9.0], ["a", "a", "b"], "group_mean")) == (5.25, None)


def test_pairs_are_decided_where_separate_intervals_overlap() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 0.3, 400)
    ours = list(0.55 + hard + rng.normal(0, 0.02, 400))
    theirs = list(0.53 + hard + rng.normal(0, 0.02, 400))
    teacher = {"a": 0.8}
    found = paired_quality({"a": ItemScores(ours)}, {"a": ItemScores(theirs)}, teacher)
    assert found is not None and found.verdict == "better"
    gap = (np.array(ours) - np.array(theirs)) / 0.8
    assert found.difference.best == pytest.approx(gap.mean())
    half = found.difference.high - found.difference.best
    assert half == pytest.approx(1.96 * gap.std(ddof=1) / 20, rel=1e-4)
    separate = summary(ItemScores(ours))[1]
    assert separate is not None and 1.96 * separate / 0.8 > 5 * half
    back = paired_quality({"a": ItemScores(theirs)}, {"a": ItemScores(ours)}, teacher)
    assert back is not None and back.verdict == "worse"
    same = paired_quality({"a": ItemScores(ours)}, {"a": ItemScores(ours)}, teacher)
    assert same is not None and same.verdict == "tie" and same.difference.best == 0.0


def test_what_cannot_be_paired_has_no_verdict() -> None:
    a, b = ItemScores([1.0, 0.0, 1.0]), ItemScores([0.0, 0.0, 1.0])
    assert paired_quality({"x": a}, {"x": b}, {"x": 0.5}) is not None
    for ours, theirs, teacher in (
        ({"x": a}, {}, {"x": 0.5}),
        ({"x": a}, {"x": ItemScores([0.0, 0.0])}, {"x": 0.5}),
        ({"x": a}, {"x": ItemScores([0.0, None, 1.0])}, {"x": 0.5}),
        ({"x": a}, {"x": ItemScores([0.0, 0.0, 1.0], ["g", "g", "h"])}, {"x": 0.5}),
        ({"x": a}, {"x": b}, {"x": 0.0}),
        ({"x": a}, {"x": b}, {"x": 0.5, "y": 0.5}),
        ({"x": ItemScores([1.0])}, {"x": ItemScores([0.0])}, {"x": 0.5}),
    ):
        assert paired_quality(ours, theirs, teacher) is None
