"""Energy over reuses of the teacher's output, and N* with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.accounting.shared_scales import at
from harness.report.figures.parts import Figure, Panel, Row, Spec, axis, base, colour, dash, groups
from harness.report.study import Entry

MOST_REUSES = 64
_STRIP = 0.075
"""Height that each N* takes below the lines, as a share of the lines' own."""
_ROOM = 1.6
"""Reuses from which the size of a student has room left of its N*."""


def amortization(entries: Sequence[Entry]) -> Figure | str:
    """A line a distilled student; below them a row each for its N*."""
    panels, rows = [], []
    for group, members in groups(entries).items():
        lines, marks = _lines(members)
        if not lines:
            continue
        rows += [{k: v for k, v in mark.items() if k not in ("from", "to", "end")} for mark in marks]
        panels.append(_panel(group, lines, marks, [e for e in entries if e.parts]))
    if not panels:
        return "no distilled run has a direct training to be compared with"
    caption = (
        "Training energy of a distilled student with its share of the teacher's output, over that of direct "
        "SFT of the same size, against the number of students that share it. Where a line falls to 1 "
        "the teacher has paid: each mark at the bottom is one N* with its interval, an arrow goes "
        f"beyond {MOST_REUSES}."
    )
    reasons: dict[str, list[str]] = {}
    for e in entries:
        if e.withheld is not None:
            reasons.setdefault(e.withheld, []).append(e.name)
    caption += "".join(f" No verdict for {', '.join(names)}: {why}." for why, names in reasons.items())
    return Figure("amortization", panels, rows, caption)


def _lines(members: Sequence[Entry]) -> tuple[list[Row], list[Row]]:
    lines: list[Row] = []
    marks: list[Row] = []
    for e in members:
        if e.parts is None or any(part is None for part in e.parts):
            continue
        teacher, direct, distilled = (at(part, {}).best for part in e.parts if part is not None)
        if direct <= 0:
            continue
        steps = [2 ** (k / 8) for k in range(8 * int(math.log2(MOST_REUSES)) + 1)]
        lines += [{**base(e), "reuses": n, "relative": (distilled + teacher / n) / direct} for n in steps]
        even = e.even
        ends = {"break_even": even.ratio, "break_even_low": even.low, "break_even_high": even.high}
        mark = {
            **base(e),
            "case": even.case if even.withheld is None else f"no verdict: {even.withheld}",
            **{
                name: end if end is not None and math.isfinite(end) and even.withheld is None else None
                for name, end in ends.items()
            },
        }
        told = even.case == "finite" and even.withheld is None
        if told and even.ratio is not None and 1 <= even.ratio <= MOST_REUSES:
            mark |= {"from": max(1.0, even.low), "to": min(even.high, MOST_REUSES)}
            mark["end"] = "beyond" if even.high > MOST_REUSES else "inside"
        marks.append(mark)
    return lines, marks


def _panel(group: str, lines: Sequence[Row], marks: Sequence[Row], entries: Sequence[Entry]) -> Panel:
    x = axis(
        "reuses", "students that share the teacher's output, N", type="log", base=2, domain=[1, MOST_REUSES]
    )
    x["axis"] = {"values": [2**k for k in range(int(math.log2(MOST_REUSES)) + 1)], "format": "d"}
    low, high = min(1.0, *(r["relative"] for r in lines)), max(r["relative"] for r in lines)
    height = high - low or 1.0
    known = [mark for mark in marks if "from" in mark]
    strip = [{**mark, "relative": low - (place + 1.3) * _STRIP * height} for place, mark in enumerate(known)]
    bottom = low - (len(strip) + 1.0) * _STRIP * height if strip else low
    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf) if height <= 6 * step)
    y = axis(
        "relative",
        "training energy over direct SFT",
        domain=[bottom, high + 0.03 * height],
        nice=False,
        zero=False,
    )
    if math.isfinite(step):
        first, last = math.ceil(round(low / step, 6)), math.floor(round(high / step, 6))
        y["axis"] = {"values": [round(step * k, 6) for k in range(first, last + 1)], "labelOverlap": False}
    colours, dashes = colour(entries, strokes=True), dash(entries)
    beyond = [mark for mark in strip if mark["end"] == "beyond"]
    rule = {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y}
    layers: list[Spec] = [
        {
            "data": {"values": [{"relative": 1}]},
            "mark": {"type": "rule", "color": "#555", "size": 1},
            "encoding": {"y": y},
        },
        {
            "data": {"values": list(lines)},
            "mark": {"type": "line", "size": 1.3},
            "encoding": {"x": x, "y": y, "color": colours, "strokeDash": dashes, "detail": {"field": "name"}},
        },
        {
            "data": {"values": strip},
            "mark": {"type": "rule", "size": 1.3},
            "encoding": {**rule, "color": colours},
        },
        {
            "data": {"values": strip},
            "mark": {"type": "point", "filled": True, "size": 22, "opacity": 1},
            "encoding": {"x": {**x, "field": "break_even"}, "y": y, "color": colours},
        },
        {
            "data": {"values": beyond},
            "mark": {"type": "point", "shape": "triangle-right", "filled": True, "size": 22, "opacity": 1},
            "encoding": {"x": {**x, "field": "to"}, "y": y, "color": colours},
        },
    ]
    labels = [
        {**mark, "at": mark["to" if near else "from"], "near": near}
        for mark in strip
        for near in [mark["from"] < _ROOM]
    ]
    for near, side, shift in ((True, "left", 4), (False, "right", -4)):
        layers.append(
            {
                "data": {"values": [label for label in labels if label["near"] is near]},
                "mark": {"type": "text", "align": side, "dx": shift, "fontSize": 7.5, "color": "#444"},
                "encoding": {"x": {**x, "field": "at"}, "y": y, "text": {"field": "size"}},
            }
        )
    return Panel(group, layers, 0.72, "bottom: N* and its interval" if strip else "")
