"""Whether a teacher pays, and what a student is worth: amortization, N*, T*, Q, the frontier, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tests.oracle.family import Family, dec, maybe

Json = dict[str, Any]


def amortization() -> Family:
    """Three ways."""
    family = Family(
        "amortization", "One run three ways: marginal, amortized over N, full.", "amortize", "4.6"
    )
    for name, text, own, teacher, reuses, *flags in (
        ("one", "Used once, the teacher is paid in full.", "5.90", "11.00", 1),
        ("ten", "Ten students share the teacher; each trains alone.", "5.90", "11.00", 10, "OwnAmortized"),
        ("three", "Thirds.", "19440000", "39600000", 3, "OwnAmortized"),
        ("no-teacher", "Without a teacher the three are one.", "7.00", "0", 5, "OwnAmortized"),
        ("million", "A million reuses leave the student.", "5.90", "11.00", 1_000_000, "OwnAmortized"),
    ):
        family.add(name, text, {"own_j": dec(own), "teacher_j": dec(teacher), "reuses": reuses}, *flags)
    for name, text, count in (
        ("zero", "Used by nobody.", 0),
        ("negative", "Used by fewer than nobody.", -3),
        ("fraction", "Used by half a student.", 2.5),
    ):
        family.refuse(name, text, {"own_j": 5.9, "teacher_j": 11.0, "reuses": count})
    return family


def reuses() -> Family:
    """N*."""
    doc = "N*: the smallest whole number of reuses from which a teacher has paid for itself."
    family = Family("reuses", doc, "break_even", "4.6")
    names = ("teacher", "baseline_student", "distilled_student")
    for name, text, energies, *flags in (
        ("exact",
         "11.00 / (6.30 - 5.20) is 10 in decimals; in binary it is 10.000000000000004, and its ceiling 11.",
         ("11.00", "6.30", "5.20"), "BinaryRounding"),
        ("exact-tenths", "0.3 / (0.3 - 0.2) = 3.", ("0.3", "0.3", "0.2"), "BinaryRounding"),
        ("exact-hundredths",
         "0.07 / 0.01 is 7; the quotient of the two floats is 7.000000000000001, and its ceiling 8.",
         ("0.07", "0.01", "0"), "BinaryRounding"),
        ("whole", "3 exactly.", ("3", "2", "1")),
        ("rounded-up", "3.2 reuses are 4: after 3 the teacher is not paid back.",
         ("3.2", "2", "1"), "RoundedDown"),
        ("just-above", "10.01 are 11.", ("10.01", "2", "1"), "RoundedDown"),
        ("half", "2.5 are 3.", ("2.5", "2", "1"), "RoundedDown"),
        ("below-one", "A teacher cheaper than one saving is paid back by the first student.",
         ("0.25", "2", "1"), "RoundedDown"),
        ("no-saving", "The students cost the same: never.", ("11.00", "5.20", "5.20"), "NegativeN"),
        ("dearer", "The distilled student costs more: never, not minus eleven.",
         ("11.00", "5.20", "6.20"), "NegativeN"),
        ("free-teacher", "Nothing to pay back and a saving: always.", ("0", "6.30", "5.20"), "FreeTeacher"),
        ("free-teacher-no-saving", "Nothing to pay back, nothing saved: always, it costs no more.",
         ("0", "5.20", "5.20"), "FreeTeacher"),
        ("free-teacher-dearer", "Nothing to pay back, but the student costs more: never.",
         ("0", "5.20", "6.30"), "NegativeN"),
        ("teacher-unknown", "An unknown teacher: undefined.", (None, "6.30", "5.20"), "UnknownAsZero"),
        ("student-unknown", "An unknown student: undefined.", ("11.00", "6.30", None), "UnknownAsZero"),
        ("baseline-unknown", "An unknown baseline: undefined.", ("11.00", None, "5.20"), "UnknownAsZero"),
        ("negative-energy", "No energy is negative: undefined.", ("-11.00", "6.30", "5.20"), "NegativeN"),
        ("joules", "In joules as in kWh.", ("39600000", "22680000", "18720000")),
        ("millions", "A saving of a millijoule.", ("39600000", "22680000.001", "22680000"), "BinaryRounding"),
    ):  # fmt: skip
        family.add(name, text, dict(zip(names, map(maybe, energies), strict=True)), *flags)
    for name, text, (teacher, *students), share, flag in (
        ("three-per-cent", "3 % on both students: 10 becomes 7.6 ... 14.6.",
         ("11.00", "6.30", "5.20"), "0.03", "BinaryRounding"),
        ("one-per-cent", "1 %.", ("11.00", "6.30", "5.20"), "0.01", "BinaryRounding"),
        ("ten-per-cent", "10 %: the saving may be nothing, and N* has no upper end.",
         ("11.00", "6.30", "5.20"), "0.1", "BinaryRounding"),
        ("large-student", "The same 3 % on the 13B students leave no upper end either.",
         ("11.00", "33.15", "30.05"), "0.06", "RoundedDown"),
    ):  # fmt: skip
        low, high = 1 - dec(share), 1 + dec(share)
        ends = [{"best": dec(s), "low": dec(s) * low, "high": dec(s) * high} for s in students]
        family.add(name, text, dict(zip(names, (dec(teacher), *ends), strict=True)), flag, clause="4.4")
    return family


def serving() -> Family:
    """T*."""
    doc = "T*: served tokens after which a costlier training has paid."
    family = Family("serving", doc, "serving_break_even", "4.7")
    for name, text, energies, *flags in (
        ("paper-formula", "9.90 kWh more for training, 4.15 against 0.84 J a token.",
         ("35640000", "4.15", "0.84"), "RoundedDown"),
        ("whole", "A million tokens exactly.", ("500000", "0.8", "0.3")),
        ("exact", "3 / (1.2 - 0.9) = 10 in decimals.", ("3", "1.2", "0.9"), "BinaryRounding"),
        ("dearer-to-serve", "Dearer to train and to serve: never.", ("1000", "0.5", "0.7"), "NegativeN"),
        ("same-to-serve", "No saving: never.", ("1000", "0.5", "0.5"), "NegativeN"),
        ("cheaper-both", "Cheaper to train and to serve: always, after no token.",
         ("-1000", "0.7", "0.5"), "NegativeN"),
        ("free-training", "No extra cost and no saving: always.", ("0", "0.5", "0.5"), "FreeTeacher"),
        ("another-question",
         "Cheaper to train, dearer to serve: the quotient is where it stops to pay. Undefined.",
         ("-1000", "0.5", "0.7"), "NegativeN"),
        ("unknown", "Unknown serving energy: undefined.", ("1000", None, "0.5"), "UnknownAsZero"),
        ("negative-joules", "No token costs less than nothing.", ("1000", "0.5", "-0.1"), "NegativeN"),
        ("tiny-saving", "A nanojoule a token.", ("1", "0.000000002", "0.000000001")),
    ):  # fmt: skip
        given = dict(zip(("extra_train_j", "j_ref", "j_student"), map(maybe, energies), strict=True))
        family.add(name, text, given, *flags)
    return family


def items() -> Family:
    """Scores of items."""
    doc = "A benchmark's score from its items; items of a group are taken together in its standard error."
    family = Family("items", doc, "item_score", "4.8")
    halves = [1, 0, 1, 1, 0, 1]
    for name, text, scores, groups, aggregation, *flags in (
        ("plain", "The standard error of a mean of independent items.", halves, None, "mean"),
        ("unparsed", "What could not be read is in no mean.", [1, None, 0, 1], None, "mean"),
        ("one", "Of one item no error is known.", [0.5], None, "mean"),
        ("subjects", "Items of a subject err together: residuals are added before they are squared.",
         [1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "c"], "mean", "GroupsIgnored"),
        ("some-grouped", "An item without a group is a group of its own.",
         halves, ["a", "a", None, "b", "b", None], "mean", "GroupsIgnored"),
        ("one-group", "Of one group no error is known.", halves, ["a"] * 6, "mean", "GroupsIgnored"),
        ("tasks", "The mean of the tasks' means: a task of two dialogues weighs as much as one of four.",
         [2, 4, 9, 8, 7, 8], ["a", "a", "b", "b", "b", "b"], "group_mean", "GroupsIgnored"),
        ("task-of-one", "A task of one dialogue has no variance, and the score no error.",
         [2, 4, 9], ["a", "a", "b"], "group_mean", "GroupsIgnored"),
    ):  # fmt: skip
        given: Json = {"scores": scores, "aggregation": aggregation}
        family.add(name, text, given | ({"groups": groups} if groups else {}), *flags)
    family.refuse("nothing", "Nothing was scored.", {"scores": [None, None], "aggregation": "mean"})
    return family


def pairs() -> Family:
    """Two students on the same items."""
    doc = "Q of one student less Q of another, item by item; a tie where the interval holds 0."
    family = Family("pairs", doc, "paired_quality", "4.8")

    def side(scores: Sequence[Any], groups: Sequence[Any] | None = None, how: str = "mean") -> Json:
        return {"scores": list(scores), "aggregation": how} | ({"groups": list(groups)} if groups else {})

    easy = [0.9, 0.2, 0.7, 0.4, 0.8, 0.1, 0.6, 0.3]
    above = [0.95, 0.24, 0.76, 0.44, 0.86, 0.15, 0.65, 0.36]
    rated = side([4, 6, 5, 7], ["x", "x", "y", "y"], "group_mean")
    for name, text, ours, theirs, scores, *flags in (
        ("better", "Better on every item: the difference is known, though both scores spread widely.",
         {"a": side(above)}, {"a": side(easy)}, {"a": 0.8}, "PairsTornApart"),
        ("worse", "The other way round.",
         {"a": side(easy)}, {"a": side(above)}, {"a": 0.8}, "PairsTornApart"),
        ("same", "The same answers: a tie with no width.",
         {"a": side(easy)}, {"a": side(easy)}, {"a": 0.8}, "PairsTornApart"),
        ("tie", "As often better as worse.",
         {"a": side([1, 0, 1, 0, 1])}, {"a": side([0, 1, 0, 1, 1])}, {"a": 0.8}, "PairsTornApart"),
        ("two", "Differences are divided by the teacher's scores, each on its own scale.",
         {"a": side(above), "b": side([50, 20, 35, 41])}, {"a": side(easy), "b": side([48, 21, 31, 40])},
         {"a": 0.8, "b": 40}, "PairsTornApart"),
        ("groups", "Items of a subject differ together.",
         {"a": side([1, 1, 1, 0, 0, 1], "xxxyyy")}, {"a": side([0, 0, 0, 0, 1, 1], "xxxyyy")}, {"a": 0.5},
         "GroupsIgnored PairsTornApart"),
        ("tasks", "A mean of tasks' means.",
         {"a": side([5, 8, 6, 9], ["x", "x", "y", "y"], "group_mean")}, {"a": rated}, {"a": 8},
         "PairsTornApart GroupsIgnored"),
        ("missing", "A benchmark is missing on one side: no verdict.",
         {"a": side(easy)}, {}, {"a": 0.8}),
        ("other-items", "Not asked the same: no verdict.",
         {"a": side(easy)}, {"a": side(easy[1:])}, {"a": 0.8}),
        ("unparsed", "An item without a score: no verdict.",
         {"a": side([1, None, 0])}, {"a": side([1, 1, 0])}, {"a": 0.8}),
        ("teacher-zero", "Nothing to keep of a teacher at 0: no verdict.",
         {"a": side(easy)}, {"a": side(above)}, {"a": 0}),
    ):  # fmt: skip
        family.add(name, text, {"ours": ours, "theirs": theirs, "teacher_scores": scores}, *flags)
    return family


def quality() -> Family:
    """Q."""
    doc = "Q: mean of score over the teacher's score, over exactly the benchmarks of a suite."
    family = Family("quality", doc, "quality", "4.8")
    five = "alpaca_eval ifeval mt_bench gsm8k mmlu"

    def scores(names: str, values: str, errors: str = "") -> dict[str, Json]:
        found: dict[str, Json] = {
            n: {"score": dec(v)} for n, v in zip(names.split(), values.split(), strict=True)
        }
        for name, error in zip(names.split(), errors.split(), strict=False):
            found[name]["stderr"] = dec(error)
        return found

    def without(side: Mapping[str, Json], name: str) -> Json:
        return {key: value for key, value in side.items() if key != name}

    teacher = scores(five, "24.0 0.72 7.5 0.84 0.75")
    student = scores(five, "12.0 0.54 6.0 0.63 0.60")
    extra = student | scores("humaneval", "0.9"), teacher | scores("humaneval", "0.91")
    errors = "1.5 0.02 0.1 0.013 0.004", "1.8 0.019 0.08 0.01 0.0035"
    means, lone = "RatioOfMeans", "gsm8k"
    two, three = "gsm8k mmlu", "a b c"
    for name, text, suite, mine, theirs, *more in (
        ("five", "Five benchmarks on five scales: each counts alike.", five, student, teacher, means),
        ("teacher-itself", "The teacher keeps all of itself.", five, teacher, teacher),
        ("better-than-teacher", "A ratio above 1 is kept as it is.",
         five, scores(five, "30.0 0.72 7.5 0.84 0.75"), teacher, means),
        ("zero-score", "A score of zero is a score.",
         five, scores(five, "0 0.54 6.0 0.63 0.60"), teacher, means),
        ("standard-error", "Standard error by the delta method, both sides independent.",
         five, scores(five, "12.0 0.54 6.0 0.63 0.60", errors[0]),
         scores(five, "24.0 0.72 7.5 0.84 0.75", errors[1]), means),
        ("student-misses-one", "A benchmark without a student's score: no Q, never the mean of four.",
         five, without(student, "alpaca_eval"), teacher, "PartialQ"),
        ("teacher-misses-one", "Nor where the teacher's is missing.",
         five, student, without(teacher, "mmlu"), "PartialQ"),
        ("extra-benchmark", "A benchmark beyond the suite: another quantity, no Q.",
         five, *extra, "PartialQ"),
        ("teacher-has-one-more", "Nor does a score of the teacher's beyond it.",
         five, student, extra[1], "PartialQ"),
        ("floor", "A teacher that guesses among four has nothing to keep.",
         "mmlu", scores("mmlu", "0.24"), scores("mmlu", "0.25"), "FloorIgnored", "0.25"),
        ("above-floor", "Just above the floor.",
         "mmlu", scores("mmlu", "0.24"), scores("mmlu", "0.26"), "", "0.25"),
        ("floor-is-not-subtracted",
         "The floor decides whether there is a ratio; it is not taken off the scores.",
         "mmlu", scores("mmlu", "0.50"), scores("mmlu", "0.75"), "", "0.25"),
        ("teacher-zero", "A teacher that scored nothing.",
         lone, scores(lone, "0.1"), scores(lone, "0"), "FloorIgnored"),
        ("single", "One benchmark: nothing to leave out.",
         lone, scores(lone, "0.42", "0.01"), scores(lone, "0.84", "0.01")),
        ("two", "Two.", two, scores(two, "0.42 0.5"), scores(two, "0.84 0.75"), means),
        ("weak-teacher-dominates",
         "One benchmark with a weak teacher carries the mean; the range without it shows so.",
         three, scores(three, "30 50 60"), scores(three, "5 80 75"), means),
    ):  # fmt: skip
        flags, floor = (*more, *("", "0")[len(more) :])
        benchmarks = [{"name": key, "floor": dec(floor)} for key in suite.split()]
        family.add(name, text, {"suite": benchmarks, "scores": mine, "teacher_scores": theirs}, flags)
    return family


def pareto() -> Family:
    """The frontier."""
    doc = "The frontier of energy and quality; where intervals overlap no order is claimed."
    family = Family("pareto", doc, "pareto", "4.9")

    def value(text: str) -> Fraction | Json:
        """`best`, or `best low high`."""
        found = [dec(one) for one in text.split()]
        return found[0] if len(found) == 1 else dict(zip(("best", "low", "high"), found, strict=True))

    def given(points: Sequence[tuple[str, str, str]]) -> Json:
        return {"points": [{"name": n, "energy": value(e), "quality": value(q)} for n, e, q in points]}

    for name, text, points, *flags in (
        ("published",
         "The published table, where both figures are known: KD 1B buys 0.01 of Q, the rest lies behind SFT.",
         [("sft-1b", "7.00", "0.69"), ("sft-7b", "19.50", "0.90"), ("sft-13b", "34.60", "0.99"),
          ("kd-1b", "16.90", "0.70"), ("kd-13b", "42.50", "0.82"), ("syn-13b", "40.70", "0.85")]),
        ("one", "A point alone is the frontier.", [("a", "1", "1")]),
        ("same-energy", "Same energy, more quality.", [("a", "10", "0.5"), ("b", "10", "0.6")]),
        ("same-quality", "Same quality, less energy.", [("a", "10", "0.5"), ("b", "9", "0.5")]),
        ("twins", "Two points alike: neither is better.", [("a", "10", "0.5"), ("b", "10", "0.5")]),
        ("chain", "Dominated by several, listed by rising energy.",
         [("c", "30", "0.3"), ("b", "20", "0.4"), ("a", "10", "0.5")]),
        ("tie-in-energy", "Cheaper by the best values, but the intervals overlap: a tie.",
         [("a", "10 9 11", "0.6"), ("b", "10.5 9.5 11.5", "0.5")], "TiesWin"),
        ("clear-in-energy", "Intervals apart: dominated.",
         [("a", "10 9 11", "0.6"), ("b", "14 12 16", "0.5")]),
        ("tie-in-quality", "Better by the best values, but Q's intervals overlap.",
         [("a", "10", "0.60 0.55 0.65"), ("b", "12", "0.58 0.53 0.63")], "TiesWin"),
        ("touching", "Intervals that touch, quality clearly better: dominated.",
         [("a", "10 9 11", "0.6"), ("b", "12 11 13", "0.5")]),
    ):  # fmt: skip
        family.add(name, text, given(points), *flags)
    text = "Two points of one name cannot be told apart."
    family.refuse("same-name", text, given([("a", "1", "1"), ("a", "2", "2")]))
    return family


def scores() -> Family:
    """Scores and items."""
    doc = "A score that is a mean is the mean of its scored items; the counts add up."
    family = Family("scores", doc, "check_score", "4.8")

    def given(score: str, items: str | None, counts: Sequence[int], **more: Any) -> Json:
        """Counts are n_items, n_scored, n_unparsed; an item that could not be read is `-`."""
        stated: Json = {"suite": "demo", "benchmark": "gsm8k", "metric": "exact_match", "score": dec(score)}
        stated |= {"score_unit": "fraction", "aggregation": "external" if items is None else "mean"}
        stated |= dict(zip(("n_items", "n_scored", "n_unparsed"), counts, strict=True)) | more
        if items is None:
            return {"eval": stated}
        return {"eval": stated, "items": [None if item == "-" else dec(item) for item in items.split()]}

    for name, text, score, items, *more in (
        ("mean", "Three of four.", "0.75", "1 1 0 1"),
        ("unparsed", "An answer that could not be read is not wrong: it is not scored, and it is counted.",
         "0.5", "1 - 0 -", "UnparsedAsWrong"),
        ("one-item", "One item.", "1", "1"),
        ("all-wrong", "None right is a score.", "0", "0 0 0"),
        ("partial-credit", "Items between 0 and 1.", "0.5625", "0.25 1 0.5 0.5"),
        ("rating", "A rating of 1 to 10.", "7.5", "9 6", "", {"score_unit": "rating_1_10"}),
        ("percent", "A share in percent has items in percent.",
         "62.5", "100 25", "", {"score_unit": "percent"}),
    ):  # fmt: skip
        flags, change = (*more, *("", {})[len(more) :])
        count, lost = len(items.split()), items.count("-")
        family.add(name, text, given(score, items, (count, count - lost, lost), **change), flags)
    text = "A score that a program worked out from all its items at once: nothing to recompute."
    family.add("external", text, given("0.31", None, (4, 4, 0)))
    four = (4, 4, 0)
    for name, text, score, items, counts, *more in (
        ("other-mean", "0.75 is stated, the items say 0.5.", "0.75", "1 1 0 0", four, "ItemsIgnored"),
        ("mean-over-all", "One in three scored items is not one in four.",
         "0.25", "1 - 0 0", (4, 3, 1), "ItemsIgnored UnparsedAsWrong"),
        ("nothing-scored", "No item could be scored: that is no score of 0 but a failed evaluation.",
         "0", "- -", (2, 0, 2), "ItemsIgnored UnparsedAsWrong"),
        ("counts", "3 scored and 2 unparsed are not 4.", "0.5", None, (4, 3, 2)),
        ("counts-of-items", "Four are stated, three are there.", "1", "1 1 1", four, "ItemsIgnored"),
        ("no-items", "A mean without items.", "0.5", None, four, "ItemsIgnored", {"aggregation": "mean"}),
        ("wrong-scale", "42 is no fraction: a percentage in the wrong column.",
         "42", None, four, "ScaleUnchecked"),
        ("below-scale", "Nor is anything below 0.", "-0.1", None, four, "ScaleUnchecked"),
        ("rating-of-zero", "A rating begins at 1.",
         "0", None, four, "ScaleUnchecked", {"score_unit": "rating_1_10"}),
    ):  # fmt: skip
        flags, change = (*more, *("", {})[len(more) :])
        family.refuse(name, text, given(score, items, counts, **change), flags)
    return family
