"""What figures are made of: panels, axes, and one colour, shape and dash for each method and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.accounting import Interval
from harness.report.palette import METHOD_WORDS, REGIMES
from harness.report.study import Entry, size_order

Row = dict[str, Any]
Spec = dict[str, Any]

HUES = {**REGIMES, "other": "#666666"}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_DASHES = ([1, 0], [5, 2], [2, 2], [7, 2, 2, 2], [1, 2], [9, 3])
_STROKE = {"symbolType": "stroke", "symbolSize": 160}


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: group of the entries.
        layers: Vega-Lite layers with their data inline.
        height: of the plot over its width; a negative one is in points.
        note: second line of the title.
    """

    title: str
    layers: Sequence[Spec]
    height: float
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: of its files.
        panels: plots side by side, below each other where the page is narrow.
        rows: the data behind the marks, for CSV.
        caption: what is drawn, for the paper.
    """

    name: str
    panels: Sequence[Panel]
    rows: Sequence[Row]
    caption: str


def groups(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries by group, in each by method and then by size."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.group, []).append(entry)
    order = list(METHOD_WORDS)
    for members in found.values():
        members.sort(key=lambda e: (order.index(method(e)), size_order(e.size), e.name))
    return found


def method(entry: Entry) -> str:
    """A key of `METHOD_WORDS`."""
    return entry.method if entry.method in METHOD_WORDS else "other"


def sizes(entries: Sequence[Entry]) -> list[str]:
    """Sizes of students in words, from small to large."""
    return [s.upper() for s in sorted({e.size for e in entries if e.size}, key=size_order)]


def called(members: Sequence[Entry]) -> list[str]:
    """What a figure calls each of some entries: method and size, or the name where those are not unique."""
    words = [f"{METHOD_WORDS[method(e)]} {e.size.upper()}" if e.size else e.name for e in members]
    plain = len(set(words)) == len(words) and "other" not in map(method, members)
    return words if plain else [e.name for e in members]


def colour(entries: Sequence[Entry], *, strokes: bool = False) -> Spec:
    """Channel of the methods; `strokes` draws the legend as lines."""
    used = [m for m in METHOD_WORDS if any(method(e) == m for e in entries)]
    scale = {"domain": [METHOD_WORDS[m] for m in used], "range": [HUES[m] for m in used]}
    legend = {"legend": _STROKE} if strokes else {}
    return {"field": "method", "type": "nominal", "title": None, "scale": scale, **legend}


def shape(entries: Sequence[Entry]) -> Spec:
    """Channel of the sizes as shapes."""
    known = sizes(entries) or [""]
    scale = {"domain": known, "range": list(SHAPES[: len(known)])}
    legend: Any = {} if len(known) > 1 else None
    return {"field": "size", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def dash(entries: Sequence[Entry]) -> Spec:
    """Channel of the sizes as dashes."""
    known = sizes(entries) or [""]
    scale = {"domain": known, "range": list(_DASHES[: len(known)])}
    legend: Any = _STROKE if len(known) > 1 else None
    return {"field": "size", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def base(entry: Entry) -> Row:
    """Columns of every row."""
    return {
        "group": entry.group,
        "name": entry.name,
        "method": METHOD_WORDS[method(entry)],
        "size": entry.size.upper(),
    }


def ends(name: str, value: Interval, scale: float = 1.0) -> Row:
    """Three columns for a figure; an infinite end is none."""
    high = value.high * scale if math.isfinite(value.high) else None
    return {name: value.best * scale, f"{name}_low": value.low * scale, f"{name}_high": high}


def axis(name: str, title: str, **scale: Any) -> Spec:
    """A quantitative channel."""
    return {"field": name, "type": "quantitative", "title": title, "scale": scale}


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for the labels of a logarithmic axis: 1, 2, 5, and more of them where few fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) > 3:
            break
    return found


def intervals_and_points(rows: Sequence[Row], x: Spec, y: Spec, colours: Spec, **point: Any) -> list[Spec]:
    """Layers of upright intervals, and on each a point told by hue and shape."""
    value = y["field"]
    shapes = {**colours, "scale": {**colours["scale"], "range": SHAPES[: len(colours["scale"]["domain"])]}}
    if "legend" in colours:
        shapes["legend"] = None
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "size": 1, "opacity": 0.5},
            "encoding": {
                "x": x,
                **point,
                "y": {**y, "field": f"{value}_low"},
                "y2": {"field": f"{value}_high"},
                "color": colours,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 34, "opacity": 1},
            "encoding": {"x": x, **point, "y": y, "color": colours, "shape": shapes},
        },
    ]
    for layer in layers:
        layer["data"] = {"values": list(rows)}
    return layers
