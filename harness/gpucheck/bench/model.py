"""Sections of the GPU check, what they expect, and what they have to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.doctor.inventory import Gpu
from harness.gpucheck.loader import Load

Outcome = Literal["pass", "fail", "not run"]
_SHORTEST_S = 0.35


@dataclass(frozen=True)
class Expectation:
    """Something that should hold, the bar it is held to, and what was observed."""

    id: str
    title: str
    bar: str
    observed: str
    verdict: Outcome

    def as_json(self) -> dict[str, str]:
        """The expectation as a JSON object."""
        return {
            "id": self.id,
            "title": self.title,
            "bar": self.bar,
            "observed": self.observed,
            "verdict": self.verdict,
        }


def judged(id: str, title: str, bar: str, observed: str, holds: bool) -> Expectation:
    """An expectation that could be tried."""
    return Expectation(id, title, bar, observed, "pass" if holds else "fail")


@dataclass(frozen=True)
class SectionResult:
    """What a section found.

    Attributes:
        data: Its figures, units in the keys.
        tables: (caption, header, rows) for the readable report.
        text: Further lines for it, printed as they are.
    """

    expectations: tuple[Expectation, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    tables: tuple[tuple[str, tuple[str, ...], list[tuple[str, ...]]], ...] = ()
    text: str = ""


@dataclass
class Bench:
    """What a section works with.

    Attributes:
        folder: Where runs may be written; removed at the end.
        load: Makes the work.
        load_python: The interpreter that runs it.
        rehearsal: Whether this is a rehearsal without a real GPU.
        scale: Factor on every duration.
        say: Tells the person watching.
        gpus: The GPUs that the check may use.
        results: Of the sections before, by name.
    """

    folder: Path
    load: Load
    load_python: str | None
    rehearsal: bool
    scale: float
    say: Callable[[str], None]
    gpus: tuple[Gpu, ...] = ()
    results: dict[str, SectionResult] = field(default_factory=dict)

    def seconds(self, nominal: float) -> float:
        """A duration, scaled; never so short that a stage would lie within a few refreshes."""
        return max(_SHORTEST_S, nominal * self.scale)

    def refresh_us(self) -> float:
        """The slowest counter refresh that the probe found, 100 ms if it found none."""
        probe = self.results.get("probe")
        found = [] if probe is None else probe.data.get("counter_refresh_ms", [])
        return max((1e3 * period for period in found), default=100_000.0)


Section = Callable[[Bench], SectionResult]
SECTIONS: dict[str, tuple[str, Section]] = {}


def section(name: str, title: str) -> Callable[[Section], Section]:
    """Register a section; they run in the order of registration."""

    def register(run: Section) -> Section:
        SECTIONS[name] = (title, run)
        return run

    return register
