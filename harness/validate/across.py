"""Several bundles side by side: readings that two of them share, and joules that one says another paid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from harness.accounting.counter import GPU_MAX_W
from harness.validate.authenticity import shared
from harness.validate.context import Context
from harness.validate.findings import Finding, Hit, Report
from harness.validate.registry import Rule, finding, load_rules

COPIED = "E324"
UNPAID = "E229"
SHARED = "E325"
ELSEWHERE = (COPIED, SHARED, UNPAID)
"""Rules that only a neighbour's bundle can break."""


def compare(reports: Sequence[Report], contexts: Sequence[Context], levels: Sequence[int]) -> list[Report]:
    """Add to each report what only its neighbours show.

    Args:
        reports: one a bundle.
        contexts: what validation saw of each, in the same order.
        levels: those asked for; each of the rules here is of one of them.

    Returns:
        The reports, in the same order.
    """
    hits: list[list[tuple[str, Hit]]] = [[] for _ in reports]
    for a, b in combinations(range(len(reports)), 2):
        if reports[a].run_id == reports[b].run_id:
            continue
        for hit in _copies(contexts[a], contexts[b]):
            hits[b].append((COPIED, hit))
        for hit in _copies(contexts[b], contexts[a]):
            hits[a].append((COPIED, hit))
        hits[a] += [(SHARED, hit) for hit in _shared_devices(contexts[b], contexts[a])]
        hits[b] += [(SHARED, hit) for hit in _shared_devices(contexts[a], contexts[b])]
    for i, consumer in enumerate(contexts):
        for j, payer in enumerate(contexts):
            if i != j:
                hits[i] += [(UNPAID, hit) for hit in _origins(consumer, payer)]
    rules = load_rules()
    done = []
    for report, own in zip(reports, hits, strict=True):
        found = list(report.findings)
        for rule_id in ELSEWHERE:
            if rules[rule_id].level in levels:
                found += by_file(rules[rule_id], [hit for name, hit in own if name == rule_id])
        done.append(replace(report, findings=tuple(found)))
    return done


def by_file(rule: Rule, hits: Sequence[Hit]) -> list[Finding]:
    """One finding a file."""
    files = dict.fromkeys(hit.file for hit in hits)
    return [finding(rule, file, [hit for hit in hits if hit.file == file]) for file in files]


def _copies(original: Context, suspect: Context) -> Iterator[Hit]:
    """Series of `suspect` that are also in `original`; signals said to be made up claim nothing."""
    if original.recomputed is None or suspect.recomputed is None:
        return
    if "simulated" in suspect.manifest["labels"]:
        return
    for theirs in original.recomputed.seen:
        for own in suspect.recomputed.seen:
            what = shared(theirs, own)
            if what is not None:
                observed = f"device {own.key.device_id}, session {own.key.session} has {what} of run"
                observed += f" {original.manifest.get('run_id')}, device {theirs.key.device_id}"
                yield Hit("power.parquet", observed, "readings of its own")


def _shared_devices(other: Context, own: Context) -> Iterator[Hit]:
    """Stages of `own` on a GPU whose time `other` bills too: one clock, one device, one counter."""
    if other.recomputed is None or own.recomputed is None:
        return
    theirs = list(_spans(other))
    for number, clock, device, session, start, end in _spans(own):
        shared = 0
        for _, their_clock, their_device, their_session, begin, stop in theirs:
            both = min(end, stop) - max(start, begin)
            if (clock, device) != (their_clock, their_device) or both <= 0:
                continue
            if _one_counter(_values(own, device, session), _values(other, device, their_session)):
                shared += both
        if shared:
            row = own.stages[number]
            observed = f"{own.named(row)}, device {device}: run {other.manifest.get('run_id')} bills it too"
            energy = row["gpu_energy_j"]
            joules = None if energy is None else energy * shared / max(1, end - start)
            observed += f", for {shared / 1e6:.3f} s"
            yield Hit("stages.parquet", observed, "one meter a GPU", (number,), joules)


Span = tuple[int, str, int, int, int, int]


def _spans(ctx: Context) -> Iterator[Span]:
    """Row, clock, device, session, start and end of what a bundle bills, rows without a parent."""
    for number, row in enumerate(ctx.stages):
        if row["parent_uid"] is None and row["gpu_energy_method"] != "imported":
            spans = zip(row["device_ids"], row["device_start_us"], row["device_end_us"], strict=False)
            for device, start, end in spans:
                yield number, row["clock_id"], device, row["session"], start, end


def _values(ctx: Context, device: int, session: int) -> list[tuple[int, int]]:
    """Time and value of a device's counter at boundaries."""
    rows = [row for row in ctx.boundary_rows if (row["device_id"], row["session"]) == (device, session)]
    return sorted((row["mono_us"], row["value"]) for row in rows if row["value"] is not None)


def _one_counter(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> bool:
    """Whether two lists of readings can be of one counter; two cards may have one number in two containers.

    Between two readings of one list the other's lie between their values, a refresh of 5 kW apart.
    """
    slack = int(GPU_MAX_W * 100)
    for own, other in ((a, b), (b, a)):
        for (t0, v0), (t1, v1) in pairwise(own):
            if any(t0 <= t <= t1 and not v0 - slack <= v <= v1 + slack for t, v in other):
                return False
    return True


def _origins(consumer: Context, payer: Context) -> Iterator[Hit]:
    """Artifacts that `consumer` says `payer` made: it did, and not for less than their stage alone took."""
    if consumer.recomputed is None or payer.recomputed is None:
        return
    made = {row["artifact_id"]: row["stage_uid"] for row in payer.artifacts if row["role"] == "produced"}
    energies: dict[int, float] = {}
    for row in payer.recomputed.stages:
        known = [row[f"{part}_energy_j"] for part in ("gpu", "cpu", "dram")]
        energies[row["stage_uid"]] = math.fsum(e for e in known if e is not None)
    for number, row in enumerate(consumer.artifacts):
        if row["role"] != "consumed" or row["origin_run_id"] != payer.manifest.get("run_id"):
            continue
        maker = made.get(row["artifact_id"])
        if maker is None:
            yield Hit("artifacts.parquet", f"{row['name']}: run {row['origin_run_id']} did not make it",
                      "an artifact that run produced", (number,))  # fmt: skip
            continue
        least, stated = energies.get(maker, 0.0), row["origin_energy_j"]
        if stated is not None and stated < least * (1 - 1e-9):
            observed = f"{row['name']}: {stated:.6g} J"
            expected = f"at least {least:.6g} J, which its stage alone took"
            yield Hit("artifacts.parquet", observed, expected, (number,), least - stated)
