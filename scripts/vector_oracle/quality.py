"""What a student is worth: Q, and the frontier of energy and quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec

Json = dict[str, Any]


def families() -> list[Family]:
    """Q and the frontier."""
    return [_quality(), _pareto()]


def _root(value: Fraction) -> float:
    with localcontext() as context:
        context.prec = 40
        return float((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def _geometric(values: Sequence[Fraction]) -> float | None:
    if min(values) < 0:
        return None
    if min(values) == 0:
        return 0.0
    with localcontext() as context:
        context.prec = 40
        logs = [(Decimal(v.numerator) / Decimal(v.denominator)).ln() for v in values]
        return float((sum(logs, Decimal(0)) / len(values)).exp())


def q(floors: Mapping[str, Fraction], student: Mapping[str, Json], teacher: Mapping[str, Json]) -> Json:
    """Q with its companions."""
    nothing: Json = {"q": None, "geometric_mean": None, "leave_one_out": None, "stderr": None}
    if set(student) != set(floors) or set(teacher) != set(floors):
        return nothing
    if any(teacher[name]["score"] <= floor for name, floor in floors.items()):
        return nothing
    ratios = [student[name]["score"] / teacher[name]["score"] for name in floors]
    count = len(ratios)
    without = [(sum(ratios) - r) / (count - 1) for r in ratios] if count > 1 else []
    errors = [side[name].get("stderr") for name in floors for side in (student, teacher)]
    spread = None
    if None not in errors:
        parts = []
        for name in floors:
            s, t = student[name], teacher[name]
            parts.append((s["stderr"] / t["score"]) ** 2 + (s["score"] * t["stderr"] / t["score"] ** 2) ** 2)
        spread = _root(sum(parts, Fraction(0))) / count
    return {
        "q": sum(ratios, Fraction(0)) / count,
        "ratios": dict(zip(floors, ratios, strict=True)),
        "geometric_mean": _geometric(ratios),
        "leave_one_out": [min(without), max(without)] if without else None,
        "stderr": spread,
    }


def _quality() -> Family:
    family = Family(
        "quality", "Q: mean of score over the teacher's score, over exactly the benchmarks of a suite."
    )
    five = ("alpaca_eval", "ifeval", "mt_bench", "gsm8k", "mmlu")
    zero = Fraction(0)

    def scores(names: Sequence[str], values: str, errors: str = "") -> dict[str, Json]:
        found: dict[str, Json] = {
            name: {"score": dec(v)} for name, v in zip(names, values.split(), strict=True)
        }
        for name, error in zip(names, errors.split(), strict=False):
            found[name]["stderr"] = dec(error)
        return found

    def add(
        name: str,
        text: str,
        floors: Mapping[str, Fraction],
        student: dict[str, Json],
        teacher: dict[str, Json],
        *flags: str,
    ) -> None:
        suite = [{"name": key, "floor": floor} for key, floor in floors.items()]
        given = {"suite": suite, "scores": student, "teacher_scores": teacher}
        family.valid(name, "4.8", "quality", given, q(floors, student, teacher), text, *flags)

    floors = dict.fromkeys(five, zero)
    teacher = scores(five, "24.0 0.72 7.5 0.84 0.75")
    student = scores(five, "12.0 0.54 6.0 0.63 0.60")
    add(
        "five", "Five benchmarks on five scales: each counts alike.", floors, student, teacher, "RatioOfMeans"
    )
    add("teacher-itself", "The teacher keeps all of itself.", floors, teacher, teacher)
    add(
        "better-than-teacher",
        "A ratio above 1 is kept as it is.",
        floors,
        scores(five, "30.0 0.72 7.5 0.84 0.75"),
        teacher,
        "RatioOfMeans",
    )
    add(
        "zero-score",
        "A score of zero is a score.",
        floors,
        scores(five, "0 0.54 6.0 0.63 0.60"),
        teacher,
        "RatioOfMeans",
    )
    errors = scores(five, "12.0 0.54 6.0 0.63 0.60", "1.5 0.02 0.1 0.013 0.004")
    teacher_errors = scores(five, "24.0 0.72 7.5 0.84 0.75", "1.8 0.019 0.08 0.01 0.0035")
    add(
        "standard-error",
        "Standard error by the delta method, both sides independent.",
        floors,
        errors,
        teacher_errors,
        "RatioOfMeans",
    )
    part = {name: value for name, value in student.items() if name != "alpaca_eval"}
    add(
        "student-misses-one",
        "A benchmark without a student's score: no Q, never the mean of four.",
        floors,
        part,
        teacher,
        "PartialQ",
    )
    weak = {name: value for name, value in teacher.items() if name != "mmlu"}
    add("teacher-misses-one", "Nor where the teacher's is missing.", floors, student, weak, "PartialQ")
    add(
        "extra-benchmark",
        "A benchmark beyond the suite: another quantity, no Q.",
        floors,
        student | {"humaneval": {"score": dec("0.9")}},
        teacher | {"humaneval": {"score": dec("0.91")}},
        "PartialQ",
    )
    four = dict.fromkeys(("mmlu",), dec("0.25"))
    add(
        "floor",
        "A teacher that guesses among four has nothing to keep.",
        four,
        scores(("mmlu",), "0.24"),
        scores(("mmlu",), "0.25"),
        "FloorIgnored",
    )
    add("above-floor", "Just above the floor.", four, scores(("mmlu",), "0.24"), scores(("mmlu",), "0.26"))
    add(
        "floor-is-not-subtracted",
        "The floor decides whether there is a ratio; it is not taken off the scores.",
        four,
        scores(("mmlu",), "0.50"),
        scores(("mmlu",), "0.75"),
    )
    add(
        "teacher-zero",
        "A teacher that scored nothing.",
        {"gsm8k": zero},
        scores(("gsm8k",), "0.1"),
        scores(("gsm8k",), "0"),
        "FloorIgnored",
    )
    add(
        "single",
        "One benchmark: nothing to leave out.",
        {"gsm8k": zero},
        scores(("gsm8k",), "0.42", "0.01"),
        scores(("gsm8k",), "0.84", "0.01"),
    )
    add(
        "two",
        "Two.",
        {"gsm8k": zero, "mmlu": zero},
        scores(("gsm8k", "mmlu"), "0.42 0.5"),
        scores(("gsm8k", "mmlu"), "0.84 0.75"),
        "RatioOfMeans",
    )
    add(
        "weak-teacher-dominates",
        "One benchmark with a weak teacher carries the mean; the range without it shows so.",
        {"a": zero, "b": zero, "c": zero},
        scores(("a", "b", "c"), "30 50 60"),
        scores(("a", "b", "c"), "5 80 75"),
        "RatioOfMeans",
    )
    return family


def _pareto() -> Family:
    family = Family(
        "pareto", "The frontier of energy and quality; where intervals overlap no order is claimed."
    )

    def value(text: str | tuple[str, str, str]) -> Fraction | Json:
        if isinstance(text, str):
            return dec(text)
        return dict(zip(("best", "low", "high"), map(dec, text), strict=True))

    def bounds(text: str | tuple[str, str, str]) -> tuple[Fraction, Fraction, Fraction]:
        if isinstance(text, str):
            return (dec(text),) * 3
        return dec(text[0]), dec(text[1]), dec(text[2])

    def add(name: str, text: str, points: Sequence[tuple[str, Any, Any]], *flags: str) -> None:
        known = {p[0]: (bounds(p[1]), bounds(p[2])) for p in points}
        order = sorted(known, key=lambda n: (known[n][0][0], -known[n][1][0]))
        beaten: dict[str, list[str]] = {}
        tied: dict[str, list[str]] = {}
        for mine, (cost, worth) in known.items():
            for other in order:
                rival_cost, rival_worth = known[other]
                best = (rival_cost[0], rival_worth[0])
                if not (best[0] <= cost[0] and best[1] >= worth[0] and best != (cost[0], worth[0])):
                    continue
                no_worse = rival_cost[2] <= cost[1] and rival_worth[1] >= worth[2]
                better = rival_cost[2] < cost[1] or rival_worth[1] > worth[2]
                (beaten if no_worse and better else tied).setdefault(mine, []).append(other)
        frontier = [name for name in order if name not in beaten and name not in tied]
        given = {"points": [{"name": n, "energy": value(e), "quality": value(w)} for n, e, w in points]}
        family.valid(
            name,
            "4.9",
            "pareto",
            given,
            {"frontier": frontier, "dominated_by": beaten, "ties": tied},
            text,
            *flags,
        )

    add(
        "published",
        "The published table, where both figures are known: KD 1B buys 0.01 of Q, the rest lies behind SFT.",
        [
            ("sft-1b", "7.00", "0.69"),
            ("sft-7b", "19.50", "0.90"),
            ("sft-13b", "34.60", "0.99"),
            ("kd-1b", "16.90", "0.70"),
            ("kd-13b", "42.50", "0.82"),
            ("syn-13b", "40.70", "0.85"),
        ],
    )
    add("one", "A point alone is the frontier.", [("a", "1", "1")])
    add("same-energy", "Same energy, more quality.", [("a", "10", "0.5"), ("b", "10", "0.6")])
    add("same-quality", "Same quality, less energy.", [("a", "10", "0.5"), ("b", "9", "0.5")])
    add("twins", "Two points alike: neither is better.", [("a", "10", "0.5"), ("b", "10", "0.5")])
    add(
        "chain",
        "Dominated by several, listed by rising energy.",
        [("c", "30", "0.3"), ("b", "20", "0.4"), ("a", "10", "0.5")],
    )
    add(
        "tie-in-energy",
        "Cheaper by the best values, but the intervals overlap: a tie.",
        [("a", ("10", "9", "11"), "0.6"), ("b", ("10.5", "9.5", "11.5"), "0.5")],
        "TiesWin",
    )
    add(
        "clear-in-energy",
        "Intervals apart: dominated.",
        [("a", ("10", "9", "11"), "0.6"), ("b", ("14", "12", "16"), "0.5")],
    )
    add(
        "tie-in-quality",
        "Better by the best values, but Q's intervals overlap.",
        [("a", "10", ("0.60", "0.55", "0.65")), ("b", "12", ("0.58", "0.53", "0.63"))],
        "TiesWin",
    )
    add(
        "touching",
        "Intervals that touch, quality clearly better: dominated.",
        [("a", ("10", "9", "11"), "0.6"), ("b", ("12", "11", "13"), "0.5")],
    )
    family.invalid(
        "same-name",
        "4.9",
        "pareto",
        {
            "points": [
                {"name": "a", "energy": 1.0, "quality": 1.0},
                {"name": "a", "energy": 2.0, "quality": 2.0},
            ]
        },
        "Two points of one name cannot be told apart.",
    )
    return family
