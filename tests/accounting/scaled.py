"""Energies that share scales, drawn: what a ratio and N* say, and what they truly were.

A trial draws joules and residuals of a teacher's output and of two students, and a place in the box of
scales. A residual is what differs from stage to stage: normal, its 95 % interval is the stage's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from harness.accounting.amortize import break_even
from harness.accounting.error_model import Z95
from harness.accounting.interval import Interval
from harness.accounting.shared_scales import Energy, Key, Scales, at, ratio
from tests.accounting.simulated import Outcome

GAIN, ESTIMATE, PROGRAM = (0.95, 1.05), (0.0, 2.0), (0.8, 1.2)
PLACES = ("anywhere", "at the worst corner")


@dataclass(frozen=True)
class Machine:
    """What the stages of a teacher and of the students share.

    Attributes:
        teacher, student: relative half-width of each part, by its scales; shares of a stage's joules are
            equal where there are several.
    """

    scales: Scales
    teacher: Mapping[Key, float]
    student: Mapping[Key, float]


MACHINES = {
    "one GPU": Machine({"a": GAIN}, {("a",): 0.003}, {("a",): 0.003}),
    "teacher on another GPU": Machine({"a": GAIN, "b": GAIN}, {("b",): 0.003}, {("a",): 0.003}),
    "one GPU, short stages": Machine({"a": GAIN}, {("a",): 0.03}, {("a",): 0.03}),
    "estimated CPU": Machine(
        {"cpu": ESTIMATE, "logits": PROGRAM, "train": PROGRAM},
        {("cpu", "logits"): 0.01},
        {("cpu", "train"): 0.01},
    ),
    "GPU and estimated CPU": Machine(
        {"a": GAIN, "cpu": ESTIMATE, "logits": PROGRAM, "train": PROGRAM},
        {("a",): 0.003, ("cpu", "logits"): 0.01},
        {("a",): 0.003, ("cpu", "train"): 0.01},
    ),
}
CPU_SHARE = 0.06
"""Of the joules of a stage on a GPU."""


def _stage(joules: float, parts: Mapping[Key, float]) -> Energy:
    found = {}
    for key, rel in parts.items():
        share = 1.0 if len(parts) == 1 else CPU_SHARE if "cpu" in key else 1 - CPU_SHARE
        found[key] = Interval(joules * share, joules * share * (1 - rel), joules * share * (1 + rel))
    return found


def _true(energy: Energy, place: Mapping[str, float], rng: random.Random) -> float:
    """Joules where the scales have these values and each residual is drawn."""
    total = 0.0
    for key, part in energy.items():
        drawn = part.best + rng.gauss(0, (part.high - part.low) / 2 / Z95)
        total += drawn * math.prod(place[name] for name in key)
    return total


def trial(machine: Machine, seed: int, place: str) -> dict[str, Outcome]:
    """A ratio and N* of one draw.

    Args:
        machine: what is shared.
        seed: of everything.
        place: one of `PLACES`; the worst corner is that at which a figure is furthest up, or down.
    """
    rng = random.Random(f"scaled {seed}")
    base = rng.uniform(50, 500)
    teacher = _stage(base * rng.uniform(0.5, 5), machine.teacher)
    plain, taught = (_stage(base * f, machine.student) for f in (1.0, rng.uniform(0.6, 0.85)))
    worse = _stage(base * rng.uniform(1.2, 3), machine.teacher)
    even = break_even(teacher, plain, taught, scales=machine.scales)
    over = ratio(worse, plain, machine.scales)
    assert over is not None and even.ratio is not None and even.low is not None and even.high is not None

    def of(energy: Energy, gains: Mapping[str, float]) -> float:
        return at(energy, gains).best

    figures: dict[str, tuple[Callable[[Mapping[str, float]], float], tuple[Energy, ...]]] = {
        "ratio": (lambda g: _over(of(worse, g), of(plain, g)), (worse, plain)),
        "N*": (lambda g: _over(of(teacher, g), of(plain, g) - of(taught, g)), (teacher, plain, taught)),
    }
    found = {}
    up = rng.random() < 0.5
    for name, (figure, energies) in figures.items():
        gains = {scale: rng.uniform(*ends) for scale, ends in machine.scales.items()}
        if place == PLACES[1]:
            corners = [dict(zip(machine.scales, c, strict=True)) for c in product(*machine.scales.values())]
            corners = [c for c in corners if all(of(energy, c) > 0 for energy in energies)]
            gains = (max if up else min)(corners, key=figure)
        drawn = [_true(energy, gains, rng) for energy in energies]
        truth = _over(drawn[0], drawn[1] - sum(drawn[2:]))
        best, low, high = (
            (over.best, over.low, over.high) if name == "ratio" else (even.ratio, even.low, even.high)
        )
        found[name] = Outcome(best, low, high, truth)
    return found


def _over(above: float, below: float) -> float:
    return above / below if below > 0 else math.inf
