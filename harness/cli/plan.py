"""`kit plan PROFILE`: what it will take, before anything is spent."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import refuse_inside
from harness.cli.preflight import gpu_option, outlook_of, profile_of, target_option
from harness.text import lines_shown, terminal_width

if TYPE_CHECKING:
    from harness.planning.cards import Card
    from harness.planning.steps import Range
    from harness.preflight.plan import Plan, StagePlan


@click.command()
@click.argument("subject", metavar="PROFILE")
@target_option
@gpu_option
@click.option(
    "--calibrate",
    "runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of runs of this profile on such a card; what they measured replaces what is assumed.",
)
@click.option(
    "--against",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="One run, or a folder of runs of this profile: the plan beside what they measured, stage by stage.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="With --against: write the comparison there, as plan.md and as a figure with its data.",
)
@click.option("--region", help="Grid whose latest intensity turns joules into CO2e.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def cmd(
    subject: str,
    target: str,
    gpu: str | None,
    runs: Path | None,
    against: Path | None,
    out: Path | None,
    region: str | None,
    as_json: bool,
) -> None:
    """Say how long every stage of PROFILE will take on a card and what energy, each as a range with its
    reasons.

    FLOPs by formula, bytes as the stages' code moves them, a data sheet's rates times assumed efficiencies.
    What shows only later (steps until an early stop, lengths) are the profile's `amounts`: one without them,
    as pocket is, cannot be planned. With --against the
    plan stands beside what runs measured; that of `kit reproduce`, kept before its first run, comes first.
    """
    from harness.planning.steps import Efficiency
    from harness.preflight.plan import amounts_of, calibrate, make_plan, read_plan

    if out is not None and against is None:
        raise click.UsageError("--out goes with --against")
    if out is not None and against is not None:
        refuse_inside(out, [against], "--out")
    if region is not None and (as_json or against is not None):
        raise click.UsageError("--region adds CO2e to the plan as text, without --json and --against")
    kept = None if against is None else _kept(against)
    if against is not None and kept is not None:
        _beside(read_plan(kept), f"as kept in {kept} before the runs", against, out, as_json)
        return
    amounts_of(profile_of(subject), subject)  # the outlook below takes seconds
    outlook = outlook_of(subject, target, None)
    card = _card(gpu)
    known = Efficiency()
    if runs is not None:
        folders = sorted(path.parent for path in runs.glob("**/manifest.json"))
        known = calibrate(known, outlook, card, folders)
    plan = make_plan(outlook, card, known)
    if against is not None:
        _beside(plan.as_json(), "made now, after the runs", against, out, as_json)
        return
    click.echo(
        json.dumps(plan.as_json(), indent=1)
        if as_json
        else lines_shown(_text(plan, region, runs is not None))
    )


def _kept(runs: Path) -> Path | None:
    """The plan that `kit reproduce` kept in its folder, above its runs."""
    above = runs.resolve().parents[: 2 if (runs / "manifest.json").exists() else 1]
    return next((path for folder in above if (path := folder / "plan.json").exists()), None)


def _beside(plan: dict[str, Any], when: str, runs: Path, out: Path | None, as_json: bool) -> None:
    """A plan beside runs, stage by stage."""
    from harness.files import write_bytes
    from harness.preflight.plan import afterwards, beside, planned_and_found

    rows = beside(plan, runs)
    if as_json:
        click.echo(json.dumps({"plan": plan["name"], "card": plan["card"], "stages": rows}, indent=1))
    else:
        click.echo(f"plan: {plan['name']} on one {plan['card']}, {when}; likely (low to high)\n")
        head = ["stage", "planned s", "measured", "off", "planned kJ, GPU", "measured", "off"]
        cells = [
            [row["stage"], *planned_and_found(row, "seconds"), *planned_and_found(row, "gpu_energy_j", 1e-3)]
            for row in rows
        ]
        for line in columns(head, cells):
            click.echo(line)
        click.echo("\nOff: measured over likely, less one. The card's energy alone is planned.")
    if out is not None:
        from harness.report.drawing import draw
        from harness.report.figures.planned import planned_figure

        draw(planned_figure(plan, rows), out)
        write_bytes(out / "plan.md", ("\n".join(afterwards(plan, runs)) + "\n").encode())
        click.echo(f"written: {out}/plan.md and planned-*", err=True)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines, the first column to the left; a block a row where the terminal is too narrow."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= terminal_width():
        return [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        ]
    lines = []
    for first, *rest in rows:
        lines += textwrap.wrap(first, terminal_width())
        for name, cell in zip(head[1:], rest, strict=True):
            indent = " " * (len(name) + 4)
            lines += textwrap.wrap(
                cell, max(20, terminal_width()), initial_indent=f"  {name}  ", subsequent_indent=indent
            )
    return lines


def _card(word: str | None) -> Card:
    from harness.doctor.inventory import take_inventory
    from harness.planning.cards import find_card, named_card

    if word is not None:
        return named_card(word)
    for gpu in take_inventory().selected:
        if gpu.error is None and (card := find_card(gpu.model)) is not None:
            return card
    return named_card("h100-sxm")


def _hours_and_kwh(planned: Plan | StagePlan) -> tuple[str, str]:
    from harness.accounting.rounding import J_PER_KWH

    return _shown(planned.seconds * (1 / 3600)), _shown(planned.joules * (1 / J_PER_KWH))


def _text(plan: Plan, region: str | None, calibrated: bool) -> str:
    lines = [f"plan: {plan.name} on one {plan.card}; every figure is an estimate, likely (low to high)", ""]
    rows = []
    for stage in plan.stages:
        peak = "-" if stage.peak_bytes is None else f"{stage.peak_bytes / 1e9:.0f}"
        rows.append([stage.where, *_hours_and_kwh(stage), peak])
    rows.append(["together, at least" if plan.unplanned else "together", *_hours_and_kwh(plan), "-"])
    table = columns(["stage", "hours", "kWh", "GB"], rows)
    if len(table) == len(rows) + 1:
        because = ["because", *("; ".join(stage.reasons) for stage in plan.stages), ""]
        for line, why in zip(table, because, strict=True):
            room = max(30, terminal_width() - len(line) - 2)
            first, *more = textwrap.wrap(why, room) or [""]
            lines += [f"{line}  {first}".rstrip(), *(f"{'':{len(line)}}  {rest}" for rest in more)]
    else:
        reasons = ["; ".join(stage.reasons) for stage in plan.stages] + [""]
        told = [[*row, why] for row, why in zip(rows, reasons, strict=True)]
        lines += columns(["stage", "hours", "kWh", "GB", "because"], told)
    if plan.unplanned:
        lines.append(f"not planned, since nothing is known of them: {', '.join(plan.unplanned)}")
    if region is not None:
        lines.append(_carbon(plan, region))
    lines += _published(plan)
    basis = "calibrated by runs" if calibrated else "assumed, not measured on this card"
    lines.append(f"Efficiencies are {basis}; the card's energy alone, without CPU and memory.")
    return "\n".join(lines)


def _shown(value: Range) -> str:
    return f"{value.likely:.2f} ({value.low:.2f} to {value.high:.2f})"


def _carbon(plan: Plan, region: str) -> str:
    from harness.accounting.rounding import J_PER_KWH
    from harness.spec.factors import region_factors

    factor = max(region_factors(region), key=lambda factor: factor.year)
    grams = factor.g_co2e_per_kwh
    kilograms = plan.joules * (grams / J_PER_KWH / 1000)
    where = f"{factor.name}, {factor.year}, {factor.scope}"
    return f"CO2e: {_shown(kilograms)} kg at {grams:g} g/kWh ({where}), PUE 1"


def _published(plan: Plan) -> list[str]:
    """The published kWh beside what is planned, stage by stage; nothing for other profiles."""
    from harness.accounting.rounding import J_PER_KWH
    from harness.experiments.grid import main_cells
    from harness.experiments.paper import published

    if plan.name not in ("paper", "paper-asrun"):
        return []
    by_where = {stage.where: stage for stage in plan.stages}
    rows = []
    for cell in main_cells():
        paper = published().get((cell.regime, cell.size))
        kinds = {kind: f"{cell.name} {kind}" for kind in ("student_train", "evaluate")}
        if cell.size == "1b" and cell.regime != "sft":
            kind = "teacher_logits" if cell.regime == "kd" else "teacher_generate"
            kinds[kind] = next((s.where for s in plan.stages if s.kind == kind), "")
        for kind, where in kinds.items():
            value = paper.stages_kwh.get(kind) if paper else None
            if where in by_where and value is not None:
                planned = _shown(by_where[where].joules * (1 / J_PER_KWH))
                rows.append([where, planned, f"{value:.2f}"])
    return [
        "",
        *columns(["beside the published kWh", "planned", "published"], rows),
        "The authors' amounts of data, steps and engine are not published: the two need not agree.",
    ]
