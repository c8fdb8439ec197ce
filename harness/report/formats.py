"""The report for programs and documents: JSON with units in its keys, Markdown, CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from harness.accounting import BreakEven, Interval
from harness.accounting.rounding import J_PER_KWH, duration
from harness.accounting.totals import co2e_kg, facility
from harness.errors import KitError
from harness.report.model import RunReport, StageLine
from harness.report.scores import as_dicts
from harness.report.terminal import summary_lines
from harness.report.words import PLAIN_COUNTER, method_words, notes, stage_notes, title
from harness.spec.factors import attribution
from harness.text import MAX_LINE, csv_text, json_shown, shown

REPORT_VERSION = "1.0"
"""Version of the JSON report: a key more raises the second number, a key that goes or changes the first."""

STAGE_KEYS = (
    "stage_uid",
    "name",
    "kind",
    "parent_uid",
    "attempt",
    "status",
    "node_id",
    "session",
    "t_start_us",
    "t_end_us",
    "gpu_energy_j",
    "gpu_energy_j_low",
    "gpu_energy_j_high",
    "gpu_energy_method",
    "gpu_energy_counter_j",
    "gpu_energy_integral_j",
    "gpu_energy_boundary_j",
    "gpu_energy_gap_j",
    "cpu_energy_j",
    "cpu_energy_j_low",
    "cpu_energy_j_high",
    "cpu_energy_method",
    "dram_energy_j",
    "dram_energy_j_low",
    "dram_energy_j_high",
    "dram_energy_method",
    "tokens_trained",
    "tokens_processed",
    "tokens_positions",
    "tokens_generated",
    "samples",
    "missed_samples",
    "longest_gap_us",
    "gap_us",
    "energy_in_gaps_j",
)


def bounds(name: str, energy: Interval | None) -> dict[str, float | None]:
    """Three keys for a figure: name, name_low, name_high; null when unknown or at infinity."""
    if energy is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    high = energy.high if math.isfinite(energy.high) else None
    return {name: energy.best, f"{name}_low": energy.low, f"{name}_high": high}


def break_even_dict(even: BreakEven, what: str = "reuses") -> dict[str, Any]:
    """N* or T* with its case and interval; null for infinity."""
    low, high = (x if math.isfinite(x) else None for x in (even.low, even.high))
    return {
        "case": even.case,
        what: even.ratio,
        f"{what}_whole": even.whole,
        f"{what}_low": low,
        f"{what}_high": high,
        "resolved": even.resolved,
        "withheld": even.withheld,
    }


def stage_dict(line: StageLine) -> dict[str, Any]:
    """One stage; recomputed figures."""
    row = line.row
    # What the log calls `stage` is the kind; on screen and in words a stage is called by its name.
    out: dict[str, Any] = {key: row.get("stage" if key == "kind" else key) for key in STAGE_KEYS}
    out["duration_us"] = line.duration_us
    out["share_of_it_energy"] = line.share
    out["gpu_time_us"] = line.duration_us * len(row.get("device_ids") or ())
    processed = row.get("tokens_processed")
    out["processed_tokens_per_s"] = (
        processed * 1e6 / line.duration_us if processed and line.duration_us else None
    )
    out |= bounds("it_energy_j", line.energy)
    for name, energy in line.per_token.items():
        out |= bounds(f"energy_j_per_{name}_token", energy)
    out["flags"] = list(row["flags"])
    return out


def as_dict(report: RunReport) -> dict[str, Any]:
    """The whole report."""
    totals = report.totals
    manifest = report.manifest
    parts: dict[str, Any] = {}
    for name, part in (("gpu", totals.gpu), ("cpu", totals.cpu), ("dram", totals.dram)):
        parts |= bounds(f"{name}_energy_j", part.interval)
        parts[f"{name}_energy_methods"] = list(part.methods)
        parts[f"{name}_rows_unknown"] = part.unknown_rows
    parts |= bounds("it_energy_j", totals.it)
    parts["it_energy_is_lower_bound"] = bool(totals.incomplete)
    parts |= bounds("it_energy_kwh", None if totals.it is None else totals.it.scale(1 / J_PER_KWH))
    parts |= bounds("unattributed_energy_j", report.unattributed.energy if report.unattributed else None)
    parts |= bounds("inherited_energy_j", report.inherited)
    gpu = totals.gpu.energy_j
    parts["gpu_sensor_half_width_j"] = None if gpu is None else gpu * report.sensor_rel
    parts["gpu_sensor_rel"] = report.sensor_rel
    out: dict[str, Any] = {"report_version": REPORT_VERSION}
    out |= {
        key: manifest.get(key)
        for key in (
            "run_id",
            "name",
            "method",
            "status",
            "labels",
            "boundary",
            "hardware",
            "protocol_version",
        )
    }
    out["stages"] = [stage_dict(line) for line in report.lines]
    out["gpu_time_us"] = round(report.gpu_hours * 3.6e9)
    out["training_tokens_per_s"] = report.throughput
    out["peak_gpu_memory_mib"] = report.peak_gpu_mib
    out["unattributed"] = stage_dict(report.unattributed) if report.unattributed else None
    out["totals"] = parts
    out["tokens"] = dict(report.token_counts)
    out["per_token"] = {}
    for name, energy in report.per_token.items():
        out["per_token"] |= bounds(f"energy_j_per_{name}_token", energy)
    out["serving"] = None
    if report.served is not None:
        served = report.served
        out["serving"] = {
            **served.asked,
            "tokens_generated": served.tokens,
            "duration_us": served.duration_us,
            **bounds("energy_j_per_served_token", served.per_token),
        }
    out["facility"] = None
    if report.facility is not None:
        source = report.options.pue_factor
        out["facility"] = {
            "pue": report.options.pue,
            "pue_factor_id": source.factor_id if source else None,
            "pue_category": source.category if source else None,
            "pue_year": source.year if source else None,
            "pue_attribution": attribution(source) if source else None,
            **bounds("facility_energy_j", report.facility),
        }
    out["carbon"] = [
        {
            "factor_id": c.factor.factor_id,
            "region": c.factor.region,
            "year": c.factor.year,
            "intensity_g_co2e_per_kwh": c.factor.g_co2e_per_kwh,
            "gas": c.factor.gas,
            "scope": c.factor.scope,
            "basis": c.factor.basis,
            "source": c.factor.source,
            "source_url": c.factor.source_url,
            "licence": c.factor.licence,
            "attribution": attribution(c.factor),
            "base": "it_energy" if report.facility is None else "facility_energy",
            **bounds("co2e_kg", c.kg),
        }
        for c in report.carbon
    ]
    out["against"] = None
    if report.against is not None:
        even, moved, serving = report.against.even, report.against.moved, report.against.serving
        out["against"] = {
            "name": report.against.name,
            "run_id": report.against.run_id,
            **bounds("energy_j", report.against.ours),
            **bounds("other_energy_j", report.against.theirs),
            "verdict": report.against.verdict,
            "doubts": list(report.against.doubts),
            "differences": list(report.against.differences),
            **bounds("energy_ratio", report.against.times),
            "break_even": break_even_dict(even),
            "break_even_cpu_seconds": None
            if report.against.even_cpu is None
            else {**break_even_dict(report.against.even_cpu), "repeats": report.against.repeats},
            "serving_tokens": None if serving is None else break_even_dict(serving, "tokens"),
            "serving_reason": report.against.no_serving,
            "break_even_if_students_known_to_3_percent": break_even_dict(moved),
        }
    out["reuse_reason"] = report.no_reuse
    out["reuse"] = None
    if report.reuse is not None:
        out["reuse"] = {
            "reuses": report.reuse.reuses,
            **bounds("marginal_energy_j", report.reuse.marginal),
            **bounds("amortized_energy_j", report.reuse.amortized),
            **bounds("full_energy_j", report.reuse.full),
        }
    out["differences"] = [
        {
            "row": d.number,
            "stage_uid": d.row["stage_uid"],
            "column": d.column,
            "stored": d.stored,
            "recomputed": d.expected,
        }
        for d in report.changed
    ]
    out["rows_missing_or_extra"] = report.lost_rows
    out |= as_dicts(report.scores, report.baseline)
    out["notes"] = notes(report)
    return out


_KEYS: dict[str, Any] = {
    "report_version": {"const": REPORT_VERSION},
    **{
        key: {"type": ["string", "null"]}
        for key in ("run_id", "name", "method", "status", "protocol_version")
    },
    "labels": {"type": ["array", "null"], "items": {"type": "string"}},
    **{key: {"type": ["object", "null"]} for key in ("boundary", "hardware")},
    "stages": {"type": "array", "items": {"$ref": "#/$defs/stage"}},
    "gpu_time_us": {"type": "integer"},
    "training_tokens_per_s": {"type": ["number", "null"]},
    "peak_gpu_memory_mib": {"type": ["integer", "null"]},
    "unattributed": {"anyOf": [{"$ref": "#/$defs/stage"}, {"type": "null"}]},
    "totals": {"$ref": "#/$defs/figures"},
    "tokens": {"type": "object", "additionalProperties": {"type": "integer"}},
    "per_token": {"$ref": "#/$defs/figures"},
    **{key: {"type": ["object", "null"]} for key in ("serving", "facility", "against", "reuse")},
    "reuse_reason": {"type": ["string", "null"]},
    **{key: {"type": "array", "items": {"type": "object"}} for key in ("carbon", "differences")},
    "rows_missing_or_extra": {"type": "integer"},
    "notes": {"type": "array", "items": {"type": "string"}},
}
"""Key of the report -> its schema; all of them are always there."""


def report_schema() -> dict[str, Any]:
    """JSON Schema of `kit report --format json`. Units are in the keys; null is unknown."""
    energy = {"type": ["number", "null"]}
    stage: dict[str, Any] = {key: {} for key in (*STAGE_KEYS, "duration_us", "share_of_it_energy", "flags")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"kit report, version {REPORT_VERSION}",
        "type": "object",
        "required": list(_KEYS),
        "properties": _KEYS,
        "$defs": {
            "figures": {"type": "object", "patternProperties": {r"_(j|kwh)(_low|_high)?$": energy}},
            "stage": {
                "type": "object",
                "required": list(stage),
                "properties": stage,
                "patternProperties": {
                    r"^(tokens_|samples$|.*_us$)": {"type": ["integer", "null"]},
                    r"_energy_j(_|$)|^energy_j_per_": energy,
                    r"^(name|kind|status|.*_method)$": {"type": ["string", "null"]},
                },
            },
        },
    }


def to_json(report: RunReport) -> str:
    """JSON text, without NaN and infinity.

    Raises:
        KitError: A figure is one of them, which no log of the kit holds.
    """
    try:
        text = json.dumps(as_dict(report), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise KitError(
            "a figure of the log is no finite number",
            where=str(report.manifest.get("name")),
            fix="kit validate DIR",
        ) from None
    return json_shown(text)


def to_csv(report: RunReport) -> str:
    """One line for each stage, unattributed last; empty = unknown."""
    lines = report.all_lines
    rows = [stage_dict(line) | _carbon(report, line) for line in lines]
    return csv_text(rows)


def _carbon(report: RunReport, line: StageLine) -> dict[str, Any]:
    """CO2e of a stage by the grid and the PUE that the reader chose; nothing where none was."""
    if not report.carbon:
        return {}
    factor = report.carbon[0].factor
    kg = None
    if line.energy is not None:
        kg = co2e_kg(facility(line.energy, report.options.pue or 1.0), factor.g_co2e_per_kwh)
    return bounds("co2e_kg", kg) | {"co2e_factor_id": factor.factor_id}


def to_markdown(report: RunReport) -> str:
    """A table and the notes, for a README or a model card."""
    from harness.report.terminal import _cell, _per_token, _total_cell, _unit

    size, unit = _unit(report)
    parts = report.parts
    head = ["stage", "kind", "status", "time", "share", *(f"{p.upper()} {unit}" for p in parts), "J/token"]
    lines = [
        f"### {shown(report.manifest.get('name'), 'markdown')}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "|".join(["---"] * 3 + ["---:"] * (len(head) - 3)) + "|",
    ]
    for line in report.all_lines:
        value, of = _per_token(line)
        share = "" if line.share is None else f"{line.share:.1%}"
        cells = [
            shown(title(line), "markdown"),
            shown(line.row["stage"], "markdown"),
            shown(line.row["status"], "markdown"),
            duration(line.duration_us),
            share,
            *(_with_method(line.row, part, _cell(line.row, part, size)) for part in parts),
            f"{value} {of}".strip(),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    sums = [_total_cell(report, p, size) for p in parts]
    lines.append("| " + " | ".join(["**total**", "", "", "", "", *(f"**{s}**" for s in sums), ""]) + " |")
    lines.append("")
    lines += [f"- {_said(name.strip())}: {_said(value)}" for name, value in summary_lines(report)]
    doubts = [f"- {_said(names)}: {_said('; '.join(each))}." for names, each in stage_notes(report)]
    lines += ["", *doubts] if doubts else []
    lines += ["", *(f"{_said(note)}  " for note in notes(report))]
    return "\n".join(lines).rstrip() + "\n"


def _with_method(row: Mapping[str, Any], part: str, value: str) -> str:
    method = row.get(f"{part}_energy_method", "absent")
    return value if method in ("absent", *PLAIN_COUNTER) else f"{value} ({_said(method_words(method))})"


def _said(text: str) -> str:
    """A sentence that may name things of the bundle, as Markdown."""
    return shown(text, "markdown", limit=MAX_LINE)
