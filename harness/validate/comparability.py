"""Level 4: the class of runs that this one may be compared with, and labels that a reader must know first.

Nothing here refuses a bundle. A label that is marked `unrankable` in rules.yaml keeps a run out of rankings:
its figures are true to what they say they are, and they are not measured joules of a whole pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.accounting import UNATTRIBUTED
from harness.bundle.canonical import canonical_json
from harness.bundle.commit import MANIFEST
from harness.bundle.stage_rows import TOKEN_COLUMNS
from harness.meter.visible import ORDER_IN_DOUBT
from harness.validate.context import Context
from harness.validate.findings import Hit
from harness.validate.registry import rule
from harness.validate.structure import ONLINE_TEACHER, unfinished
from harness.validate.tokens import reported_tokens

STAGES = "stages.parquet"
HELD_OUT = "heldout"


def class_key(ctx: Context) -> dict[str, Any]:
    """Every field of `comparability.key` with its value for this run; None where it is unknown."""
    return {name: _FIELDS[name](ctx) if name in _FIELDS else None for name in ctx.protocol.comparability.key}


def class_text(key: Mapping[str, Any]) -> str:
    """The key on one line, fields in the protocol's order."""
    return "; ".join(f"{name}={_word(value)}" for name, value in key.items())


def class_digest(key: Mapping[str, Any]) -> str:
    """sha256 of the key's canonical JSON."""
    return hashlib.sha256(canonical_json(dict(key))).hexdigest()


def _word(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " + ".join(map(str, value)) or "none"
    return str(value)


def _devices(ctx: Context) -> list[dict[str, Any]]:
    """Devices that some stage billed."""
    used = {device for row in ctx.stages for device in row["device_ids"]}
    return [d for d in ctx.manifest["hardware"]["devices"] if d["device_id"] in used]


def _gpu_models(ctx: Context) -> list[str]:
    models = [str(device["model"]) for device in _devices(ctx)]
    return [f"{models.count(model)}x {model}" for model in sorted(set(models))]


def states(ctx: Context) -> dict[str, str]:
    """Component -> its state by the recomputed methods and their sources; of imported figures as stated."""
    sources = {row["source"] for row in ctx.boundary_rows if row["device_id"] is not None}
    found = {}
    for part in ctx.protocol.boundary.components:
        methods = {row[f"{part}_energy_method"] for row in ctx.facts.stages if row["stage"] != UNATTRIBUTED}
        held = ctx.protocol.state_of(methods, sources if part == "gpu" else ())
        found[part] = ctx.manifest["boundary"][part] if "imported" in methods else held
    return found


def _boundary(ctx: Context) -> str:
    return ", ".join(f"{part} {state}" for part, state in states(ctx).items())


def _cpu_method(ctx: Context) -> list[str]:
    return sorted({row["cpu_energy_method"] for _, row in ctx.recorded} - {"absent"})


def _suites(ctx: Context) -> list[str] | None:
    """Suites with their judges: never rank across judges. A held-out loss is of no suite (4.8)."""
    suites = {
        row["suite"] + (f" judged by {row['judge_id']}" if row["judge_id"] else "")
        for row in ctx.evals
        if row["suite"] != HELD_OUT
    }
    return sorted(suites) or None


def _power_limit(ctx: Context) -> list[str]:
    """Share of the factory's limit, by model."""
    found = set()
    for device in _devices(ctx):
        limit, default = device.get("power_limit_mw"), device.get("default_power_limit_mw")
        found.add("unknown" if not limit or not default else f"{round(100 * limit / default)}%")
    return sorted(found)


def _guests(ctx: Context) -> bool:
    """Whether a foreign process was seen on a metered device, whatever the manifest says."""
    return any(event["kind"] == "foreign_process" for event in ctx.events)


def _reference(ctx: Context) -> Any:
    """The run's declared denominator; with those of stages that have another one."""
    reference = ctx.manifest["reference_tokens"]
    own = {row["token_denominator"] for row in ctx.stages} - {None, reference}
    # Text where JSON has no exact number: the digest must not fail at a count that cannot be.
    exact = [count if abs(count) < 2**53 else str(count) for count in sorted(own)]
    return [reference, *exact] if own else reference


_FIELDS: dict[str, Callable[[Context], Any]] = {
    "protocol_major": lambda ctx: ctx.written.major,
    "gpu_models": _gpu_models,
    "boundary": _boundary,
    "cpu_energy_method": _cpu_method,
    "reference_tokens": _reference,
    "suite_id": _suites,
    "power_limit": _power_limit,
    "shared_node": lambda ctx: True if _guests(ctx) else ctx.manifest["shared_node"],
}
"""Field of the key -> its value. A field this kit does not know is unknown, and the digest says so."""


def _labelled(ctx: Context, word: str, means: str) -> Iterator[Hit]:
    if word in ctx.manifest["labels"]:
        yield Hit(MANIFEST, f"labelled {word}: {means}", "measured joules")


@rule("C401")
def simulated(ctx: Context) -> Iterator[Hit]:
    """The signals are made up."""
    yield from _labelled(ctx, "simulated", "its signals are made up")
    parts = [part for part, state in states(ctx).items() if state == "simulated"]
    if parts and "simulated" not in ctx.manifest["labels"]:
        yield Hit("counters.parquet", f"{' and '.join(parts)} energy is simulated", "measured joules")


@rule("C402")
def estimated(ctx: Context) -> Iterator[Hit]:
    """Some component is estimated."""
    both = (states(ctx), ctx.manifest["boundary"])
    parts = [part for part in both[0] if "estimated" in (both[0][part], both[1][part])]
    if parts or {"estimated", "cpu_estimated"} & set(ctx.manifest["labels"]):
        yield Hit(MANIFEST, f"estimated: {' and '.join(parts) or 'some energy'}", "measured joules")


@rule("C403")
def imported(ctx: Context) -> Iterator[Hit]:
    """The figures come from another tool's log."""
    yield from _labelled(ctx, "imported", "another tool's log, measured by other rules")


@rule("C414")
def device_in_doubt(ctx: Context) -> Iterator[Hit]:
    """The metered cards may not be those that were used."""
    yield from _labelled(ctx, ORDER_IN_DOUBT, "CUDA may have numbered the cards in another order")


@rule("C404")
def pocket(ctx: Context) -> Iterator[Hit]:
    """The pipeline is a thousand times smaller than what it stands for."""
    yield from _labelled(ctx, "pocket", "a pipeline made small, to be run anywhere")


@rule("C405")
def shared(ctx: Context) -> Iterator[Hit]:
    """Somebody else's work ran on the metered devices."""
    if ctx.manifest["shared_node"] or _guests(ctx):
        yield Hit(MANIFEST, "foreign processes ran on the metered devices", "devices of its own")


@rule("C406")
def incomplete(ctx: Context) -> Iterator[Hit]:
    """The run did not complete."""
    if ctx.manifest["status"] != "complete":
        yield Hit(MANIFEST, f"status {ctx.manifest['status']}", "complete")
    for number, row in unfinished(ctx):
        yield Hit(STAGES, f"{ctx.named(row)} is {row['status']}", "completed", (number,), row["gpu_energy_j"])


@rule("C407")
def short_stages(ctx: Context) -> Iterator[Hit]:
    """Stages with fewer samples than the protocol asks for."""
    rows = [(i, r) for i, r in enumerate(ctx.stages) if "short_stage" in r["flags"]]
    if rows:
        named = ", ".join(sorted({row["name"] for _, row in rows}))
        expected = f"at least {ctx.protocol.sampling.min_samples} samples a device and stage"
        yield Hit(STAGES, f"short: {named}", expected, tuple(i for i, _ in rows), None, len(rows))


@rule("C408")
def no_gpu(ctx: Context) -> Iterator[Hit]:
    """No GPU energy was measured."""
    state = states(ctx)["gpu"]
    if state != "measured":
        yield Hit(STAGES, f"GPU energy is {state}", "measured")


@rule("C409")
def no_reference(ctx: Context) -> Iterator[Hit]:
    """No reference denominator is declared."""
    if ctx.manifest["reference_tokens"] is None:
        yield Hit(MANIFEST, "reference_tokens is null", "the declared reference denominator")


@rule("C410")
def no_suite(ctx: Context) -> Iterator[Hit]:
    """No benchmark was scored; a held-out loss is none (4.8)."""
    if not any(row["subject"] == "student" and row["suite"] != HELD_OUT for row in ctx.evals):
        yield Hit("evals.parquet", "no score of the student", "the scores of a suite")


@rule("C411")
def power_only(ctx: Context) -> Iterator[Hit]:
    """GPU energy comes from power samples because a counter was missing."""
    rows = [(i, r) for i, r in enumerate(ctx.stages) if r["gpu_energy_method"] == "power_integral"]
    if rows:
        named = ", ".join(sorted({row["name"] for _, row in rows}))
        yield Hit(STAGES, f"power samples alone: {named}", "energy counters", tuple(i for i, _ in rows))


@rule("C412")
def tokens_unbacked(ctx: Context) -> Iterator[Hit]:
    """Token counts are stated and no report stands behind them."""
    stated = [i for i, row in enumerate(ctx.stages) if any(row[name] for name in TOKEN_COLUMNS)]
    if stated and not reported_tokens(ctx):
        yield Hit(
            STAGES, "token counts without stage_tokens events", "the reports they sum up", tuple(stated)
        )


@rule("C413")
def online_teacher(ctx: Context) -> Iterator[Hit]:
    """The teacher answers during the student's training."""
    if ONLINE_TEACHER in ctx.manifest["labels"]:
        observed = f"labelled {ONLINE_TEACHER}: the teacher answers while the student is trained"
        yield Hit(MANIFEST, observed, "a teacher stage of its own")
