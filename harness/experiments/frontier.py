"""Energy against quality: which cells no other cell beats in both, and a picture of it.

The comparison is `harness.accounting.pareto`: where the intervals of two cells overlap, in energy or in Q, no
order can be claimed and the two are a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from harness.accounting import Interval, ParetoPoint, pareto_frontier
from harness.accounting.figures import J_PER_KWH, significant
from harness.experiments.grid import REGIME_WORDS
from harness.experiments.results import CellResult, Results


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
    known: list[tuple[CellResult, Interval, Interval]] = []
    for r in results:
        if r.total is not None and r.quality_interval is not None:
            known.append((r, r.total, r.quality_interval))
    known.sort(key=lambda found: (found[1].best, -found[2].best))
    standings = pareto_frontier([ParetoPoint(r.cell.name, energy, q) for r, energy, q in known])
    return [
        Point(
            r.cell.name,
            r.cell.regime,
            r.cell.size,
            energy.best,
            energy.low,
            energy.high,
            q.best,
            q.low,
            q.high,
            standing.dominated_by,
            standing.ties,
        )
        for (r, energy, q), standing in zip(known, standings, strict=True)
    ]


WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 78, 62
COLOURS = {"sft": "#4477aa", "kd": "#cc6677", "synthetic_sft": "#228833"}
SHAPES = {"1b": "circle", "7b": "square", "13b": "diamond"}


def svg(results: Results, points: Sequence[Point]) -> str:
    """The picture: energy on a logarithmic axis, Q upwards, intervals as bars, the frontier as a line.

    Args:
        results: For unit and labels.
        points: From `frontier`; at least one.
    """
    pocket = results.profile.is_pocket
    unit, scale = ("J", 1.0) if pocket else ("kWh", 1 / J_PER_KWH)
    lows = [p.energy_j_low for p in points if p.energy_j_low > 0] or [p.energy_j for p in points]
    highs = [p.energy_j_high if math.isfinite(p.energy_j_high) else p.energy_j for p in points]
    x_axis = _Logarithmic(min(lows) * scale / 1.15, max(highs) * scale * 1.15)
    top = max(p.quality for p in points)
    y_low, y_high = 0.0, max(1.0, math.ceil(top * 10) / 10)

    def x(joules: float) -> float:
        return LEFT + x_axis.place(joules * scale) * (WIDTH - LEFT - RIGHT)

    def y(quality: float) -> float:
        return HEIGHT - BOTTOM - (quality - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, f"Energy and quality, profile {results.profile.name}", size=16, weight="bold"),
        _text(LEFT, 44, _subtitle(results), size=12, colour="#a33" if pocket else "#555"),
    ]
    for value in x_axis.ticks():
        at = x(value / scale)
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM, "#e5e5e5"))
        parts.append(_text(at, HEIGHT - BOTTOM + 18, significant(value, most=2), anchor="middle"))
    steps = round((y_high - y_low) / 0.2)
    for step in range(steps + 1):
        value = y_low + step * 0.2
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#e5e5e5"))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:.1f}", anchor="end"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 14, f"energy of the pipeline, {unit}", anchor="middle"))
    turned = f'transform="rotate(-90 20 {HEIGHT / 2:.0f})"'
    parts.append(_text(20, HEIGHT / 2, "relative quality Q", anchor="middle", extra=turned))
    line = [p for p in points if p.on_frontier]
    path = " ".join(f"{x(p.energy_j):.1f},{y(p.quality):.1f}" for p in line)
    parts.append(_dashes(path))
    for p in points:
        colour = COLOURS[p.regime]
        low = max(x(max(p.energy_j_low, min(lows))), LEFT)
        high = x(p.energy_j_high if math.isfinite(p.energy_j_high) else p.energy_j)
        parts.append(_line(low, y(p.quality), high, y(p.quality), colour, opacity=0.35, width=2))
        at, bottom = x(p.energy_j), max(p.quality_low, y_low)
        parts.append(_line(at, y(bottom), at, y(min(p.quality_high, y_high)), colour, opacity=0.35, width=2))
    for p in points:
        title = f"{p.name}: {significant(p.energy_j * scale)} {unit}, Q {p.quality:.3f}"
        parts.append(_mark(x(p.energy_j), y(p.quality), p, title))
    parts += _legend()
    return "\n".join([*parts, "</svg>", ""])


class _Logarithmic:
    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = math.log10(low), math.log10(high)

    def place(self, value: float) -> float:
        return (math.log10(value) - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """1, 2, 5, 10, ... within the axis."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        values = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        return [value for value in values if self._low <= math.log10(value) <= self._high]


def _subtitle(results: Results) -> str:
    bases = "; ".join(sorted({result.basis.words for result in results.cells}))
    if results.profile.is_pocket:
        return f"POCKET: says nothing about OLMo-2; {bases}"
    return bases


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#222",
    extra: str = "",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}" {extra}>{escape(text)}</text>'
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, opacity: float = 1.0, width: float = 1.0
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}" opacity="{opacity:g}"/>'
    )


def _dashes(points: str) -> str:
    return f'<polyline points="{points}" fill="none" stroke="#555" stroke-dasharray="5 4"/>'


def _mark(x: float, y: float, point: Point, title: str) -> str:
    return f"<g>{_shape(x, y, point.size, COLOURS[point.regime])}<title>{escape(title)}</title></g>"


def _shape(x: float, y: float, size: str, colour: str) -> str:
    style = f'fill="{colour}" stroke="white"'
    if SHAPES.get(size) == "square":
        return f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" {style}/>'
    if SHAPES.get(size) == "diamond":
        corners = f"{x:.1f},{y - 8:.1f} {x + 8:.1f},{y:.1f} {x:.1f},{y + 8:.1f} {x - 8:.1f},{y:.1f}"
        return f'<polygon points="{corners}" {style}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {style}/>'


def _legend() -> list[str]:
    parts = []
    at = float(LEFT)
    for regime, colour in COLOURS.items():
        parts.append(_shape(at + 6, 62, "1b", colour))
        parts.append(_text(at + 18, 66, REGIME_WORDS[regime]))
        at += 44 + 6.5 * len(REGIME_WORDS[regime])
    for size in SHAPES:
        parts.append(_shape(at + 6, 62, size, "#777"))
        parts.append(_text(at + 18, 66, size.upper()))
        at += 62
    parts.append(_dashes(f"{at + 2:.0f},62 {at + 28:.0f},62"))
    parts.append(_text(at + 34, 66, "frontier"))
    return parts
