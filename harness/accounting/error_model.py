"""How wrong a measured energy can be: the terms, their sizes, and how they make one 95 % interval.

`low` and `high` of a figure are a 95 % interval: over random loads and windows the truth lies inside in 93 to
99 of 100 cases (`scripts/bench_coverage.py` prints the shares, `tests/accounting/test_coverage.py` holds
them). The terms, with P the power at the place, D the mean squared difference of neighbouring power samples,
T the refresh of the counter and h the distance of two samples:

    term                  kind     size
    tick bracket          uniform  +- P u at each end; u = half-width of the bracket around the tick
    counter's 1 mJ        uniform  +- 0.5 mJ at each end
    immediate reading     uniform  0 ... T old: the truth is later by P T / 2 +- P T / 2
    placed in a cell      uniform  +- P u of the refresh that its part of the cell begins or ends with; drawn
                                   straight, of both by the way to each; just before a refresh, u + time to it
      and where in doubt  random   1.42 f (1 - f) T R: cut at the share f of its width T, R its roughness
    between two samples   random   drawn straight, cut at the share f: (f (1 - f) h)^2 D / 12, and 0 ... T old
      in a gap            uniform  anything the device can draw on either side, within the energy in between
    sampling              random   h^2 D / 2 a cell, and 0.5 mW all along
    few gaps in samples   random   length^2 x half a variance (`gap_error`); never outside [0, power limit]
    many gaps             bound    more than a tenth of the window: length x [0, power limit]
    averaging lag         random   a trailing mean of 1 s moves P x (0.5 s + T / 2) across each end
    RAPL refresh          uniform  an immediate reading, T = 1 ms; P is known as a mean over a cell only
    counter fault         bound    reset, standstill: length x [0, power limit] of the stretch around it
    sensor gain           apart    +- 5 % of board power, the same for all stages; never in low or high

**Uniform** terms have hard ends. The two ends of a window are combined exactly: the sum of two independent
uniform errors has a trapezoid for its density, and its 95 % half-width is a closed form. A stage between two
ticks is therefore claimed to 1.55 u P, not 2 u P, when both brackets are alike.

**Random** terms add their variances; the root times 1.96 is the half-width, widened as Student's t is when D
comes from n cells only: 1.96 (1 + 2 / n), t to first order for the 2 n / 3 degrees of freedom that D has.

**Uniform and random** half-widths, and those of several devices, add in quadrature. **Bounds** add linearly
on top, and hold always: whatever stopped the counter, or the sampler for that long, may have changed the load
too, so that no statistics of the rest apply. (In the one real trace there is, the sampler shared a process
with the load: 18 % of the time is missing, and readings taken more densely are 12 % higher than the rest.)

Sums of stages (`totals`) add half-widths linearly, because neighbouring stages share a boundary and a device
its habits: an upper estimate. Where a run is measured from its first to its last boundary that is used.

Sampling: a trapezoid over samples h apart has the error variance h^2 D / 12 a cell if power steps seldom, at
random moments, and h^2 D / 2 if neighbouring samples are independent. Which of the two holds cannot be seen:
a load whose period is near a simple ratio of h shows a slow alias in its samples. So the larger one is taken.
What is not covered is a periodic load of which every sample falls at one phase: D is 0 then, the error is
not. It is the known weakness of power without a counter, and part of the 5 % that lie outside.

The factors 1 / 12 between samples, 1 / 2 for gaps, 2 for the lag and 1.2 for RAPL follow from simple cases
(a step in the cell, independent samples, half-overlapping means, any power up to twice the mean) and were
checked, not fitted, on the lab's waveforms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

Z95 = 1.959963984540054
"""Standard deviations in half a 95 % interval of a normal variable."""

NJ = 1e-9
"""Joules in one mW x us."""

COUNTER_STEP_J = 0.5e-3
"""Half a millijoule: how far a counter value cut to whole mJ can be from the middle of what it stands for."""

POWER_STEP_MW = 0.5
"""Half a milliwatt: how far a constant power is from its readings, all alike."""

INDEPENDENT = 1 / 2
"""Error variance of a trapezoid cell in h^2 D if neighbouring samples are independent."""

RARE_STEPS = 1 / 12
"""The same if power steps seldom, at random moments; holds for means over longer than a cell."""

CELL_FACTOR = 1.42
"""Standard deviation of a boundary drawn straight in a cell, over width x share x (1 - share) x roughness."""

KNOWN_CELLS = 1000
"""Stands for `cells` where a variance is no estimate from few differences."""

CELL_MEAN_FACTOR = 1.2
"""Root mean square over mean of a power known as a mean only: 2 / sqrt 3 if it is anything up to twice it."""

RANDOM_GAPS = 0.1
"""Largest share of a window in gaps for which what was seen speaks for what was not."""

NEIGHBOURS = 4
"""Cells on each side of a boundary from which its D is taken."""

LAG_FACTOR = 2.0
"""D of power over D of its means of 1 s taken every half second, of which each two overlap by half."""


class Roughness(NamedTuple):
    """How much power changes from sample to sample around some time.

    Attributes:
        square_mw2: mean squared difference of neighbouring samples (D), mW^2.
        cells: number of differences it is the mean of.
    """

    square_mw2: float = 0.0
    cells: int = 0


STEADY = Roughness()
"""Power that does not change, or of which nothing is known."""


@dataclass(frozen=True)
class EdgeError:
    """What one end of a window adds to the error: truth minus claim is shift +- uniform, and a random part.

    Attributes:
        shift_j: middle of the uniform part.
        uniform_j: its half-width.
        variance_j2: variance of the random part.
        cells: differences behind the variance.
    """

    shift_j: float = 0.0
    uniform_j: float = 0.0
    variance_j2: float = 0.0
    cells: int = 0

    @property
    def without_shift_j(self) -> float:
        """What is left of the uniform part if the value is as claimed; below 0 if it cannot be."""
        return self.uniform_j - abs(self.shift_j)


class Spread(NamedTuple):
    """Distances from a best value to the ends of its 95 % interval, both at least 0, joules.

    Attributes:
        low_j: how much lower the truth may be.
        high_j: how much higher.
    """

    low_j: float = 0.0
    high_j: float = 0.0

    @classmethod
    def around(cls, shift_j: float, half_j: float) -> Spread:
        """An interval of half-width `half_j` around best + shift, stretched to hold the best value."""
        return cls(max(0.0, half_j - shift_j), max(0.0, half_j + shift_j))

    @property
    def half_j(self) -> float:
        """Half the length of the interval."""
        return (self.low_j + self.high_j) / 2

    def quadrature(self, other: Spread) -> Spread:
        """Of two independent errors."""
        return Spread(math.hypot(self.low_j, other.low_j), math.hypot(self.high_j, other.high_j))

    def linear(self, other: Spread) -> Spread:
        """Of errors that may go the same way."""
        return Spread(self.low_j + other.low_j, self.high_j + other.high_j)

    def capped(self, bound: Spread) -> Spread:
        """No further out than a bound."""
        return Spread(min(self.low_j, bound.low_j), min(self.high_j, bound.high_j))


NOTHING = Spread()
"""No doubt at all."""


def joint(random: Iterable[Spread], bounds: Iterable[Spread] = ()) -> Spread:
    """Interval of a sum of figures with independent errors: quadrature, then what are bounds on top."""
    whole = NOTHING
    for part in random:
        whole = whole.quadrature(part)
    for part in bounds:
        whole = whole.linear(part)
    return whole


def uniform_pair_95(a: float, b: float) -> float:
    """95 % half-width of the sum of two independent errors, uniform in [-a, a] and [-b, b].

    The sum's density is a trapezoid: P(|sum| > s) = (a + b - s)^2 / (4 a b) on its slopes.
    """
    a, b = max(a, b), min(a, b)
    return 0.95 * a if b <= 0.05 * a else a + b - math.sqrt(0.2 * a * b)


def student_95(cells: int) -> float:
    """Standard deviations in half a 95 % interval when the variance comes from `cells` differences."""
    return Z95 * (1.0 + 2.0 / max(1, cells))


def reading_error(
    method: str, uncertainty_us: int, power_mw: float, rough: Roughness, refresh_us: int
) -> EdgeError:
    """Error of a counter reading at a boundary.

    Args:
        method: tick, or anything else for a value as it stood when it was read.
        uncertainty_us: what the reading says of its own time.
        power_mw: power there.
        rough: around the boundary.
        refresh_us: of the counter, where the reading does not say.
    """
    if method == "tick":
        return EdgeError(uniform_j=uncertainty_us * power_mw * NJ)
    return stale_error(uncertainty_us or refresh_us, power_mw, rough)


def stale_error(age_us: int, power_mw: float, rough: Roughness) -> EdgeError:
    """Error of a counter value that is 0 ... `age_us` old."""
    half = age_us * power_mw * NJ / 2
    return EdgeError(half, half, (age_us * NJ) ** 2 / 3 * rough.square_mw2 / 2, rough.cells)


def cell_error(width_us: int, share: float, power_mw: float, rough: Roughness, refresh_us: int) -> EdgeError:
    """Error of a counter value drawn straight between two readings.

    Args:
        width_us: distance of the two readings.
        share: where between them, 0 to 1.
        power_mw: mean power between them.
        rough: around the boundary.
        refresh_us: of the counter: how old the readings may be.
    """
    stale = stale_error(refresh_us, power_mw, STEADY)
    variance = (share * (1 - share) * width_us * NJ) ** 2 * rough.square_mw2 / 12
    return EdgeError(stale.shift_j, stale.uniform_j, variance, rough.cells)


def lag_error(lag_us: int, power_mw: float, rough: Roughness) -> EdgeError:
    """Error at an end of a window when power is a trailing mean that lags by `lag_us`."""
    return EdgeError(
        power_mw * lag_us * NJ, 0.0, (lag_us * NJ) ** 2 * rough.square_mw2 * LAG_FACTOR, rough.cells
    )


def window_error(start: EdgeError, end: EdgeError, step_j: float = 0.0) -> Spread:
    """95 % interval of a window from the errors of its two ends.

    Args:
        start: of the first boundary; what it adds is taken off the window.
        end: of the second one.
        step_j: half a step of the counter, at each end.

    Values that may be late may all be on time: what makes a meter read one seldom falls evenly between two
    refreshes. So neither side is narrower than what is left of the errors where none is late.
    """
    random = student_95(start.cells + end.cells) * math.sqrt(start.variance_j2 + end.variance_j2)

    def half(start_j: float, end_j: float) -> float:
        uniform = uniform_pair_95(math.hypot(start_j, step_j), math.hypot(end_j, step_j))
        return math.hypot(uniform, random)

    around = Spread.around(end.shift_j - start.shift_j, half(start.uniform_j, end.uniform_j))
    on_time = start.without_shift_j, end.without_shift_j
    if min(on_time) < 0.0:
        return around
    least = half(*on_time)
    return Spread(max(around.low_j, least), max(around.high_j, least))


def gap_error(square_us2: float, share: float, variance_mw2: float, most_mw: float) -> float:
    """95 % half-width of what the trapezoid put into gaps.

    The mean of the two samples around a gap has half the variance of one; the mean power inside hardly any
    when power changes fast, and that of its neighbours when it changes slowly. The share of the window that
    was not seen counts as anything between nothing and the most that was.

    Args:
        square_us2: sum of the squared lengths of the gaps.
        share: of the window that lies in gaps.
        variance_mw2: of the samples.
        most_mw: largest of them.
    """
    blended = (1 - share) * variance_mw2 + share * most_mw**2 / 12
    return Z95 * math.sqrt(square_us2 * blended / 2) * NJ
