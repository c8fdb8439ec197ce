"""How long a reproduction takes and what it draws, before it starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.experiments.grid import Cell
from harness.experiments.pipelines import SHARED, shared_stages
from harness.experiments.profile import Profile
from harness.experiments.teacher import kept_teacher

ASK_ABOVE_S = 3600.0
"""Longer than this, a person is asked first."""


@dataclass(frozen=True)
class Estimate:
    """What is still to be run.

    Attributes:
        seconds: Wall time; None: unknown, since the models or data are not the kit's.
        joules: Energy of the measured components.
        lines: (what, seconds) of the parts.
    """

    seconds: float | None
    joules: float | None
    lines: tuple[tuple[str, float], ...]

    @property
    def must_ask(self) -> bool:
        """Whether to ask a person before starting."""
        return self.seconds is None or self.seconds > ASK_ABOVE_S


def estimate(profile: Profile, cells: Sequence[Cell], done: Collection[str] = ()) -> Estimate:
    """Add up the profile's figures for what is not done.

    Args:
        profile: The profile.
        cells: Cells of the target.
        done: Names of runs that are complete.
    """
    data = profile.estimate
    if data is None or not set(profile.students) <= set(data.student_seconds):
        if {SHARED, *(cell.name for cell in cells)} - set(done):
            return Estimate(None, None, ())
        return Estimate(0.0, 0.0, ())
    lines: list[tuple[str, float]] = []
    if SHARED not in done:
        made = [] if kept_teacher(profile) else ["teacher_train"]
        names = ["setup", *made, *shared_stages(cells).values(), "evaluate", "judge"]
        lines.append(("data and teacher, shared", sum(data.seconds.get(name, 0.0) for name in names)))
    for size in dict.fromkeys(cell.size for cell in cells):
        left = [cell for cell in cells if cell.size == size and cell.name not in done]
        if left:
            scored = sum(data.seconds.get(name, 0.0) for name in ("evaluate", "judge"))
            seconds = data.student_seconds[size] * len(left)
            seconds += scored * sum(not cell.again for cell in left)
            seconds += data.seconds.get("serve", 0.0) * sum(cell.serve for cell in left)
            lines.append((f"{len(left)} students of {size}, trained and evaluated", seconds))
    seconds = sum(length for _, length in lines)
    return Estimate(seconds, seconds * data.watts, tuple(lines))


def together(parts: Sequence[Estimate]) -> Estimate:
    """Several estimates as one; unknown where one is."""
    seconds = [part.seconds for part in parts if part.seconds is not None]
    joules = [part.joules for part in parts if part.joules is not None]
    if len(seconds) < len(parts) or len(joules) < len(parts):
        return Estimate(None, None, ())
    return Estimate(sum(seconds), sum(joules), tuple(line for part in parts for line in part.lines))
