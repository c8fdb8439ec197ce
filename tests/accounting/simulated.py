"""A simulated instrument under closed-form waveforms: what the lab's C library shows, without the waiting.

One `Trial` is a device that plays a random waveform while a sampler looks at it, and a window of it. It gives
the readings that each method of the accounting would have had, and the true joules of the very window that
each of them bills. The sensors are the lab's model of an H100 (energy_measurement.md, section 1): a counter
that shows the exact integral at its last refresh, power as the mean of the last 25 ms before that refresh.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.counter import CounterReading
from harness.accounting.device import DeviceEnergy, DeviceMeter
from harness.accounting.rapl import ZoneMeter
from harness.accounting.series import NO_BOUNDARY, CounterSeries, DeviceLimits, PowerSeries, Sampling
from tests.accounting.windows import LIMITS, PERIOD_US, Card, boundaries
from tests.lab.waveforms import AnyWaveform, random_waveform

INSTANT_US = 25_000
AVERAGE_US = 1_000_000
MARGIN_US = 3_000_000
"""The sampler runs this long before and after the window, as between the stages of a run."""


@dataclass(frozen=True)
class Outcome:
    """A figure with its interval and the truth, joules."""

    best: float
    low: float
    high: float
    truth: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.low <= self.truth <= self.high

    @property
    def side(self) -> int:
        """-1: the truth lies below the interval, 1: above, 0: inside."""
        return 0 if self.covered else 1 if self.truth > self.high else -1


class Trial:
    """One device, one waveform, one window; everything follows from the seed.

    Args:
        seed: of everything.
        waves: what the device plays; random by default.
        refresh_us: of counter and sensor.
        least_s: shortest window, seconds.
        most_s: longest window; lengths are uniform in their logarithm.
    """

    def __init__(
        self,
        seed: int,
        waves: tuple[AnyWaveform, ...] | None = None,
        *,
        refresh_us: int = 100_000,
        least_s: float = 1.0,
        most_s: float = 60.0,
    ) -> None:
        self.seed = seed
        self.rng = rng = random.Random(f"trial {seed}")
        self.waves = waves or random_waveform(seed)
        self.refresh_us = refresh_us
        self._phase_us = rng.randrange(refresh_us)
        self.length_us = int(1e6 * math.exp(rng.uniform(math.log(least_s), math.log(most_s))))
        self.start_us = 10_000_000 + rng.randrange(7_000_000)
        self.end_us = self.start_us + self.length_us
        first = self.start_us - MARGIN_US + rng.randrange(PERIOD_US)
        count = (self.end_us + MARGIN_US - first) // PERIOD_US
        late = [min(int(rng.expovariate(1 / 200)), 20_000) for _ in range(count)]
        self.mono_us = np.array([first + k * PERIOD_US + late[k] for k in range(count)], dtype=np.int64)

    def energy_uj(self, t: float) -> float:
        """Antiderivative of the true power."""
        return math.fsum(wave.energy_uj(t) for wave in self.waves)

    def truth_j(self, start_us: float, end_us: float) -> float:
        """True joules of a window."""
        return (self.energy_uj(end_us) - self.energy_uj(start_us)) / 1e6

    def last_tick(self, t: int) -> int:
        """Time of the last refresh at or before `t`."""
        return t - (t - self._phase_us) % self.refresh_us

    def counter_mj(self, tick: int) -> int:
        """What the counter shows from this refresh on."""
        return math.floor(self.energy_uj(tick) / 1000)

    def power_mw(self, t: int, window_us: int = INSTANT_US) -> int:
        """What the power sensor shows at `t`: the mean of a window before the last refresh."""
        tick = self.last_tick(t)
        return round((self.energy_uj(tick) - self.energy_uj(tick - window_us)) * 1000 / window_us)

    def series(self, *, power_window_us: int = INSTANT_US, counter: bool = True) -> PowerSeries:
        """The sampler's rows."""
        size = self.mono_us.shape[0]
        power = np.array([self.power_mw(int(t), power_window_us) for t in self.mono_us], dtype=np.int32)
        values = [self.counter_mj(self.last_tick(int(t))) if counter else 0 for t in self.mono_us]
        return PowerSeries(
            "node",
            0,
            0,
            self.mono_us,
            power,
            np.ones(size, np.bool_),
            np.array(values, dtype=np.int64),
            np.full(size, counter),
        )

    def measure(
        self, series: PowerSeries, ends: tuple[CounterReading, CounterReading], limits: DeviceLimits = LIMITS
    ) -> tuple[DeviceEnergy, Outcome]:
        """Account for the window between two readings."""
        return self.account(series, DeviceBoundaries({0: ends[0], 1: ends[1]}), limits)

    def account(
        self, series: PowerSeries, ends: DeviceBoundaries, limits: DeviceLimits = LIMITS
    ) -> tuple[DeviceEnergy, Outcome]:
        """The same between two boundaries, with the refreshes seen around them."""
        found = DeviceMeter(series, ends, Sampling(), limits).measure(0, 1)
        assert found.energy_mj is not None and found.low_j is not None and found.high_j is not None
        truth = self.truth_j(*(ends.readings[number].mono_us for number in (0, 1)))
        return found, Outcome(found.energy_mj / 1000, found.low_j, found.high_j, truth)

    def moments(self) -> Outcome:
        """The window by the boundaries and ticks that the sampler writes down."""
        return self.account(self.series(), self.boundaries((self.start_us, self.end_us)))[1]

    def boundaries(self, at: Sequence[int]) -> DeviceBoundaries:
        """Boundaries at these moments, and the ticks around them."""
        card = Card(self.waves, self.refresh_us, self._phase_us, self.refresh_us, self._phase_us, INSTANT_US)
        return boundaries(card, at, self.rng)

    def tick(self, t: int) -> CounterReading:
        """A boundary at the first refresh after `t`, seen from a bracket of 10 us to 2 ms around it."""
        tick = self.last_tick(t) + self.refresh_us
        half = math.exp(self.rng.uniform(math.log(10), math.log(2000)))
        at = round(tick + self.rng.uniform(-half, half))
        return CounterReading(
            at, self.counter_mj(tick), round(half + 0.5), "tick", float(self.power_mw(tick))
        )

    def immediate(self, t: int) -> CounterReading:
        """A boundary at `t` by the counter as it stands."""
        value = self.counter_mj(self.last_tick(t))
        return CounterReading(t, value, self.refresh_us, "immediate", float(self.power_mw(t)))

    def missing(self, t: int) -> CounterReading:
        """A boundary at `t` at which nothing could be read."""
        return CounterReading(t, None, 0, "sample")


def _at_ends(reading: Callable[[Trial, int], CounterReading]) -> Callable[[Trial], Outcome]:
    def run(trial: Trial) -> Outcome:
        ends = reading(trial, trial.start_us), reading(trial, trial.end_us)
        return trial.measure(trial.series(), ends)[1]

    return run


def _power_only(trial: Trial, power_window_us: int = INSTANT_US, limits: DeviceLimits = LIMITS) -> Outcome:
    series = trial.series(power_window_us=power_window_us, counter=False)
    return trial.measure(series, (trial.missing(trial.start_us), trial.missing(trial.end_us)), limits)[1]


def _average_only(trial: Trial) -> Outcome:
    return _power_only(trial, AVERAGE_US, replace(LIMITS, instant=False))


def _with_gaps(trial: Trial, most: float = 0.08) -> Outcome:
    """Power samples alone, of a window of 20 s or more; one to three stretches of over a second are lost."""
    trial = Trial(trial.seed, trial.waves, least_s=20.0, most_s=120.0)
    series = trial.series(counter=False)
    valid = series.power_valid.copy()
    count = trial.rng.randint(1, 3) if most * trial.length_us > 5e6 else 1
    for _ in range(count):
        # A gap reaches from the last sample before to the first after what is lost.
        width = trial.rng.uniform(0.6e6, max(0.6e6, most * trial.length_us / count - 1e6))
        begin = trial.rng.uniform(trial.start_us, trial.end_us - width)
        valid &= ~((series.mono_us > begin) & (series.mono_us < begin + width))
    lost = replace(series, power_valid=valid)
    return trial.measure(lost, (trial.missing(trial.start_us), trial.missing(trial.end_us)))[1]


def _mostly_lost(trial: Trial) -> Outcome:
    """The same with up to six tenths of the window lost: bounds, by design never too narrow."""
    return _with_gaps(trial, 0.6)


Method = Callable[[Trial], Outcome]

METHODS: dict[str, Method] = {
    "counter_step, counter_linear": Trial.moments,
    "counter_tick": _at_ends(Trial.tick),
    "counter_sample, read at once": _at_ends(Trial.immediate),
    "counter_sample, between samples": _at_ends(Trial.missing),
    "power_integral, calm": _power_only,
    "power_integral, gaps": _with_gaps,
    "power_integral, 1 s mean": _average_only,
}


ZONE_REFRESH_US = 1_000
ZONE_UNIT_UJ = 61.03515625
ZONE_RANGE_UJ = 65_532_610_987


def zone_series(trial: Trial, edges: Sequence[int] | None = None) -> CounterSeries:
    """A RAPL package that plays the trial's waveform: read at every sample and at both ends of the window.

    `edges` are boundaries in place of the two ends.

    Its refreshes come a millisecond apart with a tenth of jitter, each shows a multiple of the energy unit.
    """

    def value(t: int) -> int:
        tick = t - (t - trial._phase_us) % ZONE_REFRESH_US + round(trial.rng.gauss(0, ZONE_REFRESH_US / 10))
        units = math.floor(trial.energy_uj(min(tick, t)) / ZONE_UNIT_UJ)
        return round(units * ZONE_UNIT_UJ) % ZONE_RANGE_UJ

    rows = [(int(t), NO_BOUNDARY) for t in trial.mono_us]
    rows += [(t, number) for number, t in enumerate(edges or (trial.start_us, trial.end_us))]
    rows.sort()
    times = np.array([t for t, _ in rows], dtype=np.int64)
    return CounterSeries(
        source="rapl",
        node_id="node",
        device_id=None,
        zone="package-0",
        session=0,
        unit="uJ",
        wrap_range=ZONE_RANGE_UJ,
        mono_us=times,
        t_us=times,
        value=np.array([value(t) for t, _ in rows], dtype=np.int64),
        valid=np.ones(len(rows), np.bool_),
        boundary=np.array([mark for _, mark in rows], dtype=np.int64),
        uncertainty_us=np.full(len(rows), ZONE_REFRESH_US, dtype=np.int64),
        power_mw=np.full(len(rows), -1, dtype=np.int64),
        method=["sample"] * len(rows),
    )


def _rapl(trial: Trial) -> Outcome:
    trial.waves = random_waveform(trial.rng.randrange(10**9), 15.0, 250.0)
    found = ZoneMeter([zone_series(trial)]).energy(trial.start_us, trial.end_us, 0, 1)
    assert found is not None
    truth = trial.truth_j(trial.start_us, trial.end_us)
    return Outcome(found.energy_uj / 1e6, found.low_uj / 1e6, found.high_uj / 1e6, truth)


METHODS["rapl"] = _rapl

BOUNDED: dict[str, Method] = {"power_integral, mostly gaps": _mostly_lost}
"""Where nothing is random that could be counted on: bounds, so that nearly every truth lies inside."""
