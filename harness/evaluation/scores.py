"""A benchmark's score with everything that is needed to check it and to compare it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.accounting.item_scores import ItemScores, summary
from harness.errors import KitError
from harness.evaluation.items import Item, digest_of
from harness.evaluation.suites import Benchmark

VOID_SHARE = 0.01
"""Share of judgements that may be unreadable; beyond it a benchmark has no score."""


@dataclass(frozen=True)
class Score:
    """A score, or why there is none.

    Attributes:
        name: The benchmark's.
        metric: What was measured.
        filter: How answers were read.
        score: In `unit`; None where `void` says why.
        unit: Of score, stderr and the items' scores.
        n_items: Items asked.
        n_scored: Items with a score; the rest are unparsed.
        stderr: Standard error of the score; None where it is not known.
        aggregation: mean, group_mean or external: the last cannot be computed from the items.
        items_sha256: Names the items and their order.
        item_sha256: One an item.
        item_scores: One an item; empty where the aggregation is external.
        item_groups: One an item; empty where there are none.
        task_version: Of the benchmark's task.
        harness: Program that scored.
        harness_version: Its version.
        judge: Who judged; None for nobody.
        first_preferred: Of judged pairs, mean probability of whichever answer was shown first; 0.5 without a
            bias of place.
        void: Why there is no score.
        answers: One an item, for the stage's own folder; never in the log.
    """

    name: str
    metric: str
    filter: str
    score: float | None
    unit: str
    n_items: int
    n_scored: int
    stderr: float | None
    aggregation: str
    items_sha256: str
    item_sha256: tuple[str, ...] = field(repr=False)
    item_scores: tuple[float | None, ...] = field(default=(), repr=False)
    item_groups: tuple[str | None, ...] = field(default=(), repr=False)
    task_version: str | None = None
    harness: str = "distill-energy-kit"
    harness_version: str | None = None
    judge: str | None = None
    first_preferred: float | None = None
    void: str | None = None
    answers: tuple[str | None, ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        *,
        items: Sequence[Item],
        scores: Sequence[float | None],
        metric: str | None = None,
        filter: str | None = None,
        external: float | None = None,
        n_scored: int | None = None,
        void: str | None = None,
        **known: Any,
    ) -> Score:
        """A score from those of its items.

        Args:
            benchmark: The benchmark.
            items: Its items.
            scores: One an item.
            metric: The benchmark's own by default.
            filter: The benchmark's own by default.
            external: A score that the items' do not give.
            n_scored: Items behind an external score.
            void: Why there is no score.
            **known: Further fields.

        Raises:
            KitError: No item has a score: never a zero in its place.
        """
        count = sum(score is not None for score in scores) if n_scored is None else n_scored
        name = benchmark.name
        if not count and void is None:
            raise KitError(f"{name} scored 0 of {len(items)} items", expected="at least one", exit_code=1)
        groups: tuple[str | None, ...] = tuple(item.group for item in items)
        groups = groups if any(group is not None for group in groups) else ()
        value, stderr = external, None
        if external is None and void is None:
            value, stderr = summary(ItemScores(scores, groups, benchmark.aggregation))
        return cls(
            name=name,
            metric=metric or benchmark.metric,
            filter=filter or benchmark.filter,
            score=value,
            unit=benchmark.unit,
            n_items=len(items),
            n_scored=count,
            stderr=stderr,
            aggregation="external" if external is not None else benchmark.aggregation,
            items_sha256=digest_of(items),
            item_sha256=tuple(item.sha256 for item in items),
            item_scores=() if external is not None else tuple(scores),
            item_groups=groups,
            task_version=benchmark.task_version,
            void=void,
            **known,
        )
