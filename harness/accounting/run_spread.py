"""How far equal work differs from run to run, and when that leaves a break-even without a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.accounting.amortize import student_t95
from harness.accounting.interval import Interval


@dataclass(frozen=True)
class RunSpread:
    """How far equal work differs from run to run: a student's training, repeated with everything equal.

    Attributes:
        cell: Name of the cell.
        energies_j: Of its training in each run, the first included.
        cpu_s: CPU seconds of the same; None where one is unknown.
    """

    cell: str
    energies_j: tuple[float, ...]
    cpu_s: tuple[float, ...] | None = None

    @property
    def relative(self) -> float:
        """Standard deviation over mean of the energies."""
        return statistics.stdev(self.energies_j) / statistics.fmean(self.energies_j)

    @property
    def relative_cpu(self) -> float | None:
        """The same of the CPU seconds."""
        if self.cpu_s is None:
            return None
        return statistics.stdev(self.cpu_s) / statistics.fmean(self.cpu_s)

    @property
    def noise(self) -> float:
        """Relative difference of two single runs of equal work that chance reaches in 5 % of cases:
        t x sqrt(2) x `relative`."""
        return student_t95(len(self.energies_j) - 1) * math.sqrt(2.0) * self.relative

    @property
    def words(self) -> str:
        """In a sentence."""
        cpu = "" if self.relative_cpu is None else f" ({100 * self.relative_cpu:.1f} % of its CPU seconds)"
        return (
            f"Run-to-run spread: {len(self.energies_j)} runs of equal work ({self.cell}) differ by "
            f"{100 * self.relative:.1f} % (standard deviation) in the energy of student_train{cpu}; two "
            f"single runs of equal work differ by up to {100 * self.noise:.0f} % by chance (95 %)."
        )


def chance(energies: Sequence[Interval | None], spread: RunSpread | None) -> str | None:
    """Why the difference of two energies of equal work says nothing, nor N* or T*, which divide by it.

    Args:
        energies: Of both; None = unknown.
        spread: From run to run of equal work; None = not measured.

    Returns:
        The reason; None where the difference is more than chance.
    """
    if spread is None:
        return "equal work, and run-to-run spread is not known"
    one, two = energies
    if one is None or two is None or abs(one.best - two.best) > spread.noise * (one.best + two.best) / 2:
        return None
    return "equal work, and the difference is within run-to-run spread"


def withheld(
    work: Sequence[int | None], energies: Sequence[Interval | None], spread: RunSpread | None
) -> str | None:
    """Why N* of two students gets no verdict: equal work that nothing but chance tells apart.

    Args:
        work: Positions through direct training's student and through the distilled one; None = unknown.
        energies: As of `chance`.
        spread: As there.
    """
    ours, theirs = work
    return None if ours is None or ours != theirs else chance(energies, spread)
