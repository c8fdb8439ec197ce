"""LaTeX for a paper: tables (booktabs, siunitx) with units and intervals, and a paragraph on the method."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.accounting import BreakEven, Interval
from harness.accounting.rounding import MOST_DIGITS, decimals, duration
from harness.report.figures.parts import groups
from harness.report.model import RunReport, unmeasured
from harness.report.palette import METHOD_WORDS
from harness.report.study import Entry, basis, unit_of
from harness.report.words import part_words
from harness.text import shown

PREAMBLE = "% \\usepackage{booktabs,siunitx} \\sisetup{range-phrase = { to }, group-minimum-digits = 5}"

_UNITS = {"J": r"\joule", "kWh": r"\kilo\watt\hour"}


def _tex(text: object) -> str:
    return shown(text, "latex")


def number(value: float, half_width: float = 0.0) -> str:
    r"""A number as \num, with no more digits than half the width of its interval allows."""
    if value == 0:
        return r"\num{0}"
    if half_width == 0 and 0.1 <= abs(value) < 1e4:
        return rf"\num{{{value:.2f}}}"
    places = decimals(value, half_width if math.isfinite(half_width) else abs(value), MOST_DIGITS)
    rounded = round(value, places)
    return rf"\num{{{rounded:.{max(0, places)}f}}}" if rounded else rf"\num{{{value:.1g}}}"


def interval(value: Interval | None) -> str:
    """A figure and, in brackets, its interval."""
    if value is None:
        return "--"
    half = value.half_width
    best = number(value.best, half)
    if half == 0:
        return best
    high = number(value.high, half) if math.isfinite(value.high) else r"$\infty$"
    return f"{best} ({number(value.low, half)}--{high})"


def break_even(even: BreakEven) -> str:
    """N* with its interval; a case that is no number in words."""
    if even.withheld is not None:
        return "no verdict"
    if even.case != "finite" or even.ratio is None:
        return {"always": "at once", "never": "never"}.get(even.case, "--")
    if not even.resolved:
        return f"{number(even.ratio, 0.05 * even.ratio)} (unresolved)"
    return interval(Interval(even.ratio, even.low, even.high))


def main_table(entries: Sequence[Entry]) -> str:
    """Energy, J/token, Q and N* of every entry, groups apart, each energy with its own unit."""
    body = []
    for group, members in groups(entries).items():
        totals = [entry.total for entry in members]
        unit, scale = unit_of([whole.best for whole in totals if whole is not None])
        body += [
            r"\midrule",
            rf"\multicolumn{{6}}{{l}}{{{_tex(group)}, energy in \unit{{{_UNITS[unit]}}}}} \\",
        ]
        for entry, whole in zip(members, totals, strict=True):
            each = None if whole is None or not entry.tokens else whole.scale(1 / entry.tokens)
            cells = [
                METHOD_WORDS.get(entry.method, _tex(entry.name)),
                entry.size.upper() or _tex(entry.name),
                interval(None if whole is None else whole.scale(scale)),
                interval(each),
                interval(entry.quality),
                break_even(entry.even) if entry.parts else "--",
            ]
            body.append(_row(cells))
    return _tabular("llrrrr", ("Pipeline", "Size", "Energy", "J/token", "$Q$", "$N^*$"), body)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tabular(columns: str, head: Sequence[str], body: Sequence[str]) -> str:
    top = [PREAMBLE, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _row(head)]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}", ""])


def beside_table(reports: Sequence[RunReport]) -> str:
    """What stands beside the energy of runs: GPU-hours, speed, memory, J per served token, CO2e.

    Args:
        reports: built for one grid, or for none: then there is no column of CO2e.
    """
    grid = next((report.carbon[0].factor for report in reports if report.carbon), None)
    head = ["Run", "GPU-hours", "Tokens/s", r"Peak (\unit{\gibi\byte})", "J/served token"]
    head += [] if grid is None else [rf"CO2e (\unit{{\gram}}), {_tex(grid.name)} {grid.year}"]
    body = [r"\midrule"]
    for report in reports:
        hours = None if report.totals.gpu.energy_j is None else report.gpu_hours
        name = str(report.manifest.get("name"))
        cells = [_tex(name if basis(report) == "measured" else f"{name} ({basis(report)})")]
        cells += [
            "--" if value is None else number(value, 0.005 * value) for value in (hours, report.throughput)
        ]
        cells.append("--" if report.peak_gpu_mib is None else number(report.peak_gpu_mib / 1024))
        cells.append(interval(None if report.served is None else report.served.per_token))
        if grid is not None:
            known = report.carbon and not report.totals.incomplete
            cells.append(interval(report.carbon[0].kg.scale(1e3) if known else None))
        body.append(_row(cells))
    return _tabular("l" + "r" * (len(head) - 1), head, body)


def stage_table(report: RunReport) -> str:
    """Every stage of one run with its components."""
    parts = report.parts
    unit, scale = unit_of([line.energy.best for line in report.lines if line.energy])
    columns = [", ".join([p.upper(), *sorted(report.states(p) - {"measured"})]) for p in parts]
    head = ["Stage", "Time", *(rf"{column} (\unit{{{_UNITS[unit]}}})" for column in columns), "Share"]
    body = [r"\midrule"]
    for line in report.all_lines:
        cells = [
            r"\quad " * line.depth + _tex(line.row["name"]),
            _tex(duration(line.duration_us)).replace("\u202f", "~"),
        ]
        for part in parts:
            best, low, high = (line.row.get(f"{part}_energy_j{end}") for end in ("", "_low", "_high"))
            if best is None:
                cells.append("--")
                continue
            ends = (best if low is None else low, best if high is None else high)
            cells.append(interval(Interval(best, min(best, ends[0]), max(best, ends[1])).scale(scale)))
        cells.append("" if line.share is None else rf"\qty{{{100 * line.share:.1f}}}{{\percent}}")
        body.append(_row(cells))
    return _tabular("l" + "r" * (len(head) - 1), head, body)


def methods(report: RunReport) -> str:
    """What was measured, how and by which protocol, as a paragraph for a paper."""
    manifest, totals = report.manifest, report.totals
    hardware = manifest.get("hardware") or {}
    models = [str(d.get("model")) for d in hardware.get("devices") or []]
    machine = ", ".join(f"{models.count(m)} $\\times$ {_tex(m)}" for m in dict.fromkeys(models))
    cpu = _tex(hardware.get("cpu_model") or "an unknown CPU")
    sampling = manifest.get("sampling") or {}
    seconds = float(sampling.get("nominal_period_us") or 0) / 1e6
    said = [
        f"Energy was accounted by version {report.protocol.version} of the accounting protocol of the "
        f"Distillation Energy Kit on {machine + ' and ' if machine else ''}{cpu}."
    ]
    said += [f"{part.upper()} energy is by {_tex(part_words(report, part))}." for part in report.parts]
    missing = unmeasured(report)
    if missing:
        said.append(f"{' and '.join(missing)} energy was not measured and is absent, not zero.")
    if seconds:
        said.append(rf"Readings were taken every \qty{{{seconds:g}}}{{\second}} by a process of its own.")
    if totals.gpu.energy_j is not None:
        said.append(
            "Stage boundaries are moments between refreshes of the energy counter, and the power integral "
            "over the same window is a cross-check."
        )
        said.append(
            r"Intervals hold \qty{95}{\percent} of boundary, gap and sampling errors; the sensor's own "
            rf"\qty{{{100 * report.sensor_rel:g}}}{{\percent}} is common to all stages of a device "
            "and cancels in ratios."
        )
    said.append("What lies between stages is reported as unattributed.")
    if "estimated" in report.states():
        said.append(
            "An estimate lies between nothing and twice its value, and never ranks beside what was measured."
        )
    reference = report.token_counts.get("reference")
    if reference:
        said.append(rf"Joules per token divide by \num{{{reference}}} declared reference tokens.")
    said.append("Energies are those of the machines; PUE and grid intensity are not in them.")
    return f"% run {shown(manifest.get('run_id'))}\n" + " ".join(said) + "\n"
