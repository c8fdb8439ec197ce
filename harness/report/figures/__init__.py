"""Figures for a paper as Vega-Lite layers, one module a subject; `drawing` makes files of them.

A figure is a list of panels, one for each group of entries: what is measured here and what is published stand
in one picture and never share an axis or a ranking. Positions, frontier and N* are the report's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.report.figures.bars import breakdown
from harness.report.figures.parts import Figure, Panel, Row, Spec
from harness.report.figures.plane import SWEEPS, pareto, sweep_maker
from harness.report.figures.reuse import amortization
from harness.report.figures.serving import serving
from harness.report.figures.size import size
from harness.report.study import Entry

__all__ = ["SWEEPS", "Figure", "Panel", "Row", "Spec", "figures"]


def figures(entries: Sequence[Entry], *, log: bool = True) -> tuple[list[Figure], dict[str, str]]:
    """Every figure that the entries have data for, and of the others why not.

    Args:
        entries: of one or several groups.
        log: whether the energy axis of the plane is logarithmic.
    """
    makers: dict[str, Callable[[Sequence[Entry]], Figure | str]] = {
        "pareto": lambda given: pareto(given, log),
        "breakdown": lambda given: breakdown(given, share=False),
        "breakdown-share": lambda given: breakdown(given, share=True),
        "amortization": amortization,
        "serving": serving,
        "size": size,
        **{f"sweep-{name}": sweep_maker(name, log) for name in SWEEPS},
    }
    made, missing = [], {}
    for name, make in makers.items():
        found = make(entries)
        if isinstance(found, str):
            missing[name] = found
        else:
            made.append(found)
    return made, missing
