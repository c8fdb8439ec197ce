"""Several bundles side by side: readings that two of them share, and joules that one says another paid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from harness.validate.authenticity import shared
from harness.validate.context import Context
from harness.validate.findings import Finding, Hit, Report
from harness.validate.registry import Rule, finding, load_rules

COPIED = "E324"
UNPAID = "E229"


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
    for i, consumer in enumerate(contexts):
        for j, payer in enumerate(contexts):
            if i != j:
                hits[i] += [(UNPAID, hit) for hit in _origins(consumer, payer)]
    rules = load_rules()
    done = []
    for report, own in zip(reports, hits, strict=True):
        found = list(report.findings)
        for rule_id in (COPIED, UNPAID):
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
