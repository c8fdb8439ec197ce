"""The report as a table with a bar per stage; one layout for 80 columns, one for wide terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.accounting import UNATTRIBUTED, Interval
from harness.accounting.rounding import J_PER_KWH, duration, encodable, quantity, significant
from harness.accounting.totals import DENOMINATORS
from harness.report.comparison import against_lines, stated_energy, whole_energy
from harness.report.model import RunReport, StageLine
from harness.report.scores import Baseline, score_lines
from harness.report.words import method_words, notes, part_words, said_once, stage_notes, title
from harness.spec import load_protocol
from harness.text import MAX_LINE, shown
from harness.validate.text import trimmed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.spec import Protocol
    from harness.spec.factors import GridFactor

WIDE = 120
"""Columns from which the wide layout fits."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_COLOURS = {
    "teacher": "magenta",
    "student": "blue",
    "scores": "green",
    "idle": "white",
    "derived": "bright_black",
}
"""Property of a stage kind -> colour of its bar; other kinds of the protocol are cyan, `x-` kinds white."""
_UNITS = ((3.6e7, J_PER_KWH, "kWh"), (1e6, 1e6, "MJ"), (1e4, 1e3, "kJ"), (0.0, 1.0, "J"))
_TOKEN_ORDER = ("trained", "generated", "processed", "positions", "reference")


def print_report(report: RunReport, console: Console) -> None:
    """Print the whole report.

    Args:
        report: what to say.
        console: rich console; width, colours and encoding are respected.
    """
    draws = encodable("█▏±", console.encoding) == "█▏±"
    with trimmed(console):
        console.print(_heading(report, console.width))
        console.print()
        table = _table(report, console.width, ascii_only=not draws)
        console.print(table)
        console.print()
        shown_parts = [str(column.header).split()[0].lower() for column in table.columns]
        if lost := [part.upper() for part in report.parts if part not in shown_parts]:
            columns = "1 column does" if len(lost) == 1 else f"{len(lost)} columns do"
            console.print(f"{columns} not fit ({', '.join(lost)}): a wider terminal, or --format json")
            console.print()
        console.print(_summary(report))
        _print_notes(report, console)


def _colour(name: str, protocol: Protocol) -> str:
    kind = next((kind for kind in protocol.stage_kinds if kind.name == name), None)
    if kind is None:
        return "white"
    return next((colour for role, colour in _COLOURS.items() if getattr(kind, role)), "cyan")


def _heading(report: RunReport, width: int) -> Text:
    from rich.text import Text

    manifest = report.manifest
    hardware = manifest.get("hardware") or {}
    models = [str(d.get("model")) for d in hardware.get("devices") or []]
    machine = ", ".join(f"{models.count(m)} x {m}" for m in dict.fromkeys(models)) or "no GPU"
    if not models and hardware.get("cpu_model"):
        machine += f", {hardware['cpu_model']}"
    text = Text(shown(manifest.get("name", "")), "bold", no_wrap=True, overflow="ellipsis")
    facts = f"   {shown(manifest.get('method'))}   {shown(machine)}   protocol {report.protocol.version}"
    text.append(facts, "default")
    text.append(f"   run {shown(manifest.get('run_id'))}" if width >= WIDE else "", "dim")
    return text


def _unit(report: RunReport) -> tuple[float, str]:
    """One unit for the whole table, so that its figures compare at a glance."""
    top = max((line.energy.best for line in report.lines if line.energy), default=0.0)
    return next((size, name) for limit, size, name in _UNITS if top >= limit)


def _cell(row: Any, part: str, size: float) -> str:
    best = row[f"{part}_energy_j"]
    if best is None:
        return "-"
    low, high = row.get(f"{part}_energy_j_low"), row.get(f"{part}_energy_j_high")
    bounds = (None, None) if low is None or high is None else (low / size, high / size)
    mark = _mark([row.get(f"{part}_energy_method")])
    return mark + significant(best / size, *bounds)


def _mark(methods: Iterable[str | None]) -> str:
    """A tilde before a figure that no instrument measured."""
    states = load_protocol().method_states()
    return "~" if any(states.get(method or "", "measured") != "measured" for method in methods) else ""


def _interval_text(energy: Interval | None, size: float = 1.0) -> str:
    return "-" if energy is None else significant(energy.best / size, energy.low / size, energy.high / size)


def bar(share: float | None, width: int, *, ascii_only: bool = False) -> str:
    """A bar of `width` cells for a share of 0 to 1; anything above nothing shows.

    Args:
        share: None draws nothing.
        width: cells of a full bar; none draws nothing, where the smallest mark would make all shares alike.
        ascii_only: for terminals that cannot draw blocks.
    """
    if not share or share <= 0 or width < 1:
        return ""
    if ascii_only:
        return "#" * max(1, round(min(share, 1.0) * width))
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _per_token(line: StageLine) -> tuple[str, str]:
    """J/token by the most telling denominator of a stage, and that denominator's name."""
    for name in _TOKEN_ORDER[:-1]:
        if name in line.per_token:
            return _interval_text(line.per_token[name]), name
    return "-", ""


def _relative(energy: Interval | None) -> str:
    if energy is None or energy.best <= 0:
        return ""
    share = energy.half_width / energy.best
    return _percent(share, 1) if share < 0.0995 else _percent(share)


def _percent(share: float, places: int = 0) -> str:
    """A share in percent; a little is not nothing."""
    least = 10.0 ** (-2 - places)
    return f"<{least:.{places}%}" if 0 < share < least / 2 else f"{share:.{places}%}"


def _table(report: RunReport, width: int, *, ascii_only: bool) -> Table:
    """Every column as wide as its figures; the bar takes what is left, the name gives way first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= WIDE
    size, unit = _unit(report)
    parts = report.parts
    largest = sorted(parts, key=lambda p: getattr(report.totals, p).energy_j, reverse=True)
    parts = parts if wide else [p for p in parts if p in largest[:2]]
    lines = report.all_lines
    heads = ["stage", "time", "share of energy" if wide else "share", *(f"{p.upper()} {unit}" for p in parts)]
    foots = ["total", duration(_billed_us(report)), "", *(_total_cell(report, part, size) for part in parts)]
    heads += ["+-" if ascii_only else "±", "tokens", "J/token", "of", "by"] if wide else ["J/token"]
    foots += [_relative(report.totals.it), "", "", "", ""] if wide else [""]
    rows = [_cells(line, report, parts, size, wide=wide, ascii_only=ascii_only) for line in lines]
    needs = [max(len(heads[i]), len(foots[i]), *(len(r[i]) for r in rows), 0) for i in range(len(heads))]
    # Three cells a column for padding and rule; 5 before the bar for the percentage.
    room = width - 2 - sum(n + 3 for i, n in enumerate(needs) if i not in (0, 2)) - 6 - 5
    # The bar goes first, then the parts from the least: what a stage cost per token is not given up.
    bar_least = 4
    if not wide and room < 12 + bar_least:
        bar_least = 0
        while room < 12 and len(parts) > 1:
            cut = 3 + parts.index(next(p for p in reversed(largest) if p in parts))
            parts.pop(cut - 3)
            room += needs.pop(cut) + 3
            heads, foots = [*heads[:cut], *heads[cut + 1 :]], [*foots[:cut], *foots[cut + 1 :]]
            rows = [[*row[:cut], *row[cut + 1 :]] for row in rows]
    if wide and room < needs[0] + 12:
        room += needs.pop() + 3
        heads, foots, rows = heads[:-1], foots[:-1], [row[:-1] for row in rows]
    name_width = min(needs[0], 40 if wide else 24, max(12, room - 2 * bar_least))
    bar_width = min(28 if wide else 12, max(bar_least, room - name_width))
    table = Table(box=None if ascii_only else box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    for i, (head, foot) in enumerate(zip(heads, foots, strict=True)):
        left = head in ("stage", "of", "by") or i == 2
        least = {0: name_width, 2: bar_width + 5}.get(i, needs[i])
        table.add_column(
            head,
            footer=foot,
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            min_width=least,
            max_width=least if i == 0 else None,
        )
    for line, row in zip(lines, rows, strict=True):
        if len(row[0]) > name_width:
            name = _cells(line, report, (), size, wide=False, ascii_only=ascii_only)[0]
            row[0] = _cut_middle(name, name_width)
        if line.share is not None:
            drawn = Text(f"{_percent(line.share):>4} ")
            colour = _colour(line.row["stage"], report.protocol)
            drawn.append(bar(line.share, bar_width, ascii_only=ascii_only), colour)
            row[2] = drawn
        table.add_row(*row)
    return table


def _cut_middle(name: Text, width: int) -> Text:
    """A name in so many cells: its end stays, where names of one family differ."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return name[: width - 1 - tail] + type(name)("…") + name[len(name) - tail :]


def _total_cell(report: RunReport, part: str, size: float) -> str:
    total = getattr(report.totals, part)
    mark = _mark(total.methods)
    return mark + _interval_text(total.interval, size)


def _billed_us(report: RunReport) -> int:
    top = sum(line.duration_us for line in report.lines if line.depth == 0)
    return top + (report.unattributed.duration_us if report.unattributed else 0)


def _cells(
    line: StageLine, report: RunReport, parts: Sequence[str], size: float, *, wide: bool, ascii_only: bool
) -> list[Text]:
    """One row of the table; the bar is drawn once the width that is left for it is known."""
    from rich.text import Text

    row = line.row
    failed = row["status"] != "completed"
    name = "  " * line.depth + shown(title(line))
    if line is report.unattributed and report.holes > 1:
        name += f", {report.holes} times" if wide else ""
    mark = ("x " if ascii_only else "✗ ") if failed else ""
    named = Text(mark + name, "red" if failed else "dim" if line is report.unattributed else "")
    if wide and row["stage"] not in (row["name"], UNATTRIBUTED):
        named.append(f" {shown(row['stage'])}", "dim")
    if any(not said_once(flag) for flag in row["flags"]):
        named.append(" *", "yellow")
    value, denominator = _per_token(line)
    cells = [named, Text(duration(line.duration_us)), Text("")]
    cells += [Text(_cell(row, part, size)) for part in parts]
    if wide:
        count = row[DENOMINATORS[denominator]] if denominator else None
        method = str(row["gpu_energy_method" if "gpu" in parts else "cpu_energy_method"])
        cells += [Text(_relative(line.energy)), Text("-" if count is None else _count(count)), Text(value)]
        cells += [Text(denominator, "dim"), Text(shown(method_words(method)), "dim")]
    else:
        cells.append(Text(value))
    return cells


PER_TOKEN = {
    "trained": "per trained token",
    "processed": "per processed token",
    "positions": "per position",
    "reference": "per reference token",
}


def _count(number: int) -> str:
    rounded = float(f"{number:.4g}")  # 999,999 is 1 M, not 1000 k
    for size, suffix in ((10**9, " G"), (10**6, " M"), (10**4, " k")):
        if rounded >= size:
            unit = 1000 if suffix == " k" else size
            return f"{rounded / unit:.4g}{suffix}"
    return str(number)


def _summary(report: RunReport) -> Table:
    """Totals below the table, a name and a figure a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for name, value in summary_lines(report):
        grid.add_row(Text(shown(name)), Text(shown(value, limit=MAX_LINE)))
    return grid


def summary_lines(report: RunReport) -> list[tuple[str, str]]:
    """(name, figure) for every figure of the whole run."""
    found: list[tuple[str, str]] = []
    whole = report.totals.it
    if whole is None:
        lines = [("IT energy", "unknown: nothing was measured")]
        lines += [("reuse", f"no figure: {report.no_reuse}")] if report.no_reuse is not None else []
        lines += [] if report.against is None else against_lines(report.against)
        return [*lines, *score_lines(report.scores)]
    least = "at least " if report.totals.incomplete else ""
    found.append(("IT energy", f"{least}{both(whole)}, {spread(whole)}"))
    for name, part in (("GPU", report.totals.gpu), ("CPU", report.totals.cpu), ("DRAM", report.totals.dram)):
        if part.interval is not None:
            lost = f", {part.unknown_rows} rows without a figure" if part.unknown_rows else ""
            found.append((f"  {name}", f"{_q(part.interval)} by {part_words(report, name.lower())}{lost}"))
    if report.unattributed is not None and report.unattributed.energy is not None:
        share = (
            f" ({_percent(report.unattributed.share, 1)})" if report.unattributed.share is not None else ""
        )
        found.append(
            ("  unattributed", f"{_q(report.unattributed.energy)}{share}, in no stage, in the total")
        )
    if report.baseline is not None:
        found.append(("  above idle", _above_idle(report.baseline)))
    for name, energy in report.per_token.items():
        count = _count(report.token_counts[name])
        what = "positions" if name == "positions" else "tokens"
        text = f"{_q(energy)} over {count} {what}, whole run"
        if report.inherited is not None:
            text = f"{_q(energy)} over {count} {what}, this run's own stages"
            if whole_energy(report) is not None:
                each = stated_energy(report).scale(1.0 / report.token_counts[name])
                text += f"; {_q(each)} with what others paid"
        found.append((PER_TOKEN[name], text))
    if report.gpu_hours:
        found.append(("GPU-hours", f"{report.gpu_hours:.3g}: devices times time of the stages on them"))
    if report.throughput is not None:
        found.append(("throughput", f"{report.throughput:,.0f} processed tokens/s in the student's training"))
    if report.peak_gpu_mib is not None:
        found.append(("peak memory", f"{memory(report.peak_gpu_mib)} in use on one GPU, at a sample"))
    if report.served is not None:
        served = report.served
        rate = f"{served.tokens * 1e6 / served.duration_us:,.0f} tokens/s"
        found.append(
            (
                "per served token",
                f"{_q(served.per_token)} over {_count(served.tokens)} tokens, {rate}, {served.workload}",
            )
        )
    if report.facility is not None:
        found.append(("facility energy", f"{least}{both(report.facility)} at {_pue(report)}"))
    if report.carbon:
        found.append(("CO2e", least + _carbon(report)))
    if report.inherited is not None:
        found.append(("inherited", f"{_q(report.inherited)} paid by other runs for artifacts used here"))
    if report.unknown_origins:
        names = ", ".join(report.unknown_origins)
        found.append(("inherited", f"unknown: no run says what {names} cost"))
    if report.no_reuse is not None:
        found.append(("reuse", f"no figure: {report.no_reuse}"))
    if report.reuse is not None:
        found.append(
            ("marginal", f"{both(report.reuse.marginal)}: this run once the teacher's output exists")
        )
        shared = f"{both(report.reuse.amortized)}: teacher shared by {report.reuse.reuses}"
        if report.options.amortize is None:
            shared = "teacher shared by N students: --amortize N"
        found.append((f"amortized /{report.options.amortize or 'N'}", shared))
        found.append(("full", f"{both(report.reuse.full)}: teacher paid by this run alone"))
    if report.against is not None:
        found += against_lines(report.against)
    return found + score_lines(report.scores)


def memory(mib: int) -> str:
    """Mebibytes as a person reads them."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB"


def _above_idle(baseline: Baseline) -> str:
    power = baseline.power_w
    idle = f"{quantity(power.best, 'W', power.low, power.high)} over {duration(baseline.duration_us)}"
    doubts = [] if baseline.both_ends else ["not before and after"]
    doubts += ["shorter than the protocol wants"] if baseline.short else []
    doubt = f" ({', '.join(doubts)})" if doubts else ""
    return f"{_q(baseline.above)}, with {idle} idle{doubt}; beside the total, never instead"


def _pue(report: RunReport) -> str:
    """The PUE and what it rests on; a 1 that nobody measured is no PUE."""
    pue, factor = report.options.pue, report.options.pue_factor
    if factor is not None:
        from harness.spec.factors import CATEGORIES

        return f"PUE {pue:g} ({factor.name}, {factor.year}; {CATEGORIES[factor.category]})"
    return "PUE 1 (assumed: not applied)" if pue == 1 else f"PUE {pue:g}"


def _carbon(report: RunReport) -> str:
    """Emissions by the factor, and what another year of it would make of them."""
    used, *others = report.carbon
    factor = used.factor
    per_kwh = f"{_intensity(factor)} {factor.scope}"
    text = f"{_grams(used.kg)} ({factor.name} {factor.year}: {per_kwh}, {factor.factor_id})"
    for other in others:
        change = other.factor.g_co2e_per_kwh / factor.g_co2e_per_kwh - 1
        by = f"{change:+.{0 if abs(change) >= 0.01 else 1}%}"
        text += f"; with {other.factor.year}'s {_intensity(other.factor)} {_grams(other.kg)} ({by})"
    return text


def _intensity(factor: GridFactor) -> str:
    """Three digits, as many as two publishers agree on at best."""
    value = factor.g_co2e_per_kwh
    return f"{value:.{1 if value < 99.95 else 0}f} g/kWh"


def _q(energy: Interval) -> str:
    return quantity(energy.best, "J", energy.low, energy.high)


def both(energy: Interval) -> str:
    """An energy in joules and in kWh."""
    kwh = energy.scale(1 / J_PER_KWH)
    return f"{_q(energy)} = {quantity(kwh.best * 1000, 'Wh', kwh.low * 1000, kwh.high * 1000)}"


def spread(energy: Interval) -> str:
    """The distance to both bounds, as one figure where they are about the same."""
    below, above = energy.best - energy.low, energy.high - energy.best
    if abs(below - above) <= 0.1 * max(below, above):
        return f"± {quantity(max(below, above), 'J', 0, 2 * max(below, above))}"
    return f"-{quantity(below, 'J', 0, 2 * below)} / +{quantity(above, 'J', 0, 2 * above)}"


def _grams(kg: Interval) -> str:
    """Grams with no more digits than the grid intensity has, which a year moves by 4 % (median country)."""
    spare = 0.04 * abs(kg.best)
    low, high = min(kg.low, kg.best - spare), max(kg.high, kg.best + spare)
    return quantity(kg.best * 1000, "g", low * 1000, high * 1000)


def _print_notes(report: RunReport, console: Console) -> None:
    from rich.text import Text

    marked = list(stage_notes(report))
    if marked:
        console.print()
        for names, sentences in marked:
            text = Text("* ", "yellow")
            text.append(shown(names, limit=MAX_LINE), "bold default")
            text.append(": " + shown("; ".join(sentences), limit=MAX_LINE) + ".", "default")
            console.print(text)
    said = notes(report)
    if said:
        console.print()
        for note in said:
            console.print(Text(shown(note, limit=MAX_LINE)))
