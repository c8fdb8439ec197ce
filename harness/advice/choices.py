"""What can be chosen from: a student of some regime and size, what it costs, and how good it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from harness.accounting import BreakEven, Interval, break_even
from harness.accounting.interval import total
from harness.accounting.rounding import J_PER_KWH
from harness.accounting.run_spread import RunSpread, withheld
from harness.accounting.shared_scales import Energy, Scales, added, alone, at
from harness.accounting.stage_scales import ranges
from harness.errors import KitError
from harness.experiments.grid import REGIME_WORDS, Cell, cells_of, load_targets
from harness.experiments.paper import REFERENCE_TOKENS, published
from harness.experiments.pipelines import SHARED, Layout
from harness.experiments.profile import Profile, load_profile
from harness.experiments.reproduce import CLAIM, Request, completed_runs
from harness.experiments.results import PARTS, CellResult, Results, collect
from harness.spec import load_protocol

Basis = Literal["published", "measured", "estimated"]

OWN = tuple(part for part in PARTS if part != "teacher")


@dataclass(frozen=True)
class Choice:
    """A student that can be built.

    Attributes:
        regime: sft, kd or synthetic_sft.
        setting: what a sweep may change, name to value; empty for published cells.
        own: energy of everything but the teacher; None where unknown.
        teacher: energy of the teacher's output; no part without a teacher, None where unknown.
        student: energy of the student's training alone; None where unknown.
        quality: Q with its interval; None where unknown.
        positions: through the student in its training; None where unknown.
        basis: what the energies are.
        is_default: whether it is a cell of the main grid.
    """

    name: str
    regime: str
    size: str
    own: Energy | None
    teacher: Energy | None
    student: Energy | None
    quality: Interval | None
    basis: Basis
    setting: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    is_default: bool = True
    positions: int | None = None

    def cost(self) -> Energy | None:
        """Energy of this student and of its teacher's output; None where a part is unknown."""
        return None if self.own is None or self.teacher is None else added([self.own, self.teacher])

    @property
    def unknown(self) -> str | None:
        """Which figures are missing, in words; None where both are known."""
        lacking = [
            word
            for word, missing in (("energy", self.cost() is None), ("Q", self.quality is None))
            if missing
        ]
        return " and ".join(lacking) or None


@dataclass(frozen=True)
class Choices:
    """What there is to choose from.

    Attributes:
        source: where the figures are from, in words.
        scales: ranges of the scales that the energies share.
        reference_tokens: the declared denominator of J/token.
        spread: from run to run of equal work; None = not measured.
        runs: folders of the logs, and whether each is a sweep's or a repeat's; empty for published figures.
    """

    source: str
    choices: Sequence[Choice]
    scales: Scales
    reference_tokens: int | None
    unit: Literal["kWh", "J"]
    runs: Sequence[tuple[Path, bool]] = ()
    spread: RunSpread | None = None

    def break_even(self, choice: Choice, direct: Choice) -> BreakEven:
        """N* of a distilled choice against direct training."""
        even = break_even(choice.teacher, direct.student, choice.student, scales=self.scales)
        pair = direct, choice
        energies = [interval(one.student) for one in pair]
        return replace(even, withheld=withheld([one.positions for one in pair], energies, self.spread))

    @property
    def grid(self) -> list[Choice]:
        """The cells of the main grid."""
        return [choice for choice in self.choices if choice.is_default and choice.seed == 0]


def share(energy: Energy, part: float) -> Energy:
    """A part of an energy, scale by scale."""
    return {key: joules.scale(part) for key, joules in energy.items()}


def interval(energy: Energy | None) -> Interval | None:
    """An energy as one figure, what its scales share left out of the interval (clause 4.4)."""
    return None if energy is None else at(energy, {})


def published_choices() -> Choices:
    """The published table: no intervals, and cells that no source gives stay unknown."""
    found = []
    for cell in published().values():
        stages = cell.stages_kwh
        own: Energy | None = None
        if stages and (cell.teacher_kwh is not None or cell.regime == "sft"):
            rest = [kwh for kind, kwh in stages.items() if kind not in load_protocol().kinds("teacher")]
            own = alone(total(Interval.exact(kwh * J_PER_KWH) for kwh in rest))
        elif cell.regime == "sft" and cell.energy_kwh is not None:
            own = alone(Interval.exact(cell.energy_kwh * J_PER_KWH))
        teacher: Energy | None = {} if cell.regime == "sft" else _exact(cell.teacher_kwh)
        found.append(
            Choice(
                name=_name(cell.regime, cell.size),
                regime=cell.regime,
                size=cell.size,
                own=own,
                teacher=teacher,
                student=_exact(stages.get("student_train")),
                quality=None if cell.quality is None else Interval.exact(cell.quality),
                basis="published",
            )
        )
    return Choices("published values, arXiv 2605.13981, one H100", found, {}, REFERENCE_TOKENS, "kWh")


def measured_choices(folder: Path, profile: Profile | None = None) -> Choices:
    """The cells of a reproduction, recomputed from their logs.

    Args:
        folder: What `kit reproduce --out` wrote.
        profile: Its profile; None: the one it names, which must be the kit's own.

    Raises:
        KitError: No reproduction, none of its cells is complete, or a log cannot be read.
    """
    results = recorded_results(folder, profile)
    found = [_measured(result) for result in results.cells]
    cells, layout = [result.cell for result in results.cells], Layout(folder.absolute(), {})
    energies = [e for choice in found for e in (choice.own, choice.teacher) if e is not None]
    runs = [
        (layout.run(SHARED), False),
        *((layout.run(c.name), not c.is_default or c.seed > 0) for c in cells),
    ]
    requests = [Request(name, target, results.profile, folder) for name, target in load_targets().items()]
    again = {layout.run(cell.name) for request in requests for cell in request.again}
    return Choices(
        f"profile {results.profile.name}, {folder}",
        found,
        ranges(energies, results.bars),
        results.cells[0].reference,
        "J" if results.profile.is_pocket else "kWh",
        [*runs, *((path, True) for path in sorted(again) if (path / "manifest.json").exists())],
        results.spread,
    )


def recorded_results(folder: Path, profile: Profile | None = None) -> Results:
    """Every complete cell of a reproduction, whichever targets it was made for.

    Raises:
        KitError: As `measured_choices`.
    """
    profile = profile or load_profile(_claimed(folder))
    cells: dict[str, Cell] = {}
    for name, target in load_targets().items():
        request = Request(name, target, profile, folder)
        done = completed_runs(request)
        cells |= {cell.name: cell for cell in cells_of(target) if cell.name in done}
    if not cells:
        raise KitError(
            "holds no complete student", where=str(folder), fix=f"kit reproduce table2 --out {folder}"
        )
    return collect(profile, list(cells.values()), Layout(folder.absolute(), {}))


def _claimed(folder: Path) -> str:
    path = folder / CLAIM
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["profile"])
    except (OSError, ValueError, KeyError, TypeError):
        raise KitError(
            "is no folder of a reproduction",
            where=str(folder),
            expected=f"what kit reproduce writes ({CLAIM})",
        ) from None


def _measured(result: CellResult) -> Choice:
    cell = result.cell
    setting = _setting(cell)
    return Choice(
        name=_name(cell.regime, cell.size, {} if cell.is_default else setting, cell.seed),
        regime=cell.regime,
        size=cell.size,
        own=result.by_scales(*OWN),
        teacher={} if cell.regime == "sft" else result.by_scales("teacher"),
        student=result.by_scales("student_train"),
        quality=result.quality_interval,
        basis="estimated" if result.basis.estimated else "measured",
        setting=setting,
        seed=cell.seed,
        is_default=cell.is_default,
        positions=result.positions,
    )


def _setting(cell: Cell) -> dict[str, float]:
    if cell.variant is not None:
        return {"max_new_tokens": cell.variant.max_new_tokens, "prompts": cell.variant.prompts}
    if cell.alpha is not None and cell.temperature is not None:
        return {"alpha": cell.alpha, "temperature": cell.temperature}
    return {}


def _name(regime: str, size: str, setting: Mapping[str, float] | None = None, seed: int = 0) -> str:
    words = {"sft": "SFT", "kd": REGIME_WORDS["kd"], "synthetic_sft": REGIME_WORDS["synthetic_sft"]}[regime]
    more = [f"{name} {value:g}" for name, value in (setting or {}).items()]
    more += [f"seed {seed}"] if seed else []
    return f"{words} {size.upper()}" + (f" ({', '.join(more)})" if more else "")


def _exact(kwh: float | None) -> Energy | None:
    return None if kwh is None else alone(Interval.exact(kwh * J_PER_KWH))


def find(choices: Iterable[Choice], regime: str, size: str) -> Choice | None:
    """The cell of a regime and size; None without one."""
    return next((c for c in choices if (c.regime, c.size) == (regime, size)), None)
