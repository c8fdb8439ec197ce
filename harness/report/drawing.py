"""Draws figures with Vega-Lite at the widths of a paper's column and page: SVG, PDF, PNG, and their data.

Text in the SVG is outlined, in the PDF its font is embedded, so that both look the same on any machine.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.files import write_bytes
from harness.report.figures import Figure, Panel, Spec
from harness.text import csv_text

WIDTHS_IN = {"column": 3.25, "page": 6.75}
"""Name of a width -> inches."""

ACROSS = 2
"""Panels side by side on a page."""

PNG_PPI = 300
_POINTS = 72
_FONT = "Open Sans"
_CONFIG: Spec = {
    "font": _FONT,
    "background": "white",
    "view": {"stroke": "#999"},
    "axis": {
        "labelFontSize": 7.5,
        "titleFontSize": 8,
        "titleFontWeight": "normal",
        "gridColor": "#e4e4e4",
        "tickColor": "#999",
        "domainColor": "#999",
        "titlePadding": 5,
        "labelFlush": False,
    },
    "legend": {
        "labelFontSize": 7.5,
        "titleFontSize": 8,
        "titleFontWeight": "normal",
        "orient": "bottom",
        "direction": "horizontal",
        "symbolSize": 34,
        "symbolOpacity": 1,
        "columnPadding": 8,
        "offset": 6,
        "padding": 0,
    },
    "title": {
        "fontSize": 8.5,
        "fontWeight": "normal",
        "anchor": "start",
        "frame": "group",
        "offset": 5,
        "subtitleFontSize": 7.5,
        "subtitleColor": "#444",
    },
    "concat": {"spacing": 14},
}


def _plot(panel: Panel, width: float) -> Spec:
    # A negative height is in points, for bars that keep their thickness whatever the width.
    height = -panel.height if panel.height < 0 else panel.height * width
    return {
        "title": {"text": panel.title, **({"subtitle": panel.note} if panel.note else {})},
        "width": round(width, 1),
        "height": round(height, 1),
        "layer": list(panel.layers),
    }


def draw(figure: Figure, folder: Path) -> list[Path]:
    """Write a figure at every width, with its specification and its data.

    Args:
        figure: what is drawn.
        folder: where to; made if missing.

    Returns:
        What was written.

    Raises:
        KitError: The plot extra is not installed.
        OSError: the folder cannot be written.
    """
    vl = require_plots()
    files: dict[str, bytes] = {f"{figure.name}.csv": csv_text(figure.rows).encode()}
    for name, inches in WIDTHS_IN.items():
        spec, svg = fitted(figure, inches * _POINTS, across=name == "page")
        stem = f"{figure.name}-{name}"
        files[f"{stem}.vl.json"] = (json.dumps(spec, indent=1, ensure_ascii=False) + "\n").encode()
        files[f"{stem}.svg"] = outlined(svg).encode()
        files[f"{stem}.pdf"] = vl.svg_to_pdf(svg)
        files[f"{stem}.png"] = vl.svg_to_png(svg, ppi=PNG_PPI)
    for file, content in files.items():
        write_bytes(folder / file, content)
    return [folder / file for file in files]


def fitted(figure: Figure, width: float, *, across: bool) -> tuple[Spec, str]:
    """The specification whose picture is as wide as wanted, margins and legends included, and that as SVG.

    Args:
        figure: what is drawn.
        width: of the whole picture, points.
        across: panels side by side.
    """
    vl = require_plots()
    columns = min(ACROSS, len(figure.panels)) if across else 1
    # Legends stand side by side: in a column of text each is one entry wide.
    legend = {**_CONFIG["legend"], **({} if across else {"columns": 1, "direction": "vertical"})}
    plot = 0.8 * width / columns
    spec: Spec = {}
    svg = ""
    for _ in range(3):
        plots = [_plot(panel, plot) for panel in figure.panels]
        spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "description": figure.caption,
            "config": {**_CONFIG, "legend": legend},
            **(plots[0] if len(plots) == 1 else {"concat": plots, "columns": columns}),
        }
        svg = vl.vegalite_to_svg(spec)
        found = _width(svg)
        if abs(found - width) < 0.75:
            break
        plot = max(60.0, plot + (width - found) / columns)
    return spec, svg


def _width(svg: str) -> float:
    match = re.search(r'<svg[^>]* width="([\d.]+)"', svg)
    return float(match[1]) if match else math.nan


@cache
def require_plots() -> Any:
    """What draws, with its font.

    Raises:
        KitError: The plot extra is not installed.
    """
    try:
        import ttf_opensans
        import vl_convert
    except ModuleNotFoundError as error:
        raise KitError(
            f"figures need {error.name}, which is not installed",
            expected="an environment with the plot extra",
            fix="make setup-train in a checkout, else pip install 'distill-energy-kit[plot]'",
        ) from error
    vl_convert.register_font_directory(str(Path(ttf_opensans.__file__).parent / "ttf"))
    return vl_convert


def outlined(svg: str) -> str:
    """An SVG whose texts are shapes; each keeps its words as a label."""
    return re.sub(
        r"<text([^>]*)>(.*?)</text>", lambda found: _outlined_text(found[1], found[2]), svg, flags=re.S
    )


def _outlined_text(attributes: str, content: str) -> str:
    given = dict(re.findall(r'([\w-]+)="([^"]*)"', attributes))
    if given.get("opacity") == "0":
        return ""  # a label that would overlap another
    size = float(given.get("font-size", "10").removesuffix("px"))
    weight = "Bold" if given.get("font-weight") in ("bold", "700") else "Regular"
    lines = re.findall(r"<tspan([^>]*)>(.*?)</tspan>", content, flags=re.S) or [("", content)]
    shapes, y = [], 0.0
    for own, text in lines:
        moved = re.search(r'\bdy="([-\d.]+)', own)
        y += float(moved[1]) if moved else 0.0
        path, width = _shapes(weight, html.unescape(text))
        shift = {"middle": 0.5, "end": 1.0}.get(given.get("text-anchor", "start"), 0.0) * width
        scale = size / _face(weight)["upem"]
        if path:
            moves = f"translate({-shift * scale:.3f},{y:.3f}) scale({scale:.6f},{-scale:.6f})"
            shapes.append(f'<path transform="{moves}" d="{path}"/>')
    label = re.sub(r"<[^>]*>", " ", content).replace('"', "&quot;")
    kept = " ".join(f'{name}="{given[name]}"' for name in ("transform", "fill", "opacity") if name in given)
    return f'<g role="img" aria-label="{label}" {kept}>{"".join(shapes)}</g>'


@cache
def _face(weight: str) -> Mapping[str, Any]:
    import ttf_opensans
    from fontTools.ttLib import TTFont

    folder = Path(ttf_opensans.__file__).parent / "ttf"
    font = TTFont(str(folder / f"OpenSans-{weight}.ttf"))
    return {"glyphs": font.getGlyphSet(), "cmap": font.getBestCmap(), "upem": font["head"].unitsPerEm}


@cache
def _shapes(weight: str, text: str) -> tuple[str, float]:
    """Outlines of a line of text and its width, in units of the font."""
    from fontTools.pens.svgPathPen import SVGPathPen
    from fontTools.pens.transformPen import TransformPen

    face = _face(weight)
    pen, x = SVGPathPen(face["glyphs"], ntos=lambda value: f"{value:g}"), 0.0
    for letter in text:
        glyph = face["glyphs"][face["cmap"].get(ord(letter), ".notdef")]
        glyph.draw(TransformPen(pen, (1, 0, 0, 1, x, 0)))
        x += glyph.width
    return pen.getCommands(), x
