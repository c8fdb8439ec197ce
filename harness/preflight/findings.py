"""Findings as values, and as one table."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "problem", "to do", "unknown"]
MARKS = {"ok": "ok", "problem": "PROBLEM", "to do": "to do", "unknown": "unknown"}


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: What was looked at.
        subject: Stage, model or machine.
        status: "ok"; "problem": the run would fail or measure something else; "to do": a step before
            it starts; "unknown": cannot be told here, `found` says why.
        found: In words.
        fix: What to do about it.
        data: Figures behind `found`, units in the keys.
    """

    check: str
    subject: str
    status: Status
    found: str
    fix: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preflight:
    """Everything that was looked at."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """Those that keep the run from starting."""
        return [finding for finding in self.findings if finding.status == "problem"]

    @property
    def exit_code(self) -> int:
        """1 where there is a problem."""
        return 1 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": "preflight/1",
            "name": self.name,
            "problems": len(self.problems),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def render(self, width: int | None = None) -> str:
        """The table, a line a finding, and how many problems there are; as wide as the terminal if None."""
        width = width or min(118, shutil.get_terminal_size((118, 50)).columns)
        lines = [f"preflight: {self.name}", ""]
        lines += _rows(self.findings, width)
        count = len(self.problems)
        said = "no problem" if not count else f"{count} problem{'s' * (count > 1)}"
        todo = sum(finding.status == "to do" for finding in self.findings)
        unknown = sum(finding.status == "unknown" for finding in self.findings)
        rest = f"; {todo} to do" * bool(todo) + f"; {unknown} not known here" * bool(unknown)
        return "\n".join([*lines, "", f"preflight: {said}{rest}"])


def _rows(findings: Sequence[Finding], width: int) -> list[str]:
    checks = max((len(finding.check) for finding in findings), default=0)
    subjects = max((len(finding.subject) for finding in findings), default=0)
    indent = " " * (checks + subjects + 13)
    narrow = width - len(indent) < 30
    if narrow:
        indent = " " * 9
    lines = []
    for finding in findings:
        head = f"{MARKS[finding.status]:7}  {finding.check:{checks}}  {finding.subject:{subjects}}  "
        said = textwrap.wrap(finding.found, max(30, width - len(indent))) or [""]
        if narrow:
            head = f"{MARKS[finding.status]:7}  {finding.check}, {finding.subject}"
            lines += textwrap.wrap(head, width, subsequent_indent=indent)
            head = indent
        lines.append(head + said[0])
        lines += [indent + line for line in said[1:]]
        if finding.fix and finding.status != "ok":
            fix = f"{indent}-> {finding.fix}"
            lines += textwrap.wrap(fix, width, subsequent_indent=indent + "   ") if narrow else [fix]
    return lines
