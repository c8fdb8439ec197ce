"""What validation says: findings, grouped, each with rows, joules at stake and one fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
    """All violations of one rule in one file. `message` is a whole sentence, `examples` the next few of the
    same."""

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


@dataclass(frozen=True)
class Report:
    """Outcome of a validation.

    Attributes:
        findings: worst first, then by id and file.
        levels: level -> "passed", "failed" or "not checked: reason".
        run_id: None when the manifest does not say.
        rows: rows looked at.
    """

    findings: tuple[Finding, ...]
    levels: dict[int, str]
    run_id: str | None = None
    rows: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def errors(self) -> int:
        """Number of findings of severity error."""
        return sum(f.severity == "error" for f in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings of severity warning."""
        return sum(f.severity == "warning" for f in self.findings)

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
            item = asdict(finding)
            item["joules_at_stake_j"] = item.pop("joules_at_stake")
            findings.append(item)
        return {
            "run_id": self.run_id,
            "valid": self.errors == 0,
            "exit_code": self.exit_code,
            "errors": self.errors,
            "warnings": self.warnings,
            "levels": {str(level): outcome for level, outcome in self.levels.items()},
            "rows_checked": self.rows,
            "notes": list(self.notes),
            "findings": findings,
        }


def merge(hits: Sequence[Hit]) -> tuple[tuple[int, ...], int, float | None]:
    """Rows (some), count and joules of several hits."""
    rows = sorted({row for hit in hits for row in hit.rows})[:SHOWN_ROWS]
    known = [hit.joules for hit in hits if hit.joules is not None]
    return tuple(rows), sum(hit.count for hit in hits), sum(known) if known else None
