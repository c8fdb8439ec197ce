"""The diagnosis as text: 80 columns or fewer, readable without colour and without Unicode."""

from __future__ import annotations

import textwrap

from harness.doctor.checks import GROUPS, Check
from harness.doctor.diagnose import Diagnosis
from harness.spec import load_protocol

WIDTH = 80
_MARKS = {"ok": "✓", "warn": "!", "missing": "✗", "info": "·"}
_PLAIN_MARKS = {"ok": "+", "warn": "!", "missing": "x", "info": "-"}
_TITLE = 22
_GPU_METHODS = {
    "counter": "measured, by the energy counter",
    "power_integral": "measured, by power samples only",
}


def render(diagnosis: Diagnosis, encoding: str | None = "utf-8", width: int = WIDTH) -> str:
    """The report.

    Args:
        diagnosis: What to report.
        encoding: The terminal's; marks are plain characters where it has no ✓.
        width: The terminal's; a wider one than 80 columns gets no longer lines.
    """
    marks, width = marks_for(encoding), min(WIDTH, max(width, 2 * _TITLE))
    lines = ["What can be measured on this machine", ""]
    for group, heading in GROUPS.items():
        lines.append(heading)
        for check, devices in _collapsed([check for check in diagnosis.checks if check.group == group]):
            lines += _check_lines(check, devices, marks, width)
        lines.append("")
    lines += _verdict(diagnosis, marks)
    return "\n".join(lines)


def marks_for(encoding: str | None) -> dict[str, str]:
    """The marks that the encoding can show."""
    try:
        "".join(_MARKS.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_MARKS
    return _MARKS


def _collapsed(checks: list[Check]) -> list[tuple[Check, list[int]]]:
    """Checks with the same finding on several GPUs become one line that names them all."""
    rows: list[tuple[Check, list[int]]] = []
    for check in checks:
        if check.device is None:
            rows.append((check, []))
            continue
        for known, devices in rows:
            if devices and (known.id, known.status, known.observed) == (
                check.id,
                check.status,
                check.observed,
            ):
                devices.append(check.device)
                break
        else:
            rows.append((check, [check.device]))
    return rows


def _check_lines(check: Check, devices: list[int], marks: dict[str, str], width: int) -> list[str]:
    observed = check.observed
    if devices:
        observed = f"GPU {_ranges(devices)}: {observed}"
    head = f"  {marks[check.status]} {check.title:{_TITLE}} "
    lines = textwrap.wrap(observed, width, initial_indent=head, subsequent_indent=" " * len(head))
    if check.status in ("warn", "missing"):
        lines += textwrap.wrap(
            check.why_it_matters, width, initial_indent="      why: ", subsequent_indent=" " * 11
        )
        lines += _command_lines(check.fix, width)
    return lines


def _command_lines(fix: str | None, width: int) -> list[str]:
    """A command that can be copied: backslashes where it is too long, its remark on a line of its own."""
    if fix is None:
        return []
    command, _, remark = fix.partition("  # ")
    words, lines = command.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width - 15:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    shown = [f"      {'fix:' if n == 0 else '    '} {line}" for n, line in enumerate(lines)]
    shown = [line + " \\" for line in shown[:-1]] + shown[-1:]
    if remark:
        if len(shown[-1]) + len(remark) + 4 <= width:
            shown[-1] += f"  # {remark}"
        else:
            shown.append(f"           # {remark}")
    return shown


def _ranges(numbers: list[int]) -> str:
    """`0-3, 5` for [0, 1, 2, 3, 5]."""
    parts: list[str] = []
    start = previous = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == previous + 1:
            previous = number
            continue
        parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ", ".join(parts)


def _verdict(diagnosis: Diagnosis, marks: dict[str, str]) -> list[str]:
    names = {"gpu": "GPU energy", "cpu": "CPU energy", "dram": "memory energy"}
    lines = ["A run here"]
    methods = {s.method: f"{s.state}, by {s.words}" for s in load_protocol().sources} | _GPU_METHODS
    for part, method in diagnosis.methods.items():
        words = methods.get(method, "absent")
        good = words.startswith("measured") and method != "power_integral"
        status = "missing" if words == "absent" else "ok" if good else "warn"
        lines.append(f"  {marks[status]} {names[part]:{_TITLE}} {words}")
    for name in diagnosis.required:
        found = name not in diagnosis.missing
        lines.append(
            f"  {marks['ok' if found else 'missing']} {'--require ' + name:{_TITLE}} "
            f"{'there' if found else 'not there'}"
        )
    if not diagnosis.measurable:
        lines.append("  Nothing can be measured or estimated here.")
    return lines
