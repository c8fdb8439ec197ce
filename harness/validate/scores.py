"""Level 2, the tables evals and eval_items: scores are what their items give, on the scale they name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from harness.accounting.item_scores import summary
from harness.bundle.canonical import canonical_json
from harness.validate.context import EVAL_KEY, Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

EVALS = "evals.parquet"
ITEMS = "eval_items.parquet"

BOUNDS = {"fraction": (0.0, 1.0), "percent": (0.0, 100.0), "rating_1_10": (1.0, 10.0)}
"""Unit -> lowest and highest score there can be; nats have no bounds of their own."""

BINARY = frozenset(
    {"exact_match", "acc", "acc_norm", "pass@1", "prompt_level_strict_acc", "prompt_level_loose_acc"}
)
"""Metrics of which an item is either right or wrong."""

MEAN_REL = 1e-9
STDERR_REL = 1e-6


def _named(row: dict[str, Any]) -> str:
    filtered = "" if row["filter"] == "none" else f", {row['filter']}"
    return f"{row['subject']} {row['benchmark']} ({row['metric']}{filtered}) of stage_uid {row['stage_uid']}"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in EVAL_KEY)


@rule("E230")
def items_counted(ctx: Context) -> Iterator[Hit]:
    """Scored and unparsed items are all items, and as many as eval_items has."""
    for number, row in enumerate(ctx.evals):
        if (
            row["n_scored"] + row["n_unparsed"] != row["n_items"]
            or min(row["n_scored"], row["n_unparsed"]) < 0
        ):
            observed = f"{_named(row)}: {row['n_scored']} scored + {row['n_unparsed']} unparsed"
            yield Hit(EVALS, observed, f"{row['n_items']} items", (number,))
        items = ctx.item_sums.get(_key(row))
        if items is None:
            continue
        for what, stated, held in (
            ("items", row["n_items"], items["items"]),
            ("scored items", row["n_scored"], items["scored"]),
        ):
            if stated != held:
                yield Hit(EVALS, f"{_named(row)}: {stated} {what}", f"{held}, as in eval_items", (number,))


@rule("E231")
def something_scored(ctx: Context) -> Iterator[Hit]:
    """An evaluation scored at least one item."""
    for number, row in enumerate(ctx.evals):
        if row["n_scored"] <= 0:
            yield Hit(EVALS, f"{_named(row)}: nothing was scored", "at least one scored item", (number,))


@rule("E232")
def scores_in_range(ctx: Context) -> Iterator[Hit]:
    """The bounds are those of the unit and the score lies inside; so does every item's."""
    for number, row in enumerate(ctx.evals):
        low, high = row["score_min"], row["score_max"]
        bounds = BOUNDS.get(row["score_unit"])
        if (bounds is not None and (low, high) != bounds) or not low < high:
            wanted = (
                "low < high" if bounds is None else f"{bounds[0]:g} to {bounds[1]:g} for {row['score_unit']}"
            )
            yield Hit(EVALS, f"{_named(row)}: bounds {low:g} to {high:g}", wanted, (number,))
        elif not low <= row["score"] <= high:
            yield Hit(EVALS, f"{_named(row)}: score {row['score']:g}", f"{low:g} to {high:g}", (number,))
        items = ctx.item_sums.get(_key(row))
        if items is not None and items["scored"] and not low <= items["min"] <= items["max"] <= high:
            observed = f"{_named(row)}: items from {items['min']:g} to {items['max']:g}"
            yield Hit(ITEMS, observed, f"{low:g} to {high:g}")


@rule("E233")
def means_recomputed(ctx: Context) -> Iterator[Hit]:
    """A mean is the mean of its items, and an exact match of n items is a whole number of n-ths."""
    # An attempt that did not end may have been stopped between a score and its items.
    completed = {row["stage_uid"] for row in ctx.stages if row["status"] == "completed"}
    for number, row in enumerate(ctx.evals):
        if row["aggregation"] == "external" or row["n_scored"] <= 0:
            continue
        items, grouped = ctx.item_sums.get(_key(row)), ctx.grouped(row)
        if items is not None and items["scored"]:
            mean = items["mean"] if grouped is None else summary(grouped)[0]
            slack = max(MEAN_REL, _rounding(row["score"]))
            if not math.isclose(row["score"], mean, rel_tol=MEAN_REL, abs_tol=slack):
                observed = f"{_named(row)}: score {row['score']:.6g}"
                yield Hit(EVALS, observed, f"{mean:.6g}, the mean of its items", (number,))
        elif row["metric"] in BINARY and row["score_unit"] in ("fraction", "percent"):
            right = _share(row) * row["n_scored"]
            if abs(_exact_mean(row) - row["score"]) > max(1e-6 * row["score_max"], _rounding(row["score"])):
                observed = f"{_named(row)}: {right:.6g} of {row['n_scored']} items right"
                yield Hit(EVALS, observed, "a whole number of items", (number,))
        elif row["stage_uid"] in completed:
            observed = f"{_named(row)}: called a mean, no items"
            yield Hit(EVALS, observed, "its items, or aggregation external", (number,))


def _share(row: dict[str, Any]) -> float:
    return float(row["score"] / (100.0 if row["score_unit"] == "percent" else 1.0))


def _exact_mean(row: dict[str, Any]) -> float:
    """The score; of items right or wrong, the whole number of them that is nearest, in the score's unit."""
    score, n = float(row["score"]), row["n_scored"]
    if row["metric"] not in BINARY or row["score_unit"] not in ("fraction", "percent") or n < 1:
        return score
    return float(score / _share(row) * round(_share(row) * n) / n) if score else 0.0


def _rounding(value: float) -> float:
    """Half a unit of the last digit of a value that was rounded to four digits or a few more, else 0."""
    places = min(4, 3 - math.floor(math.log10(abs(value)))) if value else 4
    for last in range(places, places + 5):
        if math.isclose(value, round(value, last), rel_tol=1e-13):
            return 0.500001 * 10.0**-last
    return 0.0


@rule("E234")
def errors_recomputed(ctx: Context) -> Iterator[Hit]:
    """A standard error is that of its items, and none is larger than the score's bounds allow."""
    for number, row in enumerate(ctx.evals):
        stderr, n = row["stderr"], row["n_scored"]
        items = ctx.item_sums.get(_key(row))
        grouped = ctx.grouped(row)
        if stderr is not None and grouped is not None and items is not None and items["scored"]:
            clustered = summary(grouped)[1]
            slack = max(1e-12, _rounding(stderr))
            if clustered is None or not math.isclose(stderr, clustered, rel_tol=STDERR_REL, abs_tol=slack):
                expected = "null" if clustered is None else f"{clustered:.6g}, from its items in their groups"
                yield Hit(EVALS, f"{_named(row)}: stderr {stderr:.6g}", expected, (number,))
            continue
        if stderr is None or n < 2 or row["aggregation"] != "mean":
            if stderr is not None and stderr < 0:
                yield Hit(EVALS, f"{_named(row)}: stderr {stderr:.6g}", "0 or more, or null", (number,))
            continue
        # Anything in [low, high] with mean m varies by (high - m)(m - low) at most; right or wrong does.
        mean, last = _exact_mean(row), _rounding(stderr)
        room = max(0.0, (row["score_max"] - mean) * (mean - row["score_min"]))
        most = math.sqrt(room / (n - 1))
        if items is not None and items["scored"] == n:
            own = [items["stddev"] / math.sqrt(n), items["stddev"] / math.sqrt(n - 1)]
            near = any(math.isclose(stderr, x, rel_tol=STDERR_REL, abs_tol=max(1e-12, last)) for x in own)
            expected = f"{own[1]:.6g}, from its items"
        elif row["metric"] in BINARY:
            own = [math.sqrt(room / n), most]
            near = any(math.isclose(stderr, x, rel_tol=1e-6, abs_tol=max(1e-12, last)) for x in own)
            expected = f"{most:.6g} for {n} items right or wrong"
        else:
            near = 0 <= stderr <= most * 1.000001 + last
            expected = f"at most {most:.6g}, by the score's bounds"
        if not near:
            yield Hit(EVALS, f"{_named(row)}: stderr {stderr:.6g}", expected, (number,))


@rule("W239")
def errors_stated(ctx: Context) -> Iterator[Hit]:
    """A mean over two items or more states its standard error."""
    for number, row in enumerate(ctx.evals):
        items = ctx.item_sums.get(_key(row))
        if (
            row["stderr"] is None
            and row["aggregation"] != "external"
            and items is not None
            and items["scored"] > 1
        ):
            grouped = ctx.grouped(row)
            own = items["stddev"] / math.sqrt(items["scored"] - 1)
            if grouped is not None:
                known = summary(grouped)[1]
                if known is None:
                    continue
                own = known
            yield Hit(EVALS, f"{_named(row)}: stderr is null", f"{own:.6g}, from its items", (number,))


@rule("E235")
def evals_have_stages(ctx: Context) -> Iterator[Hit]:
    """Scores and items name stages and each other, and a judge's scores a stage that paid for them."""
    judges, scorers = ctx.protocol.kinds("judge"), ctx.protocol.kinds("scores")
    strangers = set(ctx.protocol.kind_names) - set(scorers)
    stages = {row["stage_uid"]: row for row in ctx.stages}
    keys = {_key(row) for row in ctx.evals}
    for number, row in enumerate(ctx.evals):
        if row["stage_uid"] not in stages:
            yield Hit(EVALS, f"stage_uid {row['stage_uid']}", "a stage of this run", (number,))
        elif stages[row["stage_uid"]]["stage"] in strangers and row["suite"] != "heldout":
            observed = f"{_named(row)}: scored by a stage of kind {stages[row['stage_uid']]['stage']}"
            yield Hit(EVALS, observed, f"a stage of kind {' or '.join(scorers)}", (number,))
        judge = row["judge_stage_uid"]
        if judge is not None and stages.get(judge, {}).get("stage") not in judges:
            expected = f"a stage of kind {' or '.join(judges)}"
            yield Hit(EVALS, f"{_named(row)}: judged by stage_uid {judge}", expected, (number,))
    for key in [key for key in ctx.item_sums if key not in keys]:  # in the order of the file
        where = " ".join(map(str, key[1:3]))
        yield Hit(ITEMS, f"items of {where}, stage_uid {key[0]}", "a row in evals with the same key")


@rule("E236")
def questions_named(ctx: Context) -> Iterator[Hit]:
    """The digest of the questions is that of the items, numbered 0, 1, 2 ..."""
    for number, row in enumerate(ctx.evals):
        items = ctx.items_of(_key(row)) if _key(row) in ctx.item_sums else []
        if [item["item"] for item in items] != list(range(len(items))):
            yield Hit(ITEMS, f"{_named(row)}: items are not numbered in a row", "0, 1, 2 ...")
        hashes = [item["item_sha256"] for item in items]
        if row["items_sha256"] is None or not items or None in hashes:
            continue
        digest = hashlib.sha256(canonical_json(hashes)).hexdigest()
        if digest != row["items_sha256"]:
            observed = f"{_named(row)}: items_sha256 {row['items_sha256'][:16]}..."
            yield Hit(EVALS, observed, f"{digest[:16]}..., by its items", (number,))


@rule("E237")
def teacher_on_the_same_scale(ctx: Context) -> Iterator[Hit]:
    """A student's score and the teacher's it is divided by were taken on one scale, over the same items."""
    teachers = {_key(row): row for row in ctx.evals if row["subject"] == "teacher"}
    for number, row in enumerate(ctx.evals):
        other = teachers.get((row["stage_uid"], "teacher", *_key(row)[2:]))
        if row["subject"] != "student" or other is None:
            continue
        for name in ("score_unit", "higher_is_better", "n_items", "items_sha256", "dataset_sha256"):
            unknown = name.endswith("_sha256") and None in (row[name], other[name])  # costs the rank, C425
            if row[name] != other[name] and not unknown:
                observed = f"{_named(row)}: {name} {row[name]}"
                yield Hit(EVALS, observed, f"{other[name]}, as the teacher's", (number,))
        if row["model_sha256"] is not None and row["model_sha256"] == other["model_sha256"]:
            observed = f"{_named(row)}: model_sha256 {row['model_sha256'][:16]}..., the teacher's"
            yield Hit(EVALS, observed, "two models", (number,))
