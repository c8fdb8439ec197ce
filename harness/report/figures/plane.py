"""Energy against quality with its frontier: of a grid, and of a sweep around one of its cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from harness.report.figures.parts import (
    SHAPES,
    Figure,
    Panel,
    Row,
    Spec,
    axis,
    base,
    colour,
    ends,
    groups,
    log_ticks,
    method,
    shape,
)
from harness.report.palette import METHOD_WORDS
from harness.report.study import SETTINGS, Entry, Placed, place, unit_of

_STANDING = {
    "field": "standing",
    "type": "nominal",
    "scale": {"domain": ["frontier", "tie", "dominated"], "range": [1, 0.3, 0]},
    "legend": None,
}
_STANDING_WORDS = "filled: on the frontier; pale: a tie; hollow: dominated"
SWEEPS = {"kd-grid": ("temperature", "alpha"), "length": ("max_new_tokens",), "prompts": ("prompts",)}
_SETTING_WORDS = {
    "alpha": "alpha",
    "temperature": "T",
    "max_new_tokens": "new tokens",
    "prompts": "prompts",
}
# Not those of the methods: Paul Tol's muted scheme, told apart by the colour-blind.
_SETTING_HUES = ("#332288", "#cc9933", "#117733", "#aa4499", "#44aa99", "#882255")


def pareto(entries: Sequence[Entry], log: bool) -> Figure | str:
    """The plane of every group."""
    panels, rows = [], []
    for group, members in groups(entries).items():
        placed = place(members)
        if not placed:
            continue
        panel, found = _plane(group, placed, log, colour(entries), shape(entries))
        panels.append(panel)
        rows += found
    if not panels:
        return "no run has both an energy and a Q"
    caption = (
        "Energy of the whole pipeline against relative quality Q. The dashed line is the frontier by the "
        "best values, the band what the intervals allow; filled marks lie on it, pale ones tie with "
        "a better one, hollow ones are dominated. Bars hold what differs between the runs of a panel."
    )
    return Figure("pareto", panels, rows, caption)


def _plane(
    title: str, placed: Sequence[Placed], log: bool, colours: Spec, shapes: Spec, *, near: bool = False
) -> tuple[Panel, list[Row]]:
    """A panel and its rows.

    Args:
        title: of the panel.
        placed: what is drawn.
        log: logarithmic energy.
        colours: channel of hues.
        shapes: channel of shapes.
        near: whether the axis of Q is as long as the intervals, not from 0 to 1.
    """
    unit, scale = unit_of([p.x.best for p in placed])
    x = f"energy_{unit.lower()}"
    rows = [
        {
            **base(p.entry),
            **p.entry.setting,
            **ends(x, p.x, scale),
            **ends("q", p.y),
            "standing": p.state,
            "others": ", ".join(p.others),
        }
        for p in placed
    ]
    least = min(p.x.low if p.x.low > 0 or not log else p.x.best for p in placed) * scale
    most = max(p.x.high if math.isfinite(p.x.high) else p.x.best for p in placed) * scale
    domain = [least / 1.25, most * 1.25] if log else [0, most * 1.05]
    span = [0.0, max(1.0, *(p.y.high for p in placed))]
    if near:
        bottom, top = min(p.y.low for p in placed), max(p.y.high for p in placed)
        span = [max(0.0, math.floor(20 * bottom - 0.5) / 20), math.ceil(20 * top + 0.5) / 20]
    drawn = [
        {
            **row,
            f"{x}_low": max(row[f"{x}_low"], domain[0]),
            f"{x}_high": min(row[f"{x}_high"] or domain[1], domain[1]),
        }
        for row in rows
    ]
    along = axis(x, f"energy, {unit}", type="log" if log else "linear", domain=domain, nice=False)
    along["axis"] = {"format": "~g", "labelOverlap": True}
    along["axis"] |= {"values": log_ticks(*domain)} if log else {"tickCount": 5}
    up = axis("q", "relative quality Q", domain=span)
    up["axis"] = {"tickCount": 6}
    faint = {"type": "rule", "opacity": 0.5, "size": 1}
    point = {"x": along, "y": up, "color": colours, "shape": shapes}
    layers: list[Spec] = [
        {
            "data": {"values": _band(placed, scale, domain)},
            "mark": {
                "type": "area",
                "interpolate": "step-after",
                "color": "#888",
                "opacity": 0.18,
                "clip": True,
            },
            "encoding": {"x": along, "y": {**up, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "data": {"values": _stairs(placed, scale, domain[1])},
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "strokeDash": [5, 3],
                "color": "#555",
                "size": 1,
            },
            "encoding": {"x": along, "y": up},
        },
        {
            "mark": faint,
            "encoding": {
                "x": {**along, "field": f"{x}_low"},
                "x2": {"field": f"{x}_high"},
                "y": up,
                "color": colours,
            },
        },
        {
            "mark": faint,
            "encoding": {
                "x": along,
                "y": {**up, "field": "q_low"},
                "y2": {"field": "q_high"},
                "color": colours,
            },
        },
        {
            "mark": {"type": "point", "filled": False, "size": 34, "strokeWidth": 1.3, "opacity": 1},
            "encoding": point,
        },
        {"mark": {"type": "point", "filled": True, "size": 34}, "encoding": {**point, "opacity": _STANDING}},
    ]
    for layer in layers[2:]:
        layer["data"] = {"values": drawn}
    return Panel(title, layers, 0.55 if near else 0.72, _STANDING_WORDS), rows


def _stairs(placed: Sequence[Placed], scale: float, end: float) -> list[Row]:
    found = [{"energy": p.x.best * scale, "q": p.y.best} for p in placed if p.state == "frontier"]
    unit, _ = unit_of([p.x.best for p in placed])
    steps = [*found, {"energy": end, "q": found[-1]["q"]}] if found else []
    return [{f"energy_{unit.lower()}": step["energy"], "q": step["q"]} for step in steps]


def _band(placed: Sequence[Placed], scale: float, domain: Sequence[float]) -> list[Row]:
    """The quality that an energy buys, at the worst and at the best that the intervals allow."""
    unit, _ = unit_of([p.x.best for p in placed])
    best = [(max(p.x.low * scale, domain[0]), p.y.high) for p in placed]
    worst = [(p.x.high * scale, p.y.low) for p in placed if math.isfinite(p.x.high)]
    start = min([x for x, _ in worst], default=domain[1])
    places = sorted({x for x, _ in (*best, *worst) if start <= x <= domain[1]} | {domain[1]})
    return [
        {
            f"energy_{unit.lower()}": x,
            "low": max([q for at_, q in worst if at_ <= x] or [0.0]),
            "high": max([q for at_, q in best if at_ <= x] or [0.0]),
        }
        for x in places
    ]


def _told_by(setting: str, members: Sequence[Entry], values: Sequence[str]) -> Spec:
    """A channel of the values that a setting took; hues and shapes are given in the order of the values."""
    known = sorted({entry.setting[setting] for entry in members})
    kinds = [values[place % len(values)] for place in range(len(known))]
    title = _SETTING_WORDS[setting]
    return {"field": setting, "type": "nominal", "title": title, "scale": {"domain": known, "range": kinds}}


def sweep_maker(name: str, log: bool) -> Callable[[Sequence[Entry]], Figure | str]:
    """What draws a sweep: a panel for each cell that it was run around, settings told by hue and shape."""
    axes = SWEEPS[name]
    fixed = [setting for setting in SETTINGS if setting not in axes]

    def make(entries: Sequence[Entry]) -> Figure | str:
        families: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in entries:
            if all(setting in entry.setting for setting in axes):
                rest = (entry.group, entry.method, entry.size, *(entry.setting.get(s) for s in fixed))
                families.setdefault(rest, []).append(entry)
        panels, rows = [], []
        for members in families.values():
            if len({tuple(entry.setting[setting] for setting in axes) for entry in members}) < 2:
                continue
            placed = place(members)
            if len(placed) < 2:
                continue
            first = members[0]
            title = f"{METHOD_WORDS[method(first)]} {first.size.upper()}, {first.group}"
            channels = _told_by(axes[-1], members, _SETTING_HUES), _told_by(axes[0], members, SHAPES)
            panel, found = _plane(title, placed, log, *channels, near=True)
            panels.append(panel)
            settings = [p.entry.setting for p in placed]
            rows += [
                {**row, **{setting: s.get(setting) for setting in SETTINGS}}
                for row, s in zip(found, settings, strict=True)
            ]
        if not panels:
            return f"fewer than two settings of {' and '.join(axes)} were run"
        what = " and ".join(_SETTING_WORDS[setting] for setting in axes)
        caption = (
            f"Sweep of {what} with its own frontier; marks of one kind are repeats with other seeds. "
            "The axis of Q does not begin at zero."
        )
        return Figure(f"sweep-{name}", panels, rows, caption)

    return make
