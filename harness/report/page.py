"""The report as one self-contained page: the data of `formats.as_dict` and what live controls need beside it.

The page's code is built from `web/` and shipped in `assets/`; nothing is fetched. Every text of a bundle is a
stranger's: it travels as JSON that cannot end its element, and the page inserts it as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.accounting import Interval
from harness.accounting.run_spread import RunSpread
from harness.accounting.shared_scales import Energy, added
from harness.accounting.stage_scales import as_records, ranges
from harness.accounting.totals import roots
from harness.bundle.derive import scale_bars
from harness.report.cite import citations
from harness.report.comparison import (
    break_even_parts,
    differences_between,
    finite,
    judged,
    no_verdict,
    serving_no_verdict,
    whole_energy,
)
from harness.report.factor_text import newest
from harness.report.formats import as_dict
from harness.report.lineage import Costs
from harness.report.model import RunReport
from harness.report.palette import COMPONENTS, METHOD_WORDS, ROLE_WORDS, role_of
from harness.report.serving import not_compared
from harness.report.study import directs
from harness.report.traces import packed
from harness.report.words import flag_sentence, method_words, said_once, summary_sentence, title, utc
from harness.spec import load_protocol
from harness.spec.factors import CATEGORIES, pue_factors
from harness.text import shown
from harness.validate.findings import Report as Validation

ASSETS = Path(__file__).parent / "assets"

POINTS = 120_000
"""Numbers of all traces of a page together: about 0.6 MB."""


def points_for(runs: int, devices: int) -> int:
    """Slices of time for each trace, so that a page of so many runs and devices stays small."""
    return max(60, min(6_000, POINTS // (3 * max(1, runs) * max(1, devices))))


def page_data(
    reports: Sequence[RunReport],
    validations: Sequence[Validation],
    spreads: Sequence[RunSpread | None] | None = None,
) -> dict[str, Any]:
    """Everything a page shows, for one run or for several.

    Args:
        reports: built with traces.
        validations: one of each run, in the same order.
        spreads: beside each run, from run to run of equal work (`comparison.spreads_beside`); None = not
            measured.
    """
    names = _names(reports)
    runs = [
        _run(report, validation, name)
        for report, validation, name in zip(reports, validations, names, strict=True)
    ]
    named = [parts for report in reports for costs in _boundaries(report).values() for parts in _all(costs)]
    named += [report.served.scaled for report in reports if report.served is not None]
    scales = ranges(named, scale_bars(load_protocol()))
    return {
        "page": "kit report",
        "runs": runs,
        "pairs": _pairs(reports, spreads or [None] * len(reports)),
        "scales": {name: list(ends) for name, ends in scales.items()},
        "factors": site_factors(),
        "chosen": _chosen(reports[0]),
        "components": COMPONENTS,
        "methods": METHOD_WORDS,
        "roles": ROLE_WORDS,
    }


def _chosen(report: RunReport) -> dict[str, Any]:
    """Where the page's controls start: what the command was given."""
    options = report.options
    factor = report.carbon[0].factor if report.carbon else None
    row = None
    if factor is not None:
        source = f"{factor.source}, {factor.licence}"
        row = [factor.factor_id, factor.name, factor.year, factor.g_co2e_per_kwh, factor.scope, source]
    return {"pue": options.pue, "grid": row, "reuses": options.amortize}


def _names(reports: Sequence[RunReport]) -> list[str]:
    """Names of the runs, told apart by the end of their id where two are alike."""
    plain = [shown(str(report.manifest.get("name", ""))) for report in reports]
    ids = [str(report.manifest.get("run_id", ""))[-4:] for report in reports]
    return [
        f"{name} ({end})" if plain.count(name) > 1 else name for name, end in zip(plain, ids, strict=True)
    ]


def _all(costs: Costs) -> list[Energy]:
    return [costs.whole] if costs.own or costs.paid else []


def _boundaries(report: RunReport) -> dict[str, Costs]:
    found = {"all": report.costs, "gpu": report.gpu_costs}
    return {name: costs for name, costs in found.items() if costs is not None}


def _run(report: RunReport, validation: Validation, name: str) -> dict[str, Any]:
    data = as_dict(report)
    stages = report.all_lines
    described = [*data["stages"], *([data["unattributed"]] if data["unattributed"] else [])]
    for stage, line in zip(described, stages, strict=True):
        stage["title"] = shown(title(line))
        stage["role"] = role_of(str(line.row["stage"]), report.protocol)
        stage["depth"] = line.depth
        stage["serves"] = line.row["stage"] in report.protocol.kinds("serves")
        used = dict.fromkeys(line.row[f"{part}_energy_method"] for part in ("gpu", "cpu", "dram"))
        known = [method_words(str(method)) for method in used if method not in (None, "absent")]
        stage["measured_by"] = ", ".join(known) or "not measured"
        states = report.protocol.method_states()
        stage["estimated"] = [
            part for part in COMPONENTS if states.get(str(line.row[f"{part}_energy_method"])) == "estimated"
        ]
        stage["doubts"] = [flag_sentence(flag, line) for flag in line.row["flags"] if not said_once(flag)]
    origin = min((int(line.row["t_start_us"]) for line in report.lines), default=0)
    manifest = report.manifest
    return {
        "id": str(manifest.get("run_id")),
        "label": name,
        "sentence": summary_sentence(report),
        "report": data,
        "energy": {boundary: _energy(report, boundary) for boundary in ("all", "gpu")},
        "parts": report.parts,
        "quality": _quality(report),
        "served": None if report.served is None else as_records(report.served.scaled),
        "taught": manifest.get("method") in report.protocol.taught_methods,
        "findings": _findings(validation),
        "rankable": None if validation.comparability is None else validation.comparability.rankable,
        "comparability": None if validation.comparability is None else validation.comparability.text,
        "labels": [
            {"id": label.id, "words": label.observed, "fix": label.fix}
            for label in (validation.comparability.labels if validation.comparability else ())
        ],
        "levels": {str(level): word for level, word in validation.levels.items()},
        "origin_us": origin,
        "traces": [packed(trace, origin) for trace in report.traces],
        "environment": _environment(manifest),
        "lineage": _lineage(report),
        "cite": citations(report),
        "date": None if (at := utc(origin)) is None else at.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _energy(report: RunReport, boundary: str) -> dict[str, Any]:
    """Own energy and the teacher's by scales, so that reuse can be chosen in the page; or why not."""
    costs = _boundaries(report).get(boundary)
    if costs is None:
        metered = report.totals.gpu.energy_j is not None
        words = "what another run paid is not known for GPUs alone" if metered else "no GPU was metered"
        return {"own": None, "teacher": None, "whole": None, "why": words}
    if whole_energy(report) is None:
        lost = ", ".join(report.unknown_origins)
        words = f"what another run paid for {shown(lost)} is unknown" if lost else "a part is unknown"
        return {"own": None, "teacher": None, "whole": None, "why": words}
    kinds = report.protocol.kinds("teacher")
    teachers = costs.teachers(kinds)
    own = [energy for kind, energy in costs.own.items() if kind not in kinds]
    own += [paid.energy for paid in costs.paid if paid not in teachers]
    teacher = costs.teacher(kinds)
    return {
        "own": as_records(added(own)) if own else [],
        "teacher": None if teacher is None else as_records(teacher),
        "whole": as_records(costs.whole),
        "why": None,
    }


def _pairs(reports: Sequence[RunReport], spreads: Sequence[RunSpread | None]) -> list[dict[str, Any]]:
    """Each distilled run beside each direct training it may be compared with, and what N* is formed of."""
    found: list[dict[str, Any]] = []
    for number, report in enumerate(reports):
        if report.manifest.get("method") not in report.protocol.taught_methods:
            continue
        reasons: dict[int, list[str]] = {}
        for other in directs(reports, number):
            place = next(n for n, r in enumerate(reports) if r is other)
            differences = differences_between(report, other)
            if differences:
                reasons[place] = differences
                continue
            found.append(
                {
                    "run": number,
                    "direct": place,
                    "serving_withheld": serving_no_verdict(report, other, spreads[place]),
                    "boundary": {b: _parts_of_pair(report, other, b, spreads[place]) for b in ("all", "gpu")},
                    "served": not_compared(report.served, other.served) is None,
                    "unserved": _unserved(report, other),
                }
            )
        if reasons and not any(pair["run"] == number for pair in found):
            nearest = min(reasons, key=lambda place: len(reasons[place]))
            found.append({"run": number, "direct": nearest, "differences": reasons[nearest]})
    return found


def _unserved(report: RunReport, other: RunReport) -> str | None:
    """Why T* does not follow from what both runs served; None where it does, or where neither served."""
    if report.served is None and other.served is None:
        return None
    return not_compared(report.served, other.served)


def _parts_of_pair(
    report: RunReport, other: RunReport, boundary: str, spread: RunSpread | None
) -> dict[str, Any] | None:
    if boundary == "gpu":
        if report.gpu_costs is None or other.gpu_costs is None:
            return None
        report, other = replace(report, costs=report.gpu_costs), replace(other, costs=other.gpu_costs)
    names = ("teacher", "direct", "distilled")
    parts = break_even_parts(report, other)
    found: dict[str, Any] = {
        name: None if part is None else as_records(part) for name, part in zip(names, parts, strict=True)
    }
    return {**found, "withheld": no_verdict(report, other, spread)}


def _quality(report: RunReport) -> dict[str, Any] | None:
    """Q of the only suite that has one, with its interval."""
    suite = judged(report)
    q = None if suite is None else suite.quality
    if suite is None or q is None or q.q is None:
        return None
    return {
        "suite": suite.suite,
        "known": q.interval is not None,
        **finite(q.interval or Interval.exact(q.q)),
    }


def _findings(validation: Validation) -> list[dict[str, Any]]:
    return [
        {
            "id": f.id,
            "severity": f.severity,
            "message": f.message,
            "why": f.why,
            "fix": f.fix,
            "file": f.file,
            "count": f.count,
            "joules": f.joules_at_stake,
            "waived": f.waived,
        }
        for f in validation.findings
    ]


def _environment(manifest: Mapping[str, Any]) -> list[list[str]]:
    """Facts of the manifest by dotted name; what is unknown says so."""
    found: list[list[str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for place, item in enumerate(value):
                add(f"{name}.{place}", item)
        else:
            text = (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
            found.append([shown(name), "unknown" if text is None else shown(str(text))])

    for key in ("hardware", "software", "sampling", "boundary"):
        add(key, manifest.get(key))
    return found


def _lineage(report: RunReport) -> dict[str, Any]:
    """Stages and artifacts as a graph: an artifact is its digest."""
    stages = [line.row for line in report.lines]
    known = {row["stage_uid"] for row in stages}
    artifacts: dict[str, dict[str, Any]] = {}
    edges = []
    for row in report.artifacts:
        if row["stage_uid"] not in known:
            continue
        name = str(row["artifact_id"])
        artifact = artifacts.setdefault(
            name,
            {
                "id": name,
                "name": shown(str(row["name"])),
                "bytes": row["bytes"],
                "origin": None,
                "joules": None,
            },
        )
        if row.get("origin_run_id") is not None:
            artifact["origin"], artifact["joules"] = str(row["origin_run_id"]), row.get("origin_energy_j")
        edges.append({"artifact": name, "stage": row["stage_uid"], "made": row["role"] == "produced"})
    return {
        "stages": [
            {
                "uid": row["stage_uid"],
                "title": shown(str(row["name"])),
                "role": role_of(str(row["stage"]), report.protocol),
            }
            for row in roots(stages)
            if any(edge["stage"] == row["stage_uid"] for edge in edges)
        ],
        "artifacts": list(artifacts.values()),
        "edges": edges,
    }


@cache
def site_factors() -> dict[str, Any]:
    """The newest grid factor of each region and every published PUE, dated and with their source."""
    used = newest()
    sources = list(dict.fromkeys(f"{f.source}, {f.licence}" for f in used))
    return {
        "grid": [
            [
                f.factor_id,
                f.name,
                f.year,
                f.g_co2e_per_kwh,
                f.scope,
                sources.index(f"{f.source}, {f.licence}"),
            ]
            for f in sorted(used, key=lambda f: (len(f.region) > 3, f.name))
        ],
        "sources": sources,
        "pue": [
            [p.factor_id, p.name, p.year, p.value, CATEGORIES[p.category], p.source] for p in pue_factors()
        ],
    }


def embedded(data: object) -> str:
    """JSON for a script element: nothing in it can end the element or a line of JavaScript."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def asset(name: str, folder: Path = ASSETS) -> str:
    """A built file of a page; `make web` makes it."""
    return (folder / name).read_text(encoding="utf-8")


def document(title_text: str, data: object, script: str, style: str, noscript: str) -> str:
    """A page that runs exactly the given code and fetches nothing (by its content policy)."""
    payload = embedded(data)

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; img-src data: blob:"
    )
    body = [
        f"<noscript><p>{html.escape(noscript)}</p></noscript>",
        '<div id="app"></div>',
        f'<script type="application/json" id="data">{payload}</script>',
        f"<script>{script}</script>",
    ]
    return shell(title_text, policy, [f"<style>{style}</style>"], body)


def shell(title_text: str, policy: str, head: Sequence[str], body: Sequence[str]) -> str:
    """An HTML document with a content policy; `head` and `body` are elements."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{html.escape(title_text)}</title>",
            '<link rel="icon" href="data:,">',
            *head,
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def to_html(
    reports: Sequence[RunReport],
    validations: Sequence[Validation],
    spreads: Sequence[RunSpread | None] | None = None,
) -> str:
    """One page for one run or several; arguments as of `page_data`."""
    data = page_data(reports, validations, spreads)
    labels = [run["label"] for run in data["runs"]]
    heading = labels[0] if len(labels) == 1 else f"{len(labels)} runs"
    sentences = " ".join(run["sentence"] for run in data["runs"])
    noscript = f"{sentences} The figures of this page need JavaScript; kit report prints them as text."
    return document(f"Energy of {heading}", data, asset("report.js"), asset("report.css"), noscript)
