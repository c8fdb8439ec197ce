"""What the evaluate stage tells the audit: rows of `evals` and `eval_items`, the teacher's beside its own.

Prompts and answers stay in the stage's own folder; the log gets names, numbers and digests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.distill.reporting import report_eval, report_eval_items

HELD_OUT_SUITE = "heldout"
_MOST_NATS = 1000.0
_MEAN_REL = 1e-9


def report_scores(results: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> None:
    """Report the scores of a results.json, and the teacher's that Q was divided by.

    Args:
        results: The student's results.
        teacher: The teacher's on the same suite; None where there is no Q to be had.
    """
    for benchmark in results["benchmarks"]:
        _report(benchmark, results, "student")
    if results["heldout_loss"] is not None:
        _report_held_out(results)
    asked = {benchmark["name"]: benchmark["items_sha256"] for benchmark in results["benchmarks"]}
    for benchmark in [] if teacher is None else teacher["benchmarks"]:
        # A teacher that was asked something else was compared with nothing.
        if asked.get(benchmark["name"]) == benchmark["items_sha256"]:
            _report(benchmark, teacher or {}, "teacher")


def _report(benchmark: Mapping[str, Any], results: Mapping[str, Any], subject: str) -> None:
    scores = list(benchmark.get("item_scores") or ())
    known = [score for score in scores if score is not None]
    mean = math.fsum(known) / len(known) if known else None
    is_mean = mean is not None and math.isclose(
        mean, benchmark["score"], rel_tol=_MEAN_REL, abs_tol=_MEAN_REL
    )
    named = {"benchmark": benchmark["name"], "metric": benchmark["metric"], "subject": subject}
    report_eval(
        **named,
        suite=results["suite"],
        score=benchmark["score"],
        score_unit=benchmark["score_unit"],
        n_items=benchmark["n_items"],
        n_scored=benchmark["n_scored"],
        aggregation="mean" if is_mean else "external",
        stderr=benchmark["stderr"],
        harness=benchmark.get("harness") or "unspecified",
        harness_version=benchmark.get("harness_version"),
        model_sha256=results["model"]["digest"],
        items_sha256=benchmark["items_sha256"],
    )
    if is_mean:
        report_eval_items(named, scores, list(benchmark.get("item_sha256") or ()))


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
