"""The registry: every rule is a small function, its words live in `protocol/<version>/rules.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import KitError
from harness.spec import version_folder
from harness.spec.load import read_yaml
from harness.validate.findings import Finding, Hit, merge

if TYPE_CHECKING:
    from harness.validate.context import Context

Check = Callable[["Context"], Iterable[Hit]]

CHECKS: dict[str, Check] = {}
"""Rule id -> function; filled by the modules that hold the rules when they are imported."""


@dataclass(frozen=True)
class Rule:
    """A rule in words.

    Attributes:
        severity: error (the bundle does not hold), warning (read with care) or label (level 4).
        example: what a finding of this rule looks like.
        unrankable: a label that keeps a run out of every ranking.
    """

    id: str
    name: str
    level: int
    severity: str
    clause: str
    title: str
    why: str
    fix: str
    example: str = ""
    unrankable: bool = False


def rule(rule_id: str) -> Callable[[Check], Check]:
    """Register the function that finds violations of a rule."""

    def register(check: Check) -> Check:
        if rule_id in CHECKS:
            raise KitError(f"rule {rule_id} has two functions")
        CHECKS[rule_id] = check
        return check

    return register


def load_rules(version: str | None = None) -> dict[str, Rule]:
    """Rules of a protocol version, the current one by default, by id.

    Raises:
        KitError: rules.yaml is missing or not as it should be.
    """
    return _read_rules(version_folder(version) / "rules.yaml")


@cache
def _read_rules(path: Path) -> dict[str, Rule]:
    data: Any = read_yaml(path)
    try:
        rules = [Rule(**entry) for entry in data["rules"]]
    except (KeyError, TypeError) as error:
        raise KitError(f"not a list of rules: {error}", where=str(path)) from None
    by_id = {entry.id: entry for entry in rules}
    if len(by_id) != len(rules):
        raise KitError("a rule id is given twice", where=str(path))
    return by_id


def finding(entry: Rule, file: str, hits: Sequence[Hit]) -> Finding:
    """Group the hits of one rule in one file into a finding."""
    rows, count, joules = merge(hits)
    first = hits[0]
    return Finding(
        id=entry.id,
        name=entry.name,
        level=entry.level,
        severity=entry.severity,
        file=file,
        rows=rows,
        count=count,
        observed=first.observed,
        expected=first.expected,
        joules_at_stake=joules,
        clause=entry.clause,
        fix=entry.fix,
        message=f"{entry.title}: {first.observed}; expected {first.expected}",
        why=entry.why,
        examples=tuple(hit.observed for hit in hits[1:5]),
        hits=tuple(hits),
    )
