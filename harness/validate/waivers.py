"""Waivers: a level 3 finding that somebody has looked into, with the reason in words.

    waivers:
      - rule: W303
        stage: warmup                 # optional: only what was found in this stage
        reason: "The card idles at 71 W, where its counter and its power reading are 12 % apart."

A waived finding stays in every output with its reason; it no longer counts. Levels 0 to 2 cannot be waived:
there a number is wrong, and no reason makes it right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from harness.errors import KitError
from harness.files import read_bytes
from harness.validate.findings import Finding, Hit
from harness.validate.registry import Rule, finding

WAIVABLE = 3
SHAPE = "a list `waivers:` of {rule: E3xx or W3xx, reason: TEXT} with an optional stage: NAME"
_FEWEST_LETTERS = 10
_MOST_BYTES = 256 * 1024


@dataclass(frozen=True)
class Waiver:
    """One waiver.

    Attributes:
        rule: id of a level 3 rule.
        reason: why the finding is no fault, in words.
        stage: only what was found in this stage; None for all of the rule.
    """

    rule: str
    reason: str
    stage: str | None = None


def load_waivers(path: Path, rules: Mapping[str, Rule]) -> tuple[Waiver, ...]:
    """Read and check a waiver file.

    Args:
        path: YAML file.
        rules: rules of the protocol, by id.

    Raises:
        KitError: it cannot be read, names an unknown rule or one that cannot be waived, or lacks a reason.
    """
    where = str(path)
    try:
        data = yaml.safe_load(read_bytes(path, _MOST_BYTES).decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise KitError(f"not YAML: {str(error).splitlines()[0]}", where=where, expected=SHAPE) from None
    entries = data.get("waivers") if isinstance(data, dict) and set(data) == {"waivers"} else None
    if not isinstance(entries, list):
        raise KitError("no list of waivers", where=where, expected=SHAPE)
    return tuple(_waiver(entry, number, where, rules) for number, entry in enumerate(entries))


def _waiver(entry: object, number: int, where: str, rules: Mapping[str, Rule]) -> Waiver:
    at = f"{where}, waivers[{number}]"
    if not isinstance(entry, dict) or not {"rule"} <= set(entry) <= {"rule", "reason", "stage"}:
        raise KitError("not a waiver", where=at, expected=SHAPE)
    found = rules.get(str(entry["rule"]))
    if found is None:
        raise KitError(f"no rule {entry['rule']!r}", where=at, fix="kit explain lists every rule")
    if found.level != WAIVABLE:
        raise KitError(
            f"rule {found.id} ({found.name}) is of level {found.level} and cannot be waived",
            where=at,
            expected="a rule of level 3, E3xx or W3xx",
            fix=found.fix,
        )
    reason, stage = entry.get("reason"), entry.get("stage")
    if not isinstance(reason, str) or len(reason.strip()) < _FEWEST_LETTERS:
        raise KitError(f"the waiver of {found.id} gives no reason", where=at, expected="why, in a sentence")
    if stage is not None and not isinstance(stage, str):
        raise KitError(f"stage {stage!r} is no name", where=at, expected="the name of a stage")
    return Waiver(found.id, " ".join(reason.split()), stage)


def apply_waivers(
    findings: Sequence[Finding], waivers: Sequence[Waiver], rules: Mapping[str, Rule]
) -> tuple[list[Finding], list[Waiver]]:
    """Mark what is waived.

    A finding groups all hits of a rule in one file. Each hit is looked at by itself, so a waiver for one
    stage takes that stage's hits out of the finding and leaves the others in it.

    Returns:
        The findings, and the waivers that covered nothing in them.
    """
    used: set[Waiver] = set()
    out: list[Finding] = []
    for found in findings:
        own = [w for w in waivers if w.rule == found.id and found.level == WAIVABLE]
        parts: dict[Waiver | None, list[Hit]] = {}
        for hit in found.hits if own else ():
            parts.setdefault(next((w for w in own if _covers(w, hit)), None), []).append(hit)
        if not parts.keys() - {None}:
            out.append(found)
            continue
        for waiver, hits in parts.items():
            part = finding(rules[found.id], found.file, hits)
            out.append(part if waiver is None else replace(part, waived=waiver.reason))
        used |= {waiver for waiver in parts if waiver is not None}
    return out, [waiver for waiver in waivers if waiver not in used]


def _covers(waiver: Waiver, hit: Hit) -> bool:
    """Rules name a stage as `Context.named` does."""
    return waiver.stage is None or hit.observed.startswith(f"{waiver.stage} (stage_uid ")
