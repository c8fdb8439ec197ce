"""What was found and where a row stands: text, Markdown for a pull request, JSON, SARIF, annotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from harness import __version__
from harness.accounting import Interval
from harness.accounting.rounding import significant, with_ends
from harness.leaderboard.examined import Examined
from harness.leaderboard.rules import submission_rules
from harness.leaderboard.standing import nearest, raises
from harness.text import MAX_LINE, shown
from harness.validate.findings import Comparability, Report
from harness.validate.registry import load_rules
from harness.validate.sarif import sarif, workflow_commands

Row = dict[str, Any]
_FRONTIER = {"on": "on the frontier", "tie": "perhaps on the frontier", "dominated": "dominated"}
_MARKS = {"error": "refused", "warning": "warning", "label": "label"}


def text(entries: Sequence[Examined], rows: Sequence[Row], width: int) -> list[str]:
    """For a terminal of so many columns."""
    lines = []
    for entry in entries:
        lines.append(f"{shown(entry.key)}: {_verdict(entry)}")
        for f in entry.findings:
            if f.severity != "label":
                waived = f" (waived: {f.waived})" if f.waived else ""
                lines.append(f"  {f.id} {f.name}: {shown(f.message, limit=MAX_LINE)}{shown(waived)}")
                lines.append(f"    fix: {f.fix}")
        if entry.row is not None:
            lines += [f"  {name}: {shown(value, limit=MAX_LINE)}" for name, value in _place(entry.row)]
            lines += [f"  {shown(words, limit=MAX_LINE)}" for words in raises(entry.row)]
            for other in nearest(entry.row, rows):
                lines.append(f"  near: {shown(' | '.join(_cells(other)))}")
    folded = []
    for line in lines:
        hang = " " * (len(line) - len(line.lstrip()) + 2)
        folded += wrap(
            line, max(30, width), subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
        )
    return folded


def markdown(entries: Sequence[Examined], rows: Sequence[Row]) -> str:
    """One comment for all submissions: a table against the nearest rows, and every finding."""
    lines = ["### Leaderboard check", ""]
    for entry in entries:
        lines += [f"#### {escaped(entry.key)}: {_verdict(entry)}", ""]
        if entry.row is not None:
            lines += [
                "| row | level | rank | energy | Q | method | hardware |",
                "|---|---|---|---:|---:|---|---|",
            ]
            for row in [entry.row, *nearest(entry.row, rows)]:
                bold = "**" if row is entry.row else ""
                cells = [f"{bold}{escaped(cell)}{bold}" if cell else "" for cell in _cells(row)]
                lines.append(f"| {' | '.join(cells)} |")
            lines += ["", f"Class: {escaped(entry.row.get('class_text', 'none'))}", ""]
            lines += [f"- {escaped(words)}" for words in raises(entry.row)]
        counting = [f for f in entry.findings if f.severity != "label"]
        if counting:
            lines += ["", "| finding | file | what | fix |", "|---|---|---|---|"]
        for f in counting:
            mark = f"{f.id} {f.name} ({_MARKS[f.severity] if f.counts else 'waived'})"
            cells = [mark, f.file, f.message + (f" x{f.count}" if f.count > 1 else ""), f.fix]
            lines.append(f"| {' | '.join(map(escaped, cells))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def as_json(entries: Sequence[Examined], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For programs; keys carry units, energies are joules as [best, low, high]."""
    return [
        {
            "key": entry.key,
            "accepted": entry.errors == 0,
            "row": entry.row,
            "nearest": [] if entry.row is None else [row["key"] for row in nearest(entry.row, rows)],
            "raises": [] if entry.row is None else raises(entry.row),
            **{k: v for k, v in _report(entry).as_dict().items() if k in ("errors", "warnings", "findings")},
        }
        for entry in entries
    ]


def as_sarif(entries: Sequence[Examined]) -> Any:
    """SARIF 2.1.0, for code scanning."""
    rules = {**load_rules(), **submission_rules().by_id}
    return sarif([_report(e) for e in entries], [e.folder for e in entries], rules, __version__)


def workflow_lines(entries: Sequence[Examined]) -> list[str]:
    """Workflow commands, one a finding."""
    return workflow_commands([_report(e) for e in entries], [e.folder for e in entries])


def _report(entry: Examined) -> Report:
    labels = tuple(f for f in entry.findings if f.severity == "label")
    rest = tuple(f for f in entry.findings if f.severity != "label")
    return Report(rest, {}, comparability=Comparability({}, "", "", (), labels))


def _verdict(entry: Examined) -> str:
    refused = [f for f in entry.findings if f.severity == "error" and f.counts]
    return f"refused, {len(refused)} findings" if refused else "accepted"


def _place(row: Row) -> list[tuple[str, str]]:
    return [
        ("level", str(row["level"])),
        ("class", str(row.get("class_text", "none"))),
        ("rank", _rank(row)),
        ("energy", _energy(row)),
        ("Q", _q(row) or "unknown"),
    ]


def _cells(row: Row) -> list[str]:
    return [
        row["key"],
        row["level"],
        _rank(row),
        _energy(row),
        _q(row),
        row["method"],
        row.get("hardware", ""),
    ]


def _rank(row: Row) -> str:
    if "rank" not in row:
        return "unranked"
    place = str(row["rank"]) if row["rank"] == row["rank_to"] else f"{row['rank']} to {row['rank_to']} (tie)"
    return f"{place} of {row['of']}, {_FRONTIER[row['frontier']]}"


def _energy(row: Row) -> str:
    if row["energy"] is None:
        return "unknown"
    best, low, high = row["energy"]
    return with_ends(Interval(best, low, math.inf if high is None else high).scale(1 / 3600), "Wh")


def _q(row: Row) -> str:
    if row["q"] is None:
        return ""
    best, low, high = (significant(x, most=3) for x in row["q"])
    return best if low == high else f"{best} ({low} to {high})"


def escaped(text: object) -> str:
    """Text of a stranger inside Markdown."""
    return shown(text, "markdown", limit=MAX_LINE)
