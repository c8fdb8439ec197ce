"""The probe's figures as tables of 80 columns: a column a GPU, then how each figure was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.gpucheck.probe.figures import HONESTY, SCOPES, DeviceProbe, Figure, ProbeResult

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


def _labels(devices: Sequence[DeviceProbe]) -> list[tuple[str, str]]:
    """(key, label) of every figure that any of the devices has, in order."""
    return list({figure.key: figure.label for device in devices for figure in device.figures}.items())


def _table(devices: Sequence[DeviceProbe]) -> list[str]:
    heads = [f"GPU {device.device_id}" for device in devices]
    models = [(device.model or "").removeprefix("NVIDIA ")[: _COLUMN - 1] for device in devices]
    lines = [_row("", heads), _row("", models)]
    for key, label in _labels(devices):
        figures = [{figure.key: figure for figure in device.figures}.get(key) for device in devices]
        lines.append(_row(label, ["" if figure is None else format_figure(figure) for figure in figures]))
    return [line.rstrip() for line in lines]


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:{_LABEL}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _findings(device: DeviceProbe) -> list[str]:
    mark = " " if device.scope == "gpu" else "!"
    lines = _wrapped(f"GPU {device.device_id}: {SCOPES[device.scope]}", f"{mark} ", "  ")
    for remark in device.remarks:
        lines += _wrapped(f"GPU {device.device_id}: {remark}", "! ", "  ")
    return lines


def _hows(devices: Sequence[DeviceProbe]) -> list[tuple[str, str, list[int]]]:
    """(label, how, devices), the same way of several devices and of neighbouring figures told once."""
    told: dict[tuple[str, str], list[int]] = {}
    for key, label in _labels(devices):
        for device in devices:
            for figure in device.figures:
                if figure.key == key:
                    told.setdefault((label, figure.how), []).append(device.device_id)
    merged: list[tuple[str, str, list[int]]] = []
    for (label, how), where in told.items():
        for number, (labels, known, ids) in enumerate(merged):
            if (known, ids) == (how, where):
                merged[number] = (f"{labels}, {label}", how, where)
                break
        else:
            merged.append((label, how, where))
    return merged


def format_figure(figure: Figure) -> str:
    """The value with its unit and, where known, its error; "-" for one that could not be measured."""
    if figure.value is None:
        return "-"
    unit = _UNITS[figure.key.rpartition("_")[2]]
    if figure.plus_minus:
        most = 2 if unit == "ms" else 3
        digits = _digits(figure.plus_minus, most)
        value = round(figure.value, digits) + 0.0  # no "-0.00"
        error = max(figure.plus_minus, 10.0**-most)
        return f"{value:.{digits}f} +- {error:.{digits}f} {unit}".rstrip()
    return f"{figure.value:.4g} {unit}".rstrip()


def _digits(error: float, most: int) -> int:
    """Decimals that show an error to one digit, `most` at most."""
    digits = 0
    while digits < most and error < 0.95 * 10.0**-digits:
        digits += 1
    return digits


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=then)
