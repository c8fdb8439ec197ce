"""Energy for each reference token against the size of the student."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.figures.parts import (
    Figure,
    Panel,
    Row,
    Spec,
    axis,
    base,
    colour,
    ends,
    groups,
    intervals_and_points,
    sizes,
)
from harness.report.palette import METHOD_WORDS
from harness.report.study import Entry


def by_size(
    group: str, rows: Sequence[Row], value: str, title: str, hues: Spec, entries: Sequence[Entry]
) -> Panel:
    """A panel with sizes of students along, methods beside each other.

    Args:
        group: title.
        rows: with `value` and its ends.
        value: column that is drawn.
        title: of its axis.
        hues: channel of the methods; where its legend is made of lines the shapes have none.
        entries: of all panels, for their sizes.
    """
    x: Spec = {"field": "size", "type": "ordinal", "title": "student", "sort": sizes(entries)}
    x["axis"] = {"labelAngle": 0}
    offset = {"field": "method", "type": "nominal", "sort": list(METHOD_WORDS.values())}
    return Panel(
        group,
        intervals_and_points(rows, x, axis(value, title, zero=True), hues, xOffset=offset),
        0.72,
    )


def size(entries: Sequence[Entry]) -> Figure | str:
    """J for each declared token of every run that names a size."""
    panels, rows = [], []
    for group, members in groups(entries).items():
        known = [
            (e, whole.scale(1 / e.tokens)) for e in members if e.size and e.tokens and (whole := e.total)
        ]
        if not known:
            continue
        found = [{**base(e), **ends("j_per_token", each), "tokens": e.tokens} for e, each in known]
        rows += found
        panels.append(by_size(group, found, "j_per_token", "J per reference token", colour(entries), entries))
    if not panels:
        return "no run names a size and a declared token count"
    caption = (
        "Energy of the pipeline for each reference token against the size of the student; bars are intervals."
    )
    return Figure("size", panels, rows, caption)
