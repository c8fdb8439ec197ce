"""Says what validation found, for a terminal: grouped, worst first, one fix each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.accounting.rounding import encodable, quantity
from harness.text import MAX_LINE, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from harness.validate.findings import Comparability, Finding, Report

LEVEL_NAMES = {0: "container", 1: "schema", 2: "accounting", 3: "plausibility", 4: "comparability"}
_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "bold red")}
_COLOURS = {"error": "bold red", "warning": "yellow"}


def print_report(report: Report, console: Console, *, where: str) -> None:
    """Print a report.

    Args:
        report: what was found.
        console: rich console; its width and colours are respected.
        where: the folder, as the user named it.
    """
    with trimmed(console):
        _print(report, console, where)


@contextmanager
def trimmed(console: Console) -> Iterator[None]:
    """What is printed inside has no blanks at the end of its lines, and no character that the stream lacks.

    Tables and padding fill lines to the width; who copies or keeps the text wants no blanks.
    """
    with console.capture() as capture:
        yield
    text = "\n".join(line.rstrip(" ") for line in capture.get().split("\n"))
    console.file.write(encodable(text, console.encoding))


def _print(report: Report, console: Console, where: str) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for finding in report.findings:
        head, body = _finding(finding)
        console.print(head)
        console.print(Padding(body, (0, 0, 0, 2)))
        console.print()
    if not any(outcome in _MARKS for outcome in report.levels.values()):
        console.print("Nothing else was checked.", style="yellow")
    else:
        for level, outcome in report.levels.items():
            mark, style = _MARKS.get(outcome, ("-", "yellow"))
            line = Text(f"L{level} {LEVEL_NAMES[level]} ")
            line.append(mark, style)
            line.append("" if outcome in _MARKS else f" {shown(outcome)}")
            console.print(line)
    if report.comparability is not None:
        _class(report.comparability, console)
    for note in report.notes:
        console.print(Text(f"note: {shown(note, limit=MAX_LINE)}", "dim"))
    verdict = Text()
    if report.errors:
        verdict.append(f"{shown(where)} does not hold: ", "bold red")
    else:
        verdict.append(f"{shown(where)} holds", "bold green")
        verdict.append(": " if report.warnings or report.waived else "")
    counts = [_count(report.errors, "error")] if report.errors else []
    counts += [_count(report.warnings, "warning")] if report.warnings else []
    counts += [f"{report.waived} waived"] if report.waived else []
    verdict.append(", ".join(counts))
    rows = f"{report.rows:,}".replace(",", "\u202f")
    verdict.append(f". {rows} rows checked, no file touched.")
    console.print(verdict)


def _class(found: Comparability, console: Console) -> None:
    """The comparability class, and what a reader must know first."""
    from rich.padding import Padding
    from rich.text import Text

    line = Text("class ")
    line.append(found.digest[:12], "bold")
    line.append(f": {shown(found.text, limit=MAX_LINE)}")
    console.print(line)
    for label in found.labels:
        text = f"{label.id} {label.name}: {label.observed}"
        if text not in found.reasons:  # those that cost the rank stand below
            console.print(Padding(Text(shown(text), "cyan"), (0, 0, 0, 2)))
    if not found.rankable:
        console.print(Text("Not to be ranked beside measured runs:", "yellow"))
        for reason in found.reasons:
            console.print(Padding(Text(shown(reason), "yellow"), (0, 0, 0, 2)))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _finding(finding: Finding) -> tuple[Text, Text]:
    from rich.text import Text

    colour = _COLOURS[finding.severity] if finding.counts else "dim"
    head = Text(f"{finding.id} {finding.name}", colour)
    if finding.waived is not None:
        head.append(" waived", "bold")
    head.append(f"   {shown(finding.file)}", "default")
    if finding.rows:
        rows = ", ".join(map(str, finding.rows[:6])) + (", ..." if len(finding.rows) > 6 else "")
        head.append(f" row{'' if len(finding.rows) == 1 else 's'} {rows}", "default")
    head.append(f"   clause {finding.clause}", "dim")
    body = Text(f"{shown(finding.observed)}\nexpected: {shown(finding.expected)}")
    if finding.joules_at_stake is not None:
        body.append(f"\nat stake: {quantity(finding.joules_at_stake, 'J')}")
    for example in finding.examples:
        body.append(f"\nalso: {shown(example)}", "dim")
    more = finding.count - 1 - len(finding.examples)
    if more > 0 and finding.examples:
        body.append(f"\nand {more} more", "dim")
    if finding.waived is not None:
        body.append("\nWaived: ", "bold")
        body.append(shown(finding.waived))
        return head, body
    body.append(f"\n{finding.why}", "italic")
    body.append("\nFix: ", "bold")
    body.append(finding.fix)
    return head, body
