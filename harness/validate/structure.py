"""Level 2, the rows around the energy: windows, attempts, devices, lineage, status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.accounting.totals import DENOMINATORS
from harness.validate.context import Context, device_spans
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"

ONLINE_TEACHER = "online_teacher"
"""Label of a run whose teacher answers while the student is trained (2.1)."""


@rule("E201")
def tokens_counted(ctx: Context) -> Iterator[Hit]:
    """Token counts are null or at least 0."""
    for number, row in enumerate(ctx.stages):
        for column in DENOMINATORS.values():
            if row[column] is not None and row[column] < 0:
                yield Hit(
                    STAGES, f"{ctx.named(row)}: {column} = {row[column]}", "0 or more, or null", (number,)
                )


@rule("E202")
def windows_forward(ctx: Context) -> Iterator[Hit]:
    """Every window ends after it starts, and the billed window is the hull of its devices'."""
    for number, row in enumerate(ctx.stages):
        pairs = [
            ("mono", row["mono_start_us"], row["mono_end_us"]),
            ("t", row["t_start_us"], row["t_end_us"]),
        ]
        pairs += [("device", start, end) for _, start, end in device_spans(row)]
        # UTC can be set back while a stage runs; that is a clock step, not a reversed window.
        for name, start, end in pairs:
            if end < start and name != "t":
                yield Hit(
                    STAGES, f"{ctx.named(row)}: {name} window {start} to {end}", "start <= end", (number,)
                )


@rule("E210")
def attempts_numbered(ctx: Context) -> Iterator[Hit]:
    """Attempts of a stage are 1, 2, 3 ... in the order of time."""
    attempts: dict[tuple[object, ...], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, row in ctx.recorded:
        attempts[(row["node_id"], row["name"], row["stage"], row["parent_uid"])].append((number, row))
    for (_, name, *_), rows in attempts.items():
        rows.sort(key=lambda item: (item[1]["session"], item[1]["mono_start_us"], item[1]["stage_uid"]))
        found = [row["attempt"] for _, row in rows]
        if found != list(range(1, len(found) + 1)):
            observed = f"{name}: attempts {', '.join(map(str, found))}"
            yield Hit(STAGES, observed, "1, 2, 3 ... in the order of time", tuple(i for i, _ in rows))


@rule("E212")
def boundaries_exist(ctx: Context) -> Iterator[Hit]:
    """Every boundary a stage names has its counter row for every device that has a counter."""
    held = {(r["node_id"], r["session"], r["device_id"], r["boundary"]) for r in ctx.boundary_rows}
    sources = {(node, session, device) for node, session, device, _ in held}
    for number, row in enumerate(ctx.stages):
        place = row["node_id"], row["session"]
        devices = [d for d in row["device_ids"] if (*place, d) in sources]
        for side in ("start", "end"):
            lost = [d for d in devices if (*place, d, row[f"boundary_{side}"]) not in held]
            if lost:
                who = f" for device {', '.join(map(str, lost))}"
                observed = f"{ctx.named(row)}: boundary {row[f'boundary_{side}']} is missing{who}"
                yield Hit(STAGES, observed, "a row in counters", (number,), row["gpu_energy_j"])


@rule("E213")
def device_lists_fit(ctx: Context) -> Iterator[Hit]:
    """Device lists are of one length, without repeats, of devices the manifest knows."""
    known = {device["device_id"] for device in ctx.manifest["hardware"]["devices"]}
    for number, row in enumerate(ctx.stages):
        ids, name = row["device_ids"], ctx.named(row)
        lengths = {len(ids), len(row["device_start_us"]), len(row["device_end_us"])}
        if row["device_energy_j"] is not None:
            lengths.add(len(row["device_energy_j"]))
        if len(lengths) > 1 or len(set(ids)) != len(ids):
            yield Hit(
                STAGES, f"{name}: lists of {sorted(lengths)} entries for devices {ids}", "one each", (number,)
            )
        if set(ids) - known:
            yield Hit(STAGES, f"{name}: device {min(set(ids) - known)}", f"one of {sorted(known)}", (number,))


@rule("E214")
def stages_disjoint(ctx: Context) -> Iterator[Hit]:
    """On one device, two stages share no time unless one is the other's ancestor."""
    parents = {row["stage_uid"]: row["parent_uid"] for row in ctx.stages}
    spans: dict[tuple[object, ...], list[tuple[int, int, int]]] = defaultdict(list)
    for number, row in enumerate(ctx.stages):
        place = row["node_id"], row["session"]
        for device, start, end in device_spans(row):
            spans[(*place, device)].append((start, end, number))
        if not row["device_ids"] and row["stage"] != UNATTRIBUTED:
            spans[(*place, None)].append((row["mono_start_us"], row["mono_end_us"], number))
    for (_, _, where), items in spans.items():
        for shared, other, number in _overlaps(items):
            a, b = ctx.stages[other], ctx.stages[number]
            if not _related(a["stage_uid"], b["stage_uid"], parents):
                on = "" if where is None else f" on device {where}"
                observed = f"{ctx.named(b)} overlaps {ctx.named(a)} by {shared / 1e6:.3f} s{on}"
                joules = _shared_j(a, b, where, shared)
                yield Hit(STAGES, observed, "disjoint stages", (other, number), joules)


@rule("W240")
def imported_stages_disjoint(ctx: Context) -> Iterator[Hit]:
    """Imported stages of one machine share no time, whatever session each was put into (else E214)."""
    if not ctx.imported:
        return
    parents = {row["stage_uid"]: row["parent_uid"] for row in ctx.stages}
    rows = [(row["t_start_us"], row["t_end_us"], number) for number, row in ctx.recorded]
    for shared, other, number in _overlaps(rows):
        a, b = ctx.stages[other], ctx.stages[number]
        apart = a["node_id"] == b["node_id"] and a["session"] != b["session"]
        if apart and not _related(a["stage_uid"], b["stage_uid"], parents):
            observed = f"{ctx.named(b)} overlaps {ctx.named(a)} by {shared / 1e6:.3f} s"
            yield Hit(STAGES, observed, "stages one after another", (other, number))


def _overlaps(spans: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Time that two rows share, in us, and their numbers; spans are start, end and number of a row."""
    running: list[tuple[int, int, int]] = []
    for start, end, number in sorted(spans):
        running = [span for span in running if span[1] > start]
        for _, other_end, other in running:
            if (shared := min(end, other_end) - start) > 0:
                yield shared, other, number
        running.append((start, end, number))


def _related(a: int, b: int, parents: dict[int, int | None]) -> bool:
    return a in _ancestors(b, parents) or b in _ancestors(a, parents)


def _ancestors(uid: int, parents: dict[int, int | None]) -> set[int]:
    found: set[int] = set()
    up = parents.get(uid)
    while up is not None and up not in found:
        found.add(up)
        up = parents.get(up)
    return found


def _shared_j(a: dict[str, Any], b: dict[str, Any], device: Any, shared_us: int) -> float | None:
    """Joules counted twice: the smaller of both stages' mean power x the time they share."""
    rates = []
    for row in (a, b):
        energies = row["device_energy_j"]
        if device is None or energies is None or device not in row["device_ids"]:
            continue
        place = row["device_ids"].index(device)
        length = row["device_end_us"][place] - row["device_start_us"][place]
        if place < len(energies) and length > 0:
            rates.append(energies[place] / length)
    return min(rates) * shared_us if rates else None


@rule("E215")
def teacher_paid(ctx: Context) -> Iterator[Hit]:
    """A distilled student's teacher is in the run, an artifact names who paid, or it answers in training."""
    method = ctx.manifest["method"]
    teachers = ctx.protocol.kinds("teacher")
    if method not in ctx.protocol.taught_methods:
        return
    if any(row["stage"] in teachers for row in ctx.stages):
        return
    if any(row["role"] == "consumed" and row["origin_run_id"] for row in ctx.artifacts):
        return
    if ONLINE_TEACHER in ctx.manifest["labels"] and any(
        row["stage"] in ctx.protocol.kinds("student") for row in ctx.stages
    ):
        return
    expected = f"a stage of kind {' or '.join(teachers)}, a consumed artifact with origin_run_id"
    yield Hit(STAGES, f"method {method} without a teacher", f"{expected}, or the label {ONLINE_TEACHER}")


@rule("E216")
def artifacts_match(ctx: Context) -> Iterator[Hit]:
    """Lists in stages and rows of artifacts are the same edges."""
    edges = {(row["artifact_id"], row["role"], row["stage_uid"]): i for i, row in enumerate(ctx.artifacts)}
    named: dict[tuple[str, str, int], int] = {}
    for number, row in enumerate(ctx.stages):
        for column, role in (("produces", "produced"), ("consumes", "consumed")):
            named |= {(artifact, role, row["stage_uid"]): number for artifact in row[column]}
    for edge, number in named.items():
        if edge not in edges:
            yield Hit(
                STAGES, f"{edge[0][:23]} {edge[1]} by stage_uid {edge[2]}", "a row in artifacts", (number,)
            )
    for edge, number in edges.items():
        if edge not in named:
            observed = f"{edge[0][:23]} {edge[1]} by stage_uid {edge[2]}"
            yield Hit("artifacts.parquet", observed, "its id in that stage's list", (number,))


@rule("E218")
def children_inside(ctx: Context) -> Iterator[Hit]:
    """A child lies in its parent's window, session and devices, and no stage is its own ancestor."""
    by_uid = {row["stage_uid"]: row for row in ctx.stages}
    parents = {uid: row["parent_uid"] for uid, row in by_uid.items()}
    for number, row in enumerate(ctx.stages):
        if row["parent_uid"] is None:
            continue
        parent = by_uid.get(row["parent_uid"])
        if parent is None or row["stage_uid"] in _ancestors(row["stage_uid"], parents):
            what = "does not exist" if parent is None else "is its own child"
            observed = f"{ctx.named(row)}: parent {row['parent_uid']} {what}"
            yield Hit(STAGES, observed, "an existing stage", (number,), row["gpu_energy_j"])
        elif (
            (row["node_id"], row["session"]) != (parent["node_id"], parent["session"])
            or not set(row["device_ids"]) <= set(parent["device_ids"])
            or row["mono_start_us"] < parent["mono_start_us"]
            or row["mono_end_us"] > parent["mono_end_us"]
        ):
            observed = f"{ctx.named(row)} lies outside {ctx.named(parent)}"
            yield Hit(STAGES, observed, "inside its parent", (number,), row["gpu_energy_j"])


@rule("E219")
def references_exist(ctx: Context) -> Iterator[Hit]:
    """Stages named in events and artifacts exist."""
    known = {row["stage_uid"] for row in ctx.stages}
    for file, rows in (("events.parquet", ctx.events), ("artifacts.parquet", ctx.artifacts)):
        for number, row in enumerate(rows):
            if row["stage_uid"] is not None and row["stage_uid"] not in known:
                yield Hit(file, f"stage_uid {row['stage_uid']}", "a stage of this run", (number,))


@rule("E220")
def windows_are_boundaries(ctx: Context) -> Iterator[Hit]:
    """A stage's device windows are the times of its boundaries, and its billed window is their hull."""
    times = {
        (r["node_id"], r["session"], r["device_id"], r["boundary"]): (r["mono_us"], r["t_us"])
        for r in ctx.boundary_rows
        if r["device_id"] is not None
    }
    slack = ctx.protocol.tolerances.clock_step_error_us
    for number, row in enumerate(ctx.stages):
        name, place = ctx.named(row), (row["node_id"], row["session"])
        for side, hull in (("start", min), ("end", max)):
            found = row[f"device_{side}_us"]
            for device, mono in zip(row["device_ids"], found, strict=False):
                at = times.get((*place, device, row[f"boundary_{side}"]))
                if at is not None and at[0] != mono:
                    yield Hit(STAGES, f"{name}: device {device} {side}s at {mono}", f"{at[0]}", (number,))
                # Holes begin at the earliest of several times; E238 holds them to their derivation.
                if (
                    at is not None
                    and row["stage"] != UNATTRIBUTED
                    and abs((row[f"t_{side}_us"] - row[f"mono_{side}_us"]) - (at[1] - at[0])) >= slack
                ):
                    observed = f"{name}: t_{side}_us is {row[f't_{side}_us']}"
                    yield Hit(STAGES, observed, f"{at[1]}, as counters say", (number,))
            if found and hull(found) != row[f"mono_{side}_us"]:
                observed = f"{name}: mono_{side}_us is {row[f'mono_{side}_us']}"
                yield Hit(STAGES, observed, f"{hull(found)}, the {side} of its devices", (number,))


def unfinished(ctx: Context) -> list[tuple[int, dict[str, Any]]]:
    """Stages whose last attempt did not complete."""
    last: dict[tuple[object, ...], tuple[int, dict[str, Any]]] = {}
    for number, row in ctx.recorded:
        key = row["node_id"], row["name"], row["stage"], row["parent_uid"]
        if key not in last or row["attempt"] > last[key][1]["attempt"]:
            last[key] = number, row
    return [(number, row) for number, row in last.values() if row["status"] != "completed"]


@rule("W222")
def status_agrees(ctx: Context) -> Iterator[Hit]:
    """A complete run has no stage whose last attempt did not complete."""
    for number, row in unfinished(ctx) if ctx.manifest["status"] == "complete" else ():
        yield Hit(STAGES, f"{ctx.named(row)} is {row['status']}", "completed", (number,), row["gpu_energy_j"])


@rule("E223")
def boundary_agrees(ctx: Context) -> Iterator[Hit]:
    """The boundary set of the manifest is what the stages' methods say."""
    devices = {row["source"] for row in ctx.boundary_rows if row["device_id"] is not None}
    for part in ("gpu", "cpu", "dram"):
        methods = {row[f"{part}_energy_method"] for _, row in ctx.recorded}
        stated = ctx.manifest["boundary"][part]
        held = ctx.protocol.state_of(methods, devices if part == "gpu" else ())
        imported = "imported" in methods and stated != "absent"
        if ctx.stages and stated != held and not imported:
            yield Hit("manifest.json", f"boundary.{part} = {stated}", f"{held}, by the methods of the stages")
