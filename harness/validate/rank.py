"""Level 4, what costs the rank: each label follows from recomputed facts, not from the manifest's words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.accounting.totals import roots
from harness.bundle.commit import MANIFEST
from harness.validate.claims import card
from harness.validate.comparability import HELD_OUT
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.plausibility import disagreement_bar, length_us
from harness.validate.redundancy import suite_benchmarks
from harness.validate.registry import rule

STAGES = "stages.parquet"


def _billed(ctx: Context) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stages with devices, recomputed; imported figures are never ranked anyway."""
    for number, row in enumerate(ctx.facts.stages):
        if row["device_ids"] and row["gpu_energy_method"] != "imported":
            yield number, row


@rule("C415")
def sampled_throughout(ctx: Context) -> Iterator[Hit]:
    """Hardly any of a stage's time lies in gaps."""
    share = ctx.protocol.tolerances.unsampled_share
    for number, row in _billed(ctx):
        length = length_us(row)
        if row["stage"] != UNATTRIBUTED and length and row["gap_us"] > share * length:
            observed = f"{ctx.named(row)}: {row['gap_us'] / length:.0%} of its device time without samples"
            yield Hit(STAGES, observed, f"at most {share:.0%}", (number,), row["energy_in_gaps_j"])


@rule("C416")
def energy_known(ctx: Context) -> Iterator[Hit]:
    """Every device of every stage has an energy."""
    for number, row in _billed(ctx):
        if row["gpu_energy_j"] is None and length_us(row):
            yield Hit(
                STAGES, f"{ctx.named(row)}: energy unknown", "the energy of every billed device", (number,)
            )


@rule("C417")
def instruments_agree(ctx: Context) -> Iterator[Hit]:
    """Counter and power integral agree over the run and over each stage with samples enough to tell."""
    counter = integral = 0.0
    length = 0
    for number, row in _billed(ctx):
        both = row["gpu_energy_counter_j"], row["gpu_energy_integral_j"]
        if row["parent_uid"] is not None or None in both or not both[1]:
            continue
        counter, integral, length = counter + both[0], integral + both[1], length + length_us(row)
        devices = len(row["device_ids"])
        bar = disagreement_bar(ctx, both[1], length_us(row), length_us(row) // devices)
        apart = both[0] / both[1] - 1
        if row["samples"] >= devices * ctx.protocol.sampling.min_samples and abs(apart) > bar:
            observed = f"{ctx.named(row)}: the counter says {apart:+.1%} against the integral"
            yield Hit(STAGES, observed, f"at most {bar:.0%} apart", (number,), abs(both[0] - both[1]))
    if integral > 0:
        apart, bar = counter / integral - 1, disagreement_bar(ctx, integral, length, length)
        if abs(apart) > bar:
            observed = f"over the run the counter says {apart:+.1%} against the integral"
            yield Hit(STAGES, observed, f"at most {bar:.0%} apart", (), abs(counter - integral))


@rule("C418")
def attributed(ctx: Context) -> Iterator[Hit]:
    """Most of the energy belongs to a stage of a kind that counts as something (2.1)."""
    free = total = 0.0
    for row in roots(ctx.facts.stages):
        joules = math.fsum(row[f"{part}_energy_j"] or 0.0 for part in ("gpu", "cpu", "dram"))
        total += joules
        own = row["stage"].startswith(ctx.protocol.extension_prefix)
        free += joules if own or row["stage"] == UNATTRIBUTED else 0.0
    share = ctx.protocol.tolerances.unattributed_share
    if total > 0 and free > share * total:
        yield Hit(
            STAGES,
            f"{free / total:.1%} of the energy belongs to no stage, or to a kind of one's own",
            f"at most {share:.0%}",
            (),
            free,
        )


@rule("C419")
def devices_billed(ctx: Context) -> Iterator[Hit]:
    """Every device of the manifest is billed by some stage."""
    used = {device for _, row in ctx.recorded for device in row["device_ids"]}
    for device in ctx.manifest["hardware"]["devices"]:
        if device["device_id"] not in used and ctx.stages:
            yield Hit(MANIFEST, f"device {device['device_id']}: billed by no stage", "a stage that used it")


@rule("C420")
def counter_bridged(ctx: Context) -> Iterator[Hit]:
    """A counter that was reset or stuck is bridged by power samples."""
    rows = [(i, row) for i, row in _billed(ctx) if row["gpu_energy_method"] == "counter_split"]
    if rows:
        named = ", ".join(sorted({row["name"] for _, row in rows}))
        joules = math.fsum(row["gpu_energy_j"] or 0.0 for _, row in rows)
        yield Hit(
            STAGES, f"bridged in: {named}", "a counter that only rises", tuple(i for i, _ in rows), joules
        )


@rule("C421")
def counters_kept(ctx: Context) -> Iterator[Hit]:
    """A card that has an energy counter is billed by it."""
    devices = {d["device_id"]: d for d in ctx.manifest["hardware"]["devices"]}
    for number, row in _billed(ctx):
        if row["gpu_energy_method"] != "power_integral" or not length_us(row):
            continue
        for device in row["device_ids"]:
            known = devices.get(device, {})
            if (
                known.get("counter_supported")
                or card(str(known.get("model")), ctx.protocol.version) is not None
            ):
                observed = f"{ctx.named(row)}, device {device}: power samples alone"
                yield Hit(
                    STAGES, observed, "the energy counter that this card has", (number,), row["gpu_energy_j"]
                )


@rule("C422")
def period_short(ctx: Context) -> Iterator[Hit]:
    """Power was sampled at the protocol's period or a shorter one."""
    period, most = int(ctx.manifest["sampling"]["nominal_period_us"]), ctx.protocol.sampling.nominal_period_us
    if period > most:
        yield Hit(MANIFEST, f"a period of {period / 1e6:g} s", f"at most {most / 1e6:g} s")


@rule("C423")
def scores_backed(ctx: Context) -> Iterator[Hit]:
    """Items stand behind every score that counts, unless its suite's metric cannot be computed from items."""
    for number, row in enumerate(ctx.evals):
        if row["suite"] == HELD_OUT or row["aggregation"] != "external":
            continue
        entry = suite_benchmarks(ctx, row["suite"]).get(row["benchmark"], {})
        if entry.get("adapter") != "pairwise" and row["metric"] not in (entry.get("also") or ()):
            observed = f"{row['subject']} {row['benchmark']} ({row['metric']}): no items behind the score"
            yield Hit("evals.parquet", observed, "a score that its items give", (number,))


@rule("C424")
def inherited_known(ctx: Context) -> Iterator[Hit]:
    """What another run paid for an artifact is known, and not nothing."""
    for number, row in enumerate(ctx.artifacts):
        if row["role"] == "consumed" and row["origin_run_id"] and not row["origin_energy_j"]:
            paid = "unknown joules" if row["origin_energy_j"] is None else "0 J"
            observed = f"{row['name']}: run {row['origin_run_id']} paid {paid}"
            yield Hit("artifacts.parquet", observed, "the energy by its bundle", (number,))


@rule("C425")
def suite_whole(ctx: Context) -> Iterator[Hit]:
    """Student and teacher have a score of every benchmark of the suite, and say which items it is over."""
    for number, row in enumerate(ctx.evals):
        if row["suite"] != HELD_OUT and row["items_sha256"] is None:
            observed = f"{row['suite']}: which items of {row['benchmark']} the {row['subject']} had"
            yield Hit("evals.parquet", f"{observed} is not said", "items_sha256", (number,))
    held: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in ctx.evals:
        if row["suite"] != HELD_OUT:
            held[(row["suite"], row["subject"])].add(row["benchmark"])
    for suite in sorted({suite for suite, _ in held}):
        student, teacher = held[(suite, "student")], held[(suite, "teacher")]
        for subject, mine, wanted in (
            ("student", student, teacher | set(suite_benchmarks(ctx, suite))),
            ("teacher", teacher, student | set(suite_benchmarks(ctx, suite))),
        ):
            lost = sorted(wanted - mine)
            if lost:
                yield Hit(
                    "evals.parquet",
                    f"{suite}: no score of the {subject} in {lost[0]}",
                    "every benchmark of it",
                )


@rule("C426")
def energy_measured(ctx: Context) -> Iterator[Hit]:
    """Hardly any of a stage's energy is only bounded: by gaps, or where a counter was reset or stuck."""
    share = ctx.protocol.tolerances.unsampled_share
    for number, row in _billed(ctx):
        bound, joules = row["gpu_energy_gap_j"], row["gpu_energy_j"]
        if row["stage"] != UNATTRIBUTED and bound and joules and bound > share * joules:
            observed = f"{ctx.named(row)}: +- {bound:.6g} J of {joules:.6g} J are bounded, not measured"
            yield Hit(STAGES, observed, f"at most {share:.0%}", (number,), bound)
