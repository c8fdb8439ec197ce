"""`results.json` of an evaluation: written, read, compared, reported."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.accounting.item_scores import ItemScores, PairedQuality, paired_quality
from harness.accounting.quality import Z95, Measured, Quality, quality
from harness.distill.reporting import report_eval, report_eval_items, report_event
from harness.errors import KitError
from harness.evaluation.scores import Score
from harness.evaluation.suites import Benchmark, Suite

FORMAT = "results/2"
HELD_OUT_SUITE = "heldout"
_MOST_NATS = 1000.0

Results = dict[str, Any]


def read_results(path: Path) -> Results:
    """What an evaluation left.

    Raises:
        KitError: It is missing, damaged or of another format.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] != FORMAT:
            raise ValueError(f"format {results['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"holds no results ({error})",
            where=str(path),
            expected=f"results.json of an evaluation, format {FORMAT}",
            fix="kit evaluate TEACHER --suite NAME --out DIR",
        ) from None
    assert isinstance(results, dict)
    return results


def plain(score: Score) -> dict[str, Any]:
    """A score as results.json holds it: everything but the answers."""
    found = asdict(score)
    found.pop("answers")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def scores_of(results: Results, benchmarks: Sequence[Benchmark]) -> dict[str, dict[str, Any]]:
    """The scores that Q is over, by benchmark: complete ones, of the suite's own metric and filter."""
    found = {}
    for benchmark in benchmarks:
        for row in results["benchmarks"]:
            key = (row["name"], row["metric"], row["filter"])
            if key == (benchmark.name, benchmark.metric, benchmark.filter) and row["score"] is not None:
                found[benchmark.name] = row
    return found


def quality_of(suite: Suite, results: Results, teacher: Results) -> Quality:
    """Q of a student against a teacher's results; undefined where the two were not asked the same."""
    if results["suite"] != teacher["suite"]:
        return Quality(None, f"suite {results['suite']}, the teacher's {teacher['suite']}")
    if results.get("judge") != teacher.get("judge"):
        return Quality(None, f"judged by {results.get('judge')}, the teacher by {teacher.get('judge')}")
    ours, theirs = (scores_of(side, suite.benchmarks) for side in (results, teacher))

    def measured(side: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Measured]:
        return {
            name: Measured(row["score"], row["stderr"])
            for name, row in side.items()
            if other.get(name, row)["items_sha256"] == row["items_sha256"]
            and row["n_scored"] == row["n_items"]
        }

    return quality(measured(ours, theirs), measured(theirs, ours), suite.benchmarks)


def compare(suite: Suite, ours: Results, theirs: Results, teacher: Results) -> PairedQuality | None:
    """Q of one student less Q of another, item by item; None where they cannot be compared so."""
    if len({side["suite"] for side in (ours, theirs, teacher)}) > 1 or ours.get("judge") != theirs.get(
        "judge"
    ):
        return None
    rows = [scores_of(side, suite.benchmarks) for side in (ours, theirs, teacher)]
    for name in {*rows[0], *rows[1]}:
        if rows[0].get(name, {}).get("items_sha256") != rows[1].get(name, {}).get("items_sha256"):
            return None
    items = [
        {
            name: ItemScores(row["item_scores"], row["item_groups"], row["aggregation"])
            for name, row in side.items()
        }
        for side in rows[:2]
    ]
    taught = {name: row["score"] for name, row in rows[2].items()}
    whole = {benchmark.name for benchmark in suite.benchmarks}
    return paired_quality(items[0], items[1], taught) if taught.keys() == whole else None


def report_scores(results: Results, rows: Sequence[Mapping[str, Any]], teacher: Results | None) -> None:
    """Report scores to the audit, and the teacher's on the same items beside them.

    Prompts and answers stay in the stage's own folder; the log gets names, numbers and digests.

    Args:
        results: The student's results.
        rows: Those of its benchmarks that this stage scored.
        teacher: The teacher's results on the same suite; None where there is no Q to be had.
    """
    for row in rows:
        _report(row, results, "student")
    if results["heldout_loss"] is not None:
        _report_held_out(results)
    if teacher is None or teacher["suite"] != results["suite"]:
        return
    asked = {(row["name"], row["metric"], row["filter"]): row["items_sha256"] for row in rows}
    for row in teacher["benchmarks"]:
        # A teacher that was asked something else was compared with nothing.
        if asked.get((row["name"], row["metric"], row["filter"])) == row["items_sha256"]:
            _report(row, teacher, "teacher")


def _report(row: Mapping[str, Any], results: Mapping[str, Any], subject: str) -> None:
    if row["void"] is not None or row["score"] is None:
        report_event(
            "score_void", benchmark=row["name"], metric=row["metric"], subject=subject, reason=row["void"]
        )
        return
    named = {
        "benchmark": row["name"],
        "metric": row["metric"],
        "filter": row["filter"],
        "subject": subject,
    }
    report_eval(
        **named,
        suite=results["suite"],
        benchmark_version=row["task_version"],
        score=row["score"],
        score_unit=row["unit"],
        n_items=row["n_items"],
        n_scored=row["n_scored"],
        aggregation=row["aggregation"],
        stderr=row["stderr"],
        judge_id=row["judge"],
        harness=row["harness"],
        harness_version=row["harness_version"],
        model_sha256=results["model"]["digest"],
        items_sha256=row["items_sha256"],
    )
    if row["item_scores"]:
        report_eval_items(named, row["item_scores"], row["item_sha256"], row["item_groups"])


def _report_held_out(results: Mapping[str, Any]) -> None:
    """The mean loss over label tokens: of too many to list, and no part of a suite."""
    data = results.get("data") or {}
    report_eval(
        benchmark="validation",
        metric="loss",
        suite=HELD_OUT_SUITE,
        score=results["heldout_loss"],
        score_unit="nats",
        score_max=_MOST_NATS,
        n_items=results["heldout_label_tokens"],
        higher_is_better=False,
        aggregation="external",
        harness="distill-energy-kit",
        model_sha256=results["model"]["digest"],
        dataset_sha256=data.get("content_digest"),
    )


def score_text(row: Mapping[str, Any]) -> str:
    """A score with half its 95 % interval, unit and what was not read, for people."""
    if row["score"] is None:
        return f"no score: {row['void']}"
    unit = {"percent": " %", "rating_1_10": " of 10", "nats": " nats"}.get(str(row["unit"]), "")
    text = f"{row['score']:.4g}{unit}"
    if row["stderr"] is not None and math.isfinite(row["stderr"]):
        text += f" ± {Z95 * row['stderr']:.2g}"
    unread = row["n_items"] - row["n_scored"]
    text += f", {unread} of {row['n_items']} unparsed" if unread else f", {row['n_items']} items"
    place = row.get("first_preferred")
    return text + (
        "" if place is None else f"; the judge gives what it sees first {place:.2f} (no bias: 0.5)"
    )
