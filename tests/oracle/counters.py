"""Energy counters: a GPU's between two boundaries, RAPL zones over a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.oracle.faults import need, wrong
from tests.oracle.placing import Error, half_width, placed_all, refreshes
from tests.oracle.power import NJ, Curve, Json, Row, most_mw, powered, readings, single

METHODS = [
    "counter_tick",
    "counter_step",
    "counter_linear",
    "counter_sample",
    "counter_split",
    "power_integral",
    "absent",
]
"""From best to worst: a sum carries the worst of its parts."""

Tick = tuple[int, int]


REFRESH = 100_000
"""A reading of the sampler may be as old as this."""

TELLING = 8
"""Of fewer samples in a window an integral contradicts no counter."""

Ticks = Sequence[Tick]


def _lone(can: Callable[[Tick, Tick], bool], before: Tick, tick: Tick, after: Tick) -> bool:
    """Whether a reading agrees with neither neighbour, or a fall leads to or from it, while those agree."""
    ways = (before, tick), (tick, after)
    falls = any(not can(a, b) and b[1] < a[1] for a, b in ways)
    return (falls or not any(can(a, b) for a, b in ways)) and can(before, after)


class Device:
    """What the sampler read of a device's counter, and what is wrong with it."""

    def __init__(self, ticks: Ticks, power: Curve, most: Fraction) -> None:
        self.power, self.most = power, most
        odd = [k for k in range(1, len(ticks) - 1) if self._is_glitch(*ticks[k - 1 : k + 2])]
        self.glitches = [] if wrong("GlitchBelieved") else [ticks[k][0] for k in odd]
        self.ticks = [tick for tick in ticks if tick[0] not in self.glitches]
        self.stuck: list[tuple[int, int]] = []
        self._standstills()

    def can(self, a: Tick, b: Tick) -> bool:
        """Whether the device can have moved its counter from one reading to the other."""
        most = (b[0] - a[0] + REFRESH) * self.most / 10**6
        return b[1] - a[1] >= 0 and (b[1] - a[1] <= most or wrong("JumpBelieved"))

    def _is_glitch(self, before: Tick, tick: Tick, after: Tick) -> bool:
        return _lone(self.can, before, tick, after)

    def flowed(self, start: int, end: int) -> Fraction:
        """Joules by power; none where no sample says so."""
        return self.power.energy(start, end) if self.power.knots else Fraction(0)

    def _standstills(self) -> None:
        """Where it stood still for two refreshes while 2 J flowed: stuck, or late and then left out."""
        runs: list[list[int]] = []
        for k in range(1, len(self.ticks)):
            if self.ticks[k][1] == self.ticks[k - 1][1]:
                if runs and runs[-1][1] == k - 1:
                    runs[-1][1] = k
                else:
                    runs.append([k - 1, k])
        late: set[int] = set()
        for first, last in runs if not wrong("StandstillIgnored") else []:
            (start, value), stop = self.ticks[first], self.ticks[last][0]
            held = self.flowed(start, stop)
            if stop - start <= 2 * REFRESH or held < 2:
                continue
            before = self.ticks[max(0, first - 1)][0]
            if last + 1 == len(self.ticks):
                self.stuck.append((before, 2**62))
                continue
            until, caught = self.ticks[last + 1]
            if self.flowed(start, until) - Fraction(caught - value, 1000) > held / 2:
                self.stuck.append((before, until))
            else:
                late |= set(range(first + 1, last + 1))
        self.ticks = [tick for k, tick in enumerate(self.ticks) if k not in late]

    def admits(self, end: Tick) -> bool:
        """Whether a boundary's value lies between readings around it that agree, and is not an old one."""
        before = [tick for tick in self.ticks if tick[0] < end[0] - REFRESH]
        after = [tick for tick in self.ticks if tick[0] > end[0] + REFRESH]
        if not before or not after or wrong("GlitchBelieved"):
            return True
        old = end[1] == before[-1][1] and end[0] - before[-1][0] > 2 * REFRESH
        if old and self.flowed(before[-1][0], end[0]) >= 2:
            return False
        return not self._is_glitch(before[-1], end, after[0])

    def placed(self, t: int) -> tuple[int | None, bool]:
        """Counter at a boundary that was not read, and whether it fell or jumped there.

        The line inside the cell around it, rounded down; none where the counter cannot have taken that way.
        """
        for a, b in pairwise(self.ticks):
            if a[0] <= t <= b[0]:
                if not self.can(a, b) and not wrong("LineAcrossReset"):
                    return None, a[0] < t < b[0]
                rise = Fraction((b[1] - a[1]) * (t - a[0]), b[0] - a[0])
                return a[1] + (round(rise) if wrong("InterpolatedRounded") else math.floor(rise)), False
        return None, False


def at_moments(moments: Sequence[Json], given: Json) -> list[Json]:
    """The boundaries of a device in the order of time, those between two refreshes with their values."""
    block = given.get("power", {"mono_us": []})
    most, instant = most_mw(given.get("power_limit_mw")), given.get("instant_supported", True)
    ticks = refreshes(given.get("ticks", []), most)
    found = placed_all(moments, ticks, most, powered(given, block), instant)
    return [
        moment
        if one is None
        else moment
        | {"value_mj": one.value, "method": one.method, "error": Error(one.known, one.variance, 1000)}
        for moment, one in zip(moments, found, strict=True)
    ]


def counter_energy(given: Json) -> Json:
    """Energy of one device between two boundaries, in whole mJ: by counter where it can be read."""
    first, last = given["start"], given["end"]
    need(first["mono_us"] <= last["mono_us"], "boundaries in the wrong order")
    first, last = at_moments((first, last), given)
    found = between(first, last, given)
    before, behind = _error(first), _error(last)
    if "error" not in {*first, *last} or not before or not behind or found["method"] not in METHODS[:3]:
        return found
    block = given.get("power", {"mono_us": []})
    power = Curve(powered(given, block))
    by_power = power.energy(first["mono_us"], last["mono_us"]) if power.knots else found["energy_j"]
    low = high = half = half_width(before, behind)
    apart = float(by_power - found["energy_j"])
    inside = sum(first["mono_us"] <= t < last["mono_us"] for t in power.times)
    if abs(apart) > 0.03 * by_power and (inside >= TELLING or wrong("FewSamplesContradict")):
        if len({value for _, value in power.knots}) > 1:
            return found  # how sure power is that changes, is told by `stage_interval`
        sampled = 0.95 * 0.5e-9 * (last["mono_us"] - first["mono_us"])
        if abs(apart) > 2 * (half + sampled):
            low, high = (half + sampled - apart, half) if apart < 0 else (half, half + apart + sampled)
    return found | {"low_j": max(0.0, found["energy_j"] - low), "high_j": found["energy_j"] + high}


def _error(end: Json) -> Error | None:
    """Of an end that was placed, or lies on a refresh."""
    if end.get("error") is None and end["method"] == "tick" and end.get("power_mw"):
        return Error(end.get("uncertainty_us", 0) * end["power_mw"] * NJ, Fraction(0), 0)
    return end.get("error")


def between(first: Json, last: Json, given: Json) -> Json:
    """The same, of boundaries that have their values."""
    block = given.get("power", {"mono_us": []})
    ticks = [(t, v) for t, v, ok in readings(block, "energy_counter_mj") if ok]
    power = Curve(powered(given, block))
    device = Device(ticks, power, most_mw(given.get("power_limit_mw")))
    start, stop = first["mono_us"], last["mono_us"]
    faults: set[str] = set()
    ends: list[tuple[int, Any, int]] = []
    resets = 0
    for end in (first, last):
        t, value = end["mono_us"], end["value_mj"]
        if value is None:
            faults.add("counter_boundary_missing")
            value = 0 if wrong("NullAsZero") else None
        elif not device.admits((t, value)):
            faults.add("counter_glitch")
            value = None
        sampled = value is None
        if value is None:
            value, fell = device.placed(t)
            resets += fell
        rank = 3 if sampled else {"tick": 0, "step": 1, "linear": 2}.get(end["method"], 3)
        ends.append((t, None if value is None else single(value), rank))
    if any(start <= t < stop for t in device.glitches):
        faults.add("counter_glitch")
    near = 0 if wrong("NearReadingsUsed") else REFRESH
    inside = [tick for tick in device.ticks if start + near < tick[0] < stop - near]
    knots = [(t, v) for t, v, _ in ends[:1] if v is not None] + inside
    knots += [(t, v) for t, v, _ in ends[1:] if v is not None]
    if not knots:
        faults.discard("counter_boundary_missing")
        if not power.knots:
            return _counted(0 if wrong("UnknownAsZero") else None, "absent", [])
        return _counted(round(power.energy(start, stop) * 1000), "power_integral", ["counter_missing"])
    total: Any = 0
    stuck = False
    bridged = [(start, knots[0][0])]
    for a, b in pairwise(knots):
        stands = any(x <= Fraction(a[0] + b[0], 2) <= y for x, y in device.stuck)
        falls = not device.can(a, b)
        stuck, resets = stuck or stands, resets + falls
        if not stands and not falls:
            total += b[1] - a[1]
        elif bridged[-1][1] == a[0]:
            bridged[-1] = bridged[-1][0], b[0]
        else:
            bridged.append((a[0], b[0]))
    bridged = [(a, b) for a, b in [*bridged, (knots[-1][0], stop)] if a < b]
    known = stop - start - sum(b - a for a, b in bridged)
    if bridged and not power.knots and known <= 0:
        total = 0 if wrong("UnknownAsZero") else None
    elif bridged:
        # Without any power the counter's own mean rate is all there is.
        rate = total
        for begin, until in bridged:
            by_power = power.energy(begin, until) * 1000 if power.knots else None
            whole = math.floor if wrong("BridgeFloored") else round
            total += whole(Fraction(rate * (until - begin), known) if by_power is None else by_power)
    if wrong("ResetIgnored") and not stuck and None not in (ends[0][1], ends[1][1]):
        total, resets, bridged = ends[1][1] - ends[0][1], 0, []
    rank = max(rank for _, _, rank in ends) if not bridged else 3
    faults |= {"counter_reset"} if resets else set()
    faults |= {"counter_stuck"} if stuck else set()
    if total is None:
        # Of what is unknown only a fault of the counter is worth a word.
        return _counted(None, "absent", sorted(faults & {"counter_reset", "counter_stuck"}))
    return _counted(total, "counter_split" if resets or stuck else METHODS[rank], sorted(faults))


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
        if zone.get("source", "rapl") != "rapl":
            continue
        if not (wrong("EveryZone") or zone["zone"].startswith(word)):
            continue
        if zone["value_uj"] in [other["value_uj"] for other in zones] and not wrong("MirrorCounted"):
            faults.add("rapl_mirror")
        else:
            zones.append(zone)
    if not wrong("UnknownAsZero"):
        moving = [zone for zone in zones if len(set(zone["value_uj"]) - {None}) > 1]
        faults |= {"rapl_zone_missing"} if 0 < len(moving) < len(zones) else set()
        zones = moving
    if not zones:
        component = "cpu" if part == "cpu" else "ram"
        for zone in given["zones"]:
            if zone.get("source") == "codecarbon" and zone["zone"] == component:
                return _estimated(zone, start, end)
        return {"energy_j": 0 if wrong("UnknownAsZero") else None, "method": "absent", "faults": []}
    if wrong("SumBeforeUnwrap"):
        columns = zip(*(zone["value_uj"] for zone in zones), strict=True)
        zones = [zones[0] | {"value_uj": [None if None in row else sum(row) for row in columns]}]
    curves = [_unwrapped(zone, start, end, faults) for zone in zones]
    total = sum(round(curve.at(end)) - round(curve.at(start)) for curve in curves)
    return {"energy_j": Fraction(total, 10**6), "method": "rapl", "faults": sorted(faults)}


def _estimated(zone: Json, start: int, end: int) -> Json:
    """An estimate of a window: on lines between its readings; a restart adds nothing."""
    pairs = zip(zone["mono_us"], zone["value_uj"], strict=True)
    rows = [(t, v) for t, v in pairs if v is not None]
    first, last = rows[0][0], rows[-1][0]
    beside = end <= first or start >= last
    if beside or (max(first - start, end - last) > 5_000_000 and not wrong("EstimateStretched")):
        return {"energy_j": 0 if wrong("UnknownAsZero") else None, "method": "absent", "faults": []}
    knots: list[Row] = [(first, 0, True)]
    faults: set[str] = set()
    for (_, before), (t, value) in pairwise(rows):
        step = value - before
        if step < 0 and not wrong("RestartSubtracted"):
            step = 0
            faults |= {"cpu_estimate_restarted"} if start < t <= end else set()
        knots.append((t, knots[-1][1] + step, True))
    curve = Curve(knots)
    energy = Fraction(max(0, round(curve.at(end)) - round(curve.at(start))), 10**6)
    found = {"energy_j": energy, "method": "codecarbon_process", "faults": sorted(faults)}
    return found | {"low_j": Fraction(0), "high_j": 2 * energy}


def _unwrapped(zone: Json, start: int, end: int, faults: set[str]) -> Curve:
    """Microjoules since the first reading; a fall that is no wrap is bridged at the mean rate of the rest."""
    pairs = zip(zone["mono_us"], zone["value_uj"], strict=True)
    rows = [(single(t), single(v or 0)) for t, v in pairs if v is not None or wrong("NullAsZero")]
    wrap: int | None = zone["range_uj"]

    def way(a: Tick, b: Tick) -> int | None:
        """Microjoules from reading to reading; None where the zone cannot have drawn so much."""
        step = b[1] - a[1]
        if step < 0 and wrong("NoUnwrap"):
            return step
        if step < 0 and wrap is not None:
            step += wrap
            if wrong("FallIsWrap"):
                return step
        if step >= 0 and b[1] >= a[1] and wrong("JumpBelieved"):
            return step
        # More than 1000 W, with a millisecond of slack, is no wrap and no work.
        return step if 0 <= step <= (b[0] - a[0] + 1_000) * 1_000 else None

    def can(a: Tick, b: Tick) -> bool:
        return way(a, b) is not None

    def round_again(before: Tick, tick: Tick, after: Tick) -> bool:
        """Whether a reading of 0, from which no way leads on, costs one wrap more than the way past it."""
        known = wrap is not None and not wrong("NoUnwrap") and can(before, after)
        if not known or tick[1] != 0 or not can(before, tick) or can(tick, after):
            return False
        falls = [b[1] < a[1] for a, b in ((before, tick), (tick, after), (before, after))]
        return falls[0] + falls[1] > falls[2]

    threes = [(k, rows[k - 1 : k + 2]) for k in range(1, len(rows) - 1)]
    odd = [k for k, three in threes if _lone(can, *three) or round_again(*three)]
    if not wrong("GlitchBelieved") and not wrong("FallIsWrap"):
        if any(start <= rows[k][0] <= end for k in odd):
            faults.add("rapl_glitch")
        rows = [row for k, row in enumerate(rows) if k not in odd]
    steps: list[tuple[int, Any]] = []
    for a, b in pairwise(rows):
        long, step = b[0] - a[0], way(a, b)
        if step is not None and wrap and long * 1_000 - step > wrap and a[0] < end and b[0] > start:
            faults.add("rapl_wrap_ambiguous")
        if step is None and b[0] > start and a[0] < end:
            faults.add("rapl_reset")
        steps.append((long, step))
    good = [(long, step) for long, step in steps if step is not None]
    rate = Fraction(sum(step for _, step in good), sum(long for long, _ in good))
    steps = [(long, round(rate * long) if step is None else step) for long, step in steps]
    if not wrong("StandstillIgnored"):
        _fill(rows, steps, start, end, faults)
    knots: list[tuple[int, Any, bool]] = [(rows[0][0], 0, True)]
    for (t, _), (_, step) in zip(rows[1:], steps, strict=True):
        knots.append((t, knots[-1][1] + step, True))
    return Curve(knots)


def _fill(rows: Ticks, steps: list[tuple[int, Any]], start: int, end: int, faults: set[str]) -> None:
    """Give standstills of more than 0.1 s the mean rate of the rest, where the rise behind them lacks it."""
    still = [k for k, (_, step) in enumerate(steps) if step == 0]
    least = 5_000_000 if 4 * len(still) > len(steps) else 100_000
    runs: list[list[int]] = []
    for k in still:
        if runs and runs[-1][1] == k:
            runs[-1][1] = k + 1
        else:
            runs.append([k, k + 1])
    runs = [run for run in runs if rows[run[1]][0] - rows[run[0]][0] > least]
    moving = rows[-1][0] - rows[0][0] - sum(rows[b][0] - rows[a][0] for a, b in runs)
    rate = Fraction(sum(step for _, step in steps), moving)
    for first, last in runs:
        before, until = rows[max(0, first - 1)][0], rows[min(last + 1, len(rows) - 1)][0]
        rise = steps[last][1] if last < len(steps) else 0
        if before < end and until > start:
            faults.add("rapl_stuck")
        if 4 * rise < 3 * rate * (until - rows[first][0]):
            steps[first:last] = [(long, round(rate * long)) for long, _ in steps[first:last]]
