"""Low and high of a stage's GPU energy: each term from its definition, then how terms and devices add."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.power import GAP_FACTOR, PERIOD, Json

Z95 = 1.959963984540054
JOULES = 1e-9  # in one mW x us
HALF_STEP_J, HALF_STEP_MW = 0.5e-3, 0.5
REFRESH = 100_000


class Term:
    """What one device adds: a best value, a random interval around it, and bounds on top."""

    def __init__(self, best: float) -> None:
        self.best = best
        self.low = self.high = self.bound_low = self.bound_high = 0.0

    def around(self, shift: float, half: float) -> Term:
        """A random interval around best + shift; it always holds best."""
        self.low, self.high = max(0.0, half - shift), max(0.0, half + shift)
        return self


def _together(a: float, b: float) -> float:
    return a + b if wrong("IntervalsAdded") else math.hypot(a, b)


def _two_ends(a: float, b: float) -> float:
    """95 % of the sum of two independent errors, uniform within a and b: its density is a trapezoid.

    What lies beyond s is (a + b - s)^2 / (4 a b) on the slopes, and 1 - s / a on the flat top.
    """
    if wrong("IntervalsAdded"):
        return a + b
    a, b = max(a, b), min(a, b)
    slope = a + b - math.sqrt(4 * a * b * 0.05)
    return slope if slope >= a - b and b > 0.05 * a else 0.95 * a


def _counted(first: Json, last: Json) -> Term:
    """From the counter: brackets of both ends, and half a millijoule at each; an old reading lags."""
    widths, shifts, on_time = [], [], []
    for reading in (first, last):
        watts_us = float(reading["power_mw"]) * JOULES
        if reading["method"] == "tick":
            width, shift = float(reading["uncertainty_us"]) * watts_us, 0.0
        else:
            width = shift = float(reading["uncertainty_us"] or REFRESH) * watts_us / 2
        widths.append(math.hypot(width, HALF_STEP_J))
        on_time.append(math.hypot(width - shift, HALF_STEP_J))
        shifts.append(shift)
    best = float(last["value_mj"] - first["value_mj"]) / 1000
    term = Term(best).around(shifts[1] - shifts[0], _two_ends(*widths))
    if not wrong("NeverOnTime"):
        least = _two_ends(*on_time)
        term.low, term.high = max(term.low, least), max(term.high, least)
    return term


def _sampled(times: list[int], power: list[float], limit: float) -> Term:
    """From samples at both ends of the window and between: the trapezoid, its doubt, and gaps."""
    width = times[-1] - times[0]
    cells = [(t1 - t0, p0, p1) for (t0, p0), (t1, p1) in pairwise(zip(times, power, strict=True))]
    best = sum(h * (p0 + p1) / 2 for h, p0, p1 in cells)
    seen = [cell for cell in cells if cell[0] <= GAP_FACTOR * PERIOD]
    gaps = [cell for cell in cells if cell[0] > GAP_FACTOR * PERIOD]
    variance = sum((h * (p1 - p0)) ** 2 for h, p0, p1 in seen) / 2
    student = Z95 * (1 + 2 / max(1, len(seen)))
    blind = sum(h for h, _, _ in gaps)
    half = _together(student * math.sqrt(variance), 0.95 * HALF_STEP_MW * (width - blind))
    term = Term(best * JOULES).around(0.0, half * JOULES + HALF_STEP_J)
    held = sum(h * (p0 + p1) / 2 for h, p0, p1 in gaps) * JOULES
    room = held, max(held, blind * max(limit, *power) * JOULES) - held
    share = blind / width
    if share > 0.1:
        term.bound_low, term.bound_high = room
    elif gaps:
        mean = sum(power) / len(power)
        spread = sum((p - mean) ** 2 for p in power) / len(power)
        blended = (1 - share) * spread + share * max(power) ** 2 / 12
        gap = Z95 * math.sqrt(sum(h * h for h, _, _ in gaps) * blended / 2) * JOULES
        term.low, term.high = (
            _together(one, min(gap, most)) for one, most in zip((term.low, term.high), room, strict=True)
        )
    return term


def stage_interval(given: Json) -> Json:
    """GPU energy of a stage of one or more devices, with low and high."""
    terms = []
    for device in given["device_ids"]:
        ends = [row for row in given["boundaries"] if row["device_id"] == device]
        need(len(ends) == 2, "two boundaries a device")
        first, last = sorted(ends, key=lambda row: row["mono_us"])
        if None not in (first["value_mj"], last["value_mj"]):
            terms.append(_counted(first, last))
            continue
        block: Any = next(b for b in given["power"] if b["device_id"] == device)
        need(block["mono_us"][0] == first["mono_us"], "samples from the first boundary on")
        need(block["mono_us"][-1] == last["mono_us"], "to the last one")
        read = [(t, float(p)) for t, p in zip(block["mono_us"], block["power_mw"], strict=True) if p]
        times, power = [t for t, _ in read], [p for _, p in read]
        terms.append(_sampled(times, power, float(given.get("power_limit_mw") or 0)))
    low = high = 0.0
    for term in terms:
        low, high = _together(low, term.low), _together(high, term.high)
    low += sum(term.bound_low for term in terms)
    high += sum(term.bound_high for term in terms)
    best = sum(term.best for term in terms)
    return {"gpu_energy_j": best, "gpu_energy_j_low": max(0.0, best - low), "gpu_energy_j_high": best + high}
