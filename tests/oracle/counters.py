"""Energy counters: a GPU's between two boundaries, RAPL zones over a window."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.power import Curve, Json, readings, single

METHODS = [
    "counter_tick",
    "counter_interpolated",
    "counter_sample",
    "counter_split",
    "power_integral",
    "absent",
]
"""From best to worst: a sum carries the worst of its parts."""

Tick = tuple[int, int]


def placed(t: int, ticks: Sequence[Tick]) -> int | None:
    """Counter at a boundary that was not read: the line inside the cell of ticks around it, rounded down."""
    for (t0, v0), (t1, v1) in pairwise(ticks):
        if t0 <= t <= t1:
            return v0 + (v1 - v0) * (t - t0) // (t1 - t0)
    return None


def counter_energy(given: Json) -> Json:
    """Energy of one device between two boundaries, in whole mJ: by counter where it can be read."""
    first, last = given["start"], given["end"]
    need(first["mono_us"] <= last["mono_us"], "boundaries in the wrong order")
    block = given.get("power", {"mono_us": []})
    ticks = [(t, v) for t, v, ok in readings(block, "energy_counter_mj") if ok]
    power = Curve(readings(block))
    faults: list[str] = []
    ends: list[tuple[int, Any]] = []
    for end in (first, last):
        value = end["value_mj"]
        if value is None and wrong("NullAsZero"):
            value = 0
        if value is None:
            faults = ["counter_boundary_missing"]
            value = placed(end["mono_us"], ticks)
        ends.append((end["mono_us"], None if value is None else single(value)))
    (start, v_start), (stop, v_stop) = ends
    if v_start is None or v_stop is None:
        if not power.knots:
            return _counted(0 if wrong("UnknownAsZero") else None, "absent", [])
        return _counted(round(power.energy(start, stop) * 1000), "power_integral", ["counter_missing"])
    total, reset, stuck = 0, False, False
    for (t0, v0), (t1, v1) in pairwise(
        [ends[0], *(tick for tick in ticks if start < tick[0] < stop), ends[1]]
    ):
        stopped = v0 == v1 and power.knots and not wrong("StandstillIgnored") and _stopped(ticks, t0, power)
        stuck, reset = bool(stuck or stopped), reset or (not stuck and v1 < v0)
        by_power = stuck or v1 < v0
        total += round(power.energy(t0, t1) * 1000) if by_power else v1 - v0
    if wrong("ResetIgnored") and not stuck:
        total, reset = v_stop - v_start, False
    methods = {"tick": 0, "interpolated": 1}
    rank = max(2 if end["value_mj"] is None else methods.get(end["method"], 2) for end in (first, last))
    faults += ["counter_reset"] * reset + ["counter_stuck"] * stuck
    return _counted(total, "counter_split" if reset or stuck else METHODS[rank], faults)


def _stopped(ticks: Sequence[Tick], since: int, power: Curve) -> bool:
    """Whether the counter stands still from `since` on, at least 2 s and 2 J, and never catches up."""
    later = [tick for tick in ticks if tick[0] >= since]
    same = [t for t, v in later if v == later[0][1]]
    beyond = [tick for tick in later if tick[1] != later[0][1]]
    flowed = power.energy(since, beyond[0][0] if beyond else same[-1])
    caught_up = Fraction(beyond[0][1] - later[0][1], 1000) if beyond else 0
    return same[-1] - since >= 2_000_000 and flowed >= 2 and caught_up < flowed / 2


def _counted(energy_mj: int | None, method: str, faults: Sequence[str]) -> Json:
    energy = None if energy_mj is None else Fraction(energy_mj, 1000)
    return {"energy_mj": energy_mj, "energy_j": energy, "method": method, "faults": sorted(faults)}


def zone_energy(given: Json) -> Json:
    """CPU or DRAM energy of a window from RAPL zones, each unwrapped by itself."""
    start, end, part = given["mono_start_us"], given["mono_end_us"], given["part"]
    need(start <= end, "window ends before it starts")
    need(part in ("cpu", "dram"), "no such part")
    word = "package" if part == "cpu" else "dram"
    faults: set[str] = set()
    zones: list[Json] = []
    for zone in given["zones"]:
        if not (wrong("EveryZone") or zone["zone"].startswith(word)):
            continue
        if zone["value_uj"] in [other["value_uj"] for other in zones] and not wrong("MirrorCounted"):
            faults.add("rapl_mirror")
        else:
            zones.append(zone)
    if not zones:
        return {"energy_j": 0 if wrong("UnknownAsZero") else None, "method": "absent", "faults": []}
    if wrong("SumBeforeUnwrap"):
        columns = zip(*(zone["value_uj"] for zone in zones), strict=True)
        zones = [zones[0] | {"value_uj": [None if None in row else sum(row) for row in columns]}]
    curves = [_unwrapped(zone, start, end, faults) for zone in zones]
    total = sum(round(curve.at(end)) - round(curve.at(start)) for curve in curves)
    return {"energy_j": Fraction(total, 10**6), "method": "rapl", "faults": sorted(faults)}


def _unwrapped(zone: Json, start: int, end: int, faults: set[str]) -> Curve:
    """Microjoules since the first reading; a fall that is no wrap is bridged at the mean rate of the rest."""
    pairs = zip(zone["mono_us"], zone["value_uj"], strict=True)
    rows = [(single(t), single(v or 0)) for t, v in pairs if v is not None or wrong("NullAsZero")]
    wrap = zone["range_uj"]
    steps: list[tuple[int, int | None]] = []
    for (t0, v0), (t1, v1) in pairwise(rows):
        long = t1 - t0
        step: int | None = v1 - v0
        if v1 < v0 and not wrong("NoUnwrap"):
            # More than 1000 W, with a millisecond of slack, is no wrap.
            undone = -1 if wrap is None else v1 - v0 + wrap
            fits = 0 <= undone <= (long + 1_000) * 1_000 or (wrap and wrong("FallIsWrap"))
            step = undone if fits else None
        if step is not None and wrap and long * 1_000 - step > wrap and t0 < end and t1 > start:
            faults.add("rapl_wrap_ambiguous")
        steps.append((long, step))
    good = [(long, step) for long, step in steps if step is not None]
    rate = Fraction(sum(step for _, step in good), sum(long for long, _ in good))
    knots: list[tuple[int, Any, bool]] = [(rows[0][0], 0, True)]
    for (t, _), (long, step) in zip(rows[1:], steps, strict=True):
        if step is None and t > start and t - long < end:
            faults.add("rapl_reset")
        knots.append((t, knots[-1][1] + (rate * long if step is None else step), True))
    return Curve(knots)
