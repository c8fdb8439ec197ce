"""Scores and their items, and energy above idle."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec
from vector_oracle.energies import energy, row, tops

Json = dict[str, Any]


def families() -> list[Family]:
    """Scores and idle baseline."""
    return [_scores(), _idle()]


def _scores() -> Family:
    family = Family("scores", "A score that is a mean is the mean of its scored items; the counts add up.")

    def given(score: str, items: Sequence[str | None] | None, **more: Any) -> Json:
        stated: Json = {"suite": "demo", "benchmark": "gsm8k", "metric": "exact_match", "score": dec(score)}
        stated |= {"score_unit": "fraction", "aggregation": "external" if items is None else "mean"}
        found: Json = {"eval": stated | more}
        if items is not None:
            found["items"] = [None if item is None else dec(item) for item in items]
        return found

    def valid(
        name: str, text: str, score: str, items: Sequence[str | None], *flags: str, **more: Any
    ) -> None:
        known = [dec(item) for item in items if item is not None]
        counts = {"n_items": len(items), "n_scored": len(known), "n_unparsed": len(items) - len(known)}
        assert sum(known, Fraction(0)) / len(known) == dec(score), name
        answer = {"score": dec(score), **counts}
        family.valid(
            name, "4.8", "check_score", given(score, items, **{**counts, **more}), answer, text, *flags
        )

    def refuse(
        name: str, text: str, score: str, items: Sequence[str | None] | None, *flags: str, **more: Any
    ) -> None:
        family.invalid(name, "4.8", "check_score", given(score, items, **more), text, *flags)

    counts = {"n_items": 4, "n_scored": 4, "n_unparsed": 0}
    partly = {"n_items": 4, "n_scored": 3, "n_unparsed": 1}
    valid("mean", "Three of four.", "0.75", ["1", "1", "0", "1"])
    valid(
        "unparsed",
        "An answer that could not be read is not wrong: it is not scored, and it is counted.",
        "0.5",
        ["1", None, "0", None],
        "UnparsedAsWrong",
    )
    valid("one-item", "One item.", "1", ["1"])
    valid("all-wrong", "None right is a score.", "0", ["0", "0", "0"])
    valid("partial-credit", "Items between 0 and 1.", "0.5625", ["0.25", "1", "0.5", "0.5"])
    valid("rating", "A rating of 1 to 10.", "7.5", ["9", "6"], score_unit="rating_1_10")
    valid("percent", "A share in percent has items in percent.", "62.5", ["100", "25"], score_unit="percent")
    family.valid(
        "external",
        "4.8",
        "check_score",
        given("0.31", None, **counts),
        {"score": dec("0.31"), **counts},
        "A score that a program worked out from all its items at once: nothing to recompute.",
    )
    refuse(
        "other-mean",
        "0.75 is stated, the items say 0.5.",
        "0.75",
        ["1", "1", "0", "0"],
        "ItemsIgnored",
        **counts,
    )
    refuse(
        "mean-over-all",
        "One in three scored items is not one in four.",
        "0.25",
        ["1", None, "0", "0"],
        "ItemsIgnored",
        "UnparsedAsWrong",
        **partly,
    )
    refuse(
        "nothing-scored",
        "No item could be scored: that is no score of 0 but a failed evaluation.",
        "0",
        [None, None],
        "ItemsIgnored",
        "UnparsedAsWrong",
        n_items=2,
        n_scored=0,
        n_unparsed=2,
    )
    refuse("counts", "3 scored and 2 unparsed are not 4.", "0.5", None, n_items=4, n_scored=3, n_unparsed=2)
    refuse(
        "counts-of-items", "Four are stated, three are there.", "1", ["1", "1", "1"], "ItemsIgnored", **counts
    )
    refuse("no-items", "A mean without items.", "0.5", None, "ItemsIgnored", aggregation="mean", **counts)
    refuse(
        "wrong-scale",
        "42 is no fraction: a percentage in the wrong column.",
        "42",
        None,
        "ScaleUnchecked",
        **counts,
    )
    refuse("below-scale", "Nor is anything below 0.", "-0.1", None, "ScaleUnchecked", **counts)
    refuse(
        "rating-of-zero",
        "A rating begins at 1.",
        "0",
        None,
        "ScaleUnchecked",
        score_unit="rating_1_10",
        **counts,
    )
    return family


def _idle() -> Family:
    family = Family(
        "idle",
        "Energy above idle: energy less mean idle power over the same time. Beside the total, never instead.",
    )

    def stage(kind: str, start: int, end: int, joules: str | None, **more: Any) -> Json:
        return row(kind, joules, mono_start_us=start * 10**6, mono_end_us=end * 10**6, **more)

    def add(name: str, text: str, stages: list[Json], *flags: str) -> None:
        stages = [{"stage_uid": k, **one} for k, one in enumerate(stages)]
        known = [(one, found) for one in tops(stages) if (found := energy(one)) is not None]
        idle = [(one, found) for one, found in known if one["stage"] == "idle"]

        def length(rows: list[tuple[Json, Fraction]]) -> Fraction:
            return Fraction(sum(one["mono_end_us"] - one["mono_start_us"] for one, _ in rows), 10**6)

        answer: Json = {"idle_power_w": None, "above_idle_j": None}
        if idle:
            power = sum((found for _, found in idle), Fraction(0)) / length(idle)
            whole = sum((found for _, found in known), Fraction(0))
            answer = {"idle_power_w": power, "above_idle_j": whole - power * length(known)}
        family.valid(name, "2.6", "above_idle", {"stages": stages}, answer, text, *flags)

    train, before, after = (
        stage("student_train", 60, 160, "50000"),
        stage("idle", 0, 60, "4800"),
        stage("idle", 170, 290, "13200"),
    )
    wait = stage("unattributed", 160, 170, "1500")
    add(
        "both-ends",
        "80 W before, 110 W after for twice as long: 100 W.",
        [before, train, wait, after],
        "FirstIdleAlone",
        "HolesLost",
        "IdleMeanOfMeans",
    )
    add(
        "same-length",
        "Two of one length.",
        [before, train, stage("idle", 160, 220, "6000")],
        "FirstIdleAlone",
    )
    add("before-only", "One at the start.", [before, train])
    add("none", "No idle stage: no figure. The lowest sample is no baseline.", [train, wait], "UnknownAsZero")
    add(
        "unmeasured",
        "An idle stage that was not measured is none.",
        [stage("idle", 0, 60, None), train],
        "UnknownAsZero",
    )
    add(
        "below-idle",
        "Training that draws less than idle is shown as it is: below 0.",
        [before, stage("student_train", 60, 160, "7000")],
    )
    add(
        "child",
        "A child is in its parent.",
        [before, train, stage("evaluate", 70, 80, "4000", parent_uid=1)],
        "ParentSummed",
    )
    return family
