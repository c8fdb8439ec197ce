"""Energy against quality: which cells no other cell beats in both, and a picture of it.

The comparison is `harness.accounting.pareto`: where the interval of two energies' ratio holds 1, or those of
Q overlap, no order can be claimed and the two are a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.accounting import Interval, ParetoPoint, pareto_frontier
from harness.accounting.rounding import J_PER_KWH, significant
from harness.accounting.stage_scales import ranges
from harness.bundle.derive import scale_bars
from harness.errors import KitError
from harness.experiments.grid import REGIME_WORDS
from harness.experiments.results import PARTS, CellResult, Results
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


COLOURS = {"sft": "#4477aa", "kd": "#cc6677", "synthetic_sft": "#228833"}


def draw(results: Results, points: Sequence[Point]) -> dict[str, str]:
    """The picture: energy on a logarithmic axis, Q upwards, intervals as bars, the frontier as a line.

    Args:
        results: For unit and labels.
        points: From `frontier`; at least one.

    Returns:
        Vega-Lite specification and SVG, by file ending.

    Raises:
        KitError: The plot extra is not installed.
    """
    try:
        import altair as alt
        import vl_convert
    except ModuleNotFoundError as error:
        raise KitError(
            f"the figure needs {error.name}, which is not installed; the tables are complete",
            expected="an environment with the plot extra",
            fix="pip install 'distill-energy-kit[plot]', then run the same command again",
        ) from error
    pocket = results.profile.is_pocket
    unit, scale = ("J", 1.0) if pocket else ("kWh", 1 / J_PER_KWH)
    least = min([p.energy_j_low for p in points if p.energy_j_low > 0] or [p.energy_j for p in points])
    top = max(1.0, *(p.quality_high for p in points))
    rows = [
        {
            "regime": REGIME_WORDS[p.regime],
            "size": p.size.upper(),
            "energy": p.energy_j * scale,
            "low": max(p.energy_j_low, least) * scale,
            "high": (p.energy_j_high if math.isfinite(p.energy_j_high) else p.energy_j) * scale,
            "quality": p.quality,
            "q_low": max(p.quality_low, 0.0),
            "q_high": p.quality_high,
            "on_frontier": p.on_frontier,
            "words": f"{p.name}: {significant(p.energy_j * scale)} {unit}, Q {p.quality:.3f}",
        }
        for p in points
    ]
    bases = "; ".join(sorted({result.basis.words for result in results.cells}))
    data = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("energy:Q", title=f"energy of the pipeline, {unit}").scale(
            type="log", nice=False, padding=24
        ),
        y=alt.Y("quality:Q", title="relative quality Q").scale(domain=[0, top]),
        color=alt.Color("regime:N", title=None).scale(
            domain=[REGIME_WORDS[regime] for regime in COLOURS], range=list(COLOURS.values())
        ),
    )
    chart = alt.layer(
        data.mark_line(strokeDash=[5, 4], color="#555")
        .encode(color=alt.value("#555"))
        .transform_filter("datum.on_frontier"),
        data.mark_rule(opacity=0.35, size=2).encode(x="low:Q", x2="high:Q"),
        data.mark_rule(opacity=0.35, size=2).encode(y="q_low:Q", y2="q_high:Q"),
        data.mark_point(filled=True, size=140, opacity=1).encode(
            shape=alt.Shape("size:N", title=None, sort=[row["size"] for row in rows]),
            tooltip="words:N",
            description="words:N",
        ),
    ).properties(
        width=640,
        height=360,
        title=alt.TitleParams(
            f"Energy and quality, profile {results.profile.name}",
            subtitle=[
                f"POCKET: says nothing about OLMo-2; {bases}" if pocket else bases,
                "bars: intervals; dashed line: the frontier",
            ],
            subtitleColor="#a33" if pocket else "#555",
            anchor="start",
        ),
    )
    return {"vl.json": chart.to_json() + "\n", "svg": vl_convert.vegalite_to_svg(chart.to_json())}
