"""Figures of cells beside the published ones, as records for CSV and JSON; energies in joules.

Measured and published values have columns of their own and never share a ranking.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.accounting import Interval
from harness.accounting.rounding import J_PER_KWH
from harness.experiments.comparison import remarks
from harness.experiments.frontier import frontier
from harness.experiments.grid import sweep_cells
from harness.experiments.paper import published, published_break_even
from harness.experiments.results import PARTS, CellResult, Results
from harness.experiments.teacher import kept_teacher

Record = dict[str, Any]


def _interval(name: str, energy: Interval | None) -> Record:
    if energy is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    high = energy.high if math.isfinite(energy.high) else None
    return {name: energy.best, f"{name}_low": energy.low, f"{name}_high": high}


def cell_record(results: Results, result: CellResult) -> Record:
    """Every figure of a cell, for JSON and CSV; energies in joules."""
    cell = result.cell
    record: Record = {
        "profile": results.profile.name,
        "labels": "+".join(results.profile.labels),
        "regime": cell.regime,
        "size": cell.size,
        "seed": cell.seed,
        "alpha": cell.alpha,
        "temperature": cell.temperature,
        "max_new_tokens": cell.variant.max_new_tokens if cell.variant else None,
        "prompts": cell.variant.prompts if cell.variant else None,
    }
    record |= _interval("energy_j", result.total)
    record["energy_kwh"] = None if result.total is None else result.total.best / J_PER_KWH
    record |= _interval("energy_relative_to_sft", results.relative(result))
    record |= _interval("amortized_energy_j", result.amortized)
    for part in PARTS:
        record |= _interval(f"{part}_energy_j", result.parts[part])
    record |= _interval("failed_attempts_energy_j", result.failed)
    record |= _interval("energy_j_per_reference_token", result.per_reference_token)
    record |= _interval("student_energy_j_per_trained_token", result.per_trained_token)
    record["student_positions"] = result.positions
    record |= _interval("student_energy_j_per_position", result.per_position)
    record["student_ended"] = result.training.get("stopped")
    record["student_steps"] = result.training.get("step")
    record["reference_tokens"] = result.reference
    record["tokens_trained"] = result.trained
    record["quality"] = result.quality
    record["quality_stderr"] = result.quality_stderr
    record["quality_note"] = result.quality_note
    record["heldout_loss"] = result.heldout_loss
    even = results.break_even(result)
    record["break_even_case"] = None if even is None else even.case
    record["break_even_withheld"] = None if even is None else even.withheld
    record["break_even_reuses"] = None if even is None else even.ratio
    record["break_even_reuses_whole"] = None if even is None else even.whole
    record["break_even_low"] = None if even is None or not math.isfinite(even.low) else even.low
    record["break_even_high"] = None if even is None or not math.isfinite(even.high) else even.high
    record["gpu_hours"] = result.gpu_hours
    record["student_tokens_per_s"] = result.tokens_per_s
    record["peak_gpu_memory_mib"] = result.peak_gpu_mib
    record |= _interval("co2e_kg", results.co2e_kg(result))
    record["co2e_factor_id"] = None if results.grid is None else results.grid.factor_id
    one = result.served
    record["serving_workload"] = None if one is None else one.workload
    record["served_tokens"] = None if one is None else one.tokens
    record["served_tokens_per_s"] = None if one is None else one.tokens * 1e6 / one.duration_us
    record |= _interval("energy_j_per_served_token", None if one is None else one.per_token)
    paid = results.serving(result)
    record["serving_withheld"] = None if paid is None else paid.withheld
    record["serving_case"] = None if paid is None else paid.case
    record["serving_tokens"] = None if paid is None else paid.ratio
    for part, methods in result.basis.methods.items():
        record[f"{part}_energy_methods"] = "+".join(methods)
    record["run_id"] = result.run_id
    record["teacher_paid_by_run_id"] = results.shared_run_id
    return record


def published_record(regime: str, size: str) -> Record:
    """The published cell; null where no source gives a value."""
    cell = published().get((regime, size))
    even = published_break_even(regime, size)
    baseline = published().get(("sft", size))
    relative = None
    if regime != "sft" and cell and baseline and cell.energy_kwh and baseline.energy_kwh:
        relative = cell.energy_kwh / baseline.energy_kwh
    return {
        "published_energy_relative_to_sft": relative,
        "published_energy_kwh": cell.energy_kwh if cell else None,
        "published_energy_j_per_token": cell.energy_j_per_token if cell else None,
        "published_quality": cell.quality if cell else None,
        "published_break_even_reuses": even.ratio if even else None,
    }


def as_json(results: Results, target: str) -> Record:
    """Everything, for programs."""
    cells = []
    for result in results.cells:
        record = cell_record(results, result)
        record["scores"] = dict(result.scores)
        record["training"] = dict(result.training)
        if result.cell.is_default:
            record |= published_record(result.cell.regime, result.cell.size)
            record["comparable"] = [vars(remark) for remark in remarks(results, result)]
        cells.append(record)
    return {
        "target": target,
        "profile": results.profile.name,
        "labels": list(results.profile.labels),
        "deviations": list(results.deviations),
        "cells": cells,
        "teacher": {
            "scores": dict(results.teacher_scores),
            "heldout_loss": results.teacher_heldout_loss,
            "kept": kept_teacher(results.profile),
        },
        "not_charged": {name: _interval("energy_j", e) for name, e in results.uncharged.items()},
        "run_spread": None
        if results.spread is None
        else {**vars(results.spread), "relative": results.spread.relative, "noise": results.spread.noise},
        "frontier": [vars(point) for point in frontier(grid_of(results))],
    }


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV; empty means unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def table2_csv(results: Results) -> str:
    """The main table, measured and published columns apart."""
    rows = []
    for result in grid_of(results):
        published_cell = published_record(result.cell.regime, result.cell.size)
        verdicts = {f"{r.quantity}_comparable": r.verdict for r in remarks(results, result)}
        rows.append(cell_record(results, result) | published_cell | verdicts)
    return as_csv(rows)


def table3_rows(results: Results) -> list[Record]:
    """The stage breakdown: a row a cell and stage, in joules and as a share, beside the published kWh."""
    rows = []
    for result in grid_of(results):
        cell = published().get((result.cell.regime, result.cell.size))
        whole = result.total
        for part in PARTS:
            energy = result.parts[part]
            if part == "teacher" and result.cell.regime == "sft":
                continue
            kind = part
            if part == "teacher":
                kind = "teacher_logits" if result.cell.regime == "kd" else "teacher_generate"
            share = None if energy is None or whole is None or not whole.best else energy.best / whole.best
            kwh = cell.stages_kwh.get(kind) if cell else None
            published_share = kwh / cell.energy_kwh if cell and kwh and cell.energy_kwh else None
            rows.append(
                {
                    "profile": results.profile.name,
                    "regime": result.cell.regime,
                    "size": result.cell.size,
                    "stage": kind,
                    **_interval("energy_j", energy),
                    "share": share,
                    "published_energy_kwh": kwh,
                    "published_share": published_share,
                }
            )
    return rows


def sweep_rows(results: Results) -> list[Record]:
    """The sweeps: a row a setting with mean and spread over the seeds, and the energy of failed attempts."""
    rows = []
    grid = results.profile.own_grid
    for name, found in cells_of_sweeps(results).items():
        sweep = grid.sweeps[name]
        groups: dict[tuple[Any, ...], list[CellResult]] = {}
        for result in found:
            values = {
                "alpha": result.cell.alpha,
                "temperature": result.cell.temperature,
                "max_new_tokens": result.cell.variant.max_new_tokens if result.cell.variant else None,
                "prompts": result.cell.variant.prompts if result.cell.variant else None,
            }
            groups.setdefault(tuple(values[axis] for axis in sweep.axes), []).append(result)
        for setting, members in groups.items():
            row: Record = {"profile": results.profile.name, "sweep": name}
            row["setting"] = ", ".join(f"{axis}={v:g}" for axis, v in zip(sweep.axes, setting, strict=True))
            row["runs"] = len(members)
            energies = [m.total.best for m in members if m.total is not None]
            row |= _spread("energy_j", energies) | _spread(
                "student_energy_j",
                [e.best for m in members if (e := m.parts["student_train"]) is not None],
            )
            row |= _spread("quality", [m.quality for m in members if m.quality is not None])
            row |= _spread("heldout_loss", [m.heldout_loss for m in members if m.heldout_loss is not None])
            failed = [m.failed.best for m in members if m.failed is not None]
            row["failed_attempts_energy_j"] = sum(failed) if failed else 0.0
            rows.append(row)
    return rows


def cells_of_sweeps(results: Results) -> dict[str, list[CellResult]]:
    """Sweep to its cells, all seeds; sweeps without any are left out."""
    by_cell = {result.cell: result for result in results.cells}
    grid = results.profile.own_grid
    found = {
        name: [by_cell[cell] for cell in sweep_cells(name, grid, repeats=True) if cell in by_cell]
        for name in grid.sweeps
    }
    return {name: cells for name, cells in found.items() if cells}


def grid_of(results: Results) -> list[CellResult]:
    """The cells of the main table."""
    return [result for result in results.cells if result.cell.is_default and result.cell.seed == 0]


def _spread(name: str, values: Sequence[float]) -> Record:
    if not values:
        return {f"{name}_mean": None, f"{name}_std": None, f"{name}_min": None, f"{name}_max": None}
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        f"{name}_mean": statistics.fmean(values),
        f"{name}_std": spread,
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }
