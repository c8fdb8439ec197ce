"""A plan beside what was measured, a row a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.figures.parts import Figure, Panel, Row, Spec, axis, log_ticks

_UNITS = {"seconds": ("time", "s", 1.0), "gpu_energy_j": ("GPU energy", "kJ", 1e-3)}


def planned_figure(plan: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """Planned ranges as bars, the likely value in them, and what was measured as a diamond.

    Args:
        plan: its `name` and `card`.
        rows: at least one; `stage`, and for each quantity its low, likely, high and measured value or None.
    """
    panels = [
        _panel(f"{plan['name']} on {plan['card']}: {title}", rows, quantity, f"{title}, {unit}", scale)
        for quantity, (title, unit, scale) in _UNITS.items()
    ]
    caption = (
        "Each stage as planned and as measured. Bars reach from the low to the high end of the plan, ticks "
        "are its likely values, diamonds what was measured; without one nothing was metered."
    )
    return Figure("planned", panels, rows, caption)


def _panel(title: str, rows: Sequence[Row], quantity: str, words: str, scale: float) -> Panel:
    values = [
        {
            "stage": row["stage"],
            **{end: row[f"{quantity}_{end}"] * scale for end in ("low", "likely", "high")},
            "measured": None if row[f"{quantity}_measured"] is None else row[f"{quantity}_measured"] * scale,
        }
        for row in rows
    ]
    known = [value for row in values for value in row.values() if isinstance(value, float) and value > 0]
    domain = [min(known, default=1.0) / 1.25, max(known, default=1.0) * 1.25]
    y: Spec = {"field": "stage", "type": "nominal", "title": None, "sort": [row["stage"] for row in rows]}
    x = axis("low", words, type="log", domain=domain, nice=False)
    x["axis"] = {"format": "~s", "values": log_ticks(*domain), "labelOverlap": True}
    kinds: Spec = {"field": "kind", "type": "nominal", "title": None}
    kinds["scale"] = {"domain": ["planned", "measured"], "range": ["#666666", "#cc3311"]}
    drawn = [{**row, "kind": "planned"} for row in values]
    found = [{**row, "kind": "measured"} for row in values if row["measured"] is not None]
    layers: list[Spec] = [
        {
            "data": {"values": drawn},
            "mark": {"type": "bar", "size": 7, "opacity": 0.35},
            "encoding": {"y": y, "x": x, "x2": {"field": "high"}, "color": kinds},
        },
        {
            "data": {"values": drawn},
            "mark": {"type": "tick", "size": 9, "thickness": 1.5},
            "encoding": {"y": y, "x": {**x, "field": "likely"}, "color": kinds},
        },
        {
            "data": {"values": found},
            "mark": {"type": "point", "shape": "diamond", "filled": True, "size": 34, "opacity": 1},
            "encoding": {"y": y, "x": {**x, "field": "measured"}, "color": kinds},
        },
    ]
    return Panel(title, layers, -14.0 * len(rows))
