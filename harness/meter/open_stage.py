"""What is known of a stage, and of a named part of it, while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.journal.scores import Scoreboard


@dataclass
class OpenStage:
    """A stage that is running.

    Attributes:
        begun_us: Its opening boundary, CLOCK_MONOTONIC.
        finish: Number and moment of its closing one, once it is taken.
        cpu_s: CPU time of the measured processes at the opening boundary, and after `finish` between the two.
    """

    uid: int
    name: str
    kind: str
    attempt: int
    begun_us: int
    cpu_s: float
    tokens: dict[str, int] = field(default_factory=dict)
    scores: Scoreboard = field(default_factory=Scoreboard)
    consumed: list[str] = field(default_factory=list)
    produced: list[str] = field(default_factory=list)
    devices: list[int] | None = None
    dirty: bool = False
    finish: tuple[int, int] | None = None


@dataclass
class OpenChild:
    """A part of the running stage that its program named."""

    uid: int
    name: str
    begun_us: int
    tokens: dict[str, int] = field(default_factory=dict)
