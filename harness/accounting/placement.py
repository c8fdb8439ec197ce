"""The counter's value at the moment of a boundary, which lies between two refreshes (PROTOCOL 4.1).

The two refreshes around it enclose a cell, whose energy is known. Inside, energy is placed by one step of
power from the last reading before the boundary to the first one behind it, where the cell's mean lies between
the two: real steps happen at boundaries. Else it is drawn straight. All of it is whole numbers, nJ = mW us,
and rounded down to mJ once a boundary, so that the stages on both sides add up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import NamedTuple

from harness.accounting.counter import CounterReading
from harness.accounting.error_model import CELL_FACTOR, KNOWN_CELLS, NJ, Z95, EdgeError, Roughness

NJ_PER_MJ = 1_000_000

CELL_US = 200_000
"""Two refreshes further apart than this are no neighbours: twice the slowest refresh seen on real cards."""

JUST_US = 20_000
"""A boundary is just before a refresh up to this long before it: the fastest refresh seen on real cards."""

ALIKE = 50
"""Two powers are alike where they differ by no more than a fiftieth of the larger."""

SLOPE = 25
"""Two powers that differ by no more than this fraction of the larger may be a slope as well as a step."""

EVIDENCE = 2
"""Cells on each side from which it is told whether power is steady."""

POOLED = 0.5
"""Weight of those cells' roughness beside that of the boundary's own."""

DOUBTFUL = 0.5
"""Share of rough cells from which on a step is doubted like a straight line."""


@dataclass(frozen=True)
class Refresh:
    """A refresh of a counter that was seen: a row of `counters` by the method `tick`.

    Attributes:
        mono_us: when.
        value_mj: the counter from then on.
        uncertainty_us: half-width of the bracket around it.
        power_mw: power read right behind it; None if unknown.
    """

    mono_us: int
    value_mj: int
    uncertainty_us: int = 0
    power_mw: int | None = None


class Cell(NamedTuple):
    """What lies between two neighbouring refreshes.

    Attributes:
        width_us: length.
        energy_nj: energy.
        before_mw: power at its begin; None if unknown.
        after_mw: power at its end.
    """

    width_us: int
    energy_nj: int
    before_mw: int | None = None
    after_mw: int | None = None

    def is_at(self, power_mw: int) -> bool:
        """Whether its mean power is like this one."""
        apart = abs(self.energy_nj - power_mw * self.width_us)
        return ALIKE * apart <= max(self.energy_nj, power_mw * self.width_us)

    @property
    def flat(self) -> bool:
        """Whether its mean is like both powers."""
        return None not in self.ends and all(self.is_at(power) for power in self.ends if power is not None)

    @property
    def even(self) -> bool:
        """Whether it is clean, and so near to flat that a slope explains it as well as a step."""
        if not self.clean:
            return False
        low, high = sorted(power for power in self.ends if power is not None)
        return SLOPE * (high - low) <= high

    @property
    def ends(self) -> tuple[int | None, int | None]:
        """Both powers."""
        return self.before_mw, self.after_mw

    @property
    def clean(self) -> bool:
        """Whether its mean is like one of the powers or lies between them: one step explains it."""
        if self.before_mw is None or self.after_mw is None:
            return False
        low, high = sorted((self.before_mw * self.width_us, self.after_mw * self.width_us))
        return ALIKE * (low - self.energy_nj) <= high and ALIKE * (self.energy_nj - high) <= high

    @property
    def roughness_mw2(self) -> float:
        """Mean square of the differences between its mean and the two powers."""
        mean = self.energy_nj / self.width_us
        known = [power for power in self.ends if power is not None]
        return sum((mean - power) ** 2 for power in known) / len(known) if known else 0.0


class Surroundings(NamedTuple):
    """How steady power is around a boundary, at the scale of a refresh.

    Attributes:
        before: up to two cells before it, the latest ones there are, and
        behind: the same behind it.
    """

    before: tuple[Cell, ...] = ()
    behind: tuple[Cell, ...] = ()

    @property
    def steady(self) -> bool:
        """Whether each side that was looked at shows a flat cell, and none that takes more than one step."""
        sides = [side for side in (self.before, self.behind) if side]
        return bool(self.behind) and all(
            any(cell.flat for cell in side) and all(cell.clean for cell in side) for side in sides
        )

    @property
    def doubt(self) -> float:
        """Variance that a step in doubt has, over that of a straight line."""
        cells = (*self.before, *self.behind)
        rough = sum(not cell.clean for cell in cells)
        return min(1.0, (rough + 0.5) / (len(cells) + 1) / DOUBTFUL)

    def pooled_mw2(self, own_mw2: float) -> float:
        """Roughness of the boundary's cell with that of its surroundings."""
        cells = (*self.before, *self.behind)
        if not cells:
            return own_mw2
        mean = sum(cell.roughness_mw2 for cell in cells) / len(cells)
        return (own_mw2 + POOLED * mean) / (1 + POOLED)


@dataclass
class Refreshes:
    """The refreshes of one device in one session that were seen, in the order of time."""

    seen: list[Refresh] = field(default_factory=list)

    def believed(self, most_mw: float) -> Refreshes:
        """The same, power above what the device can draw being a failed read."""
        return Refreshes(
            [replace(at, power_mw=None) if (at.power_mw or 0) > most_mw else at for at in self.seen]
        )

    def place(
        self,
        moment: CounterReading,
        rough: Roughness,
        most_mw: float,
        *,
        earlier: Sequence[CounterReading] = (),
        instant: bool = True,
    ) -> CounterReading:
        """Give the moment of a boundary a value, where the two refreshes around it were seen.

        Args:
            moment: the boundary, without a value; a power above `most_mw` counts as not read.
            rough: how much power changes from sample to sample around it.
            most_mw: what the device cannot exceed.
            earlier: the boundaries before it, in the order of time; where they lie in its cell, its value is
                not below theirs.
            instant: whether power readings are of their moment; a trailing mean shows no step.

        Returns:
            It with value, error and method `step` or `linear`; as it was where that cannot be told.
        """
        behind = self._index(moment.mono_us)
        if behind == len(self.seen):
            return moment
        first, last = self.seen[max(0, behind - 1)], self.seen[behind]
        width, energy = last.mono_us - first.mono_us, (last.value_mj - first.value_mj) * NJ_PER_MJ
        known = instant and moment.power_mw is not None and moment.power_mw <= most_mw
        read_mw = int(moment.power_mw or 0) if known else None
        inside = list(takewhile(lambda one: self._index(one.mono_us) == behind, reversed(earlier)))
        if behind == 0 or width > CELL_US:
            return _no_less(self._just_before(moment, read_mw, behind), inside)
        if not 0 < energy <= most_mw * width:
            return moment
        around = Surroundings(self._before(behind - 1), self._behind(behind))
        powers = self._powers(read_mw, moment.uncertainty_us, behind) if instant else (None, None)
        shown = [first.power_mw, *(one.power_mw for one in inside)]
        shown_mw = [power for power in shown if power is not None and power <= most_mw]
        cell, at = Cell(width, energy, *powers), moment.mono_us - first.mono_us
        part, method, error = _split(cell, at, (first, last), around, rough, shown_mw)
        # No more flows on either side than the device can draw.
        least = max(0, energy - int(most_mw * (width - at)))
        most = min(energy, int(most_mw * at))
        part = min(max(part, least), most)
        reach_j = max(part - least, most - part) * NJ
        error = replace(error, variance_j2=min(error.variance_j2, (reach_j / Z95) ** 2))
        value_mj = first.value_mj + part // NJ_PER_MJ
        return _no_less(replace(moment, value_mj=value_mj, method=method, error=error), inside)

    def _just_before(self, moment: CounterReading, read_mw: int | None, behind: int) -> CounterReading:
        """A boundary that was heard of behind the next refresh: back from there at the power read then."""
        last = self.seen[behind]
        missed_us = last.mono_us - moment.mono_us
        heard_us = min(moment.uncertainty_us + last.uncertainty_us, JUST_US)
        if read_mw is None or missed_us > heard_us:
            return moment
        value_mj = last.value_mj - -(-read_mw * missed_us // NJ_PER_MJ)
        if behind > 0:
            value_mj = max(value_mj, min(self.seen[behind - 1].value_mj, last.value_mj))
        error = EdgeError(0.0, read_mw * (missed_us + last.uncertainty_us) * NJ, 0.0, KNOWN_CELLS)
        return replace(moment, value_mj=value_mj, method="linear", error=error)

    def _index(self, t: int) -> int:
        """Of the first refresh behind a time."""
        return bisect_right(self.seen, t, key=lambda at: at.mono_us)

    def _cell(self, index: int) -> Cell | None:
        """The cell behind a refresh, if it has powers at both ends."""
        if not 0 <= index < len(self.seen) - 1:
            return None
        a, b = self.seen[index], self.seen[index + 1]
        if a.power_mw is None or b.power_mw is None or b.mono_us - a.mono_us > CELL_US:
            return None
        energy = (b.value_mj - a.value_mj) * NJ_PER_MJ
        return Cell(b.mono_us - a.mono_us, energy, a.power_mw, b.power_mw) if energy >= 0 else None

    def _before(self, index: int) -> tuple[Cell, ...]:
        found: list[Cell] = []
        while index > 0 and len(found) < EVIDENCE:
            index -= 1
            cell = self._cell(index)
            found += [] if cell is None else [cell]
        return tuple(found)

    def _behind(self, index: int) -> tuple[Cell, ...]:
        found: list[Cell] = []
        while index < len(self.seen) - 1 and len(found) < EVIDENCE:
            cell = self._cell(index)
            found += [] if cell is None else [cell]
            index += 1
        return tuple(found)

    def _powers(self, read_mw: int | None, late_us: int, behind: int) -> tuple[int | None, int | None]:
        """Last power before a boundary and first power behind it.

        The counter's own mean over the two refreshes behind counts before the sensor, which may be slower,
        where it is steady. A sensor that still shows the same is looked at one refresh later.
        """
        width = self.seen[behind].mono_us - self.seen[behind - 1].mono_us
        before = None if 4 * late_us > width else read_mw
        one, two = (self._cell(behind + i) for i in (0, 1))
        if one is not None and two is not None and two.is_at(mean := one.energy_nj // one.width_us):
            return before, mean
        shown = [at.power_mw for at in self.seen[behind : behind + 2]]
        fresh = [power for power in shown if power is not None and power != before]
        return before, fresh[0] if fresh else shown[0]


def _no_less(reading: CounterReading, inside: Iterable[CounterReading]) -> CounterReading:
    """A placed boundary with at least the value of those before it in its cell."""
    if reading.value_mj is None:
        return reading
    placed = [one.value_mj for one in inside if one.error is not None and one.value_mj is not None]
    return replace(reading, value_mj=max([reading.value_mj, *placed]))


def _split(
    cell: Cell,
    at_us: int,
    ends: Sequence[Refresh],
    around: Surroundings,
    rough: Roughness,
    shown_mw: Iterable[float],
) -> tuple[int, str, EdgeError]:
    """Energy of the part of a cell before `at_us` in nJ, the method, and the error.

    `shown_mw` are the powers that were read in the cell before the boundary.
    """
    share = at_us / cell.width_us
    mean_mw = cell.energy_nj / cell.width_us
    own_mw2 = cell.roughness_mw2
    if not cell.clean:
        # Two powers that do not explain the cell say too little of what it holds: a step may lie before both.
        own_mw2 = max(own_mw2, rough.square_mw2 / 2, *((mean_mw - power) ** 2 for power in shown_mw))
    # An even cell whose neighbours can be told step by step is as rough as it looks.
    rough_mw2 = own_mw2 if cell.even and around.steady else around.pooled_mw2(own_mw2)
    spread_j = CELL_FACTOR * cell.width_us * share * (1 - share) * math.sqrt(rough_mw2) * NJ
    straight_j = mean_mw * ((1 - share) * ends[0].uncertainty_us + share * ends[1].uncertainty_us) * NJ
    if cell.even or not cell.clean:
        method = "step" if cell.even else "linear"
        part = cell.energy_nj * at_us // cell.width_us
        return part, method, EdgeError(0.0, straight_j, spread_j**2, KNOWN_CELLS)
    assert cell.before_mw is not None and cell.after_mw is not None
    from_begin = cell.before_mw * at_us
    from_end = cell.energy_nj - cell.after_mw * (cell.width_us - at_us)
    part = min(from_begin, from_end) if cell.before_mw > cell.after_mw else max(from_begin, from_end)
    if part == from_begin:
        known_j = cell.before_mw * ends[0].uncertainty_us * NJ
    else:
        known_j = cell.after_mw * ends[1].uncertainty_us * NJ
    variance = 0.0 if around.steady else spread_j**2 * around.doubt
    return part, "step", EdgeError(0.0, known_j, variance, KNOWN_CELLS)
