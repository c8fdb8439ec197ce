"""J per served token of a run's model, where a stage measured it (4.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.accounting import Interval
from harness.accounting.shared_scales import Energy
from harness.accounting.stage_scales import Sharing, row_parts
from harness.accounting.totals import lower_bound, row_energy
from harness.bundle.reader import event_detail

STEADY = "steady"
"""Name of the part of a serving stage that the figure is of."""


class Served(NamedTuple):
    """What answering a workload took.

    Attributes:
        workload: name of the workload.
        asked: everything that must be equal for two figures to compare: workload, prompts, engine.
        tokens: generated in the steady part.
        duration_us: of the steady part.
        per_token: joules of the steady part for each of them.
        scaled: the same by the scales it shares.
    """

    workload: str
    asked: Mapping[str, Any]
    tokens: int
    duration_us: int
    per_token: Interval
    scaled: Energy


def served(
    rows: Iterable[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]],
    kinds: Sequence[str],
    shared: Sharing,
) -> Served | None:
    """Of the last serving stage that completed; None without one whose energy and tokens are known.

    Args:
        rows: of `stages`, recomputed.
        events: rows of `events`.
        kinds: kinds of stages that serve.
        shared: scales of the bundle.
    """
    told = {
        event["stage_uid"]: said["report"]
        for event in events
        if event["kind"] == "stage_event"
        and (said := event_detail(event)).get("event") == "serving"
        and isinstance(said.get("report"), dict)
    }
    known = [row for row in rows if row["stage"] in kinds and row["status"] == "completed"]
    for stage in sorted(known, key=lambda row: -int(row["stage_uid"])):
        steady = next(
            (r for r in known if r["parent_uid"] == stage["stage_uid"] and r["name"] == STEADY), None
        )
        detail = told.get(stage["stage_uid"])
        if steady is None or detail is None or not steady["tokens_generated"] or lower_bound(steady):
            continue
        energy, parts, tokens = row_energy(steady), row_parts(steady, shared), steady["tokens_generated"]
        if energy is None or parts is None:
            continue
        asked = {name: detail.get(name) for name in ("workload", "prompts_sha256", "engine")}
        workload = asked["workload"]
        return Served(
            str(workload.get("name") if isinstance(workload, dict) else workload),
            asked,
            tokens,
            int(steady["mono_end_us"] - steady["mono_start_us"]),
            energy.scale(1.0 / tokens),
            {key: joules.scale(1.0 / tokens) for key, joules in parts.items()},
        )
    return None


def not_compared(ours: Served | None, theirs: Served | None) -> str | None:
    """Why T* cannot be formed of two runs' serving; None if it can."""
    lacking = [name for name, one in (("this run", ours), ("that run", theirs)) if one is None]
    if ours is None or theirs is None:
        return f"{' and '.join(lacking)} ha{'ve' if len(lacking) > 1 else 's'} no complete serve stage"
    differing = [name for name in ours.asked if ours.asked[name] != theirs.asked[name]]
    words = {"prompts_sha256": "prompts"}
    return f"they served different {', '.join(words.get(n, n) for n in differing)}" if differing else None
