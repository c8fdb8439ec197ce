"""Unit faults that public energy logs carry, told by their name instead of "does not fit"."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.totals import roots, row_energy
from harness.leaderboard.entry import ENTRY
from harness.leaderboard.rules import found
from harness.spec.factors import pue_factors
from harness.validate.findings import Finding

Row = Mapping[str, Any]

THOUSANDFOLD = (900.0, 1100.0)
MOST_KG_PER_KWH = 3.0
"""No grid comes near: burning nothing but lignite gives about 1.2."""

CLOSE = 0.005
STATED_REL = 0.01
"""A stated figure is printed with two or three digits."""

LARGEST_PUE = 3.0


def counter_thousandfold(rows: Sequence[Row], readings: Sequence[Row]) -> Iterator[Finding]:
    """E511: the raw counters rise a thousand times faster than power explains.

    Args:
        rows: Rows of stages, recomputed.
        readings: Counter readings at boundaries.
    """
    series = _by_device(readings)
    rise_j = sum(max(values.values()) - min(values.values()) for values in series.values() if values) / 1000
    integral_j = math.fsum(row["gpu_energy_integral_j"] or 0.0 for row in roots(rows))
    if integral_j > 0 and THOUSANDFOLD[0] <= rise_j / integral_j <= THOUSANDFOLD[1]:
        observed = f"counters rise by {rise_j:.6g} J where power gives {integral_j:.6g} J"
        yield found("E511", "bundle/counters.parquet", observed, "millijoules", rise_j - integral_j)


def mig_repeated(readings: Sequence[Row]) -> Iterator[Finding]:
    """E513: devices whose counters show the same values at the same boundaries."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for (node, device, session), values in _by_device(readings).items():
        if len(set(values.values())) >= 3:
            alike[node, session, tuple(sorted(values.items()))].append(device)
    for devices in alike.values():
        if len(devices) > 1:
            observed = f"devices {', '.join(map(str, sorted(devices)))} show one counter"
            yield found(
                "E513", "bundle/counters.parquet", observed, "one device with the whole card's counter"
            )


def stored_columns(stored: Sequence[Row], fresh: Sequence[Row], pue: float | None) -> Iterator[Finding]:
    """E514 and E515 in the stages of a bundle: what was stored, against what the raw rows give."""
    given = {row["stage_uid"]: row for row in stored if row["stage"] != UNATTRIBUTED}
    pairs = []
    for row in roots(fresh):
        other = given.get(row["stage_uid"])
        ours, theirs = row_energy(row), None if other is None else row_energy(other)
        if row["stage"] != UNATTRIBUTED and ours is not None and theirs is not None and ours.best > 0:
            pairs.append((row["mono_start_us"], ours.best, theirs.best))
    pairs.sort()
    yield from _explained(
        "bundle/stages.parquet", "the stages", [p[1] for p in pairs], [p[2] for p in pairs], pue
    )


def _explained(
    file: str, what: str, ours: Sequence[float], theirs: Sequence[float], pue: float | None
) -> Iterator[Finding]:
    if len(ours) < 2:
        return
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    mean, extra = sum(ratios) / len(ratios), math.fsum(theirs) - math.fsum(ours)
    if max(ratios) - min(ratios) <= CLOSE * mean and 1 + 4 * CLOSE < mean <= LARGEST_PUE:
        observed = f"{what} hold {mean:.4g} times what the raw rows give, all alike{_which(mean, pue)}"
        yield found("E514", file, observed, "IT energy", extra)
    elif all(_near(b, a) for a, b in zip(itertools.accumulate(ours), theirs, strict=True)):
        yield found("E515", file, f"{what} hold running totals", "each stage's own energy", extra)


def stated(
    claims: Mapping[str, float], stages_kwh: Sequence[float], figures: Mapping[str, Any], pue: float | None
) -> Iterator[Finding]:
    """E505, E512, E514, E515 in the figures that a laboratory states beside its log.

    Args:
        claims: `stated` of the submission.
        stages_kwh: Energies of the stages in their order, by the log, or as published without one.
        figures: `energy_kwh`, `quality` and `energy_j_per_token` (a list) as far as known.
        pue: Factor that the run was started with.
    """
    energy, own = claims.get("energy_kwh"), figures.get("energy_kwh")
    if energy and own and not _near(energy, own, STATED_REL):
        totals = math.fsum(itertools.accumulate(stages_kwh))
        observed, at_stake = f"energy_kwh: stated {energy:.6g}", (energy - own) * J_PER_KWH
        if len(stages_kwh) > 1 and _near(energy, totals):
            yield found("E515", ENTRY, f"{observed} is the sum of running totals", f"{own:.6g}", at_stake)
        elif 1 < energy / own <= LARGEST_PUE and (which := _which(energy / own, pue)):
            words = f"{observed} is {energy / own:.4g} times what the stages give{which}"
            yield found("E514", ENTRY, words, f"{own:.6g}, IT energy", at_stake)
        else:
            yield found("E505", ENTRY, observed, f"{own:.6g}, what the stages give", at_stake)
    quality, q = claims.get("quality"), figures.get("quality")
    if quality is not None and q is not None and abs(quality - q) > STATED_REL:
        yield found("E505", ENTRY, f"quality: stated {quality:.4g}", f"{q:.4g}, what the scores give")
    rate, rates = claims.get("energy_j_per_token"), figures.get("energy_j_per_token") or []
    if rate and rates and not any(_near(rate, known, STATED_REL) for known in rates):
        known = " or ".join(f"{value:.4g}" for value in rates)
        yield found("E505", ENTRY, f"energy_j_per_token: stated {rate:.6g}", f"{known}, by the log's counts")
    co2e, base = claims.get("co2e_kg"), own or energy
    if co2e and base and co2e / base > MOST_KG_PER_KWH:
        observed = f"co2e_kg: {co2e:.6g} kg for {base:.6g} kWh are {co2e / base:.4g} kg/kWh"
        yield found("E512", ENTRY, observed, f"less than {MOST_KG_PER_KWH:g} kg/kWh, as of any grid")


def _which(ratio: float, pue: float | None) -> str:
    """Whose PUE a ratio is, in words; empty where it is nobody's."""
    if pue is not None and _near(ratio, pue):
        return f", the PUE {pue:g} that the run was started with"
    known = next((factor for factor in pue_factors() if _near(ratio, factor.value, 0.002)), None)
    return "" if known is None else f", the PUE of {known.factor_id}"


def _near(a: float, b: float, rel: float = CLOSE) -> bool:
    return math.isclose(a, b, rel_tol=rel)


def _by_device(readings: Sequence[Row]) -> dict[tuple[str, int, int], dict[int, int]]:
    """Node, device and session -> boundary -> value."""
    series: dict[tuple[str, int, int], dict[int, int]] = defaultdict(dict)
    for row in readings:
        if row["device_id"] is not None and row["boundary"] is not None and row["value"] is not None:
            series[row["node_id"], row["device_id"], row["session"]][row["boundary"]] = row["value"]
    return series
