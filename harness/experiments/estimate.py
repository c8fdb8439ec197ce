"""How long a reproduction takes and what it draws, before it starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.experiments.grid import Cell
from harness.experiments.pipelines import SHARED, shared_stages
from harness.experiments.profile import Profile

ASK_ABOVE_S = 3600.0
"""Longer than this, a person is asked first."""


@dataclass(frozen=True)
class Estimate:
    """What is still to be run.

    Attributes:
        seconds: Wall time.
        joules: Energy of the measured components.
        lines: (what, seconds) of the parts.
    """

    seconds: float
    joules: float
    lines: tuple[tuple[str, float], ...]

    @property
    def must_ask(self) -> bool:
        """Whether to ask a person before starting."""
        return self.seconds > ASK_ABOVE_S


def estimate(profile: Profile, cells: Sequence[Cell], done: Collection[str] = ()) -> Estimate:
    """Add up the profile's figures for what is not done.

    Args:
        profile: The profile.
        cells: Cells of the target.
        done: Names of runs that are complete.
    """
    data = profile.estimate
    lines: list[tuple[str, float]] = []
    if SHARED not in done:
        names = ["setup", "teacher_train", *shared_stages(cells).values(), "evaluate"]
        lines.append(("data and teacher, shared", sum(data.seconds.get(name, 0.0) for name in names)))
    for size in dict.fromkeys(cell.size for cell in cells):
        left = [cell for cell in cells if cell.size == size and cell.name not in done]
        if left:
            each = data.student_seconds[size] + data.seconds.get("evaluate", 0.0)
            lines.append((f"{len(left)} students of {size}, trained and evaluated", each * len(left)))
    seconds = sum(length for _, length in lines)
    return Estimate(seconds, seconds * data.watts, tuple(lines))
