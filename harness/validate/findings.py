"""What validation says: findings, grouped, each with rows, joules at stake and one fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

UNREADABLE = frozenset({"E001", "E101"})
"""Rules after which nothing else can be said: exit code 2."""

SHOWN_ROWS = 20
"""Row numbers kept in a finding; `count` has the true number."""


@dataclass(frozen=True)
class Hit:
    """One violation, before grouping.

    Attributes:
        file: path relative to the bundle.
        observed: what was found, in words or numbers.
        expected: what the protocol wants.
        rows: row numbers in that table, from 0.
        joules: energy that is wrong, missing or counted twice; None when it cannot be said.
        count: violations this hit stands for.
    """

    file: str
    observed: str
    expected: str
    rows: tuple[int, ...] = ()
    joules: float | None = None
    count: int = 1


@dataclass(frozen=True)
class Finding:
    """All violations of one rule in one file, or those of them that one waiver covers. `message` is a whole
    sentence, `examples` the next few of the same, `hits` every single one (not in any output)."""

    id: str
    name: str
    level: int
    severity: str
    file: str
    rows: tuple[int, ...]
    count: int
    observed: str
    expected: str
    joules_at_stake: float | None
    clause: str
    fix: str
    message: str
    why: str
    examples: tuple[str, ...] = ()
    waived: str | None = None
    hits: tuple[Hit, ...] = field(default=(), repr=False)

    @property
    def counts(self) -> bool:
        """Whether it counts: a waived finding is shown with its reason and weighs nothing."""
        return self.waived is None


@dataclass(frozen=True)
class Comparability:
    """Level 4: with which other runs this one may be compared, and what a reader must know before.

    Attributes:
        key: field of `comparability.key` -> its value for this run; None is unknown.
        text: the key on one line.
        digest: sha256 of the key's canonical JSON; runs of one class share it.
        reasons: why the run may not be ranked inside its class; empty where it may.
        labels: the C4xx labels that apply, as findings that refuse nothing.
    """

    key: Mapping[str, Any]
    text: str
    digest: str
    reasons: tuple[str, ...]
    labels: tuple[Finding, ...] = ()

    @property
    def rankable(self) -> bool:
        """Whether the run may be ranked inside its class."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """For `--format json`."""
        labels = [{"id": x.id, "name": x.name, "observed": x.observed, "fix": x.fix} for x in self.labels]
        return {
            "class": self.text,
            "class_sha256": self.digest,
            "key": dict(self.key),
            "rankable": self.rankable,
            "not_rankable": list(self.reasons),
            "labels": labels,
        }


@dataclass(frozen=True)
class Report:
    """Outcome of a validation.

    Attributes:
        findings: worst first, then by id and file; waived ones included.
        levels: level -> "passed", "failed" or "not checked: reason".
        run_id: None when the manifest does not say.
        rows: rows looked at.
        notes: what could not be checked and why, and other remarks that are no findings.
        comparability: None when level 4 was not asked for or could not be worked out.
    """

    findings: tuple[Finding, ...]
    levels: dict[int, str]
    run_id: str | None = None
    rows: int = 0
    notes: tuple[str, ...] = field(default=())
    comparability: Comparability | None = None

    @property
    def errors(self) -> int:
        """Number of findings of severity error that are not waived."""
        return sum(f.severity == "error" and f.counts for f in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings of severity warning that are not waived."""
        return sum(f.severity == "warning" and f.counts for f in self.findings)

    @property
    def waived(self) -> int:
        """Number of findings that were waived."""
        return sum(not f.counts for f in self.findings)

    @property
    def exit_code(self) -> int:
        """0 no error, 1 errors, 2 the bundle cannot be read at all."""
        if any(f.id in UNREADABLE for f in self.findings):
            return 2
        return 1 if self.errors else 0

    def as_dict(self) -> dict[str, Any]:
        """For `--format json`; keys carry units."""
        findings = []
        for finding in self.findings:
            item = asdict(replace(finding, hits=()))
            item.pop("hits")
            item["joules_at_stake_j"] = item.pop("joules_at_stake")
            findings.append(item)
        return {
            "run_id": self.run_id,
            "valid": self.errors == 0,
            "exit_code": self.exit_code,
            "errors": self.errors,
            "warnings": self.warnings,
            "waived": self.waived,
            "levels": {str(level): outcome for level, outcome in self.levels.items()},
            "rows_checked": self.rows,
            "notes": list(self.notes),
            "comparability": None if self.comparability is None else self.comparability.as_dict(),
            "findings": findings,
        }


def merge(hits: Sequence[Hit]) -> tuple[tuple[int, ...], int, float | None]:
    """Rows (some), count and joules of several hits."""
    rows = sorted({row for hit in hits for row in hit.rows})[:SHOWN_ROWS]
    known = [hit.joules for hit in hits if hit.joules is not None]
    return tuple(rows), sum(hit.count for hit in hits), sum(known) if known else None
