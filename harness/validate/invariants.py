"""Level 2: what must hold between stages, samples and counters for the totals to mean what they say.

Two files hold the rules: this one those of energies, clocks and windows, `structure` those of the rows around
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.accounting.totals import roots
from harness.validate.compare import differences, short, stage_key
from harness.validate.context import Context, device_spans
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"
Row = Mapping[str, Any]

HOLE_COLUMNS = (
    "t_start_us",
    "t_end_us",
    "mono_start_us",
    "mono_end_us",
    "device_start_us",
    "device_end_us",
)

ENERGIES = (
    "gpu_energy_j",
    "gpu_energy_counter_j",
    "gpu_energy_integral_j",
    "energy_in_gaps_j",
    "cpu_energy_j",
    "dram_energy_j",
    "gpu_energy_j_low",
    "cpu_energy_j_low",
    "dram_energy_j_low",
    "gpu_energy_boundary_j",
    "gpu_energy_gap_j",
)


def _holes(rows: Iterable[Row]) -> dict[tuple[object, ...], tuple[int, Row]]:
    """Key -> number and row of the unattributed ones."""
    return {stage_key(row): (i, row) for i, row in enumerate(rows) if row["stage"] == UNATTRIBUTED}


def _row_energy(row: Row) -> float:
    return sum(float(row[f"{part}_energy_j"] or 0.0) for part in ("gpu", "cpu", "dram"))


@rule("E203")
def derived_columns(ctx: Context) -> Iterator[Hit]:
    """Every derived column equals its recomputation from the raw rows."""
    for found in differences(ctx.stages, ctx.facts.stages, ctx.written):
        observed = f"{ctx.named(found.row)}: {found.column} = {short(found.stored)}"
        yield Hit(STAGES, observed, short(found.expected), (found.number,), found.joules)


@rule("E204")
def holes_filled(ctx: Context) -> Iterator[Hit]:
    """The unattributed rows are exactly those the boundaries leave."""
    fresh, stored = _holes(ctx.facts.stages), _holes(ctx.stages)
    for key, (_, row) in fresh.items():
        if key not in stored:
            observed = f"session {row['session']}: no row from boundary {key[3]} to {key[4]}"
            yield Hit(STAGES, observed, "one unattributed row a hole", (), _row_energy(row))
    for key, (number, row) in stored.items():
        if key not in fresh:
            observed = f"{ctx.named(row)}: no such hole from boundary {key[3]} to {key[4]}"
            yield Hit(STAGES, observed, "one unattributed row a hole", (number,), _row_energy(row))


@rule("W205")
def clock_steps_recorded(ctx: Context) -> Iterator[Hit]:
    """A step of the wall clock has its event."""
    limit = ctx.protocol.tolerances.clock_step_error_us
    marks = [(e["session"], e["mono_us"]) for e in ctx.events if e["kind"] == "clock_step"]
    period = int(ctx.manifest["sampling"]["nominal_period_us"])
    for series in ctx.facts.seen:
        for mono, step in series.steps:
            near = any(s == series.key.session and abs(m - mono) <= 10 * period for s, m in marks)
            if not near and abs(step) < limit:
                observed = f"device {series.key.device_id}: UTC stepped by {step / 1e6:+.3f} s"
                yield Hit("events.parquet", observed, "an event of kind clock_step")


@rule("E206")
def clocks_agree(ctx: Context) -> Iterator[Hit]:
    """UTC and the monotonic clock never part by half a second at once."""
    limit = ctx.protocol.tolerances.clock_step_error_us
    for series in ctx.facts.seen:
        for mono, step in series.steps:
            if abs(step) >= limit:
                observed = f"device {series.key.device_id}, session {series.key.session}: UTC stepped by"
                yield Hit(
                    "power.parquet",
                    f"{observed} {step / 1e6:+.3f} s at mono_us {mono}",
                    f"less than {limit / 1e6:g} s",
                )


@rule("E207")
def intervals_hold(ctx: Context) -> Iterator[Hit]:
    """low <= best <= high, and all three or none."""
    for number, row in enumerate(ctx.stages):
        for part in ("gpu", "cpu", "dram"):
            low, best, high = (row[f"{part}_energy_j{end}"] for end in ("_low", "", "_high"))
            if low is None and best is None and high is None:
                continue
            if best is None or low is None or high is None or not low <= best <= high:
                observed = f"{ctx.named(row)}: {part} {short(low)} <= {short(best)} <= {short(high)}"
                yield Hit(STAGES, observed, "low <= best <= high", (number,))


@rule("E208")
def energies_positive(ctx: Context) -> Iterator[Hit]:
    """No energy and no bound is below zero."""
    for number, row in enumerate(ctx.stages):
        found = [(f"{name} =", row[name]) for name in ENERGIES if row[name] is not None]
        found += [("device_energy_j holds", energy) for energy in row["device_energy_j"] or ()]
        for what, energy in found:
            if energy < 0:
                observed = f"{ctx.named(row)}: {what} {short(energy)}"
                yield Hit(STAGES, observed, "at least 0", (number,), abs(energy))


@rule("E209")
def counters_rise(ctx: Context) -> Iterator[Hit]:
    """A GPU counter falls only where a reset is flagged."""
    marks = {(e["session"], e["device_id"]) for e in ctx.events if e["kind"] == "counter_reset"}
    for row in ctx.stages:
        if "counter_reset" in row["flags"]:
            marks |= {(row["session"], device) for device in row["device_ids"]}
    for series in ctx.facts.seen:
        if series.falls and (series.key.session, series.key.device_id) not in marks:
            observed = f"device {series.key.device_id}, session {series.key.session}: energy_counter_mj falls"
            yield Hit(
                "power.parquet",
                f"{observed} at mono_us {series.falls[0]}",
                "a rising counter",
                count=len(series.falls),
            )
    last: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in ctx.boundary_rows:
        if row["device_id"] is None or row["value"] is None:
            continue
        key = row["node_id"], row["device_id"], row["session"]
        before = last.get(key)
        if before and row["value"] < before["value"] and (row["session"], row["device_id"]) not in marks:
            observed = f"device {row['device_id']}: {before['value']} mJ, then {row['value']} mJ"
            yield Hit(
                "counters.parquet",
                f"{observed} at boundary {row['boundary']}",
                "a rising counter",
                (),
                (before["value"] - row["value"]) / 1000,
            )
        last[key] = row


@rule("E211")
def sessions_close(ctx: Context) -> Iterator[Hit]:
    """Stages and unattributed rows add up to the session's own total, device by device, to the millijoule."""
    sums: dict[tuple[str, int, int], int] = {}
    unknown: set[tuple[str, int, int]] = set()
    for row in roots(ctx.stages):
        energies = row["device_energy_j"]
        for place, device in enumerate(row["device_ids"]):
            key = row["node_id"], row["session"], device
            if energies is None or place >= len(energies):
                unknown.add(key)
            else:
                sums[key] = sums.get(key, 0) + round(energies[place] * 1000)
    for total in ctx.facts.sessions:
        for device, whole in total.gpu_mj.items():
            key = total.node_id, total.session, device
            if whole is None or key in unknown or sums.get(key, 0) == whole:
                continue
            observed = f"session {total.session}, device {device}: the rows sum to {sums.get(key, 0)} mJ"
            yield Hit(STAGES, observed, f"{whole} mJ", (), abs(sums.get(key, 0) - whole) / 1000)


@rule("E217")
def imported_runs_say_so(ctx: Context) -> Iterator[Hit]:
    """Figures that are not recomputed occur only in imported runs."""
    if ctx.imported:
        return
    for number, row in enumerate(ctx.stages):
        for part in ("gpu", "cpu", "dram"):
            if row[f"{part}_energy_method"] == "imported":
                observed = f"{ctx.named(row)}: {part}_energy_method = imported"
                yield Hit(STAGES, observed, "a run labelled imported", (number,), row[f"{part}_energy_j"])


@rule("E241")
def samples_beside_counters(ctx: Context) -> Iterator[Hit]:
    """A power integral stands beside every counter (4.2): one alone was cut out, or never checked."""
    for number, row in enumerate(ctx.facts.stages):
        alone = row["gpu_energy_method"].startswith("counter") and row["gpu_energy_integral_j"] is None
        if alone and row["device_ids"] and row["mono_end_us"] > row["mono_start_us"]:
            observed = f"{ctx.named(row)}: no power sample stands beside the counter"
            yield Hit(
                "power.parquet",
                observed,
                "power samples of every billed device",
                (number,),
                row["gpu_energy_j"],
            )


@rule("E221")
def samples_cover(ctx: Context) -> Iterator[Hit]:
    """Samples reach from the first boundary to the last one, but for a period."""
    period = int(ctx.manifest["sampling"]["nominal_period_us"])
    spans: dict[tuple[str, int, int], tuple[int, int]] = {}
    for row in ctx.stages:
        if row["gpu_energy_method"] == "imported":
            continue
        for device, start, end in device_spans(row):
            key = row["node_id"], device, row["session"]
            low, high = spans.get(key, (start, end))
            spans[key] = min(low, start), max(high, end)
    seen = {tuple(s.key): s for s in ctx.facts.seen}
    for key, (start, end) in spans.items():
        series = seen.get(key)
        name = f"device {key[1]}, session {key[2]}"
        if series is None:
            yield Hit("power.parquet", f"{name}: no samples", "samples from first to last boundary")
        elif series.first_us > start + period or series.last_us < end - period:
            short = max(series.first_us - start, end - series.last_us) / 1e6
            yield Hit(
                "power.parquet",
                f"{name}: {short:.1f} s without samples at an end",
                f"at most {period / 1e6} s",
            )


@rule("E225")
def clocks_measure_alike(ctx: Context) -> Iterator[Hit]:
    """A window is as long by UTC as by the monotonic clock, unless the wall clock was stepped meanwhile."""
    limit = ctx.protocol.tolerances.clock_step_error_us
    stepped = {row["session"] for row in ctx.events if row["kind"] == "clock_step"}
    stepped |= {facts.key.session for facts in ctx.facts.seen if facts.steps}
    for number, row in ctx.recorded:
        utc, mono = row["t_end_us"] - row["t_start_us"], row["mono_end_us"] - row["mono_start_us"]
        if row["session"] not in stepped and abs(utc - mono) >= limit:
            observed = f"{ctx.named(row)}: {utc / 1e6:.3f} s by UTC"
            yield Hit(STAGES, observed, f"{mono / 1e6:.3f} s, by the monotonic clock", (number,))


@rule("E238")
def holes_where_derived(ctx: Context) -> Iterator[Hit]:
    """The windows of unattributed rows are those the boundaries leave."""
    fresh = _holes(ctx.facts.stages)
    for key, (number, row) in _holes(ctx.stages).items():
        for name in HOLE_COLUMNS if key in fresh else ():
            expected = fresh[key][1][name]
            if row[name] != expected:
                yield Hit(STAGES, f"{ctx.named(row)}: {name} = {row[name]}", f"{expected}", (number,))
