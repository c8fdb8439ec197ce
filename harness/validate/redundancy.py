"""Level 2, what a bundle says twice: declared pipeline, the sampler's own count, reports, exit codes, suites.

A forger has to get all of them right together. docs/forgeries.md lists every redundancy with its rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from harness.bundle.commit import MANIFEST
from harness.bundle.reader import event_detail
from harness.bundle.stage_rows import TOKEN_COLUMNS
from harness.spec import version_folder
from harness.spec.load import read_yaml
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"

STATS_US = 12_000_000
"""A sampler that was killed has the statistics of ten seconds before."""

STATS_REL = 0.02
PERIOD_REL = 0.05
"""Deadlines are absolute: the median distance of rows is the period, whatever the machine does."""

LATE_US = 5_000_000
"""A report is read a few times a second; one that was read so long after its stage is of another time."""

PRERUN, SWEEP = "prerun", "sweep"
WORK = (*TOKEN_COLUMNS, "produces", "consumes")
"""Columns that say that a stage did something."""

REPORTS = frozenset({"stage_tokens", "stage_event", "checkpoint", "x-artifact_origin"})


@rule("E242")
def stages_declared(ctx: Context) -> Iterator[Hit]:
    """Stages are those of the declared pipeline, by name and kind; idle ones come on top and do nothing."""
    idle = ctx.protocol.kinds("idle")
    for number, row in ctx.recorded:
        worked = [name for name in WORK if row[name]]
        if row["stage"] in idle and worked:
            observed = f"{ctx.named(row)}: kind {row['stage']} with {worked[0]}"
            yield Hit(STAGES, observed, "a wait with nothing to show", (number,), row["gpu_energy_j"])
    listed = ctx.manifest["pipeline"].get("stages")
    if ctx.imported or not isinstance(listed, list):
        return
    declared = {str(s.get("name")): s.get("kind") for s in listed if isinstance(s, dict)}
    seen: set[str] = set()
    for number, row in ctx.recorded:
        if row["parent_uid"] is not None or row["stage"] in idle:
            continue
        seen.add(row["name"])
        if row["name"] not in declared and row["stage"] == PRERUN and not any(row[name] for name in WORK):
            continue  # the runner's own: imports that all stages share
        if row["name"] not in declared:
            observed, expected = f"{ctx.named(row)} is not declared", f"one of {', '.join(declared)}"
        elif declared[row["name"]] not in (None, row["stage"]):
            observed = f"{ctx.named(row)} is of kind {row['stage']}"
            expected = f"{declared[row['name']]}, as declared"
        else:
            continue
        yield Hit(STAGES, observed, expected, (number,), row["gpu_energy_j"])
    for name in declared if ctx.manifest["status"] == "complete" else ():
        if name not in seen:
            yield Hit(STAGES, f"no row of {name}", "a row of every declared stage of a complete run")


@rule("E243")
def method_as_done(ctx: Context) -> Iterator[Hit]:
    """A student that reads a teacher's output has a method with one, and reads nothing that a trial left."""
    kinds = {row["stage_uid"]: row["stage"] for row in ctx.stages}
    students = ctx.protocol.kinds("student")
    barren = {*ctx.protocol.kinds("scores"), *ctx.protocol.kinds("idle"), SWEEP}
    makers = {
        row["artifact_id"]: kinds.get(row["stage_uid"]) for row in ctx.artifacts if row["role"] == "produced"
    }
    for number, row in enumerate(ctx.artifacts):
        maker = makers.get(row["artifact_id"])
        if row["role"] == "consumed" and maker in barren and kinds.get(row["stage_uid"]) in students:
            observed = f"the student reads {row['name']} of a stage of kind {maker}"
            yield Hit(
                "artifacts.parquet", observed, "the output of a stage that made it for a student", (number,)
            )
    if ctx.manifest["method"] in (*ctx.protocol.taught_methods, "other"):
        return
    teachers = ctx.protocol.kinds("teacher")
    taught = {
        row["artifact_id"]
        for row in ctx.artifacts
        if row["role"] == "produced" and kinds.get(row["stage_uid"]) in teachers
    }
    for event in ctx.events:
        if event["kind"] == "x-artifact_origin":
            detail = event_detail(event)
            if detail.get("origin_stage") in teachers:
                taught.add(str(detail.get("artifact_id")))
    for number, row in enumerate(ctx.artifacts):
        if (
            row["role"] == "consumed"
            and row["artifact_id"] in taught
            and kinds.get(row["stage_uid"]) in students
        ):
            observed = f"method {ctx.manifest['method']}, and the student reads {row['name']} of a teacher"
            yield Hit("artifacts.parquet", observed, " or ".join(ctx.protocol.taught_methods), (number,))


@rule("E244")
def boundaries_used(ctx: Context) -> Iterator[Hit]:
    """Every boundary inside a session is an end of a stage: a stage that was taken out leaves two."""
    if ctx.manifest["status"] != "complete" or ctx.imported:
        return
    used = {
        (row["node_id"], row["session"], row[f"boundary_{side}"])
        for _, row in ctx.recorded
        for side in ("start", "end")
    }
    times: dict[tuple[str, int], dict[int, int]] = {}
    for row in ctx.boundary_rows:
        if row["boundary"] is not None:
            times.setdefault((row["node_id"], row["session"]), {})[row["boundary"]] = row["mono_us"]
    for (node, session), found in times.items():
        first, last = min(found.values()), max(found.values())
        for boundary, at in found.items():
            if first < at < last and (node, session, boundary) not in used:
                observed = f"session {session}: boundary {boundary} at mono_us {at} belongs to no stage"
                yield Hit("counters.parquet", observed, "the stage that began or ended there")


@rule("E245")
def sampler_agrees(ctx: Context) -> Iterator[Hit]:
    """Rows of power are as many, as long and as far apart as the sampler says it read."""
    if ctx.imported:
        return
    period = int(ctx.manifest["sampling"]["nominal_period_us"])
    lost = {event["session"] for event in ctx.events if event["kind"] == "gpu_lost"}
    killed = Counter(event["session"] for event in ctx.events if event["kind"] == "sampler_lost")
    entries = {entry["session"]: entry for entry in ctx.manifest["sampling"]["sessions"]}
    held = {event["session"] for event in ctx.events}
    if entries and not held >= set(entries) == set(range(len(entries))):
        observed = f"sessions {', '.join(map(str, sorted(entries)))} in the manifest"
        expected = f"0, 1, 2 ... with the events of each; {', '.join(map(str, sorted(held)))} have some"
        yield Hit("events.parquet", observed, expected)
    for facts in ctx.facts.seen:
        session, signal = facts.key.session, facts.signal
        name = f"device {facts.key.device_id}, session {session}"
        if signal is None:
            continue
        # Rows further apart are a slow sampler's (W306); closer ones make gaps of the declared period vanish.
        if signal.periods >= 20 and signal.spacing_us < (1 - PERIOD_REL) * period:
            observed = f"{name}: a row every {signal.spacing_us / 1e6:g} s"
            yield Hit("power.parquet", observed, f"every {period / 1e6:g} s, the period of the manifest")
        entry = entries.get(session, {})
        ticks, wall = entry.get("ticks"), entry.get("sampler_wall_s")
        rows, span = signal.periods + 1, (facts.last_us - facts.first_us + period) / 1e6
        # A sampler that was killed has the statistics of ten seconds before; none lives until the next.
        stats_us = STATS_US * (1 + killed[session])
        slack = stats_us / period + STATS_REL * rows
        if ticks is not None and session not in lost and abs(rows - ticks) > slack:
            yield Hit(
                "power.parquet", f"{name}: {rows} rows", f"{ticks}, the sampler's own count of its ticks"
            )
        longer = span - wall if wall is not None else 0.0
        off = -longer if killed[session] else abs(longer)
        if wall is not None and session not in lost and off > stats_us / 1e6 + STATS_REL * span:
            yield Hit("power.parquet", f"{name}: rows over {span:.1f} s", f"{wall:.1f} s, the sampler's life")


@rule("E246")
def exits_agree(ctx: Context) -> Iterator[Hit]:
    """A stage whose command failed is not completed."""
    for number, row in ctx.recorded:
        if row["status"] == "completed" and row["exit_code"] not in (None, 0):
            observed = f"{ctx.named(row)}: completed with exit code {row['exit_code']}"
            yield Hit(STAGES, observed, "failed, or exit code 0", (number,), row["gpu_energy_j"])


@rule("E247")
def counts_nest(ctx: Context) -> Iterator[Hit]:
    """Label tokens are among the processed ones, and those among the positions."""
    for number, row in ctx.recorded:
        for part, whole in (("tokens_trained", "tokens_processed"), ("tokens_processed", "tokens_positions")):
            if row[part] is not None and row[whole] is not None and row[part] > row[whole]:
                observed = f"{ctx.named(row)}: {part} {row[part]} of {row[whole]} {whole}"
                yield Hit(STAGES, observed, f"at most {whole}", (number,), row["gpu_energy_j"])


@rule("E248")
def reports_inside(ctx: Context) -> Iterator[Hit]:
    """What a stage reported, it reported while it ran."""
    if ctx.imported:
        return
    rows = {row["stage_uid"]: row for _, row in ctx.recorded if row["status"] == "completed"}
    for number, event in enumerate(ctx.events):
        row = rows.get(event["stage_uid"])
        if row is None or event["kind"] not in REPORTS:
            continue
        early, late = row["mono_start_us"] - event["mono_us"], event["mono_us"] - row["mono_end_us"]
        if event["session"] != row["session"] or max(early, late) > LATE_US:
            observed = f"{ctx.named(row)}: {event['kind']} {max(early, late) / 1e6:.1f} s outside its window"
            yield Hit(
                "events.parquet",
                observed,
                "inside the stage that reported it",
                (number,),
                row["gpu_energy_j"],
            )


@rule("E249")
def amounts_positive(ctx: Context) -> Iterator[Hit]:
    """What cannot be negative is not, and a denominator is at least 1."""
    reference = ctx.manifest["reference_tokens"]
    if reference is not None and reference < 1:
        yield Hit(MANIFEST, f"reference_tokens {reference}", "at least 1, or null")
    for number, row in enumerate(ctx.stages):
        if row["token_denominator"] is not None and row["token_denominator"] < 1:
            observed = f"{ctx.named(row)}: token_denominator {row['token_denominator']}"
            yield Hit(STAGES, observed, "at least 1, or null", (number,))
        if row["process_cpu_s"] is not None and row["process_cpu_s"] < 0:
            yield Hit(
                STAGES, f"{ctx.named(row)}: process_cpu_s {row['process_cpu_s']:g}", "0 or more", (number,)
            )
    for seen in ctx.facts.seen:
        if seen.negative:
            observed = f"device {seen.key.device_id} of {seen.key.node_id}: power_mw below 0"
            yield Hit("power.parquet", observed, "0 or more, or null", count=seen.negative)
    for series in ctx.facts.counters:
        bad = int((series.uncertainty_us < 0).sum())
        if bad:
            what = series.zone or f"device {series.device_id}"
            yield Hit(
                "counters.parquet", f"{series.source} {what}: uncertainty_us below 0", "0 or more", count=bad
            )


@cache
def _suite(path: Path) -> dict[str, dict[str, Any]]:
    """Benchmarks of a suite by name, as its file has them; empty where the protocol has no such file."""
    data: Any = read_yaml(path) if path.is_file() else {}
    return {str(entry["name"]): entry for entry in data.get("benchmarks", ())}


def suite_benchmarks(ctx: Context, suite: str) -> dict[str, dict[str, Any]]:
    """What a suite of the protocol asks; empty for one it does not know, or without a digest in its name."""
    known = {path.stem: path for path in (version_folder(ctx.protocol.version) / "suites").glob("*@*.yaml")}
    return _suite(known[suite]) if suite in known else {}


@rule("E250")
def suite_as_published(ctx: Context) -> Iterator[Hit]:
    """A benchmark of a suite that the protocol knows was asked as its file says."""
    for number, row in enumerate(ctx.evals):
        asked = suite_benchmarks(ctx, row["suite"])
        entry = asked.get(row["benchmark"])
        if not asked or row["metric"] in ((entry or {}).get("also") or ()):
            continue
        name = f"{row['subject']} {row['benchmark']} ({row['metric']}) of {row['suite']}"
        if entry is None:
            yield Hit("evals.parquet", f"{name}: not in the suite", f"one of {', '.join(asked)}", (number,))
            continue
        data = entry.get("data") or {}
        for column, held in (
            ("metric", entry.get("metric")), ("n_items", data.get("n_items")),
            ("items_sha256", data.get("items_sha256")), ("score_unit", entry.get("unit")),
            ("aggregation", entry.get("aggregation")),
        ):  # fmt: skip
            if held is not None and row[column] != held:
                yield Hit(
                    "evals.parquet", f"{name}: {column} {row[column]}", f"{held}, as in the suite", (number,)
                )
