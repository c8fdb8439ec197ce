"""Another implementation of the protocol, which can be made wrong on purpose.

Standalone: the standard library alone, nothing of the kit. Without arguments it is right and passes every
vector; `--bug LeftRiemann` (several at will) makes the mistake that the flag of this name stands for. It
speaks the protocol of `kit conformance --cmd`.

    python wrong_implementation.py --bug NullAsZero --bug NoUnwrap
"""

import argparse
import bisect
import hashlib
import json
import math
import struct
import sys
from itertools import pairwise

SUMMER_2026 = (1_774_746_000_000_000, 1_792_890_000_000_000)
BUGS: set[str] = set()


class Refused(Exception):
    """The input is not allowed."""


def wrong(bug):
    return bug in BUGS


def need(condition, message):
    if not condition:
        raise Refused(message)


# Power


def single(value):
    """As a 32-bit float keeps it."""
    return struct.unpack("f", struct.pack("f", value))[0] if wrong("SinglePrecision") else value


def summer_us(t_us):
    """What a clock on the wall adds in summer."""
    return 3_600_000_000 if SUMMER_2026[0] <= t_us < SUMMER_2026[1] else 0


def readings(block, name="power_mw", clock="mono_us"):
    times = block[clock]
    if wrong("LocalTime") and "t_us" in block:
        times = [t + summer_us(utc) for t, utc in zip(times, block["t_us"], strict=True)]
    values = block.get(name) or [None] * len(times)
    need(all(a < b for a, b in pairwise(times)) or "t_us" in block, "time does not rise")
    rows = []
    for t, value in zip(times, values, strict=True):
        null, zero = value is None, value == 0
        ok = wrong("NullAsZero") if null else wrong("ZeroIsPower") if zero and name == "power_mw" else True
        rows.append((single(t), 0 if null else value, ok))
    return rows


class Curve:
    def __init__(self, rows):
        self.knots = [(t, p) for t, p, ok in rows if ok]
        self.times = [t for t, _ in self.knots]

    def at(self, t):
        if t <= self.times[0]:
            return self.knots[0][1]
        if t >= self.times[-1]:
            return self.knots[-1][1]
        i = bisect.bisect_right(self.times, t) - 1
        (t0, p0), (t1, p1) = self.knots[i], self.knots[i + 1]
        return p0 + (p1 - p0) * (t - t0) / (t1 - t0)

    def held(self, t):
        return self.knots[max(0, bisect.bisect_right(self.times, t) - 1)][1]

    def energy(self, start, end):
        inside = [k for k in self.knots if start <= k[0] <= end]
        if wrong("EdgesCut"):
            cuts = [t for t, _ in inside]
        else:
            cuts = [start, *(t for t in self.times if start < t < end), end]
        value = self.at
        if wrong("EdgesHeld") and inside:
            first, last = inside[0], inside[-1]

            def value(t):
                return first[1] if t < first[0] else last[1] if t > last[0] else self.at(t)

        elif wrong("EdgesHeld"):
            value = self.held
        parts = []
        for a, b in pairwise(cuts):
            power = self.held(a) if wrong("LeftRiemann") else (value(a) + value(b)) / 2
            parts.append(power * (b - a))
        return math.fsum(parts) * 1e-9

    def gaps(self, start, end, limit):
        edges = list(zip(self.times, self.times[1:], strict=False))
        edges += [(min(start, self.times[0]), self.times[0]), (self.times[-1], max(end, self.times[-1]))]
        found = [(max(a, start), min(b, end)) for a, b in edges if b - a > limit]
        return [(a, b) for a, b in found if b > a]


def missed(rows, start, end, period):
    times = [t for t, _, _ in rows]
    count = sum(not ok and start <= t < end for t, _, ok in rows)
    if not times:
        return int(end - start) // period
    for a, b in pairwise(times):
        holes = math.floor((b - a) / period + 0.5) - 1 if (b - a) > 1.5 * period else 0
        count += sum(start <= a + k * (b - a) / (holes + 1) < end for k in range(1, holes + 1))
    t = times[0] - period
    while t >= start:
        count += t < end
        t -= period
    t = times[-1] + period
    while t < end:
        count += t >= start
        t += period
    return count


def integrate_power(given):
    clock, start, end = "mono_us", given["mono_start_us"], given["mono_end_us"]
    if wrong("WallClock") and "t_us" in given["power"]:
        clock, start, end = "t_us", given["t_start_us"], given["t_end_us"]
    if wrong("LocalTime") and "t_us" in given["power"]:
        start, end = start + summer_us(given["t_start_us"]), end + summer_us(given["t_end_us"])
    need(start <= end, "window ends before it starts")
    start, end = single(start), single(end)
    period = given.get("nominal_period_us", 500_000)
    rows = readings(given["power"], clock=clock)
    curve = Curve(rows)
    lost = missed(rows, start, end, period)
    if not curve.knots:
        width = 0 if wrong("GapsHidden") else end - start
        nothing = 0.0 if wrong("GapsDropped") else None
        return {
            "energy_j": nothing,
            "samples": 0,
            "missed_samples": lost,
            "gap_us": width,
            "longest_gap_us": width,
        }
    gaps = [] if wrong("GapsHidden") else curve.gaps(start, end, 2 * period)
    bridged = math.fsum(curve.energy(a, b) for a, b in gaps)
    length = sum(b - a for a, b in gaps)
    most = max([p for _, p in curve.knots] + [given.get("power_limit_mw") or 0])
    energy = curve.energy(start, end)
    return {
        "energy_j": energy - bridged if wrong("GapsDropped") else energy,
        "samples": sum(start <= t < end for t in curve.times),
        "missed_samples": lost,
        "longest_gap_us": max((b - a for a, b in gaps), default=0),
        "gap_us": length,
        "energy_in_gaps_j": 0.0 if wrong("GapsDropped") else bridged,
        "gap_low_j": 0.0,
        "gap_high_j": max(bridged, length * most * 1e-9),
    }


# Counters


def counter_energy(given):
    first, last = given["start"], given["end"]
    need(first["mono_us"] <= last["mono_us"], "boundaries in the wrong order")
    block = given.get("power", {"mono_us": []})
    ticks = [(t, v) for t, v, ok in readings(block, "energy_counter_mj") if ok]
    power = Curve(readings(block))
    faults, ends = [], []
    for end in (first, last):
        value = end["value_mj"]
        if value is None and wrong("NullAsZero"):
            value = 0
        if value is None:
            faults.append("counter_boundary_missing")
            around = [(a, b) for a, b in pairwise(ticks) if a[0] <= end["mono_us"] <= b[0]]
            if around:
                (t0, v0), (t1, v1) = around[0]
                value = v0 + (v1 - v0) * (end["mono_us"] - t0) // (t1 - t0)
        ends.append((end["mono_us"], None if value is None else single(value)))
    if None in (ends[0][1], ends[1][1]):
        if not power.knots:
            nothing = 0 if wrong("UnknownAsZero") else None
            return _counted(nothing, "absent", ["gpu_unmeasured"])
        return _counted(
            round(power.energy(ends[0][0], ends[1][0]) * 1000), "power_integral", ["counter_missing"]
        )
    inner = [tick for tick in ticks if ends[0][0] < tick[0] < ends[1][0]]
    knots = [ends[0], *inner, ends[1]]
    total, resets, stuck = 0, False, False
    until = 0
    for (t0, v0), (t1, v1) in pairwise(knots):
        if t0 < until:
            total += round(power.energy(t0, t1) * 1000)
        elif v1 < v0:
            resets = True
            total += round(power.energy(t0, t1) * 1000)
        elif v1 == v0 and power.knots and not wrong("StandstillIgnored") and _stopped(ticks, t0, power):
            stuck, until = True, ends[1][0]
            total += round(power.energy(t0, t1) * 1000)
        else:
            total += v1 - v0
    if not stuck and (wrong("ResetIgnored") or not resets):
        total = ends[1][1] - ends[0][1]
        resets = False
    methods = {"tick": 0, "interpolated": 1}
    rank = max(2 if end["value_mj"] is None else methods.get(end["method"], 2) for end in (first, last))
    method = ("counter_tick", "counter_interpolated", "counter_sample")[rank]
    faults += ["counter_reset"] * resets + ["counter_stuck"] * stuck
    return _counted(int(total), "counter_split" if resets or stuck else method, faults)


def _stopped(ticks, since, power):
    """Whether the counter stands still from `since` on, at least 2 s and 2 J, and never catches up."""
    later = [tick for tick in ticks if tick[0] >= since]
    same = [t for t, v in later if v == later[0][1]]
    beyond = [tick for tick in later if tick[1] != later[0][1]]
    until = beyond[0][0] if beyond else same[-1]
    flowed = power.energy(since, until)
    caught_up = (beyond[0][1] - later[0][1]) / 1000 if beyond else 0
    return same[-1] - since >= 2_000_000 and flowed >= 2 and caught_up < flowed / 2


def _counted(energy, method, faults):
    known = ("counter_boundary_missing", "counter_missing", "counter_reset", "counter_stuck")
    return {
        "energy_mj": energy,
        "energy_j": None if energy is None else energy / 1000,
        "method": method,
        "faults": sorted(fault for fault in set(faults) if fault in known),
    }


def zone_energy(given):
    start, end, part = given["mono_start_us"], given["mono_end_us"], given["part"]
    need(start <= end, "window ends before it starts")
    need(part in ("cpu", "dram"), "no such part")
    word = "package" if part == "cpu" else "dram"
    zones = [z for z in given["zones"] if wrong("EveryZone") or z["zone"].startswith(word)]
    faults = set()
    if not wrong("MirrorCounted"):
        seen = []
        for zone in zones:
            if any(zone["value_uj"] == other["value_uj"] for other in seen):
                faults.add("rapl_mirror")
            else:
                seen.append(zone)
        zones = seen
    if not zones:
        return {"energy_j": 0.0 if wrong("UnknownAsZero") else None, "method": "absent", "faults": []}
    if wrong("SumBeforeUnwrap"):
        values = [
            sum(column) if None not in column else None
            for column in zip(*(z["value_uj"] for z in zones), strict=True)
        ]
        zones = [{**zones[0], "value_uj": values}]
    total = 0
    for zone in zones:
        curve = _unwrap(zone, start, end, faults)
        total += round(curve.at(end)) - round(curve.at(start))
    return {"energy_j": total / 1e6, "method": "rapl", "faults": sorted(faults)}


def _unwrap(zone, start, end, faults):
    times = [single(t) for t in zone["mono_us"]]
    rows = list(zip(times, zone["value_uj"], strict=True))
    rows = [(t, 0 if v is None else single(v)) for t, v in rows if v is not None or wrong("NullAsZero")]
    wrap = zone["range_uj"]
    steps = []
    for (t0, v0), (t1, v1) in pairwise(rows):
        step = v1 - v0
        if step < 0 and not wrong("NoUnwrap"):
            undone = None if wrap is None else step + wrap
            fits = undone is not None and 0 <= undone <= (t1 - t0 + 1_000) * 1_000
            step = undone if fits or wrong("FallIsWrap") else None
        if step is not None and wrap and (t1 - t0) * 1_000 - step > wrap and t0 < end and t1 > start:
            faults.add("rapl_wrap_ambiguous")
        steps.append((t1 - t0, step))
    good = [(dt, step) for dt, step in steps if step is not None]
    rate = sum(step for _, step in good) / sum(dt for dt, _ in good)
    knots, total = [(rows[0][0], 0)], 0
    for (t, _), (dt, step) in zip(rows[1:], steps, strict=True):
        if step is None:
            if t > start and t - dt < end:
                faults.add("rapl_reset")
            step = rate * dt
        total += step
        knots.append((t, total))
    return Curve([(t, e, True) for t, e in knots])


# Runs


def account(given):
    sessions = sorted({b["session"] for b in given["boundaries"]}, key=str if wrong("TextOrder") else None)
    if wrong("FirstSession"):
        sessions = sessions[:1]
    rows, tops, totals = [], [], []
    for stage in sorted(given["stages"], key=lambda s: s["stage_uid"]):
        session = stage.get("session", 0)
        cut = _cut(given, session, stage["boundary_start"], stage["boundary_end"], stage["device_ids"])
        row = {"name": stage["name"], "stage": stage["stage"], "session": session, **cut}
        rows.append(row)
        inside = stage.get("parent_uid") is not None and not wrong("ParentSummed")
        dropped = wrong("FailedDropped") and stage.get("status", "completed") != "completed"
        if not inside and not dropped and session in sessions:
            tops.append(row)
    for session in sessions:
        order = _order(given, session)
        energies = [_cut(given, session, o[0], o[-1], [device])["mj"] for device, o in order.items()]
        totals.append(_plus(energies))
        if not wrong("HolesLost"):
            holes = _holes(given, session, order)
            rows += holes
            tops += holes
    for row in rows:
        del row["mj"]
    return {
        "stages": rows,
        "gpu_energy_j": _sum(tops, ["gpu_energy_j"]),
        "cpu_energy_j": _sum(tops, ["cpu_energy_j"]),
        "it_energy_j": _sum(tops),
        "unattributed_energy_j": _some([row for row in tops if row["stage"] == "unattributed"]),
        "teacher_energy_j": _some([row for row in tops if row["stage"].startswith("teacher_")]),
        "session_energy_mj": totals,
    }


def _some(rows):
    return _sum(rows) if rows else None


def _reading(given, session, number, device):
    for row in given["boundaries"]:
        if (row["session"], row["boundary"], row["device_id"]) == (session, number, device):
            return row
    raise Refused("no such boundary")


def _order(given, session):
    order = {}
    for row in given["boundaries"]:
        if row["session"] == session and row["device_id"] is not None:
            order.setdefault(row["device_id"], []).append((row["mono_us"], row["boundary"]))
    return {device: [number for _, number in sorted(found)] for device, found in order.items()}


def _cut(given, session, start, end, devices, clock_of=None, processor=True):
    pairs = [
        (_reading(given, session, start, d), _reading(given, session, end, d)) for d in devices or [clock_of]
    ]
    window = min(a["mono_us"] for a, _ in pairs), max(b["mono_us"] for _, b in pairs)
    clock = "t_us" if wrong("WallClock") else "mono_us"
    parts = [_device(given, *pair) for pair in pairs] if devices else []
    mj = _plus([part["mj"] for part in parts])
    row = {"mj": mj, "device_energy_j": None}
    if mj is not None or not devices:
        row["device_energy_j"] = [part["mj"] / 1000 for part in parts]
    for name in ("mj", "counter", "integral"):
        found = _plus([part[name] for part in parts])
        key = "gpu_energy_j" if name == "mj" else f"gpu_energy_{name}_j"
        row[key] = None if found is None else found / (1000 if name != "integral" else 1)
    rank = [
        "counter_tick",
        "counter_interpolated",
        "counter_sample",
        "counter_split",
        "power_integral",
        "absent",
    ]
    row["gpu_energy_method"] = max((part["method"] for part in parts), key=rank.index, default="absent")
    zones = [zone for zone in given.get("zones", []) if zone["session"] == session]
    question = {"part": "cpu", "zones": zones, "mono_start_us": window[0], "mono_end_us": window[1]}
    row["cpu_energy_j"] = zone_energy(question)["energy_j"] if processor else None
    row["duration_us"] = max(b[clock] for _, b in pairs) - min(a[clock] for a, _ in pairs)
    row["energy_j"] = _sum([row])
    return row


def _plus(parts):
    """A sum with an unknown part is unknown."""
    if not parts or None in parts:
        return 0 if wrong("UnknownAsZero") else None
    return sum(parts)


def _device(given, first, last):
    key = first["device_id"], first["session"]
    blocks = [b for b in given.get("power", []) if (b["device_id"], b["session"]) == key]
    block = blocks[0] if blocks else {"mono_us": []}
    ends = [{"method": "tick", **end} for end in (first, last)]
    found = counter_energy({"start": ends[0], "end": ends[1], "power": block})
    power = Curve(readings(block))
    integral = power.energy(first["mono_us"], last["mono_us"]) if power.knots else None
    by_counter = found["method"].startswith("counter")
    mj = found["energy_mj"]
    if wrong("IntegralBilled") and integral is not None:
        mj = round(integral * 1000)
    return {
        "mj": mj,
        "counter": found["energy_mj"] if by_counter else None,
        "integral": integral,
        "method": found["method"],
    }


def _free(numbers, stages):
    """Longest stretches between boundaries in which none of the stages runs."""
    place = {number: k for k, number in enumerate(numbers)}
    taken = set()
    for stage in stages:
        taken |= set(range(place[stage["boundary_start"]], place[stage["boundary_end"]]))
    k = 0
    while k < len(numbers) - 1:
        if k in taken:
            k += 1
            continue
        start = k
        while k < len(numbers) - 1 and k not in taken:
            k += 1
        yield numbers[start], numbers[k]


def _holes(given, session, order):
    mine = [s for s in given["stages"] if s.get("session", 0) == session and s.get("parent_uid") is None]
    if not order:
        return []
    first = min(order)
    common = {span: [] for span in _free(order[first], mine)}
    spans = {span: [] for span in common}
    for device, numbers in order.items():
        for span in _free(numbers, [stage for stage in mine if device in stage["device_ids"]]):
            spans.setdefault(span, []).append(device)
    rows = []
    for (start, end), devices in spans.items():
        row = {"name": "unattributed", "stage": "unattributed", "session": session}
        row |= {"boundary_start": start, "boundary_end": end, "device_ids": devices}
        row |= _cut(given, session, start, end, devices, first, (start, end) in common)
        if row["duration_us"] > 0:
            ends = [_reading(given, session, number, first)["mono_us"] for number in (start, end)]
            rows.append((ends, devices, row))
    return [row for _, _, row in sorted(rows, key=lambda item: item[:2])]


def clock_steps(given):
    offsets = [t - m for t, m in zip(given["t_us"], given["mono_us"], strict=True)]
    steps = []
    for mono, before, after in zip(given["mono_us"][1:], offsets, offsets[1:], strict=False):
        step = after - before
        if (step if wrong("StepMissed") else abs(step)) >= 50_000:
            steps.append({"mono_us": mono, "step_us": step})
    worst = max((abs(s["step_us"]) for s in steps), default=0)
    return {"steps": steps, "verdict": "error" if worst >= 500_000 else "event" if steps else "ok"}


def last_snapshot(given):
    def key(record):
        return record["file"] if wrong("Lexicographic") else (record["t_end_us"], record["step"])

    last = max(given["records"], key=key)
    energy = last["gpu_energy_j"]
    if wrong("SnapshotsSummed"):
        energy = sum(record["gpu_energy_j"] for record in given["records"])
    return {"file": last["file"], "step": last["step"], "gpu_energy_j": energy}


# Figures


def _rows(stages):
    rows = [r for r in stages if wrong("ParentSummed") or r.get("parent_uid") is None]
    if wrong("HolesLost"):
        rows = [r for r in rows if r["stage"] != "unattributed"]
    if wrong("FailedDropped"):
        rows = [r for r in rows if r.get("status", "completed") == "completed"]
    return rows


def _sum(rows, names=("gpu_energy_j", "cpu_energy_j", "dram_energy_j")):
    known = [row[name] for row in rows for name in names if row.get(name) is not None]
    return math.fsum(known) if known or wrong("UnknownAsZero") else None


def totals(given):
    rows = _rows(given["stages"])
    kinds = {kind: _sum([r for r in rows if r["stage"] == kind]) for kind in {r["stage"] for r in rows}}
    parts = {f"{p}_energy_j": _sum(rows, (f"{p}_energy_j",)) for p in ("gpu", "cpu", "dram")}
    teacher = [r for r in rows if r["stage"] in ("teacher_logits", "teacher_generate")]
    return {
        "it_energy_j": _sum(rows),
        **parts,
        "unattributed_energy_j": kinds.get("unattributed"),
        "teacher_energy_j": _sum(teacher) if teacher else None,
        "by_kind": {kind: energy for kind, energy in kinds.items() if energy is not None},
    }


def joules_per_token(given):
    names = {n: f"tokens_{n}" for n in ("trained", "processed", "positions", "generated")}
    wanted = given["denominator"]
    need(wanted in names or wanted == "reference", "no such denominator")
    if wanted == "reference" or (wrong("NominalTokens") and given.get("reference_tokens")):
        count = given.get("reference_tokens")
    else:
        rows = [r for r in given["stages"] if wrong("ParentSummed") or r.get("parent_uid") is None]
        if not wrong("StageTokens"):
            rows = [r for r in rows if r["stage"] == "student_train"]
        if not wrong("FailedTokens"):
            rows = [r for r in rows if r.get("status", "completed") == "completed"]
        known = [r[names[wanted]] for r in rows if r.get(names[wanted]) is not None]
        count = sum(known) if known else None
    energy = _sum(_rows(given["stages"]))
    return {"tokens": count, "j_per_token": energy / count if count and energy is not None else None}


POUND = 453.59237
JOULES = {"uJ": 1e-6, "mJ": 1e-3, "J": 1, "kJ": 1e3, "MJ": 1e6, "Wh": 3600, "kWh": 3.6e6, "MWh": 3.6e9}
GRAMS = {"g/kWh": 1, "kg/kWh": 1e3, "kg/MWh": 1, "g/MJ": 3.6, "t/MWh": 1e3, "t/GWh": 1}
GRAMS |= {"lb/kWh": POUND, "lb/MWh": POUND / 1000}


def convert(given):
    unit, to = given["from"], given["to"]
    joules, grams = dict(JOULES), dict(GRAMS)
    if wrong("KwhTruncated"):
        joules |= {"Wh": 1000, "kWh": 1e6, "MWh": 1e9}
    if wrong("PoundAsKilogram"):
        grams |= {"lb/kWh": 1000, "lb/MWh": 1}
    for table in (joules, grams):
        if unit in table and to in table:
            return {"value": given["value"] * table[unit] / table[to]}
    need(wrong("UnknownUnitGuessed"), "units that do not fit")
    return {"value": given["value"]}


def amortize(given):
    own, teacher, reuses = given["own_j"], given["teacher_j"], given["reuses"]
    need(isinstance(reuses, int) and reuses >= 1, "used at least once")
    share = (own + teacher) / reuses if wrong("OwnAmortized") else own + teacher / reuses
    return {"marginal_j": own, "amortized_j": share, "full_j": own + teacher}


def decimals(*numbers):
    """Numbers as whole multiples of one power of ten: decimal subtraction without rounding."""
    texts = [repr(number) for number in numbers]
    places = 0
    for text in texts:
        mantissa, _, exponent = text.partition("e")
        places = max(places, len(mantissa.partition(".")[2]) - int(exponent or 0))
    found = []
    for text in texts:
        mantissa, _, exponent = text.partition("e")
        whole, _, fraction = mantissa.partition(".")
        found.append(int(whole + fraction) * 10 ** (places - len(fraction) + int(exponent or 0)))
    return found


def _best(value):
    if value is None:
        return 0.0 if wrong("UnknownAsZero") else None
    return value["best"] if isinstance(value, dict) else value


def _even(cost, dear, cheap, least):
    """Cost over saving; negative costs count as a saving of their own in T* (least 0)."""
    nothing = {"case": "undefined", "ratio": None, "whole": None}
    if None in (cost, dear, cheap):
        return nothing
    top, a, b = decimals(cost, dear, cheap)
    bottom = a - b
    if not wrong("NegativeN"):
        if min(a, b) < 0 or (least and top < 0):
            return nothing
        free = top <= 0 and (top < 0 or not wrong("FreeTeacher"))
        if free and bottom >= 0:
            return {"case": "always", "ratio": 0.0, "whole": least}
        if top <= 0 and bottom < 0:
            return nothing | ({"case": "never"} if least else {})
        if bottom <= 0:
            return nothing | ({} if top == 0 else {"case": "never"})
    elif top == 0 and bottom >= 0:
        return {"case": "always", "ratio": 0.0, "whole": least}
    if bottom == 0:
        return nothing | {"case": "finite"}
    ratio, whole = top / bottom, -(-top // bottom)
    if wrong("BinaryRounding"):
        ratio = cost / (dear - cheap)
        whole = math.ceil(ratio)
    if wrong("RoundedDown"):
        return {"case": "finite", "ratio": ratio, "whole": math.floor(ratio)}
    return {"case": "finite", "ratio": ratio, "whole": max(least, whole)}


def break_even(given):
    names = ("teacher", "baseline_student", "distilled_student")
    teacher, base, distilled = (_best(given[name]) for name in names)
    found = _even(teacher, base, distilled, 1)
    if isinstance(given["baseline_student"], dict):
        dear, cheap = given["baseline_student"], given["distilled_student"]
        most, less = dear["high"] - cheap["low"], dear["low"] - cheap["high"]
        found |= {"low": teacher / most, "high": teacher / less if less > 0 else "inf"}
    return found


def serving_break_even(given):
    return _even(*(_best(given[name]) for name in ("extra_train_j", "j_ref", "j_student")), 0)


def quality(given):
    floors = {b["name"]: b["floor"] for b in given["suite"]}
    student, teacher = given["scores"], given["teacher_scores"]
    nothing = {"q": None, "ratios": {}, "geometric_mean": None, "leave_one_out": None, "stderr": None}
    names = list(floors)
    if wrong("PartialQ"):
        names = [name for name in names if name in student and name in teacher]
    elif set(student) != set(names) or set(teacher) != set(names):
        return nothing
    if not wrong("FloorIgnored") and any(teacher[n]["score"] <= floors[n] for n in names):
        return nothing
    need(all(teacher[n]["score"] for n in names), "division by zero")
    ratios = [student[n]["score"] / teacher[n]["score"] for n in names]
    count = len(ratios)
    mean = math.fsum(ratios) / count
    if wrong("RatioOfMeans"):
        mean = sum(student[n]["score"] for n in names) / sum(teacher[n]["score"] for n in names)
    without = [(math.fsum(ratios) - r) / (count - 1) for r in ratios] if count > 1 else None
    errors = []
    for n in names:
        s, t = student[n], teacher[n]
        if s.get("stderr") is None or t.get("stderr") is None:
            errors = None
            break
        errors.append((s["stderr"] / t["score"]) ** 2 + (s["score"] * t["stderr"] / t["score"] ** 2) ** 2)
    product = math.prod(ratios)
    return {
        "q": mean,
        "ratios": dict(zip(names, ratios, strict=True)),
        "geometric_mean": product ** (1 / count) if product >= 0 else None,
        "leave_one_out": [min(without), max(without)] if without else None,
        "stderr": math.sqrt(math.fsum(errors)) / count if errors is not None else None,
    }


SCALES = {"fraction": (0, 1), "percent": (0, 100), "rating_1_10": (1, 10)}


def check_score(given):
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
            mean = math.fsum(known) / (len(items) if wrong("UnparsedAsWrong") else len(known))
            need(math.isclose(mean, stated["score"], rel_tol=1e-9, abs_tol=1e-9), "another mean")
    return {"score": stated["score"], **counts}


def above_idle(given):
    known = [row for row in _rows(given["stages"]) if _sum([row]) is not None]
    idle = [row for row in known if row["stage"] == "idle"]
    if wrong("FirstIdleAlone"):
        idle = idle[:1]

    def seconds(rows):
        return sum(row["mono_end_us"] - row["mono_start_us"] for row in rows) / 1e6

    if not idle:
        nothing = 0.0 if wrong("UnknownAsZero") else None
        return {"idle_power_w": nothing, "above_idle_j": nothing}
    power = _sum(idle) / seconds(idle)
    if wrong("IdleMeanOfMeans"):
        power = math.fsum(_sum([row]) / seconds([row]) for row in idle) / len(idle)
    return {"idle_power_w": power, "above_idle_j": _sum(known) - power * seconds(known)}


def facility(given):
    need(given["pue"] >= 1 or wrong("PueBelowOne"), "a PUE below 1")
    building = given["it_energy_j"] * given["pue"]
    grams = given.get("g_co2e_per_kwh")
    base = given["it_energy_j"] if wrong("PueForgotten") else building
    return {"facility_energy_j": building, "co2e_kg": None if grams is None else base / 3.6e6 * grams / 1000}


def inherited_energy(given):
    rows = [a for a in given["artifacts"] if a["role"] == "consumed" and a["origin_energy_j"] is not None]
    paid = {a["artifact_id"]: a["origin_energy_j"] for a in rows}
    if not paid:
        return {"inherited_energy_j": 0.0 if wrong("UnknownAsZero") else None}
    each = [a["origin_energy_j"] for a in rows] if wrong("TeacherTwice") else list(paid.values())
    return {"inherited_energy_j": math.fsum(each)}


def pareto(given):
    def ends(value):
        return (value["best"], value["low"], value["high"]) if isinstance(value, dict) else (value,) * 3

    points = {p["name"]: (ends(p["energy"]), ends(p["quality"])) for p in given["points"]}
    need(len(points) == len(given["points"]), "two points of one name")
    order = sorted(points, key=lambda n: (points[n][0][0], -points[n][1][0]))
    beaten, tied = {}, {}
    for name in order:
        (cost, cost_low, _), (worth, _, worth_high) = points[name]
        for other in order:
            (dear, _, dear_high), (good, good_low, _) = points[other]
            if dear > cost or good < worth or (dear, good) == (cost, worth):
                continue
            sure = dear_high <= cost_low and good_low >= worth_high
            sure = sure and (dear_high < cost_low or good_low > worth_high)
            (beaten if sure or wrong("TiesWin") else tied).setdefault(name, []).append(other)
    return {
        "frontier": [name for name in order if name not in beaten and name not in tied],
        "dominated_by": beaten,
        "ties": tied,
    }


# Documents


def canonical_json(given):
    def constant(word):
        need(wrong("NotANumber"), f"{word} is no JSON")
        return

    try:
        value = json.loads(given["json"], parse_constant=constant)
        text = _text(value)
        data = text.encode()
    except (ValueError, OverflowError) as error:
        raise Refused(str(error)) from None
    return {"canonical": text, "sha256": hashlib.sha256(data).hexdigest()}


def _text(value):
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        need(abs(value) < 2**53 or wrong("HugeIntegers"), "an integer beyond 2^53")
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        value.encode()
        return json.dumps(value, ensure_ascii=wrong("AsciiEscapes"))
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    keys = sorted(value) if wrong("CodePointOrder") else sorted(value, key=lambda k: k.encode("utf-16-be"))
    return "{" + ",".join(f"{_text(key)}:{_text(value[key])}" for key in keys) + "}"


def _number(value):
    if math.isinf(value):
        need(wrong("NotANumber"), "an infinity")
        return "null"
    if value == 0:
        return "-0" if wrong("MinusZero") and math.copysign(1, value) < 0 else _plain_zero(value)
    text = repr(value)
    if wrong("NumbersAsWritten"):
        return text
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        body = digits.ljust(point, "0")
        return sign + (body if len(digits) <= point else f"{digits[:point]}.{digits[point:]}")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    head = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{head}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _plain_zero(value):
    return repr(value) if wrong("NumbersAsWritten") else "0"


FORMATS = {"int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint64": "Q"}
FORMATS |= {"float64": "d", "bool": "?"}


def logical_digest(given):
    entries = []
    for column in given["columns"]:
        kind, values = column["type"], column["values"]
        item = kind.removeprefix("list<").removesuffix(">")
        need(item in FORMATS or item == "string", "no such type")
        data = b""
        for value in values:
            if item == kind:
                data += _bytes(item, value)
            elif value is None:
                data += _length(None)
            else:
                need(None not in value, "a null in a list")
                data += _length(len(value)) + b"".join(_bytes(item, one) for one in value)
        valid = "all-valid"
        if None in values and not wrong("NullsLost"):
            valid = hashlib.sha256(bytes(value is not None for value in values)).hexdigest()
        entries.append([column["name"], kind, len(values), valid, hashlib.sha256(data).hexdigest()])
    return {"logical_sha256": hashlib.sha256(_text(entries).encode()).hexdigest()}


def _length(count):
    if wrong("NoLengths"):
        return b""
    if count is None:
        count = 0 if wrong("NullsLost") else 0xFFFFFFFF
    return struct.pack(">I" if wrong("BigEndian") else "<I", count)


def _bytes(kind, value):
    if kind == "string":
        data = (value or "").encode()
        return _length(None if value is None else len(data)) + data
    value = 0 if value is None else value
    if kind == "float64" and not wrong("MinusZero"):
        value = value + 0.0
    try:
        return struct.pack((">" if wrong("BigEndian") else "<") + FORMATS[kind], value)
    except struct.error as error:
        raise Refused(str(error)) from None


def key_order(given):
    def part(value):
        if value is None:
            return (2 if wrong("NullsLast") else 0,)
        if isinstance(value, str):
            return (1, value.encode())
        return (1, str(value).encode() if wrong("TextOrder") else value)

    keys = [tuple(map(part, row)) for row in zip(*(c["values"] for c in given["columns"]), strict=True)]
    for k, (before, after) in enumerate(pairwise(keys)):
        if before >= after:
            return {"row": k + 1, "problem": "duplicate" if before == after else "unsorted"}
    return {"row": None, "problem": None}


def protocol_version(given):
    parts = []
    for version in (given["reader"], given["document"]):
        words = version.split(".")
        need(len(words) == 3 and all(word.isdigit() for word in words), "no version")
        parts.append(tuple(map(int, words)))
    reader, document = parts
    if document[0] != reader[0]:
        return {"verdict": "accept" if wrong("MajorAccepted") else "refuse"}
    if wrong("MinorRefused") and document != reader:
        return {"verdict": "refuse"}
    return {"verdict": "warn" if document[1] > reader[1] else "accept"}


OPERATIONS = {
    function.__name__: function
    for function in (
        integrate_power, counter_energy, zone_energy, account, clock_steps, last_snapshot, totals,
        joules_per_token, convert, amortize, break_even, serving_break_even, quality, check_score, above_idle,
        facility, inherited_energy, pareto, canonical_json, logical_digest, key_order, protocol_version,
    )
}  # fmt: skip


def answer(op, given):
    """The answer to one question, without its id."""
    if op not in OPERATIONS:
        return {"unsupported": True}
    try:
        return {"output": OPERATIONS[op](given)}
    except Refused as refused:
        return {"error": str(refused)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bug", action="append", default=[])
    BUGS.update(parser.parse_args().bug)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"id": request["id"], **answer(request["op"], request["input"])}), flush=True)


if __name__ == "__main__":
    main()
