"""J per served token where it was measured, and served tokens until a student has paid, T*."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report.figures.parts import Figure, Panel, Row, Spec, axis, base, colour, dash, ends, groups
from harness.report.figures.size import by_size
from harness.report.study import Entry


def serving(entries: Sequence[Entry]) -> Figure | str:
    """Per group what serving took, if a stage measured it, and T* for any saving."""
    panels, rows = [], []
    hues = colour(entries, strokes=all(e.served is None for e in entries))
    for group, members in groups(entries).items():
        measured = [
            {**base(e), "what": "measured", **ends("j_per_served_token", e.served)}
            for e in members
            if e.served is not None and e.size
        ]
        if measured:
            panels.append(by_size(group, measured, "j_per_served_token", "J per served token", hues, entries))
            rows += measured
        lines = [line for e in members if e.extra is not None and e.extra.best > 0 for line in _line(e)]
        if lines:
            panels.append(_lines(group, lines, hues, entries))
            rows += lines
    if not panels:
        return "no distilled run cost more than a direct training it may be compared with, and none served"
    caption = (
        "Tokens to be served until what a distilled student cost more than direct SFT of the same size has "
        "been saved, against the joules it saves for each token served"
    )
    if any(row["what"] == "measured" for row in rows):
        caption += "; beside it the measured joules of each student per served token, with their intervals."
    else:
        caption += ", which are not measured here."
    return Figure("serving", panels, rows, caption)


def _line(entry: Entry) -> list[Row]:
    found = []
    for saved in (10 ** (k / 4) for k in range(-12, 5)):
        assert entry.extra is not None
        best, low, high = (
            max(0.0, end) / saved for end in (entry.extra.best, entry.extra.low, entry.extra.high)
        )
        found.append(
            {
                **base(entry),
                "what": "T* for a saving",
                "saved_j_per_token": saved,
                "tokens": best,
                "tokens_low": low,
                "tokens_high": high if math.isfinite(high) else None,
            }
        )
    return found


def _lines(group: str, lines: Sequence[Row], hues: Spec, entries: Sequence[Entry]) -> Panel:
    x = axis("saved_j_per_token", "J saved per served token", type="log")
    x["axis"] = {"format": "~g", "values": [0.001, 0.01, 0.1, 1, 10]}
    marks = _decades([line["tokens"] for line in lines])
    y = axis(
        "tokens", "served tokens, T*", type="log", domain=[marks[0], 2 * marks[-1]], nice=False, clamp=True
    )
    y["axis"] = {"format": "~s", "values": marks}
    layer: Spec = {
        "data": {"values": list(lines)},
        "mark": {"type": "line", "size": 1.3},
        "encoding": {
            "x": x,
            "y": y,
            "color": hues,
            "strokeDash": dash(entries),
            "detail": {"field": "name"},
        },
    }
    return Panel(group, [layer], 0.72)


def _decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around some values."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    step = max(1, (last - first) // 4)
    return [10.0**power for power in range(first, last + 1, step)]
