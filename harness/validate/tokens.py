"""Level 2, token counts and inherited joules: what is stated once more elsewhere must agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from harness.bundle.reader import event_detail
from harness.bundle.stage_rows import TOKEN_COLUMNS
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule

STAGES = "stages.parquet"


def reported_tokens(ctx: Context) -> dict[int, dict[str, int]]:
    """stage_uid -> column -> sum over the stage's stage_tokens events."""
    sums: dict[int, dict[str, int]] = {}
    for row in ctx.events:
        if row["kind"] != "stage_tokens" or row["stage_uid"] is None:
            continue
        counts = sums.setdefault(row["stage_uid"], {})
        for name, count in event_detail(row).items():
            if name in TOKEN_COLUMNS and isinstance(count, int) and not isinstance(count, bool):
                counts[name] = counts.get(name, 0) + count
    return sums


@rule("E226")
def tokens_reported(ctx: Context) -> Iterator[Hit]:
    """Token counts of a stage are the sums of its reports; only runs imported from other tools have none."""
    if ctx.imported:
        return
    sums = reported_tokens(ctx)
    for number, row in ctx.recorded:
        reported = sums.get(row["stage_uid"], {})
        for name in TOKEN_COLUMNS:
            if row[name] != reported.get(name) and (row[name] or reported.get(name)):
                stated = "null" if row[name] is None else row[name]
                observed = f"{ctx.named(row)}: {name} = {stated}"
                held = reported.get(name)
                expected = "null: nothing was reported" if held is None else f"{held}, the sum of its reports"
                yield Hit(STAGES, observed, expected, (number,), row["gpu_energy_j"])


@rule("W227")
def denominators_declared(ctx: Context) -> Iterator[Hit]:
    """The reference denominator of a stage is the run's, or the one its stage declares in the pipeline."""
    reference = ctx.manifest["reference_tokens"]
    declared: dict[str, Any] = {}
    stages = ctx.manifest["pipeline"].get("stages")
    for stage in stages if isinstance(stages, list) else ():
        tokens = stage.get("tokens") if isinstance(stage, dict) else None
        if isinstance(tokens, dict) and tokens.get("denominator") is not None:
            declared[str(stage.get("name"))] = tokens["denominator"]
    for number, row in ctx.recorded:
        # A part of a stage may bear the name of another stage of the pipeline.
        expected = reference if row["parent_uid"] is not None else declared.get(row["name"], reference)
        # An attempt whose end was never recorded knows only the run's own.
        allowed = {expected} if row["status"] == "completed" else {expected, reference}
        if row["token_denominator"] not in allowed:
            observed = f"{ctx.named(row)}: token_denominator = {row['token_denominator']}"
            source = (
                "declared for the stage" if row["name"] in declared else "reference_tokens of the manifest"
            )
            yield Hit(STAGES, observed, f"{expected}, {source}", (number,), row["gpu_energy_j"])


@rule("E228")
def origins_agree(ctx: Context) -> Iterator[Hit]:
    """What another run paid for an artifact is stated alike in every row and in the event of its use."""
    paid: dict[str, tuple[object, object]] = {}
    for row in ctx.events:
        if row["kind"] == "x-artifact_origin":
            detail = event_detail(row)
            paid.setdefault(
                str(detail.get("artifact_id")), (detail.get("origin_run_id"), detail.get("origin_energy_j"))
            )
    consumed = {row["artifact_id"] for row in ctx.artifacts if row["role"] == "consumed"}
    for artifact in paid.keys() - consumed:
        yield Hit(
            "events.parquet", f"{artifact[:23]}: paid for, and consumed by no stage", "its row in artifacts"
        )
    for number, row in enumerate(ctx.artifacts):
        if row["role"] != "consumed":
            continue
        if row["origin_run_id"] == ctx.manifest["run_id"]:
            observed = f"{row['name']}: paid by run {row['origin_run_id']}, this one"
            yield Hit(
                "artifacts.parquet", observed, "another run, or null", (number,), row["origin_energy_j"]
            )
        own = row["origin_run_id"], row["origin_energy_j"]
        joules = row["origin_energy_j"]
        if joules is not None and joules < 0:
            yield Hit(
                "artifacts.parquet", f"{row['name']}: {joules:g} J", "0 or more, or null", (number,), -joules
            )
        first = (
            paid.setdefault(row["artifact_id"], own) if own != (None, None) else paid.get(row["artifact_id"])
        )
        if first is None or (own[0] == first[0] and _same(own[1], first[1])):
            continue
        observed = f"{row['name']}: {_joules(own[1])} by run {own[0]}"
        at_stake = None
        if isinstance(own[1], float) and isinstance(first[1], int | float):
            at_stake = abs(own[1] - first[1])
        expected = f"{_joules(first[1])} by run {first[0]}, as stated elsewhere"
        yield Hit("artifacts.parquet", observed, expected, (number,), at_stake)


def _same(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _joules(value: object) -> str:
    return f"{value:.6g} J" if isinstance(value, int | float) else "unknown joules"
