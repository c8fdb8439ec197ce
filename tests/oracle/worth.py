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
