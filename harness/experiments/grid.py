"""Cells of the paper's grid and of its sweeps, and which of them a target needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from harness.errors import KitError
from harness.report.palette import METHOD_WORDS

Regime = Literal["sft", "kd", "synthetic_sft"]
REGIMES: tuple[Regime, ...] = ("sft", "kd", "synthetic_sft")
REGIME_WORDS = {regime: METHOD_WORDS[regime] for regime in REGIMES}
Setting = Literal["alpha", "temperature", "max_new_tokens", "prompts"]
"""What a sweep may change of a cell: the fields of `Defaults`."""
DATA = Path(__file__).parent / "data"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defaults(_Strict):
    """Settings of a cell that a sweep may change."""

    alpha: float
    temperature: float
    max_new_tokens: int
    prompts: int


class Sweep(_Strict):
    """Values of one setting around one cell of the grid."""

    regime: Regime
    size: str
    alpha: tuple[float, ...] | None = None
    temperature: tuple[float, ...] | None = None
    max_new_tokens: tuple[int, ...] | None = None
    prompts: tuple[int, ...] | None = None

    @property
    def axes(self) -> dict[str, tuple[float, ...] | tuple[int, ...]]:
        """Name of a setting to its values."""
        named = {name: getattr(self, name) for name in Defaults.model_fields}
        return {name: values for name, values in named.items() if values is not None}


class Grid(_Strict):
    """What `grid.yaml` holds."""

    regimes: tuple[Regime, ...]
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    defaults: Defaults
    sweeps: dict[str, Sweep]
    repeat_seeds: tuple[int, ...]


class Target(_Strict):
    """What `kit reproduce TARGET` makes.

    Attributes:
        title: In words.
        grid: Whether it needs the main grid.
        sweeps: Which sweeps it needs.
        repeats: Whether sweeps are repeated with every seed of `repeat_seeds`.
        datasets: mixture: all data in one set; each: the whole target on each data set by itself.
        grid_repeats: How often the main grid is run, with seeds 0, 1, ...; None: with the grid's seeds.
        serve: Whether every student answers a serving workload too.
        tables: Tables it ends with.
        figures: Figures it ends with, by the names of `harness.report.figures`.
        advice: Whether it ends with what the cells say to the design rules.
    """

    title: str
    grid: bool = False
    sweeps: tuple[str, ...] = ()
    repeats: bool = False
    datasets: Literal["mixture", "each"] = "mixture"
    grid_repeats: int | None = Field(default=None, ge=1)
    serve: bool = False
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    advice: bool = False


@dataclass(frozen=True)
class Variant:
    """Settings of the teacher's answers that need a set of answers of their own."""

    max_new_tokens: int
    prompts: int

    @property
    def name(self) -> str:
        """For a file name."""
        return f"tokens{self.max_new_tokens}-prompts{self.prompts}"


@dataclass(frozen=True)
class Cell:
    """One student of one regime.

    Attributes:
        alpha: kd: weight of the cross-entropy; else None.
        temperature: kd: T; else None.
        variant: synthetic_sft: the teacher's answers it learns from; else None.
        is_default: Whether it is the cell of the main grid but for its seed.
        serve: Whether its model is to answer the profile's workload too.
        again: 0, or the how-manieth repeat with everything equal: its student is trained, not evaluated.
    """

    regime: Regime
    size: str
    seed: int
    alpha: float | None = None
    temperature: float | None = None
    variant: Variant | None = None
    is_default: bool = True
    again: int = 0
    serve: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """Unique among all cells, fit for a file name."""
        parts = [self.regime.replace("_", "-"), self.size]
        if not self.is_default and self.regime == "kd":
            # Names of runs have no dots.
            parts.append(f"alpha{self.alpha:g}-T{self.temperature:g}".replace(".", "_"))
        if not self.is_default and self.variant is not None:
            parts.append(self.variant.name)
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join([*parts, f"again{self.again}"] if self.again else parts)


@cache
def load_grid() -> Grid:
    """The kit's grid.

    Raises:
        KitError: `grid.yaml` is damaged.
    """
    return Grid.model_validate(_load(DATA / "grid.yaml"))


@cache
def load_targets() -> dict[str, Target]:
    """The kit's targets by name.

    Raises:
        KitError: `targets.yaml` is damaged.
    """
    return {name: Target.model_validate(fields) for name, fields in _load(DATA / "targets.yaml").items()}


def target(name: str) -> Target:
    """A target by its name.

    Raises:
        KitError: No such target.
    """
    known = load_targets()
    if name not in known:
        raise KitError(f"no target {name!r}", expected=f"one of {', '.join(known)}")
    return known[name]


def main_cells(grid: Grid | None = None) -> list[Cell]:
    """The cells of the main table, size by size within a regime."""
    grid = grid or load_grid()
    return [
        _cell(grid, regime, size, seed)
        for seed, regime, size in product(grid.seeds, grid.regimes, grid.sizes)
    ]


def sweep_cells(name: str, grid: Grid | None = None, *, repeats: bool = False) -> list[Cell]:
    """The cells of a sweep, the default cell of the grid among them.

    Args:
        name: A sweep of the grid.
        grid: The kit's own if None.
        repeats: With every seed of `repeat_seeds` instead of the grid's.

    Raises:
        KitError: The grid has no such sweep.
    """
    grid = grid or load_grid()
    if name not in grid.sweeps:
        named = ", ".join(grid.sweeps) or "none"
        raise KitError(f"the profile has no sweep {name!r}", expected=f"{name} among its sweeps: {named}")
    sweep = grid.sweeps[name]
    seeds = grid.repeat_seeds if repeats else grid.seeds
    return [
        _cell(grid, sweep.regime, sweep.size, seed, **dict(zip(sweep.axes, values, strict=True)))
        for values in product(*sweep.axes.values())
        for seed in seeds
    ]


def cells_of(target: Target, grid: Grid | None = None) -> list[Cell]:
    """Every cell that a target needs, each once, the main grid first."""
    grid = grid or load_grid()
    if target.grid_repeats is not None:
        grid = grid.model_copy(update={"seeds": tuple(range(target.grid_repeats))})
    cells = main_cells(grid) if target.grid else []
    for name in target.sweeps:
        cells += sweep_cells(name, grid, repeats=target.repeats)
    return [replace(cell, serve=target.serve) for cell in dict.fromkeys(cells)]


def _cell(grid: Grid, regime: Regime, size: str, seed: int, **changed: Any) -> Cell:
    values = grid.defaults.model_copy(update=changed)
    is_default = values == grid.defaults
    if regime == "kd":
        return Cell(regime, size, seed, values.alpha, values.temperature, is_default=is_default)
    if regime == "synthetic_sft":
        variant = Variant(values.max_new_tokens, values.prompts)
        return Cell(regime, size, seed, variant=variant, is_default=is_default)
    return Cell(regime, size, seed)


def _load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise KitError("holds no mapping", where=str(path))
    return loaded
