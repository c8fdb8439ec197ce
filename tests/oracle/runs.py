"""Whole runs: stages cut at boundaries, what lies between them, sessions, records of interrupted runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.oracle.counters import METHODS, at_moments, between, zone_energy
from tests.oracle.energies import add_up
from tests.oracle.faults import need, wrong
from tests.oracle.power import Curve, Json, powered

UNATTRIBUTED = {"name": "unattributed", "stage": "unattributed"}


def account(given: Json) -> Json:
    """Rows of a run, stages as declared and then a row a hole, and its totals."""
    every = given["boundaries"]
    ticks = [row for row in every if row["boundary"] is None]
    given = given | {"boundaries": [row for row in every if row["boundary"] is not None], "ticks": ticks}
    sessions = sorted({b["session"] for b in given["boundaries"]}, key=str if wrong("TextOrder") else None)
    if wrong("FirstSession"):
        sessions = sessions[:1]
    rows, tops, totals = [], [], []
    for stage in sorted(given["stages"], key=lambda s: s["stage_uid"]):
        session = stage.get("session", 0)
        cut = _cut(given, session, stage["boundary_start"], stage["boundary_end"], stage["device_ids"])
        rows.append({"name": stage["name"], "stage": stage["stage"], "session": session, **cut})
        inside = stage.get("parent_uid") is not None and not wrong("ParentSummed")
        dropped = wrong("FailedDropped") and stage.get("status", "completed") != "completed"
        if not inside and not dropped and session in sessions:
            tops.append(rows[-1])
    for session in sessions:
        order = _order(given, session)
        parts = [_cut(given, session, found[0], found[-1], [device]) for device, found in order.items()]
        energy = _plus([part["gpu_energy_j"] for part in parts])
        totals.append(None if energy is None else int(energy * 1000))
        if not wrong("HolesLost"):
            holes = _holes(given, session, order)
            rows += holes
            tops += holes
    return {
        "stages": rows,
        "gpu_energy_j": add_up(tops, "gpu"),
        "cpu_energy_j": add_up(tops, "cpu"),
        "it_energy_j": add_up(tops),
        "unattributed_energy_j": _some([row for row in tops if row["stage"] == "unattributed"]),
        "teacher_energy_j": _some([row for row in tops if row["stage"].startswith("teacher_")]),
        "session_energy_mj": totals,
    }


def _some(rows: Sequence[Json]) -> Any:
    return add_up(rows) if rows else None


def _plus(parts: Sequence[Any]) -> Any:
    """A sum with an unknown part is unknown."""
    if parts and None not in parts:
        return sum(parts)
    return 0 if wrong("UnknownAsZero") else None


def _reading(given: Json, session: int, number: int, device: int | None) -> Json:
    for row in given["boundaries"]:
        if (row["session"], row["boundary"], row["device_id"]) == (session, number, device):
            return {"method": "tick", **row}
    need(False, "no such boundary")
    raise AssertionError


def _order(given: Json, session: int) -> dict[int, list[int]]:
    """Boundaries of each device of a session, by its own clock."""
    order: dict[int, list[tuple[int, int]]] = {}
    for row in given["boundaries"]:
        if row["session"] == session and row["device_id"] is not None:
            order.setdefault(row["device_id"], []).append((row["mono_us"], row["boundary"]))
    return {device: [number for _, number in sorted(found)] for device, found in order.items()}


def _cut(
    given: Json,
    session: int,
    start: int,
    end: int,
    devices: Sequence[int | None],
    clock_of: int | None = None,
    processor: bool = True,
) -> Json:
    """Figures between two boundaries: devices each by its own readings, the processor over their hull."""
    pairs = [tuple(_reading(given, session, n, d) for n in (start, end)) for d in devices or [clock_of]]
    parts = [_device(given, *pair) for pair in pairs] if devices else []
    clock = "t_us" if wrong("WallClock") else "mono_us"
    first, last = (pick(pair[k]["mono_us"] for pair in pairs) for k, pick in enumerate((min, max)))
    zones = [zone for zone in given.get("zones", []) if zone["session"] == session]
    window = {"part": "cpu", "zones": zones, "mono_start_us": first, "mono_end_us": last}
    columns = {name: [part[name] for part in parts] for name in ("mj", "counter", "integral", "method")}
    each, mj = columns["mj"], _plus(columns["mj"])
    row = {
        "device_energy_j": None if None in each else [Fraction(one, 1000) for one in each],
        "gpu_energy_j": None if mj is None else Fraction(mj, 1000),
        "gpu_energy_counter_j": _plus(columns["counter"]),
        "gpu_energy_integral_j": _plus(columns["integral"]),
        "gpu_energy_method": max(columns["method"], key=METHODS.index, default="absent"),
        "cpu_energy_j": zone_energy(window)["energy_j"] if processor else None,
        "duration_us": max(b[clock] for _, b in pairs) - min(a[clock] for a, _ in pairs),
    }
    return row | {"energy_j": add_up([row])}


def _device(given: Json, first: Json, last: Json) -> Json:
    """One device: what is billed in mJ, and what its counter and its power say."""
    key = first["device_id"], first["session"]
    blocks = [block for block in given.get("power", []) if (block["device_id"], block["session"]) == key]
    block = blocks[0] if blocks else {"mono_us": []}
    mine, ticks = (
        [{"method": "tick", **b} for b in given[name] if (b["device_id"], b["session"]) == key]
        for name in ("boundaries", "ticks")
    )
    one = {"power": block, "ticks": ticks}
    placed = at_moments(sorted(mine, key=lambda b: (b["mono_us"], b["boundary"])), one)
    numbers = [b["boundary"] for b in placed]
    cuts = placed[numbers.index(first["boundary"]) : numbers.index(last["boundary"]) + 1]
    if wrong("BoundariesSkipped"):
        cuts = [cuts[0], cuts[-1]]
    found = _joined([between(a, b, one) for a, b in pairwise(cuts)])
    power = Curve(powered({}, block))
    integral = power.energy(first["mono_us"], last["mono_us"]) if power.knots else None
    mj = found["energy_mj"]
    if wrong("IntegralBilled") and integral is not None:
        mj = round(integral * 1000)
    counter = found["energy_j"] if found["method"].startswith("counter") else None
    return {"mj": mj, "counter": counter, "integral": integral, "method": found["method"]}


def _joined(links: Sequence[Json]) -> Json:
    """From boundary to boundary and on: the sum, unknown if a part is, by the worst method."""
    parts = [link["energy_mj"] for link in links]
    if None in parts:
        return {"energy_mj": 0 if wrong("UnknownAsZero") else None, "energy_j": None, "method": "absent"}
    method = max((link["method"] for link in links), key=METHODS.index)
    return {"energy_mj": sum(parts), "energy_j": Fraction(sum(parts), 1000), "method": method}


def _free(numbers: Sequence[int], stages: Sequence[Json]) -> Iterator[tuple[int, int]]:
    """Longest stretches between boundaries in which none of the stages runs."""
    place = {number: k for k, number in enumerate(numbers)}
    taken = {k for s in stages for k in range(place[s["boundary_start"]], place[s["boundary_end"]])}
    start = 0
    for k in range(len(numbers)):
        if k in taken or k == len(numbers) - 1:
            if start < k:
                yield numbers[start], numbers[k]
            start = k + 1


def _holes(given: Json, session: int, order: dict[int, list[int]]) -> list[Json]:
    """A row a stretch without a stage: of each device, and of all together, which is the processor's."""
    roots = [s for s in given["stages"] if s.get("session", 0) == session and s.get("parent_uid") is None]
    if not order:
        return []
    first = min(order)
    common = list(_free(order[first], roots))
    spans: dict[tuple[int, int], list[int]] = {span: [] for span in common}
    for device, numbers in order.items():
        for span in _free(numbers, [stage for stage in roots if device in stage["device_ids"]]):
            spans.setdefault(span, []).append(device)
    found = []
    for span, devices in spans.items():
        cut = _cut(given, session, *span, devices, first, span in common)
        ends = [_reading(given, session, number, first)["mono_us"] for number in span]
        where = {"device_ids": devices, "boundary_start": span[0], "boundary_end": span[1]}
        if cut["duration_us"] > 0:
            found.append((ends, devices, {**UNATTRIBUTED, "session": session, **where, **cut}))
    return [row for _, _, row in sorted(found, key=lambda item: item[:2])]


def last_snapshot(given: Json) -> Json:
    """The cumulative record that counts: the last one by time, then by step."""

    def key(record: Json) -> Any:
        return record["file"] if wrong("Lexicographic") else (record["t_end_us"], record["step"])

    last = max(given["records"], key=key)
    energy = last["gpu_energy_j"]
    if wrong("SnapshotsSummed"):
        energy = sum(record["gpu_energy_j"] for record in given["records"])
    return {"step": last["step"], "file": last["file"], "gpu_energy_j": energy}
