"""Whether it pays and what it is worth: amortization, N*, T*, scores, Q, the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.power import Json


def amortize(given: Json) -> Json:
    """One run's energy three ways."""
    own, teacher, reuses = given["own_j"], given["teacher_j"], given["reuses"]
    need(isinstance(reuses, int) and reuses >= 1, "used at least once")
    share = (own + teacher) / reuses if wrong("OwnAmortized") else own + teacher / reuses
    return {"marginal_j": own, "amortized_j": share, "full_j": own + teacher}


def _ends(value: Any) -> tuple[Any, Any, Any]:
    """Best, low and high of an interval; a number stands for itself."""
    if value is None and wrong("UnknownAsZero"):
        value = Fraction(0)
    return (value["best"], value["low"], value["high"]) if isinstance(value, dict) else (value,) * 3


def _even(cost: Any, dear: Any, cheap: Any, least: int) -> Json:
    """Cost over saving, and the whole number at or above it; for T* (least 0) a cost may be negative."""
    nothing = {"case": "undefined", "ratio": None, "whole": None}
    if None in (cost, dear, cheap):
        return nothing
    saving, honest = dear - cheap, not wrong("NegativeN")
    if honest and (min(dear, cheap) < 0 or (least and cost < 0)):
        return nothing
    free = (cost == 0 and not wrong("FreeTeacher")) or (cost < 0 and honest)
    if free and saving >= 0:
        return {"case": "always", "ratio": Fraction(0), "whole": least}
    if honest and saving <= 0:
        return nothing | ({"case": "never"} if cost > 0 or (least and saving < 0) else {})
    if saving == 0:
        return nothing | {"case": "finite"}
    ratio = cost / saving
    whole = max(least, math.ceil(ratio))
    if wrong("BinaryRounding"):
        whole = max(least, math.ceil(float(cost) / (float(dear) - float(cheap))))
    return {"case": "finite", "ratio": ratio, "whole": math.floor(ratio) if wrong("RoundedDown") else whole}


def break_even(given: Json) -> Json:
    """N*, and its ends where the students are intervals."""
    names = ("teacher", "baseline_student", "distilled_student")
    teacher, base, distilled = (_ends(given[name]) for name in names)
    found = _even(teacher[0], base[0], distilled[0], 1)
    if isinstance(given["baseline_student"], dict):
        most, least = base[2] - distilled[1], base[1] - distilled[2]
        found |= {"low": teacher[1] / most, "high": teacher[2] / least if least > 0 else "inf"}
    return found


def serving_break_even(given: Json) -> Json:
    """T*."""
    extra, ref, student = (_ends(given[name])[0] for name in ("extra_train_j", "j_ref", "j_student"))
    return _even(extra, ref, student, 0)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _root(value: Fraction) -> Fraction:
    with localcontext(prec=40):
        return Fraction(float(_decimal(value).sqrt()))


def _geometric(values: Sequence[Fraction]) -> Fraction | None:
    if min(values) <= 0:
        return None if min(values) < 0 else Fraction(0)
    with localcontext(prec=40):
        return Fraction((sum((_decimal(v).ln() for v in values), Decimal(0)) / len(values)).exp())


def quality(given: Json) -> Json:
    """Q over a suite, with its companions."""
    floors = {b["name"]: b.get("floor", 0) for b in given["suite"]}
    student, teacher = given["scores"], given["teacher_scores"]
    nothing = dict.fromkeys(("q", "geometric_mean", "leave_one_out", "stderr"))
    names = list(floors)
    if wrong("PartialQ"):
        names = [name for name in names if name in student and name in teacher]
    elif set(student) != set(names) or set(teacher) != set(names):
        return nothing
    if not wrong("FloorIgnored") and any(teacher[name]["score"] <= floors[name] for name in names):
        return nothing
    need(all(teacher[name]["score"] for name in names), "division by zero")
    pairs = [(student[name], teacher[name]) for name in names]
    ratios = [s["score"] / t["score"] for s, t in pairs]
    count, whole = len(ratios), sum(ratios)
    without = [(whole - ratio) / (count - 1) for ratio in ratios] if count > 1 else []
    spread = None
    if all(side.get("stderr") is not None for pair in pairs for side in pair):
        own = sum((s["stderr"] / t["score"]) ** 2 for s, t in pairs)
        spread = _root(own + sum((s["score"] * t["stderr"] / t["score"] ** 2) ** 2 for s, t in pairs)) / count
    q = whole / count
    if wrong("RatioOfMeans"):
        q = sum(s["score"] for s, _ in pairs) / sum(t["score"] for _, t in pairs)
    return {
        "q": q,
        "ratios": dict(zip(names, ratios, strict=True)),
        "geometric_mean": _geometric(ratios),
        "leave_one_out": [min(without), max(without)] if without else None,
        "stderr": spread,
    }


def _in_groups(given: Json) -> list[list[Fraction]]:
    """Items with a score, those of one group together; an item without a group is alone."""
    groups = given.get("groups") or [None] * len(given["scores"])
    need(len(groups) == len(given["scores"]), "as many groups as items")
    parts: dict[Any, list[Fraction]] = {}
    for number, (score, group) in enumerate(zip(given["scores"], groups, strict=True)):
        if score is not None:
            alone = group is None or wrong("GroupsIgnored")
            parts.setdefault(("item", number) if alone else ("group", group), []).append(score)
    return list(parts.values())


def item_score(given: Json) -> Json:
    """A benchmark's score from its items, with its standard error."""
    parts = _in_groups(given)
    need(parts, "nothing was scored")
    known = [score for part in parts for score in part]
    count = len(parts)
    if given["aggregation"] == "group_mean" and not wrong("GroupsIgnored"):
        means = [Fraction(sum(part)) / len(part) for part in parts]
        score = sum(means) / count
        if min(len(part) for part in parts) < 2:
            return {"score": score, "stderr": None}
        squares = sum(
            sum((x - mean) ** 2 for x in part) / Fraction(len(part) * (len(part) - 1))
            for part, mean in zip(parts, means, strict=True)
        )
        return {"score": score, "stderr": _root(Fraction(squares)) / count}
    score = Fraction(sum(known)) / len(known)
    if count < 2:
        return {"score": score, "stderr": None}
    sums = sum(sum(x - score for x in part) ** 2 for part in parts)
    return {"score": score, "stderr": _root(Fraction(count, count - 1) * sums) / len(known)}


Z95 = Fraction(1959963984540054, 10**15)


def paired_quality(given: Json) -> Json:
    """Q of one student less Q of another, over the same items."""
    nothing: Json = {"verdict": None}
    names = list(given["teacher_scores"])
    ours, theirs = given["ours"], given["theirs"]
    if not names or set(ours) != set(names) or set(theirs) != set(names):
        return nothing
    total, squares = Fraction(0), Fraction(0)
    for name in names:
        mine, other, teacher = ours[name], theirs[name], given["teacher_scores"][name]
        alike = all(mine.get(part) == other.get(part) for part in ("groups", "aggregation"))
        pairs = list(zip(mine["scores"], other["scores"], strict=False))
        whole = len(mine["scores"]) == len(other["scores"]) and all(None not in pair for pair in pairs)
        if not (alike and whole and teacher > 0):
            return nothing
        gap = item_score({**mine, "scores": [a - b for a, b in pairs]})
        errors = [gap["stderr"]]
        if wrong("PairsTornApart"):
            errors = [item_score(side)["stderr"] for side in (mine, other)]
        if None in errors:
            return nothing
        total += gap["score"] / teacher
        squares += sum((error / teacher) ** 2 for error in errors)
    best, half = total / len(names), Z95 * _root(squares) / len(names)
    low, high = best - half, best + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "tie"
    return {"difference": {"best": best, "low": low, "high": high}, "verdict": verdict}


SCALES = {"fraction": (0, 1), "percent": (0, 100), "rating_1_10": (1, 10)}


def check_score(given: Json) -> Json:
    """A score with its items: counts add up, a mean is the mean of what was scored."""
    stated, items = given["eval"], given.get("items")
    low, high = SCALES[stated["score_unit"]]
    need(wrong("ScaleUnchecked") or low <= stated["score"] <= high, "off the scale")
    counts = {name: stated[name] for name in ("n_items", "n_scored", "n_unparsed")}
    need(counts["n_scored"] + counts["n_unparsed"] == counts["n_items"], "counts do not add up")
    if not wrong("ItemsIgnored"):
        need(counts["n_scored"] > 0 or wrong("UnparsedAsWrong"), "nothing was scored")
        need(stated["aggregation"] != "mean" or items is not None, "a mean without items")
        if items is not None:
            known = [item for item in items if item is not None]
            need((len(items), len(known)) == (counts["n_items"], counts["n_scored"]), "items are missing")
            mean = Fraction(sum(known)) / len(items if wrong("UnparsedAsWrong") else known)
            need(abs(mean - stated["score"]) <= Fraction(1, 10**9), "another mean")
    return {"score": stated["score"], **counts}


def pareto(given: Json) -> Json:
    """The frontier; where intervals overlap no order is claimed."""
    points = {p["name"]: (_ends(p["energy"]), _ends(p["quality"])) for p in given["points"]}
    need(len(points) == len(given["points"]), "two points of one name")
    order = sorted(points, key=lambda name: (points[name][0][0], -points[name][1][0]))
    beaten: dict[str, list[str]] = {}
    tied: dict[str, list[str]] = {}
    for name, ((cost, cost_low, _), (worth, _, worth_high)) in points.items():
        for other in order:
            (dear, _, dear_high), (good, good_low, _) = points[other]
            if dear > cost or good < worth or (dear, good) == (cost, worth):
                continue
            sure = dear_high <= cost_low and good_low >= worth_high
            sure = sure and (dear_high < cost_low or good_low > worth_high)
            (beaten if sure or wrong("TiesWin") else tied).setdefault(name, []).append(other)
    frontier = [name for name in order if name not in beaten and name not in tied]
    return {"frontier": frontier, "dominated_by": beaten, "ties": tied}
