"""Table 2 for a terminal: 80 columns, measured and published side by side; tables/table2.md has the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.accounting import BreakEven, Interval
from harness.accounting.rounding import break_even_text
from harness.experiments.comparison import remarks
from harness.experiments.documents import (
    NOT_AVAILABLE,
    figure,
    frontier_words,
    number,
    quality_text,
    times_text,
)
from harness.experiments.grid import REGIME_WORDS
from harness.experiments.paper import published_break_even
from harness.experiments.results import Results
from harness.experiments.tables import grid_of, published_record

_OPEN = "open"
_NOISE = "noise"


def summary(results: Results) -> list[str]:
    """The main table in short, the frontier and how much of it may be compared."""
    pocket = results.profile.is_pocket
    unit, scale = results.unit
    how = "estimated" if any(result.basis.estimated for result in results.cells) else "measured"
    here = f"{'pocket' if pocket else results.profile.name}, {how} here"
    rows = [["", "", here, "", "", "", "published", "", "", ""]]
    rows += [["pipeline", "size", f"E {unit}", "/SFT", "Q", "N*", "E kWh", "/SFT", "Q", "N*"]]
    verdicts: Counter[str] = Counter()
    for result in grid_of(results):
        cell = result.cell
        paper = published_record(cell.regime, cell.size)
        verdicts.update(remark.verdict for remark in remarks(results, result))
        rows.append(
            [
                REGIME_WORDS[cell.regime],
                cell.size.upper(),
                figure(result.total, scale),
                _times(results.relative(result)),
                quality_text(result),
                _reuses(results.break_even(result)),
                number(paper["published_energy_kwh"], 2),
                number(paper["published_energy_relative_to_sft"], 1),
                number(paper["published_quality"], 2),
                _reuses(published_break_even(cell.regime, cell.size)),
            ]
        )
    lines = _aligned(rows)
    lines += ["", *_read(results)]
    if any(row[5] == _OPEN for row in rows):
        lines += ["N* open: its interval reaches from reuses that pay to reuses that never do."]
    if any(row[5] == _NOISE for row in rows):
        evens = [results.break_even(result) for result in grid_of(results)]
        reasons = {even.withheld: None for even in evens if even is not None and even.withheld}
        lines += [f"N* noise: {reason}." for reason in reasons]
    lines += ["", *_students(results)]
    lines += ["", *frontier_words(grid_of(results))]
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    bases = "; ".join(sorted({result.basis.words for result in results.cells}))
    lines.append(f"{bases[:1].upper()}{bases[1:]}.")
    if pocket:
        lines.append("Pocket figures say nothing about OLMo-2 and are not ranked beside measured ones.")
    return [*lines, f"Cell by cell, of {verdicts.total()} figures beside published ones: {said}."]


def _students(results: Results) -> list[str]:
    """Energy of each student's training as positions times J/position, and how it ended."""
    lines = [f"{'student training':22}{'positions':>12}{'mJ/position':>15}  ended"]
    for result in grid_of(results):
        name = f"{REGIME_WORDS[result.cell.regime]} {result.cell.size.upper()}"
        count = NOT_AVAILABLE if result.positions is None else f"{result.positions:,}"
        lines.append(f"{name:22}{count:>12}{figure(result.per_position, 1e3):>15}  {result.ended}")
    if results.spread is not None:
        spread = results.spread
        runs, share = len(spread.energies_j), 100 * spread.relative
        lines.append(
            f"{runs} equal runs of {spread.cell} spread by {share:.1f} % in joules"
            + ("." if spread.relative_cpu is None else f", {100 * spread.relative_cpu:.1f} % in CPU seconds.")
        )
        lines.append(
            f"Two single runs of equal work differ by up to {100 * spread.noise:.0f} % by chance (95 %)."
        )
    return lines


def _times(times: Interval | None) -> str:
    """A multiple in one decimal, with a mark where it may be 1."""
    if times is None:
        return NOT_AVAILABLE
    return f"{times.best:.1f}" + ("?" if times.low <= 1 <= times.high else "")


def _read(results: Results) -> list[str]:
    """The table in a sentence a pipeline, by its smallest student that was run with SFT beside it."""
    lines = []
    for regime in ("kd", "synthetic_sft"):
        found = [r for r in grid_of(results) if r.cell.regime == regime and results.relative(r) is not None]
        times = results.relative(found[0]) if found else None
        if times is None:
            continue
        cell = found[0].cell
        paper = published_record(regime, cell.size)["published_energy_relative_to_sft"]
        beside = "" if paper is None else f"; published: {paper:.2f}"
        open_ = ", which may be 1" if times.low <= 1 <= times.high else ""
        name = f"{REGIME_WORDS[regime]} {cell.size.upper()}"
        lines.append(f"{name} takes {times_text(times)} times the energy of SFT{open_}{beside}.")
    return lines


def _reuses(even: BreakEven | None) -> str:
    if even is None or even.case == "undefined":
        return NOT_AVAILABLE
    if even.withheld is not None:
        return _NOISE
    if not even.resolved:
        return _OPEN
    return break_even_text(even).partition(" (")[0]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other; the first row names groups of columns and takes the room to its right."""
    widths = [max(len(row[k]) for row in rows[1:]) for k in range(len(rows[0]))]
    gaps = ["  ", " ", " ", *["  "] * (len(widths) - 3)]
    below = sum(widths[2:6]) + sum(map(len, gaps[3:6]))
    gaps[6] = " " * max(3, len(rows[0][2]) + 2 - below)
    starts = [sum(widths[:k]) + sum(map(len, gaps[1 : k + 1])) for k in range(len(widths))]
    first = ""
    for start, words in zip(starts, rows[0], strict=True):
        if words:
            first = first.ljust(start) + words
    lines = [first]
    for row in rows[1:]:
        line = ""
        for start, cell in zip(starts, row, strict=True):
            line = line.ljust(start) + cell
        lines.append(line)
    return [*lines[:2], "-" * max(map(len, lines)), *lines[2:]]
