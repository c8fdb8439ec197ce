"""Cell by cell: what of a measured cell may stand beside the published one, and why the rest may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.experiments.paper import Published, published
from harness.experiments.results import CellResult, Results

Verdict = Literal["comparable", "with care", "not comparable"]

PAPER_SUITE = ("alpacaeval2", "gsm8k", "ifeval", "mmlu", "mt_bench_101")


@dataclass(frozen=True)
class Remark:
    """A verdict on one quantity of one cell.

    Attributes:
        quantity: energy, energy_per_token or quality.
        verdict: See `Verdict`.
        why: In a sentence.
    """

    quantity: str
    verdict: Verdict
    why: str


def remarks(results: Results, result: CellResult) -> list[Remark]:
    """Verdicts on energy, J/token and Q of a cell of the main table."""
    paper = published().get((result.cell.regime, result.cell.size))
    if results.profile.is_pocket:
        return _pocket(result, paper)
    if not results.profile.comparable:
        why = f"profile {results.profile.name} shows that every stage runs, no more"
        if results.profile.own:
            why = "models or data are not the paper's"
        return [
            Remark(quantity, "not comparable", why) for quantity in ("energy", "energy_per_token", "quality")
        ]
    return [_energy(results, result, paper), _per_token(result, paper), _quality(result, paper)]


def _pocket(result: CellResult, paper: Published | None) -> list[Remark]:
    name = f"pocket model in place of OLMo-2 {result.cell.size.upper()}"
    basis = ", and the joules are an estimate" if result.basis.estimated else ""
    missing = "; nothing is published for this cell" if paper is None or paper.energy_kwh is None else ""
    return [
        Remark("energy", "not comparable", f"{name}, other hardware{basis}{missing}"),
        Remark("energy_per_token", "not comparable", f"{name}; another denominator than 30.0 M tokens"),
        Remark("quality", "not comparable", "held-out accuracy on procedural tasks, not the five benchmarks"),
    ]


def _energy(results: Results, result: CellResult, paper: Published | None) -> Remark:
    if paper is None or paper.energy_kwh is None:
        return Remark("energy", "not comparable", "no energy is published for this cell")
    if result.total is None:
        return Remark("energy", "not comparable", "a stage of this cell has no energy")
    if not result.basis.gpu:
        return Remark("energy", "not comparable", "GPU energy is absent here")
    if results.profile.name != "paper":
        return Remark("energy", "with care", f"profile {results.profile.name} has other settings, on purpose")
    why = "same models; amounts of data, evaluation cadence and card are not published or differ"
    if result.basis.estimated:
        why += "; CPU energy is an estimate here and from RAPL there"
    return Remark("energy", "with care", why)


def _per_token(result: CellResult, paper: Published | None) -> Remark:
    if paper is None or paper.energy_j_per_token is None:
        return Remark("energy_per_token", "not comparable", "no J/token is published for this cell")
    if not result.basis.gpu or result.total is None:
        return Remark("energy_per_token", "not comparable", "as the energy")
    return Remark("energy_per_token", "with care", "same nominal 30.0 M tokens; as comparable as the energy")


def _quality(result: CellResult, paper: Published | None) -> Remark:
    if paper is None or paper.quality is None:
        return Remark("quality", "not comparable", "no Q is published for this cell")
    if result.quality is None:
        return Remark("quality", "not comparable", f"no Q here: {result.quality_note}")
    missing = sorted(set(PAPER_SUITE) - set(result.scores))
    if missing:
        return Remark("quality", "not comparable", f"Q without {', '.join(missing)}")
    return Remark("quality", "with care", "same five benchmarks; judge and prompts are not published")
