"""Random inputs: the kit and the reference, which share no code, give one answer."""

from __future__ import annotations

import json
import random
import struct
from itertools import pairwise

import pytest

from harness.conformance.operations import answer
from harness.conformance.runner import judge
from tests.oracle import reference

PERIOD = 500_000


def agree(op, given):
    other = json.loads(json.dumps(reference.answer(op, json.loads(json.dumps(given)))))
    ours = answer("random", op, given)
    if "error" in other:
        assert ours.refused is not None, given
        return
    vector = {"id": "random", "clause": "4", "op": op, "result": "valid", "input": given}
    outcome = judge(vector | {"expected": other["output"]}, ours)
    assert outcome.passed, (outcome.problems, given)


def times(rng, count):
    t = rng.randint(0, 3_000_000)
    found = []
    for _ in range(count):
        found.append(t)
        t += rng.choice(
            [PERIOD, PERIOD, rng.randint(1, 900_000), 2 * PERIOD, rng.randint(1_000_000, 3_000_000)]
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_integrals(seed):
    rng = random.Random(seed)
    for _ in range(100):
        mono = times(rng, rng.randint(1, 12))
        power = [rng.choice([None, 0, *rng.sample(range(1, 700_000), 4)]) for _ in mono]
        start = rng.randint(0, mono[-1] + 1_000_000)
        given = {"mono_start_us": start, "mono_end_us": start + rng.randint(0, 5_000_000)}
        given |= {"nominal_period_us": PERIOD, "power": {"mono_us": mono, "power_mw": power}}
        if rng.random() < 0.3:
            given["power_limit_mw"] = rng.randint(1, 900_000)
        agree("integrate_power", given)


def counter(rng):
    """A device with resets; its boundaries lie well inside cells in which the counter rises."""
    mono = [k * PERIOD + rng.randint(0, 20_000) for k in range(rng.randint(4, 14))]
    load, value, values, cells = rng.randint(50_000, 600_000), rng.randint(0, 10**7), [], []
    for before, after in pairwise(mono):
        values.append(value)
        value += load * (after - before) // 10**6
        if rng.random() < 0.1:
            value = rng.randint(0, 50_000)
        if value >= values[-1]:
            cells.append((before, after, values[-1], value))
    given = {"nominal_period_us": PERIOD}
    for side, (t0, t1, v0, v1) in zip(("start", "end"), sorted(rng.choices(cells, k=2)), strict=True):
        t = t0 + (150_000 if side == "start" else 300_000)
        read = None if rng.random() < 0.3 else v0 + (v1 - v0) * (t - t0) // (t1 - t0)
        method = rng.choice(["tick", "immediate"])
        given[side] = {"mono_us": t, "value_mj": read, "method": method}
    power = [None if rng.random() < 0.1 else load + rng.randint(-5_000, 5_000) for _ in mono]
    return given | {"power": {"mono_us": mono, "power_mw": power, "energy_counter_mj": [*values, value]}}


@pytest.mark.parametrize("seed", range(5))
def test_counters(seed):
    rng = random.Random(seed)
    for _ in range(60):
        agree("counter_energy", counter(rng))


def cells(rng):
    """Refreshes of a counter, with what may go wrong, and a function of time for its value."""
    width, t = rng.choice([20_000, 100_000]), rng.randint(0, 50_000)
    load, value, ticks = rng.randint(50_000, 700_000), rng.randint(0, 10**7), []
    for _ in range(rng.randint(2, 12)):
        calm = rng.random() < 0.6
        shown = load if calm else rng.choice([rng.randint(50_000, 700_000), None, 0])
        ticks.append(
            {"mono_us": t, "value_mj": value, "uncertainty_us": rng.randint(0, 900), "power_mw": shown}
        )
        load = load if rng.random() < 0.7 else rng.randint(50_000, 700_000)
        step = width * rng.choice([1, 1, 1, 1, 2, 3]) if rng.random() < 0.2 else width
        t, value = t + step, value + load * step // 10**6 + rng.randint(0, 200)
        value = rng.randint(0, 10**7) if rng.random() < 0.03 else value
    return ticks


def moments(rng, ticks, count):
    """Boundaries among refreshes, on one or just before it, two in one cell, beside all of them."""
    first, last = ticks[0]["mono_us"], ticks[-1]["mono_us"]
    near = [tick["mono_us"] for tick in ticks]
    just = [t - rng.randint(1, 25_000) if rng.random() < 0.3 else t - rng.randint(1, 900) for t in near]
    times = [rng.choice([rng.randint(first, last), rng.choice(near), rng.choice(just)]) for _ in range(count)]
    times += [times[0] + rng.randint(1, 5_000)] if rng.random() < 0.3 else []
    powers = [rng.choice([None, 0, rng.randint(50_000, 700_000), ticks[0]["power_mw"]]) for _ in times]
    return [
        {"mono_us": t, "value_mj": None, "method": "moment", "power_mw": power,
         "uncertainty_us": rng.choice([0, 400, 6_000, 40_000])}
        for t, power in zip(sorted(times), powers, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_boundaries_between_refreshes(seed):
    rng = random.Random(seed)
    placed = 0
    for _ in range(200):
        ticks = cells(rng)
        start, end = moments(rng, ticks, 2)[:2]
        given = {"start": start, "end": end, "ticks": ticks, "instant_supported": rng.random() < 0.9}
        if rng.random() < 0.5:
            given["power_limit_mw"] = rng.choice([200_000, 700_000])
        if rng.random() < 0.5:
            mono = [k * PERIOD // 5 for k in range(20)]
            watts = rng.randint(50_000, 700_000)
            given["power"] = {"mono_us": mono, "power_mw": [watts + rng.randint(0, 40_000) for _ in mono]}
        agree("counter_energy", given)
        placed += "low_j" in reference.answer("counter_energy", given)["output"]
    assert placed > 50


@pytest.mark.parametrize("seed", range(3))
def test_runs_between_refreshes(seed):
    rng = random.Random(seed)
    for _ in range(60):
        ticks = cells(rng)
        ends = moments(rng, ticks, rng.randint(2, 6))
        common = {"session": 0, "device_id": 0}
        rows = [{**common, "boundary": None, "method": "tick", **tick} for tick in ticks]
        rows += [{**common, "boundary": number, **end} for number, end in enumerate(ends)]
        rows = [row | {"t_us": row["mono_us"]} for row in rows]
        stage = {"stage_uid": 0, "name": "s", "stage": "evaluate", "boundary_start": 0, "device_ids": [0]}
        agree("account", {"stages": [stage | {"boundary_end": len(ends) - 1}], "boundaries": rows})


def zone(rng, mono):
    wrap = rng.choice([262_143_328_850, 65_532_610_987, 900_000_000])
    value, found = rng.randint(0, wrap), []
    for before, after in zip(mono, [*mono[1:], mono[-1]], strict=True):
        found.append(None if rng.random() < 0.1 else value)
        value += rng.randint(0, 290) * (after - before)
        value -= wrap if value > wrap else 0
    name = rng.choice(["package-0", "package-1", "core-0", "dram-0", "psys"])
    return {"zone": name, "range_uj": wrap, "mono_us": mono, "value_uj": found}


@pytest.mark.parametrize("seed", range(5))
def test_zones(seed):
    rng = random.Random(seed)
    tried = 0
    while tried < 60:
        mono = times(rng, rng.randint(4, 12))
        zones = [zone(rng, mono) for _ in range(rng.randint(1, 3))]
        known = [[t for t, v in zip(mono, z["value_uj"], strict=True) if v is not None] for z in zones]
        if min(map(len, known)) < 2 or max(k[0] for k in known) >= min(k[-1] for k in known):
            continue
        ends = sorted(rng.randint(max(k[0] for k in known), min(k[-1] for k in known)) for _ in range(2))
        given = {"part": rng.choice(["cpu", "dram"]), "zones": zones}
        agree("zone_energy", given | {"mono_start_us": ends[0], "mono_end_us": ends[1]})
        tried += 1


def run(rng):
    devices, count, t = rng.randint(1, 3), rng.randint(2, 7), 0
    values, boundaries, stages = [rng.randint(0, 10**9) for _ in range(devices)], [], []
    for number in range(count):
        for device, value in enumerate(values):
            row = {"session": 0, "boundary": number, "device_id": device, "mono_us": t, "t_us": t}
            boundaries.append(row | {"value_mj": value, "method": "tick"})
        t += rng.randint(1, 9_000_000)
        values = [value + rng.randint(0, 10**7) for value in values]
    at = 0
    while at < count - 1:
        end = rng.randint(at + 1, count - 1)
        used = sorted(rng.sample(range(devices), rng.randint(1, devices)))
        stage = {"boundary_start": at, "device_ids": used, "stage": rng.choice(["student_train", "evaluate"])}
        if rng.random() < 0.7:
            uid = len(stages)
            stages.append({**stage, "stage_uid": uid, "name": f"s{uid}", "boundary_end": end})
            if end - at > 1 and rng.random() < 0.5:
                child = {**stage, "stage_uid": uid + 1, "name": f"s{uid + 1}", "boundary_end": end - 1}
                stages.append(child | {"parent_uid": uid})
        at = end
    return {"stages": stages, "boundaries": boundaries}


@pytest.mark.parametrize("seed", range(5))
def test_runs(seed):
    rng = random.Random(seed)
    runs = [run(rng) for _ in range(60)]
    for given in runs:
        if given["stages"]:
            agree("account", given)
    assert sum(bool(given["stages"]) for given in runs) > 30


def test_break_even():
    rng = random.Random(5)

    def value():
        return rng.choice([None, 0, rng.randint(-3, 20) / 10, rng.randint(0, 100_000) / 1000])

    for _ in range(1000):
        agree("break_even", {k: value() for k in ("teacher", "baseline_student", "distilled_student")})
        agree("serving_break_even", {k: value() for k in ("extra_train_j", "j_ref", "j_student")})


def test_numbers():
    rng = random.Random(6)
    for _ in range(2000):
        bits = struct.unpack("d", rng.randbytes(8))[0]
        number = rng.choice(
            [bits, rng.uniform(-1, 1) * 10 ** rng.randint(-30, 30), rng.randint(-(10**6), 10**6) / 1000]
        )
        if number == number and abs(number) != float("inf"):
            agree("canonical_json", {"json": repr(number)})
