"""The probe's figures as tables of 80 columns: a column a GPU, then how each figure was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.gpucheck.probe.analyse import HONESTY, LABELS, SCOPES, DeviceProbe, Figure
from harness.gpucheck.probe.run import ProbeResult

WIDTH = 80
_LABEL = 23
_COLUMN = 19
_ABREAST = (WIDTH - _LABEL) // _COLUMN
_UNITS = {"ms": "ms", "us": "us", "s": "s", "w": "W", "ratio": ""}


def render_probe(result: ProbeResult) -> str:
    """The tables, what is remarkable, and how it was measured."""
    count = len(result.devices)
    lines = [f"Instruments of {count} GPU{'s' * (count != 1)}, driver {result.driver or 'unknown'}", ""]
    for first in range(0, count, _ABREAST):
        lines += [*_table(result.devices[first : first + _ABREAST]), ""]
    for device in result.devices:
        lines += _findings(device)
    lines += ["", "How it was measured"]
    for label, how, devices in _hows(result.devices):
        which = "" if len(devices) == count else f" (GPU {', '.join(map(str, devices))})"
        lines += _wrapped(f"{label}{which}: {how}", "  ", "    ")
    lines.append("")
    if result.load is None:
        lines += _wrapped(f"No load was made: {result.no_load_reason}.")
    else:
        lines += _wrapped(f"Load: square wave of matrix products by {result.load}.")
    for note in (*result.notes, HONESTY):
        lines += _wrapped(note)
    return "\n".join(lines)


def _table(devices: Sequence[DeviceProbe]) -> list[str]:
    lines = [_row("", [f"GPU {device.device_id}" for device in devices])]
    lines.append(_row("", [(one.model or "").removeprefix("NVIDIA ")[: _COLUMN - 1] for one in devices]))
    for key, label in LABELS.items():
        figures = [device.figures.get(key) for device in devices]
        if any(figures):
            cells = ["" if figure is None else format_figure(key, figure) for figure in figures]
            lines.append(_row(label, cells))
    return [line.rstrip() for line in lines]


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _findings(device: DeviceProbe) -> list[str]:
    mark = " " if device.counter_scope == "gpu" else "!"
    lines = _wrapped(f"GPU {device.device_id}: {SCOPES[device.counter_scope]}", f"{mark} ", "  ")
    for remark in device.remarks:
        lines += _wrapped(f"GPU {device.device_id}: {remark}", "! ", "  ")
    return lines


def _hows(devices: Sequence[DeviceProbe]) -> list[tuple[str, str, list[int]]]:
    """(label, how, devices), the same way of several devices and of several figures told once."""
    labels: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for key, label in LABELS.items():
        told: dict[str, list[int]] = {}
        for device in devices:
            if key in device.figures:
                told.setdefault(device.figures[key].how, []).append(device.device_id)
        for how, where in told.items():
            labels.setdefault((how, tuple(where)), []).append(label)
    return [(", ".join(names), how, list(where)) for (how, where), names in labels.items()]


def format_figure(key: str, figure: Figure) -> str:
    """The value with its unit and, where known, its error; "-" for one that could not be measured."""
    if figure.value is None:
        return "-"
    unit = _UNITS[key.rpartition("_")[2]]
    if figure.plus_minus:
        most = 2 if unit == "ms" else 3
        # As many decimals as show the error to one digit.
        digits = next((n for n in range(most) if figure.plus_minus >= 0.95 * 10.0**-n), most)
        value = round(figure.value, digits) + 0.0  # no "-0.00"
        error = max(figure.plus_minus, 10.0**-most)
        return f"{value:.{digits}f} +- {error:.{digits}f} {unit}".rstrip()
    return f"{figure.value:.4g} {unit}".rstrip()


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=then)
