"""Operations on energies, tokens and scores: what a reader computes from the rows of `stages`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.accounting import (
    BreakEven,
    Interval,
    Measured,
    ParetoPoint,
    pareto_frontier,
    reuse,
    run_totals,
    shared_scales,
)
from harness.accounting import amortize as reuses
from harness.accounting import item_scores as pairs
from harness.accounting import quality as suites
from harness.accounting import totals as sums
from harness.accounting.item_scores import ItemScores, summary
from harness.accounting.units import convert
from harness.spec import load_protocol

Json = Mapping[str, Any]


def totals(given: Json) -> Json:
    """Totals of a run from rows of `stages`."""
    found = run_totals(stage_rows(given["stages"]), teacher_kinds=load_protocol().kinds("teacher"))
    return {
        "it_energy_j": _best(found.it),
        "gpu_energy_j": found.gpu.energy_j,
        "cpu_energy_j": found.cpu.energy_j,
        "dram_energy_j": found.dram.energy_j,
        "unattributed_energy_j": _best(found.unattributed),
        "teacher_energy_j": _best(found.teacher),
        "by_kind": {kind: energy.best for kind, energy in found.by_kind.items()},
    }


def joules_per_token(given: Json) -> Json:
    """Energy of a run over one of the named token counts of its student stages."""
    rows = stage_rows(given["stages"])
    name = given["denominator"]
    if name not in sums.DENOMINATORS:
        raise ValueError(f"denominator {name!r} is not one of {', '.join(sums.DENOMINATORS)}")
    count = given.get("reference_tokens")
    if name != "reference":
        count = sums.student_tokens(rows, name, load_protocol().kinds("student"))
    found = sums.per_token(run_totals(rows, teacher_kinds=()).it, count)
    return {"tokens": count, "j_per_token": _best(found)}


def convert_units(given: Json) -> Json:
    """A value in another unit."""
    return {"value": convert(float(given["value"]), given["from"], given["to"])}


def amortize(given: Json) -> Json:
    """One run's energy three ways."""
    number = given["reuses"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"reuses is a whole number, not {number!r}")
    found = reuse(_known(given["own_j"]), _known(given["teacher_j"]), number)
    return {
        "marginal_j": found.marginal.best,
        "amortized_j": found.amortized.best,
        "full_j": found.full.best,
    }


def break_even(given: Json) -> Json:
    """N*."""
    names = ("teacher", "baseline_student", "distilled_student")
    return _even(reuses.break_even(*(_interval(given[name]) for name in names)))


def shared_ratio(given: Json) -> Json:
    """One energy over another, where both name the scales they share."""
    found = shared_scales.ratio(_parts(given["one"]), _parts(given["other"]), _scales(given))
    if found is None:
        raise ValueError("nothing is a multiple of no energy")
    return {"ratio": found.best, "low": found.low, "high": found.high if math.isfinite(found.high) else "inf"}


def shared_break_even(given: Json) -> Json:
    """N* of energies that name the scales they share."""
    names = ("teacher", "baseline_student", "distilled_student")
    return _even(reuses.break_even(*(_parts(given[name]) for name in names), scales=_scales(given)))


def _scales(given: Json) -> dict[str, tuple[float, float]]:
    return {name: (float(low), float(high)) for name, (low, high) in given["scales"].items()}


def _parts(parts: Sequence[Json]) -> shared_scales.Energy:
    ends = ("best", "low", "high")
    return shared_scales.added(
        {tuple(part["scales"]): Interval(*(float(part[end]) for end in ends))} for part in parts
    )


def serving_break_even(given: Json) -> Json:
    """T*."""
    names = ("extra_train_j", "j_ref", "j_student")
    return _even(reuses.serving_break_even(*(_interval(given[name]) for name in names)))


@dataclass(frozen=True)
class _Benchmark:
    name: str
    floor: float


def quality(given: Json) -> Json:
    """Q over a suite."""
    suite = [_Benchmark(b["name"], float(b.get("floor", 0.0))) for b in given["suite"]]
    found = suites.quality(_scores(given["scores"]), _scores(given["teacher_scores"]), suite)
    return {
        "q": found.q,
        "ratios": dict(found.ratios),
        "geometric_mean": found.geometric_mean,
        "leave_one_out": None if found.leave_one_out is None else list(found.leave_one_out),
        "stderr": found.stderr,
    }


def _scores(side: Json) -> dict[str, Measured]:
    return {name: Measured(float(s["score"]), s.get("stderr")) for name, s in side.items()}


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


def _items(given: Json) -> ItemScores:
    return ItemScores(given["scores"], given.get("groups") or (), given["aggregation"])


def item_score(given: Json) -> Json:
    """A benchmark's score from its items, with its standard error."""
    score, stderr = summary(_items(given))
    return {"score": score, "stderr": stderr}


def paired_quality(given: Json) -> Json:
    """Q of one student less Q of another, over the same items."""
    sides = [{name: _items(side) for name, side in given[who].items()} for who in ("ours", "theirs")]
    found = pairs.paired_quality(sides[0], sides[1], given["teacher_scores"])
    if found is None:
        return {"verdict": None}
    gap = found.difference
    return {"difference": {"best": gap.best, "low": gap.low, "high": gap.high}, "verdict": found.verdict}


def facility(given: Json) -> Json:
    """What the reader applies: PUE, then grid intensity."""
    building = sums.facility(_known(given["it_energy_j"]), float(given["pue"]))
    grams = given.get("g_co2e_per_kwh")
    return {
        "facility_energy_j": building.best,
        "co2e_kg": None if grams is None else sums.co2e_kg(building, float(grams)).best,
    }


def inherited_energy(given: Json) -> Json:
    """Energy of consumed artifacts that another run paid for."""
    rows = [{"name": row["artifact_id"], **row} for row in given["artifacts"]]
    return {"inherited_energy_j": _best(sums.inherited_energy(rows))}


def above_idle(given: Json) -> Json:
    """Mean idle power and the energy above it, as a report shows them."""
    from harness.report.scores import idle_baseline

    rows = [{"session": 0} | row for row in stage_rows(given["stages"])]
    found = idle_baseline(rows, None, load_protocol().kinds("idle"))
    if found is None:
        return {"idle_power_w": None, "above_idle_j": None}
    return {"idle_power_w": found.power_w.best, "above_idle_j": found.above.best}


def pareto(given: Json) -> Json:
    """Who is on the frontier, who is beaten, who is tied."""
    points = [ParetoPoint(p["name"], _known(p["energy"]), _known(p["quality"])) for p in given["points"]]
    standings = pareto_frontier(points)
    place = {p.name: (p.cost.best, -p.quality.best) for p in points}
    on = sorted((s.name for s in standings if s.on_frontier), key=lambda name: place[name])
    return {
        "frontier": on,
        "dominated_by": {s.name: list(s.dominated_by) for s in standings if s.dominated_by},
        "ties": {s.name: list(s.ties) for s in standings if s.ties},
    }


def stage_rows(stages: Sequence[Json]) -> list[dict[str, Any]]:
    """Rows of `stages` with what a vector leaves out: nulls and a device."""
    blank: dict[str, Any] = {"parent_uid": None, "status": "completed", "device_ids": [0]}
    for part in ("gpu", "cpu", "dram"):
        blank |= {f"{part}_energy_j": None, f"{part}_energy_method": "imported"}
    blank |= dict.fromkeys(sums.DENOMINATORS.values())
    return [blank | dict(stage) for stage in stages]


def _interval(value: object) -> Interval | None:
    """A number, an object {best, low, high}, or null for unknown."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return Interval(float(value["best"]), float(value["low"]), float(value["high"]))
    return Interval.exact(float(value))  # type: ignore[arg-type]


def _known(value: object) -> Interval:
    found = _interval(value)
    if found is None:
        raise ValueError("an energy is unknown, and nothing follows from it")
    return found


def _best(value: Interval | None) -> float | None:
    return None if value is None else value.best


def _even(found: BreakEven) -> Json:
    high = found.high if math.isfinite(found.high) else "inf"
    low = found.low if math.isfinite(found.low) else "inf"
    return {"case": found.case, "ratio": found.ratio, "whole": found.whole, "low": low, "high": high}
