"""What the energy was for, a bar a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.figures.parts import Figure, Panel, Spec, axis, base, called, groups
from harness.report.palette import ROLE_WORDS, ROLES
from harness.report.study import Entry, unit_of


def breakdown(entries: Sequence[Entry], *, share: bool) -> Figure | str:
    """Energy by role, absolute or as shares of the whole."""
    panels, rows = [], []
    for group, members in groups(entries).items():
        known = [e for e in members if e.roles]
        if not known:
            continue
        unit, scale = unit_of([sum(e.roles.values()) for e in known])
        labels = called(known)
        found = [
            {
                **base(e),
                "label": label,
                "part": ROLE_WORDS[role],
                "place": place,
                f"energy_{unit.lower()}": e.roles[role] * scale,
                "share": e.roles[role] / sum(e.roles.values()),
            }
            for e, label in zip(known, labels, strict=True)
            for place, role in enumerate(ROLE_WORDS)
            if e.roles.get(role)
        ]
        rows += found
        value = "share" if share else f"energy_{unit.lower()}"
        title = "share of the energy" if share else f"energy, {unit}"
        used = [role for role in ROLE_WORDS if any(e.roles.get(role) for e in entries)]
        colours = {"domain": [ROLE_WORDS[r] for r in used], "range": [ROLES[r] for r in used]}
        ticks = {"tickCount": 5, **({"format": "%"} if share else {})}
        layer: Spec = {
            "data": {"values": found},
            "mark": {"type": "bar", "size": 9},
            "encoding": {
                "y": {"field": "label", "type": "nominal", "title": None, "sort": labels},
                "x": {**axis(value, title), "axis": ticks, "scale": {"domainMax": 1} if share else {}},
                "color": {"field": "part", "type": "nominal", "title": None, "scale": colours},
                "order": {"field": "place"},
            },
        }
        panels.append(Panel(group, [layer], -14.0 * len(known)))
    if not panels:
        return "no energy is known"
    what = "as shares of the whole" if share else "in absolute terms"
    return Figure(
        "breakdown-share" if share else "breakdown",
        panels,
        rows,
        f"Energy of each pipeline by what it was for, {what}, by the best values; the teacher's output is "
        "charged in full.",
    )
