"""The tables of a reproduction as files: Markdown, CSV and JSON.

In a pocket reproduction every table says so in its first lines and its columns carry the word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.accounting import Interval
from harness.accounting.rounding import break_even_text, plus_minus, significant
from harness.distill.cache_format import LITTLE_MASS
from harness.errors import KitError
from harness.experiments.comparison import remarks
from harness.experiments.frontier import frontier
from harness.experiments.grid import REGIME_WORDS, Target
from harness.experiments.paper import published_break_even
from harness.experiments.results import CellResult, Results
from harness.experiments.tables import (
    as_csv,
    as_json,
    cells_of_sweeps,
    grid_of,
    published_record,
    sweep_rows,
    table2_csv,
    table3_rows,
)
from harness.spec.factors import attribution

NOT_AVAILABLE = "-"

STUDENT_REL = 0.03
"""Relative error of both students' energies at which the sensitivity of N* is shown."""


def write_documents(results: Results, name: str, target: Target, folder: Path) -> dict[str, Path]:
    """Write everything a target ends with.

    Args:
        results: The figures.
        name: Name of the target.
        target: The target.
        folder: Where to; made if missing.

    Returns:
        File name to path, in the order a reader wants them.

    Raises:
        KitError: The folder cannot be written.
    """
    texts: dict[str, str] = {}
    for table in target.tables:
        if table not in _MARKDOWN and not cells_of_sweeps(results):
            # A sweep is of one size, and the others may have been asked for.
            continue
        texts[f"{table}.md"] = _MARKDOWN.get(table, sweeps_markdown)(results)
        texts[f"{table}.csv"] = _csv(results, table)
        texts[f"{table}.json"] = json.dumps(as_json(results, name), indent=2, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise KitError(f"cannot be written: {error.strerror}", where=str(error.filename or folder)) from None
    return {file: folder / file for file in texts}


def _csv(results: Results, table: str) -> str:
    if table in ("table2", "stopping", "serving"):
        return table2_csv(results)
    return as_csv(table3_rows(results) if table == "table3" else sweep_rows(results))


def table2_markdown(results: Results) -> str:
    """The main table with what may be compared, for a person."""
    students = max(result.students for result in results.cells)
    unit, scale = results.unit
    label = _label(results)
    head = ["pipeline", "size", f"E {unit}{label}", f"E {unit}, teacher shared{label}"]
    head += [f"E over SFT{label}", "E over SFT, published"]
    head += [f"J/token{label}", f"Q{label}"]
    repeated = [result for result in grid_of(results) if results.break_even_cpu(result) is not None]
    head += [f"N*{label}", *(["N* in CPU seconds"] if repeated else [])]
    head += ["E kWh, published", "J/token, published", "Q, published", "N*, published"]
    lines = []
    for result in grid_of(results):
        cell = result.cell
        paper = published_record(cell.regime, cell.size)
        even = results.break_even(result)
        lines.append(
            [
                REGIME_WORDS[cell.regime],
                cell.size.upper(),
                figure(result.total, scale),
                figure(result.amortized, scale),
                times_text(results.relative(result)),
                number(paper["published_energy_relative_to_sft"], 2),
                figure(result.per_reference_token, 1.0),
                quality_text(result),
                NOT_AVAILABLE if even is None else break_even_text(even),
                *([_cpu_text(results, result)] if repeated else []),
                number(paper["published_energy_kwh"], 2),
                number(paper["published_energy_j_per_token"], 2),
                number(paper["published_quality"], 2),
                number(paper["published_break_even_reuses"], 2),
            ]
        )
    return "\n".join(
        [
            "# Table 2: energy, J/token and quality of each pipeline and size",
            "",
            *_preface(results),
            "",
            *markdown(head, lines),
            "",
            "E is that of all stages and of the time between them. It charges the teacher's stage in full,",
            "as the paper does; in the next column it is divided",
            f"among the {students} students of this grid. E over SFT: as a multiple of SFT of the same size;",
            "what both share, such as an estimate's scale, cancels in it. J/token: E",
            f"over {results.cells[0].reference:,} declared tokens (published: 30.0 M). N*: reuses of the",
            "teacher's output from which training a distilled student, its share of the teacher included,",
            "takes no more than direct SFT, data preparation and scoring left out; in whole reuses the next",
            "number up. `±` and intervals cover boundary, gaps and that an estimate lies between nothing and",
            "twice as much; that of Q is 1.96 standard errors of its benchmarks. None holds what equal runs",
            "differ by: that is the run-to-run spread below.",
            *(
                ["N* in CPU seconds: the same from CPU time of the processes, over repeats."]
                if repeated
                else []
            ),
            f"`{NOT_AVAILABLE}`: not available, or not defined.",
            "",
            *frontier_words(grid_of(results)),
            *_students(results),
            *_beside(results),
            *_sensitivity(results),
            "## What may be compared",
            "",
            *markdown(
                ["cell", "quantity", "verdict", "why"],
                [
                    [result.cell.name, remark.quantity, remark.verdict, remark.why]
                    for result in grid_of(results)
                    for remark in remarks(results, result)
                ],
            ),
            "",
            *_notes(results),
            "",
        ]
    )


def _students(results: Results) -> list[str]:
    """Each student's energy as positions times J/position, and why its training ended."""
    lines = [
        "## Why a student costs what it costs",
        "",
        "Energy of a student's training = positions (evaluations included) x J/position. A regime whose",
        "students stop earlier is cheaper for that; at equal positions only the work of a position differs.",
        "",
    ]
    head = ["pipeline", "size", "positions", "mJ/position", "ended", "best step"]
    rows = [
        [
            REGIME_WORDS[result.cell.regime],
            result.cell.size.upper(),
            NOT_AVAILABLE if result.positions is None else f"{result.positions:,}",
            figure(result.per_position, 1e3),
            result.ended,
            NOT_AVAILABLE if (best := result.training.get("best_step")) is None else f"{best:,}",
        ]
        for result in grid_of(results)
    ]
    spread = "Run-to-run spread: not known (no repeat with everything equal that can be read)."
    if results.spread is not None:
        spread = results.spread.words
    return [*lines, *markdown(head, rows), "", spread, ""]


def _beside(results: Results) -> list[str]:
    """What stands beside the energy: time on GPUs, speed, memory and, where a grid was named, CO2e."""
    label, grid = _label(results), results.grid
    head = [
        "pipeline",
        "size",
        f"GPU-hours{label}",
        f"tokens/s, training{label}",
        f"peak GPU memory, MiB{label}",
    ]
    head += [] if grid is None else [f"g CO2e, {grid.name} {grid.year}{label}"]
    rows = []
    for result in grid_of(results):
        peak, speed = result.peak_gpu_mib, result.tokens_per_s
        row = [REGIME_WORDS[result.cell.regime], result.cell.size.upper()]
        row += [f"{result.gpu_hours:.3g}" if result.basis.gpu else NOT_AVAILABLE]
        row += [NOT_AVAILABLE if value is None else f"{value:,.0f}" for value in (speed, peak)]
        rows.append([*row, *([] if grid is None else [figure(results.co2e_kg(result), 1e3)])])
    said = "CO2e is not given: name a grid with --region."
    if grid is not None:
        said = f"CO2e: E times {grid.g_co2e_per_kwh:g} g/kWh ({grid.factor_id}: {attribution(grid)}), PUE 1."
    return ["## Beside the energy", "", *markdown(head, rows), "", said, ""]


def stopping_markdown(results: Results) -> str:
    """When each student's training ended and what it took, for a person."""
    title = "# When each student's training ended"
    return "\n".join([title, "", *_preface(results), "", *_students(results), *_notes(results), ""])


def serving_markdown(results: Results) -> str:
    """J per served token of every cell and T* against direct SFT, for a person."""
    label = _label(results)
    head = [
        "pipeline",
        "size",
        f"J/served token{label}",
        f"tokens/s{label}",
        "workload",
        f"T*, tokens{label}",
    ]
    lines = []
    for result in grid_of(results):
        one, even = result.served, results.serving(result)
        lines.append(
            [
                REGIME_WORDS[result.cell.regime],
                result.cell.size.upper(),
                "not measured" if one is None else figure(one.per_token, 1.0),
                NOT_AVAILABLE if one is None else f"{one.tokens * 1e6 / one.duration_us:,.0f}",
                NOT_AVAILABLE if one is None else one.workload,
                NOT_AVAILABLE if even is None else break_even_text(even),
            ]
        )
    said = [
        "J/served token: energy of the steady part of stage `serve`, loading and warm-up left out, over its",
        "generated tokens. T*: served tokens after which what the student cost more than direct SFT of its",
        "size has been saved. Students of one size are one architecture and do equal work here, so T* has",
        "no verdict where they differ by no more than the run-to-run spread of equal work, or where that was",
        "not measured. Serving is in no E of the other tables.",
    ]
    title = "# J per served token"
    return "\n".join(
        [title, "", *_preface(results), "", *markdown(head, lines), "", *said, "", *_notes(results), ""]
    )


def _cpu_text(results: Results, result: CellResult) -> str:
    """N* in CPU seconds and over how many repeats."""
    even = results.break_even_cpu(result)
    count = len(results.repeats(result))
    return NOT_AVAILABLE if even is None else f"{break_even_text(even)}, {count} repeats"


def table3_markdown(results: Results) -> str:
    """The stage breakdown, for a person."""
    unit, scale = results.unit
    label = _label(results)
    head = ["pipeline", "size", "stage", f"E {unit}{label}", f"share{label}"]
    head += ["E kWh, published", "share, published"]
    lines = []
    for row in table3_rows(results):
        energy = None
        if row["energy_j"] is not None:
            energy = Interval(row["energy_j"], row["energy_j_low"], row["energy_j_high"] or math.inf)
        lines.append(
            [
                REGIME_WORDS[row["regime"]],
                row["size"].upper(),
                row["stage"],
                figure(energy, scale),
                _percent(row["share"]),
                number(row["published_energy_kwh"], 2),
                _percent(row["published_share"]),
            ]
        )
    title = "# Table 3: energy by stage"
    return "\n".join([title, "", *_preface(results), "", *markdown(head, lines), "", *_notes(results), ""])


def sweeps_markdown(results: Results) -> str:
    """The sweeps, for a person."""
    unit, scale = results.unit
    label = _label(results)
    head = ["sweep", "setting", "runs", f"E {unit}{label}", f"E student {unit}{label}", f"Q{label}"]
    head += [f"held-out loss{label}", f"failed attempts {unit}{label}"]
    lines = [
        [
            row["sweep"],
            row["setting"],
            str(row["runs"]),
            _mean(row, "energy_j", scale),
            _mean(row, "student_energy_j", scale),
            _mean(row, "quality", 1.0),
            _mean(row, "heldout_loss", 1.0),
            significant(row["failed_attempts_energy_j"] * scale),
        ]
        for row in sweep_rows(results)
    ]
    note = "Mean and standard deviation over the seeds; the paper's values of these sweeps are not available."
    title = "# Sweeps around the 1B cells"
    said = []
    for sweep, cells in cells_of_sweeps(results).items():
        said += [f"{sweep}: {line}" for line in frontier_words(cells) if line]
    return "\n".join([title, "", *_preface(results), "", *markdown(head, lines), "", note, "", *said, ""])


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    table = [list(head), *[list(line) for line in lines]]
    widths = [max(len(row[k]) for row in table) for k in range(len(head))]

    def row_of(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [row_of(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(row_of, lines)]


def _label(results: Results) -> str:
    """For the head of every measured column: what is not the paper's own scale says so."""
    return ", pocket" if results.profile.is_pocket else f", {results.profile.name}"


def _preface(results: Results) -> list[str]:
    bases = sorted({result.basis.words for result in results.cells})
    lines = [f"Profile `{results.profile.name}`: {results.profile.summary}. {'; '.join(bases)}."]
    if any("codecarbon_process" in result.basis.methods["dram"] for result in results.cells):
        lines.append("DRAM energy in E is a constant by the size of the memory times the time a stage takes.")
    if results.profile.is_pocket:
        lines.append("**Pocket figures say nothing about OLMo-2 and are not ranked beside measured ones.**")
    return lines


def _notes(results: Results) -> list[str]:
    uncharged = [
        f"{name} {significant(energy.best)} J"
        for name, energy in results.uncharged.items()
        if energy is not None
    ]
    lines = [f"Logged, charged to nobody (as in the paper): {', '.join(uncharged)}."] if uncharged else []
    failed = [(r.cell.name, r.failed.best) for r in results.cells if r.failed is not None]
    if failed:
        listed = ", ".join(f"{name} {significant(joules)} J" for name, joules in failed)
        lines.append(f"In E, used by attempts that did not complete: {listed}.")
    lines += _kept_mass(results)
    deviations = [f"- {deviation}" for deviation in results.deviations]
    return [*lines, *([""] if lines else []), "Deviations of this profile from the paper:", "", *deviations]


def _kept_mass(results: Results) -> list[str]:
    """How much of the teacher's mass the logit cache's ids hold at each temperature of a student."""
    shares = {
        result.training["temperature"]: result.training["kept_mass"]
        for result in results.cells
        if result.training.get("kept_mass") is not None
    }
    if not shares:
        return []
    said = ", ".join(
        f"{share:.1%} at T={temperature:g}{' (little)' if share < LITTLE_MASS else ''}"
        for temperature, share in sorted(shares.items())
    )
    return [f"Of the teacher's mass the cached ids hold {said}; the loss sees the rest as one outcome."]


def figure(energy: Interval | None, scale: float) -> str:
    """An energy times a scale with half the width of its interval, as far as its digits mean something."""
    if energy is None:
        return NOT_AVAILABLE
    best, low, high = energy.best * scale, energy.low * scale, energy.high * scale
    half = max(best - low, high - best)
    return plus_minus(best, half) if 0 < half < math.inf else significant(best)


def _sensitivity(results: Results) -> list[str]:
    """What an error of a few percent does to N*: the saving in its denominator is a small difference."""
    lines = ["## How sensitive N* is", ""]
    error = f"with ± {100 * STUDENT_REL:.0f} %"
    lines += [
        "N* divides the teacher's energy by a small difference of two large ones, so a small error of the",
        f"students' energies moves it far. {error.capitalize()} on both students it would be:",
        "",
    ]
    head = ["pipeline", "size", "N*", "by its interval", f"{error} on the students"]
    head += ["published", f"published, {error}"]
    rows = []
    for result in grid_of(results):
        cell = result.cell
        even = results.break_even(result)
        if even is None:
            continue
        exact = published_break_even(cell.regime, cell.size)
        near = results.break_even(result, STUDENT_REL)
        moved = published_break_even(cell.regime, cell.size, STUDENT_REL)
        rows.append(
            [
                REGIME_WORDS[cell.regime],
                cell.size.upper(),
                NOT_AVAILABLE if even.ratio is None or even.withheld else f"{even.ratio:.2f}",
                break_even_text(even),
                NOT_AVAILABLE if even.withheld or near is None else break_even_text(near),
                NOT_AVAILABLE if exact is None else break_even_text(exact),
                NOT_AVAILABLE if moved is None else break_even_text(moved),
            ]
        )
    return [*lines, *markdown(head, rows), ""] if rows else []


def frontier_words(cells: Sequence[CellResult]) -> list[str]:
    """The frontier of some cells in words."""
    points = frontier(cells)
    if not points:
        return []
    front = [p.name for p in points if p.on_frontier]
    lines = [f"On the frontier of energy and Q: {', '.join(front)}."]
    near = [(p.name, [n for n in p.ties if n in front]) for p in points if not p.dominated_by]
    near = [(name, ties) for name, ties in near if ties]
    if len(near) > 1 and len(near) == len(points) - len(front):
        lines.append("Every other cell is tied with one of them, because the intervals allow no order.")
    elif near:
        listed = "; ".join(f"{name} and {', '.join(ties)}" for name, ties in near)
        lines.append(f"Tied with one of them, because their intervals allow no order: {listed}.")
    return [*lines, ""]


def times_text(times: Interval | None) -> str:
    """A multiple with its interval."""
    if times is None:
        return NOT_AVAILABLE
    high = f"{times.high:.2f}" if math.isfinite(times.high) else "no end"
    return f"{times.best:.2f} ({times.low:.2f} to {high})"


def quality_text(result: CellResult) -> str:
    """Q with half the width of its 95 % interval."""
    q = result.quality_interval
    if q is None:
        return NOT_AVAILABLE
    return f"{q.best:.2f}" + (f" ± {q.half_width:.2f}" if q.half_width else "")


def number(value: float | None, places: int) -> str:
    """A published value."""
    return NOT_AVAILABLE if value is None else f"{value:.{places}f}"


def _percent(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{100 * value:.0f} %"


def _mean(row: Mapping[str, Any], name: str, scale: float) -> str:
    mean, spread = row[f"{name}_mean"], row[f"{name}_std"]
    if mean is None:
        return NOT_AVAILABLE
    text = significant(mean * scale)
    return text if spread is None else f"{text} ± {significant(spread * scale, most=2)}"


_MARKDOWN = {
    "table2": table2_markdown,
    "table3": table3_markdown,
    "stopping": stopping_markdown,
    "serving": serving_markdown,
}
"""Table to its maker; every other one is of sweeps."""
