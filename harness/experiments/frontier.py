"""Energy against quality: which cells no other cell beats in both.

The comparison is `harness.accounting.pareto`: where the interval of two energies' ratio holds 1, or those of
Q overlap, no order can be claimed and the two are a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.accounting import Interval, ParetoPoint, pareto_frontier
from harness.accounting.stage_scales import ranges
from harness.bundle.derive import scale_bars
from harness.experiments.results import PARTS, CellResult
from harness.spec import load_protocol


@dataclass(frozen=True)
class Point:
    """A cell on the plane of energy and quality.

    Attributes:
        energy_j: Its total, the teacher charged in full.
        quality: Q; `quality_low` and `quality_high` are its 95 % interval, of no width where the standard
            error is unknown.
        dominated_by: Names of the cells that are better beyond doubt.
        ties: Names of cells that would dominate it but for overlapping intervals.
    """

    name: str
    regime: str
    size: str
    energy_j: float
    energy_j_low: float
    energy_j_high: float
    quality: float
    quality_low: float
    quality_high: float
    dominated_by: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()

    @property
    def on_frontier(self) -> bool:
        """Whether no cell is better, by the best values."""
        return not self.dominated_by and not self.ties


def frontier(results: Sequence[CellResult]) -> list[Point]:
    """The cells that have both figures, by rising energy."""
    known = [
        (r.cell, r.total, r.quality_interval, r.by_scales(*PARTS))
        for r in results
        if r.total is not None and r.quality_interval is not None
    ]
    known.sort(key=lambda found: (found[1].best, -found[2].best))
    points = [ParetoPoint(cell.name, energy, q, scaled) for cell, energy, q, scaled in known]
    named = [point.scaled for point in points if point.scaled is not None]
    standings = pareto_frontier(points, ranges(named, scale_bars(load_protocol())))
    return [
        Point(cell.name, cell.regime, cell.size, *_ends(energy), *_ends(q), found.dominated_by, found.ties)
        for (cell, energy, q, _), found in zip(known, standings, strict=True)
    ]


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.best, interval.low, interval.high
