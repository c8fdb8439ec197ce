"""Operations on reported scores and on the idle baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.spec import load_protocol

Json = Mapping[str, Any]


def check_score(given: Json) -> Json:
    """A score with its items, as a stage's report is checked before it enters the log."""
    from harness.journal.scores import check_together, eval_row, items_chunk

    row = eval_row(given["eval"])
    items = None
    if given.get("items") is not None:
        named = {name: row[name] for name in ("subject", "benchmark", "metric", "filter")}
        items = items_chunk({**named, "scores": given["items"]})
    check_together(row, items)
    return {name: row[name] for name in ("score", "n_items", "n_scored", "n_unparsed")}


def above_idle(given: Json) -> Json:
    """Mean idle power and the energy above it, as a report shows them."""
    from harness.conformance.figures import stage_rows
    from harness.report.beside import idle_baseline

    blank = {"session": 0}
    found = idle_baseline(
        [blank | row for row in stage_rows(given["stages"])], None, load_protocol().kinds("idle")
    )
    if found is None:
        return {"idle_power_w": None, "above_idle_j": None}
    return {"idle_power_w": found.power_w.best, "above_idle_j": found.above.best}
