"""Level 2, windows of stages: work inside what is billed, UTC as long as monotonic time, holes in place."""

from __future__ import annotations

from collections.abc import Iterator

from harness.accounting import UNATTRIBUTED
from harness.validate.compare import stage_key
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"

WORK_SLACK_US = 1_000_000
"""A boundary waits for a tick of the counter, a fifth of a second at most; a lost one lies at a sample."""

HOLE_COLUMNS = (
    "t_start_us",
    "t_end_us",
    "mono_start_us",
    "mono_end_us",
    "device_start_us",
    "device_end_us",
)


@rule("E224")
def work_billed(ctx: Context) -> Iterator[Hit]:
    """The process or block of a stage ran inside the window it is billed for."""
    for number, row in enumerate(ctx.stages):
        if row["work_start_us"] is None or row["work_end_us"] is None:
            continue
        early = row["mono_start_us"] - row["work_start_us"] - WORK_SLACK_US
        late = row["work_end_us"] - row["mono_end_us"] - WORK_SLACK_US
        if max(early, late) > 0:
            observed = f"{ctx.named(row)}: work from {row['work_start_us']} to {row['work_end_us']}"
            expected = f"inside {row['mono_start_us']} to {row['mono_end_us']}"
            yield Hit(STAGES, observed, expected, (number,), row["gpu_energy_j"])


@rule("E225")
def clocks_measure_alike(ctx: Context) -> Iterator[Hit]:
    """A window is as long by UTC as by the monotonic clock, unless the wall clock was stepped meanwhile."""
    limit = ctx.protocol.tolerances.clock_step_error_us
    stepped = {row["session"] for row in ctx.events if row["kind"] == "clock_step"}
    stepped |= {facts.key.session for facts in ctx.facts.series if facts.steps}
    for number, row in enumerate(ctx.stages):
        if row["stage"] == UNATTRIBUTED:
            continue  # derived (E238)
        utc, mono = row["t_end_us"] - row["t_start_us"], row["mono_end_us"] - row["mono_start_us"]
        if row["session"] not in stepped and abs(utc - mono) >= limit:
            observed = f"{ctx.named(row)}: {utc / 1e6:.3f} s by UTC"
            yield Hit(STAGES, observed, f"{mono / 1e6:.3f} s, by the monotonic clock", (number,))


@rule("E238")
def holes_where_derived(ctx: Context) -> Iterator[Hit]:
    """The windows of unattributed rows are those the boundaries leave."""
    fresh = {stage_key(row): row for row in ctx.facts.derivation.stages if row["stage"] == UNATTRIBUTED}
    for number, row in enumerate(ctx.stages):
        other = fresh.get(stage_key(row)) if row["stage"] == UNATTRIBUTED else None
        for name in HOLE_COLUMNS if other is not None else ():
            if other is not None and row[name] != other[name]:
                observed = f"{ctx.named(row)}: {name} = {row[name]}"
                yield Hit(STAGES, observed, f"{other[name]}", (number,))
