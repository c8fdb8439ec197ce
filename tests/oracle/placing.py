"""The counter at the moment of a boundary: between which two refreshes, and where (4.1, 4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from tests.oracle.faults import wrong
from tests.oracle.power import NJ, Json

WIDEST = 200_000
JUST = 20_000
NJ_PER_MJ = 10**6


class Cell(NamedTuple):
    """Two neighbouring refreshes: times in us, energy in nJ, powers in mW or None."""

    width: int
    energy: int
    before: int | None
    after: int | None

    @property
    def powers(self) -> list[int]:
        """The powers that are known."""
        return [power for power in (self.before, self.after) if power is not None]

    @property
    def known(self) -> bool:
        """Whether both are."""
        return len(self.powers) == 2

    def alike(self, power: int) -> bool:
        """Whether its mean differs from a power by at most a fiftieth of the larger."""
        other = power * self.width
        return abs(self.energy - other) <= Fraction(max(self.energy, other), 50)

    @property
    def flat(self) -> bool:
        """Nothing happened in it."""
        return self.known and all(self.alike(power) for power in self.powers)

    @property
    def even(self) -> bool:
        """Clean, and its powers differ by at most a twenty-fifth of the larger."""
        if not self.clean or wrong("SlopeIsStep"):
            return self.clean and self.flat
        return max(self.powers) - min(self.powers) <= Fraction(max(self.powers), 25)

    @property
    def clean(self) -> bool:
        """One step explains it: its mean lies between its powers, give or take a fiftieth of the larger."""
        if not self.known:
            return False
        low, high = (power * self.width for power in sorted(self.powers))
        return low - Fraction(high, 50) <= self.energy <= high + Fraction(high, 50)

    @property
    def rough(self) -> Fraction:
        """Mean square of the differences of its mean and its powers, mW^2."""
        squares = [(Fraction(self.energy, self.width) - power) ** 2 for power in self.powers]
        return sum(squares, Fraction(0)) / max(1, len(squares))


class Placed(NamedTuple):
    """A boundary: counter in mJ, method, and its two terms of error in J and J^2."""

    value: int
    method: str
    known: Fraction
    variance: Fraction
    cell: int


class Error(NamedTuple):
    """What an end of a window adds to its interval; `worth` stands for n of Student's t."""

    known: Fraction
    variance: Fraction
    worth: int


def believed(power: int | None, most: Fraction) -> int | None:
    """Power of 0 mW, or above what the device can draw, is a failed read."""
    return power if power and (power <= most or wrong("SpikeBelieved")) else None


def refreshes(rows: Sequence[Json], most: Fraction) -> list[Json]:
    """Ticks with a value, by time."""
    found = sorted((row for row in rows if row["value_mj"] is not None), key=lambda row: row["mono_us"])
    missing = {"uncertainty_us": 0}
    return [missing | row | {"power_mw": believed(row.get("power_mw"), most)} for row in found]


def place(
    moment: Json,
    ticks: Sequence[Json],
    most: Fraction,
    square: Fraction,
    instant: bool,
    earlier: Sequence[Json] = (),
) -> Placed | None:
    """The value at a boundary.

    Args:
        moment: the boundary: mono_us, power_mw, and uncertainty_us from it to the reading of that power.
        ticks: refreshes in the order of time.
        most: mW that the device cannot exceed.
        square: mean squared difference of the samples around it, mW^2.
        instant: whether power is of its moment and no trailing mean.
        earlier: boundaries before it in its cell.

    Returns:
        None where the refreshes do not tell.
    """
    t, begin = moment["mono_us"], _begin(ticks, moment)
    if begin + 1 == len(ticks):
        return None
    p = believed(moment.get("power_mw"), most) if instant or wrong("MeanIsInstant") else None
    first, last = ticks[max(0, begin)], ticks[begin + 1]
    width, x = last["mono_us"] - first["mono_us"], t - first["mono_us"]
    energy = (last["value_mj"] - first["value_mj"]) * NJ_PER_MJ
    if begin < 0 or (width > WIDEST and not wrong("WideCellCut")):
        return _just_before(moment, p, None if begin < 0 else first, last, begin)
    if not 0 < energy <= most * width and not wrong("ImpossibleCellCut"):
        return None
    seen = [_cell(*pair) for pair in pairwise(ticks)]
    ahead = [cell for cell in reversed(seen[:begin]) if cell][:2]
    behind = [cell for cell in seen[begin + 1 :] if cell][:2]
    if 4 * moment.get("uncertainty_us", 0) > width and not wrong("LatePowerUsed"):
        p = None
    q = _power_behind(p, ticks[begin + 1 : begin + 3], seen[begin + 1 : begin + 3])
    cell = Cell(width, energy, p, q) if instant or wrong("MeanIsInstant") else Cell(width, energy, None, None)
    part, known = _part(cell, x, first["uncertainty_us"], last["uncertainty_us"])
    least = max(0, energy - math.floor(most * (width - x)))
    highest = min(energy, math.floor(most * x))
    if not wrong("BoundIgnored"):
        part = min(max(part, least), highest)
    reach = max(part - least, highest - part)
    evidence = [*ahead, *behind]
    steady = _steady(ahead, behind)
    own = cell.rough
    if not cell.clean:
        read = [first["power_mw"], *(believed(one.get("power_mw"), most) for one in earlier)]
        shown = [] if wrong("EarlierForgotten") else [power for power in read if power is not None]
        least_own = Fraction(0) if wrong("SamplesForgotten") else square / 2
        own = max([own, least_own, *((Fraction(energy, width) - power) ** 2 for power in shown)])
    alone = cell.even and steady and not wrong("EvenPooled")
    if evidence and not alone:
        own = (own + sum((one.rough for one in evidence), Fraction(0)) / len(evidence) / 2) / Fraction(3, 2)
    line = Fraction("1.42") * Fraction(x * (width - x), width) * NJ
    spread = own * line * line
    stepped = cell.clean and not cell.even
    if stepped and (steady or wrong("DoubtIgnored")):
        spread = Fraction(0)
    elif stepped:
        unclean = sum(not one.clean for one in evidence)
        spread *= min(Fraction(1), 2 * (unclean + Fraction(1, 2)) / (len(evidence) + 1))
    most_off = reach * NJ / Fraction("1.959963984540054")
    spread = min(spread, most_off * most_off)
    method = "step" if cell.clean else "linear"
    rounded = round(Fraction(part, NJ_PER_MJ)) if wrong("NearestMillijoule") else part // NJ_PER_MJ
    value = first["value_mj"] + (0 if wrong("LastRefresh") else rounded)
    return Placed(value, method, known * NJ, spread, begin)


def _begin(ticks: Sequence[Json], moment: Json) -> int:
    """Index of the last refresh at or before a boundary, or -1."""
    return sum(1 for tick in ticks if tick["mono_us"] <= moment["mono_us"]) - 1


def _just_before(moment: Json, p: int | None, first: Json | None, last: Json, begin: int) -> Placed | None:
    """No cell, but power was read when the next refresh had come, or may have: back from there at p."""
    missed = last["mono_us"] - moment["mono_us"]
    late = moment.get("uncertainty_us", 0) + last["uncertainty_us"]
    if p is None or wrong("MissedRefreshLost") or missed > min(late, 10**9 if wrong("LongMissed") else JUST):
        return None
    value = last["value_mj"] - math.ceil(Fraction(p * missed, NJ_PER_MJ))
    if first:
        value = max(value, min(first["value_mj"], last["value_mj"]))
    return Placed(value, "linear", p * (missed + last["uncertainty_us"]) * NJ, Fraction(0), begin)


def _cell(a: Json, b: Json) -> Cell | None:
    """What two neighbouring refreshes say of how steady power is; nothing where a power is unknown."""
    width, energy = b["mono_us"] - a["mono_us"], (b["value_mj"] - a["value_mj"]) * NJ_PER_MJ
    if width > WIDEST or energy < 0 or a["power_mw"] is None or b["power_mw"] is None:
        return None
    return Cell(width, energy, a["power_mw"], b["power_mw"])


def _power_behind(p: int | None, ticks: Sequence[Json], cells: Sequence[Cell | None]) -> int | None:
    """By the counter, where its two cells behind agree; else by the sensor, if need be a refresh later."""
    shown: list[int | None] = [tick["power_mw"] for tick in ticks]
    if wrong("SensorIsFast"):
        return shown[0]
    one, two = [*cells, None, None][:2]
    if one and two and two.alike(one.energy // one.width):
        return one.energy // one.width
    return next((power for power in shown if power not in (None, p)), shown[0])


def _part(cell: Cell, x: int, first_us: int, last_us: int) -> tuple[int, Fraction]:
    """nJ before the boundary, and what the refresh is known to that they count from, in mW us."""
    if cell.even or not cell.clean or wrong("CellDrawnStraight"):
        ticks = Fraction((cell.width - x) * first_us + x * last_us, cell.width)
        bracket = max(first_us, last_us) if wrong("WiderTickCounts") else ticks
        return cell.energy * x // cell.width, Fraction(cell.energy, cell.width) * bracket
    p, q = cell.powers
    forward, backward = p * x, cell.energy - q * (cell.width - x)
    up = p <= q if not wrong("StepInverted") else p > q
    part = max(forward, backward) if up else min(forward, backward)
    return part, Fraction(p * first_us if part == forward else q * last_us)


def _steady(ahead: Sequence[Cell], behind: Sequence[Cell]) -> bool:
    """Each side that was seen, and that behind was, has a flat cell and none but clean ones."""
    sides = [side for side in (ahead, behind) if side]
    return bool(behind) and all(any(c.flat for c in side) and all(c.clean for c in side) for side in sides)


def placed_all(
    moments: Sequence[Json], ticks: Sequence[Json], most: Fraction, samples: Any, instant: bool
) -> list[Placed | None]:
    """Boundaries in the order of time; inside one cell the counter does not fall."""
    found: list[Placed | None] = []
    for k, moment in enumerate(moments):
        one = None
        inside = [j for j in range(k) if _begin(ticks, moments[j]) == _begin(ticks, moment)]
        if moment["value_mj"] is None and ticks:
            square = _square(samples, moment["mono_us"])
            one = place(moment, ticks, most, square, instant, [moments[j] for j in inside])
        placed = [other.value for j in inside if (other := found[j])]
        if one and not wrong("CounterFallsInCell"):
            one = one._replace(value=max([one.value, *placed]))
        found.append(one)
    return found


def _square(samples: Sequence[tuple[int, Any, bool]], t: int) -> Fraction:
    """Mean squared difference of neighbouring samples, of the four rows before a time and the four behind."""
    place_of = sum(at < t for at, _, _ in samples)
    near = [power for _, power, ok in samples[max(0, place_of - 4) : place_of + 4] if ok]
    steps = [Fraction(b - a) ** 2 for a, b in pairwise(near)]
    return sum(steps, Fraction(0)) / len(steps) if steps else Fraction(0)


def half_width(first: Error, last: Error) -> float:
    """95 % half-width of a window: uniform ends exactly, half a mJ each; then random ones."""
    a, b = sorted(math.hypot(end.known, 0.0005) for end in (first, last))
    uniform = 0.95 * b if a <= 0.05 * b else a + b - math.sqrt(0.2 * a * b)
    count = first.worth + last.worth
    random = 1.959963984540054 * (1 + 2 / max(1, count)) * math.sqrt(first.variance + last.variance)
    return math.hypot(uniform, random)
