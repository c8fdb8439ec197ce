"""The static site: an index, a page for each row, badges, and the same figures as CSV, JSON and Parquet.

Nothing is fetched, so that it also opens from file://: data are script files. The same submissions give the
same bytes. Texts of submissions are data everywhere; the page inserts them as text.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import KitError
from harness.leaderboard.check import Checked
from harness.leaderboard.rules import submission_rules
from harness.leaderboard.shape import walk
from harness.report.page import asset, embedded, shell, site_factors
from harness.report.palette import METHOD_WORDS
from harness.spec import load_protocol
from harness.text import csv_text

ASSETS = Path(__file__).parent / "assets"
FORMAT = "leaderboard/1"
MARKER = "index.json"

_LISTED = (
    "key", "title", "lab", "level", "status", "method", "student", "teacher", "hardware", "suite", "date",
    "class", "class_text", "rank", "rank_to", "of", "frontier", "signed", "licence", "source", "replicates",
    "supersedes",
)  # fmt: skip
_INDEXED = (*_LISTED, "unranked", "energy", "boundaries", "students", "tokens", "q", "shares", "lower_bound")

POLICY = "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:"


def build(done: Checked, out: Path) -> int:
    """Write the site.

    Args:
        done: Every submission, checked.
        out: A new or empty folder, or a site of before, of which only what changed is written again.

    Returns:
        Files written.

    Raises:
        KitError: `out` holds something else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _is_site(out))):
        raise KitError(
            "holds no site", where=str(out), expected="a new or empty folder", fix="choose another --out"
        )
    files = dict(_files(done))
    written = 0
    there = {name for name, _ in walk(out)} if out.exists() else set()
    for name, data in files.items():
        path = out / name
        if name not in there or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written += 1
    for name in there - files.keys():
        if name.startswith(("rows/", "badges/")):
            (out / name).unlink()
    return written


def _is_site(folder: Path) -> bool:
    try:
        value = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def _files(done: Checked) -> Sequence[tuple[str, bytes]]:
    """Name of each file and its bytes; only rows that nothing refuses are shown."""
    refused = {entry.key for entry in done.entries if entry.errors}
    rows = [row for row in done.rows if row["key"] not in refused]
    entries = {entry.key: entry for entry in done.entries}
    protocol = load_protocol()
    scales: dict[str, Any] = {}
    for row in rows:
        scales |= entries[row["key"]].scales
    named = {part for row in rows for part in _scales(row["students"])}
    index = {
        "format": FORMAT,
        "protocol": protocol.version,
        "levels": [{"name": x.name, "doc": x.doc, "ranked": x.ranked} for x in submission_rules().levels],
        "methods": dict(METHOD_WORDS),
        "taught": list(protocol.taught_methods),
        "scales": {name: ends for name, ends in sorted(scales.items()) if name in named},
        "rows": [{name: row.get(name) for name in _INDEXED} for row in rows],
    }
    files = [
        (
            "index.html",
            _shell("Energy of distillation: the leaderboard", "leaderboard", ("factors.js", "index.js")),
        ),
        ("row.html", _shell("A row of the leaderboard", "row", ("factors.js",))),
        ("factors.js", _script("KIT_FACTORS", site_factors())),
        ("index.js", _script("KIT_INDEX", index)),
        ("index.json", json.dumps(index, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()),
        ("index.csv", csv_text(list(map(_flat, rows)), list(_flat(_EMPTY)), limit=None).encode()),
        ("index.parquet", _parquet(rows)),
        *((f"assets/{name}", asset(name).encode()) for name in ("report.js", "report.css")),
        *(
            (f"assets/{name}", asset(name, ASSETS).encode())
            for name in ("leaderboard.js", "leaderboard.css", "row.js")
        ),
    ]
    for row in rows:
        page = entries[row["key"]].page or "null"
        data = f'window.KIT_ROW={{"row":{embedded(row)},"page":{page}}};\n'.encode()
        files.append((f"rows/{row['key']}.js", data))
        files.append((f"badges/{row['key']}.svg", badge(row, protocol.version)))
    return files


def _scales(students: dict[str, Any]) -> set[str]:
    return {name for records in students.values() for part in records for name in part["scales"]}


def _script(name: str, value: object) -> bytes:
    return f"window.{name}={embedded(value)};\n".encode()


def _shell(title: str, name: str, scripts: Sequence[str]) -> bytes:
    tags = [f'<script src="{path}"></script>' for path in (*scripts, f"assets/{name}.js")]
    head = [f'<link rel="stylesheet" href="assets/{sheet}.css">' for sheet in ("report", "leaderboard")]
    noscript = '<noscript><p><a href="index.csv">index.csv</a> has the figures.</p></noscript>'
    return shell(title, POLICY, head, [noscript, '<div id="app"></div>', *tags]).encode()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with figures in columns of their own."""
    flat = {name: row.get(name) for name in _LISTED}
    for name, unit in (("energy", "_j"), ("q", "")):
        for end, value in zip(("", "_low", "_high"), row[name] or (None, None, None), strict=True):
            flat[f"{name}{unit}{end}"] = value
    for kind in ("trained", "processed", "positions", "reference"):
        flat[f"tokens_{kind}"] = row["tokens"].get(kind)
    flat["unranked"] = "; ".join(row["unranked"])
    return flat


_EMPTY: dict[str, Any] = {"energy": None, "q": None, "tokens": {}, "unranked": []}


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    def kind(name: str) -> pa.DataType:
        if name.startswith("tokens_") or name in ("rank", "rank_to", "of"):
            return pa.int64()
        if name.startswith(("energy_j", "q")) and name != "quality":
            return pa.float64()
        return pa.bool_() if name == "signed" else pa.string()

    schema = pa.schema([(name, kind(name)) for name in _flat(_EMPTY)])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows], schema), out, compression="zstd")
    return out.getvalue()


def badge(row: dict[str, Any], version: str) -> bytes:
    """An SVG to be shown elsewhere: protocol, level, rank."""
    left = f"energy, protocol {version}"
    place = "" if "rank" not in row else f", rank {row['rank']} of {row['of']}"
    right = f"{row['level']}{place}"
    widths = [round(len(text) * 6.2) + 12 for text in (left, right)]
    total = sum(widths)
    ranked = "rank" in row
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" '
        f'aria-label="{html.escape(f"{left}: {right}")}"><title>{html.escape(f"{left}: {right}")}</title>'
        f'<rect width="{widths[0]}" height="20" fill="#444"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{"#1a6b33" if ranked else "#5c5c5c"}"/>'
        '<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{widths[0] / 2}" y="14">{html.escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2}" y="14">{html.escape(right)}</text></g></svg>\n'
    ).encode()
