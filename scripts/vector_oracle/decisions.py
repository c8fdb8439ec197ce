"""What a reader decides by: amortization, N*, T*, Q, the frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from vector_oracle.build import Family, dec

Json = dict[str, Any]


def families() -> list[Family]:
    """Families on decisions."""
    return [_amortize(), _reuses(), _serving(), _quality(), _pareto()]


def _amortize() -> Family:
    family = Family("amortization", "One run three ways: marginal, amortized over N, full.")

    def add(name: str, text: str, own: str, teacher: str, reuses: int, *flags: str) -> None:
        given = {"own_j": dec(own), "teacher_j": dec(teacher), "reuses": reuses}
        answer = {
            "marginal_j": dec(own),
            "amortized_j": dec(own) + dec(teacher) / reuses,
            "full_j": dec(own) + dec(teacher),
        }
        family.valid(name, "4.6", "amortize", given, answer, text, *flags)

    add("one", "Used once, the teacher is paid in full.", "5.90", "11.00", 1)
    add("ten", "Ten students share the teacher; each trains alone.", "5.90", "11.00", 10, "OwnAmortized")
    add("three", "Thirds.", "19440000", "39600000", 3, "OwnAmortized")
    add("no-teacher", "Without a teacher the three are one.", "7.00", "0", 5, "OwnAmortized")
    add("million", "A million reuses leave the student.", "5.90", "11.00", 1_000_000, "OwnAmortized")
    family.invalid(
        "zero", "4.6", "amortize", {"own_j": 5.9, "teacher_j": 11.0, "reuses": 0}, "Used by nobody."
    )
    family.invalid(
        "negative",
        "4.6",
        "amortize",
        {"own_j": 5.9, "teacher_j": 11.0, "reuses": -3},
        "Used by fewer than nobody.",
    )
    family.invalid(
        "fraction",
        "4.6",
        "amortize",
        {"own_j": 5.9, "teacher_j": 11.0, "reuses": 2.5},
        "Used by half a student.",
    )
    return family


def n_star(teacher: Fraction | None, base: Fraction | None, distilled: Fraction | None) -> Json:
    """Case, exact ratio and whole number of N*."""
    nothing: Json = {"case": "undefined", "ratio": None, "whole": None}
    if teacher is None or base is None or distilled is None or min(teacher, base, distilled) < 0:
        return nothing
    saving = base - distilled
    if teacher == 0 and saving >= 0:
        return {"case": "always", "ratio": Fraction(0), "whole": 1}
    if saving <= 0:
        return nothing | {"case": "never"}
    return {"case": "finite", "ratio": teacher / saving, "whole": max(1, math.ceil(teacher / saving))}


def _known(text: str | None) -> Fraction | None:
    return None if text is None else dec(text)


def _reuses() -> Family:
    family = Family(
        "reuses", "N*: the smallest whole number of reuses from which a teacher has paid for itself."
    )

    def add(name: str, text: str, energies: tuple[str | None, str | None, str | None], *flags: str) -> None:
        values = [_known(energy) for energy in energies]
        given = dict(zip(("teacher", "baseline_student", "distilled_student"), values, strict=True))
        family.valid(name, "4.6", "break_even", given, n_star(*values), text, *flags)

    add(
        "exact",
        "11.00 / (6.30 - 5.20) is 10 in decimals; in binary it is 10.000000000000004, and its ceiling 11.",
        ("11.00", "6.30", "5.20"),
        "BinaryRounding",
    )
    add("exact-tenths", "0.3 / (0.4 - 0.3) = 3.", ("0.3", "0.4", "0.3"), "BinaryRounding")
    add("whole", "3 exactly.", ("3", "2", "1"))
    add(
        "rounded-up",
        "3.2 reuses are 4: after 3 the teacher is not paid back.",
        ("3.2", "2", "1"),
        "RoundedDown",
    )
    add("just-above", "10.01 are 11.", ("10.01", "2", "1"), "RoundedDown")
    add("half", "2.5 are 3.", ("2.5", "2", "1"), "RoundedDown")
    add(
        "below-one",
        "A teacher cheaper than one saving is paid back by the first student.",
        ("0.25", "2", "1"),
        "RoundedDown",
    )
    add("no-saving", "The students cost the same: never.", ("11.00", "5.20", "5.20"), "NegativeN")
    add(
        "dearer",
        "The distilled student costs more: never, not minus eleven.",
        ("11.00", "5.20", "6.20"),
        "NegativeN",
    )
    add("free-teacher", "Nothing to pay back and a saving: always.", ("0", "6.30", "5.20"), "FreeTeacher")
    add(
        "free-teacher-no-saving",
        "Nothing to pay back, nothing saved: always, it costs no more.",
        ("0", "5.20", "5.20"),
        "FreeTeacher",
    )
    add(
        "free-teacher-dearer",
        "Nothing to pay back, but the student costs more: never.",
        ("0", "5.20", "6.30"),
        "NegativeN",
    )
    add("teacher-unknown", "An unknown teacher: undefined.", (None, "6.30", "5.20"), "UnknownAsZero")
    add("student-unknown", "An unknown student: undefined.", ("11.00", "6.30", None), "UnknownAsZero")
    add("baseline-unknown", "An unknown baseline: undefined.", ("11.00", None, "5.20"), "UnknownAsZero")
    add("negative-energy", "No energy is negative: undefined.", ("-11.00", "6.30", "5.20"), "NegativeN")
    add("joules", "In joules as in kWh.", ("39600000", "22680000", "18720000"))
    add("millions", "A saving of a millijoule.", ("39600000", "22680000.001", "22680000"))

    def band(name: str, text: str, teacher: str, base: str, distilled: str, share: str) -> None:
        rel = dec(share)
        t, b, d = dec(teacher), dec(base), dec(distilled)
        given = {"teacher": t}
        for key, value in (("baseline_student", b), ("distilled_student", d)):
            given[key] = {"best": value, "low": value * (1 - rel), "high": value * (1 + rel)}  # type: ignore[assignment]
        least, most = b * (1 - rel) - d * (1 + rel), b * (1 + rel) - d * (1 - rel)
        answer = n_star(t, b, d) | {"low": t / most, "high": t / least if least > 0 else "inf"}
        family.valid(name, "4.4", "break_even", given, answer, text)

    band("three-per-cent", "3 % on both students: 10 becomes 7.6 ... 14.6.", "11.00", "6.30", "5.20", "0.03")
    band("one-per-cent", "1 %.", "11.00", "6.30", "5.20", "0.01")
    band(
        "ten-per-cent",
        "10 %: the saving may be nothing, and N* has no upper end.",
        "11.00",
        "6.30",
        "5.20",
        "0.1",
    )
    band(
        "large-student",
        "The same 3 % on the 13B students leave no upper end either.",
        "11.00",
        "33.15",
        "30.05",
        "0.06",
    )
    return family


def t_star(extra: Fraction | None, ref: Fraction | None, student: Fraction | None) -> Json:
    """Case, exact ratio and whole number of served tokens."""
    nothing: Json = {"case": "undefined", "ratio": None, "whole": None}
    if extra is None or ref is None or student is None or min(ref, student) < 0:
        return nothing
    saving = ref - student
    if extra <= 0:
        return {"case": "always", "ratio": Fraction(0), "whole": 0} if saving >= 0 else nothing
    if saving <= 0:
        return nothing | {"case": "never"}
    return {"case": "finite", "ratio": extra / saving, "whole": math.ceil(extra / saving)}


def _serving() -> Family:
    family = Family("serving", "T*: served tokens after which a costlier training has paid.")

    def add(name: str, text: str, energies: tuple[str | None, str | None, str | None], *flags: str) -> None:
        values = [_known(energy) for energy in energies]
        given = dict(zip(("extra_train_j", "j_ref", "j_student"), values, strict=True))
        family.valid(name, "4.7", "serving_break_even", given, t_star(*values), text, *flags)

    add(
        "paper-formula",
        "9.90 kWh more for training, 4.15 against 0.84 J a token.",
        ("35640000", "4.15", "0.84"),
        "RoundedDown",
    )
    add("whole", "A million tokens exactly.", ("500000", "0.8", "0.3"), "BinaryRounding")
    add("dearer-to-serve", "Dearer to train and to serve: never.", ("1000", "0.5", "0.7"), "NegativeN")
    add("same-to-serve", "No saving: never.", ("1000", "0.5", "0.5"), "NegativeN")
    add(
        "cheaper-both",
        "Cheaper to train and to serve: always, after no token.",
        ("-1000", "0.7", "0.5"),
        "NegativeN",
    )
    add("free-training", "No extra cost and no saving: always.", ("0", "0.5", "0.5"), "FreeTeacher")
    add(
        "another-question",
        "Cheaper to train, dearer to serve: the quotient is where it stops to pay. Undefined.",
        ("-1000", "0.5", "0.7"),
        "NegativeN",
    )
    add("unknown", "Unknown serving energy: undefined.", ("1000", None, "0.5"), "UnknownAsZero")
    add("negative-joules", "No token costs less than nothing.", ("1000", "0.5", "-0.1"), "NegativeN")
    add("tiny-saving", "A nanojoule a token.", ("1", "0.000000002", "0.000000001"))
    return family


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
