"""A stage as its program sees it: what it reports, and what it used once it has ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api.sinks import Sink
from harness.errors import KitError
from harness.journal.scores import check_together, eval_row, items_chunk, items_digest
from harness.meter.ranks import MAX_REPORT_BYTES

if TYPE_CHECKING:
    from harness.accounting.interval import Interval


@dataclass(frozen=True)
class StageEnergy:
    """What a stage used, in joules with 95 % intervals (`best`, `low`, `high`); None where it is unknown.

    Attributes:
        seconds: Length of the window that is billed.
        total: GPU, CPU and DRAM as far as they are measured; None where that of a GPU is unknown.
    """

    name: str
    kind: str
    attempt: int
    status: str
    seconds: float
    gpu: Interval | None
    cpu: Interval | None
    dram: Interval | None
    total: Interval | None


def stage_energy(row: dict[str, Any]) -> StageEnergy:
    """A row of `stages`."""
    from harness.accounting.interval import Interval
    from harness.accounting.totals import lower_bound, row_energy

    parts: dict[str, Interval | None] = {}
    for part in ("gpu", "cpu", "dram"):
        best, low, high = (row[f"{part}_energy_j{end}"] for end in ("", "_low", "_high"))
        parts[part] = None if best is None else Interval(best, min(best, low), max(best, high))
    return StageEnergy(
        row["name"],
        row["stage"],
        row["attempt"],
        row["status"],
        (row["mono_end_us"] - row["mono_start_us"]) / 1e6,
        **parts,
        total=None if lower_bound(row) else row_energy(row),
    )


class Stage:
    """A running stage; what `Meter.stage` yields."""

    def __init__(
        self, name: str, kind: str, sink: Sink, energy: Callable[[], StageEnergy | None] = lambda: None
    ) -> None:
        self.name = name
        self.kind = kind
        self._sink = sink
        self._energy = energy

    @property
    def energy(self) -> StageEnergy | None:
        """What the stage used, once it has ended; None under `kit audit`, whose log has it, and in a fork.

        Asking waits for the next refresh of the energy counters, at most. The sealed figure knows the
        readings of half a second more, and may have a narrower interval.

        Raises:
            KitError: The stage is still running.
        """
        return self._energy()

    def add_tokens(
        self,
        *,
        trained: int | None = None,
        processed: int | None = None,
        positions: int | None = None,
        generated: int | None = None,
    ) -> None:
        """Add to the stage's token counts; a count never given stays unknown, not zero.

        Args:
            trained: Unique label tokens that entered the loss.
            processed: Real tokens that went through a model.
            positions: Token positions computed, padding included.
            generated: Tokens generated, without padding.

        Raises:
            KitError: A count is negative or no whole number.
        """
        given = {"trained": trained, "processed": processed, "positions": positions, "generated": generated}
        counts: dict[str, int] = {}
        for name, count in given.items():
            if count is None:
                continue
            try:
                whole = -1 if isinstance(count, bool) else int(count)
            except (ValueError, OverflowError, TypeError):
                whole = -1
            if whole < 0 or whole != count:
                raise KitError(
                    f"{name}={count!r} is no token count",
                    where=f"stage {self.name!r}",
                    expected="a whole number >= 0",
                )
            counts[f"tokens_{name}"] = whole
        self._sink.tokens(counts)

    def event(self, name: str, **detail: Any) -> None:
        """Write an event such as a checkpoint into the log, with JSON-able details.

        Raises:
            KitError: JSON has no way to write a detail, or they are too large.
        """
        try:
            size = len(json.dumps(detail)) + len(str(name))
        except (TypeError, ValueError) as error:
            raise KitError(
                f"event {name!r}: {error}",
                where=f"stage {self.name!r}",
                expected="details of text, numbers, lists and mappings",
            ) from None
        if size > MAX_REPORT_BYTES - 1000:
            raise KitError(
                f"an event of {size} bytes",
                where=f"stage {self.name!r}",
                expected=f"at most {MAX_REPORT_BYTES - 1000}",
                fix="write large things to a file, and its name into the event",
            )
        self._sink.event(name, detail)

    def add_eval(
        self,
        benchmark: str,
        score: float,
        *,
        suite: str,
        metric: str,
        unit: str = "fraction",
        n_items: int | None = None,
        item_scores: Sequence[float | None] = (),
        item_sha256: Sequence[str] = (),
        item_groups: Sequence[str | None] = (),
        **columns: Any,
    ) -> None:
        """Record a benchmark's score (a row of table `evals`), with its items' scores if they are known.

        Args:
            benchmark: The benchmark's name.
            score: In `unit`.
            suite: Suite it is run as a part of.
            metric: What is measured.
            unit: "fraction", "percent", "rating_1_10" or "nats".
            n_items: Items asked; the number of `item_scores` by default.
            item_scores: One an item, in `unit`; None where none could be read. With them the score is
                their mean, unless `aggregation` says otherwise.
            item_sha256: Digest of each item as asked.
            item_groups: Subject or dialogue that each item shares with others; None where it does not.
            **columns: Further columns of `evals`, such as filter, stderr, judge_id, model_sha256.

        Raises:
            KitError: A value does not fit its column, or the benchmark was reported before.
        """
        scored = sum(item is not None for item in item_scores)
        known: dict[str, Any] = {"n_items": n_items}
        if item_scores:
            known = {"n_items": len(item_scores), "n_scored": scored, "aggregation": "mean"}
        if item_sha256:
            known["items_sha256"] = items_digest(item_sha256)
        named = {"benchmark": benchmark, "metric": metric}
        try:
            row = eval_row({**named, "suite": suite, "score": score, "score_unit": unit, **known, **columns})
            named |= {"subject": row["subject"], "filter": row["filter"]}
            listed = {
                "scores": list(item_scores),
                "item_sha256": list(item_sha256),
                "groups": list(item_groups),
            }
            items = items_chunk({**named, "first": 0, **listed}) if item_scores else None
            check_together(row, items)
        except ValueError as error:
            raise KitError(str(error), where=f"stage {self.name!r}") from None
        self._sink.scores(row, items)
