"""The caller's windows in simulated time: loads, a card with its refreshes, what the sampler writes of them.

A boundary is heard of 0.1 to 0.4 ms after it was stamped; power and counter are then read. The tick behind is
seen from a bracket of a few tens of us, with power read behind it; the one before stands in the counter; two
looks more follow, a refresh apart, at ticks that are known from the grid. Values are whole mJ and mW.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.accounting.boundaries import DeviceBoundaries
from harness.accounting.counter import CounterReading
from harness.accounting.device import DeviceMeter
from harness.accounting.placement import Refresh, Refreshes
from harness.accounting.series import DeviceLimits, PowerSeries, Sampling
from harness.meter.cells import LOOKS_BEHIND
from harness.meter.ticks import TickModel
from tests.lab.waveforms import AnyWaveform, Steps

PERIOD_US = 500_000
LIMITS = DeviceLimits(max_mw=700_000)
RUN_US = 4_000_000
"""The sampler runs this long before and after a window."""

LEARNED = 5
"""Ticks from which the sampler learns the grid."""


@dataclass(frozen=True)
class Card:
    """A device: what it plays and how its instruments refresh.

    Attributes:
        refresh_us: of the counter, and
        phase_us: when.
        sensor_us: of power, and
        sensor_phase_us: when.
        window_us: power is the mean of so long before its refresh; 0 for the value there.
    """

    waves: tuple[AnyWaveform, ...]
    refresh_us: int = 100_000
    phase_us: int = 0
    sensor_us: int = 100_000
    sensor_phase_us: int = 0
    window_us: int = 0

    def energy_uj(self, t: float) -> float:
        """Antiderivative of the true power."""
        return math.fsum(wave.energy_uj(t) for wave in self.waves)

    def truth_j(self, start_us: float, end_us: float) -> float:
        """True joules of a window."""
        return (self.energy_uj(end_us) - self.energy_uj(start_us)) / 1e6

    def index(self, t: float) -> int:
        """Number of the last refresh of the counter at or before a time."""
        return math.floor((t - self.phase_us) / self.refresh_us)

    def tick(self, index: int) -> int:
        """Its time."""
        return self.phase_us + index * self.refresh_us

    def counter_mj(self, index: int) -> int:
        """What the counter shows from it on."""
        return math.floor(self.energy_uj(self.tick(index)) / 1000)

    def power_mw(self, t: float) -> int:
        """What the power sensor shows at a time."""
        at = t - (t - self.sensor_phase_us) % self.sensor_us
        if not self.window_us:
            return round(1000 * math.fsum(wave.power_w(at) for wave in self.waves))
        return round(1000 * (self.energy_uj(at) - self.energy_uj(at - self.window_us)) / self.window_us)


def samples(card: Card, first_us: int, last_us: int, rng: random.Random) -> PowerSeries:
    """The sampler's rows of power between two times, every half second."""
    due = range(first_us + rng.randrange(PERIOD_US), last_us, PERIOD_US)
    at = [t + min(int(rng.expovariate(1 / 200)), 20_000) for t in due]
    power = np.array([card.power_mw(t) for t in at], np.int32)
    value = np.array([card.counter_mj(card.index(t)) for t in at], np.int64)
    every = np.ones(len(at), np.bool_)
    return PowerSeries("node", 0, 0, np.array(at, np.int64), power, every, value, every)


def boundaries(card: Card, moments: Iterable[int], rng: random.Random) -> DeviceBoundaries:
    """What the sampler writes beside moments, which are given in the order of time."""
    moments = list(moments)
    readings: dict[int, CounterReading] = {}
    seen: dict[int, Refresh] = {}
    model = TickModel()
    begun = card.index(moments[0] - RUN_US)
    for k in (*range(begun, begun + LEARNED), card.index(moments[0]) - 2):
        model.learn(*_bracket(card, k, rng))
    looks: list[int] = []

    def look(until: int) -> None:
        for k in looks:
            expected = model.known(card.tick(k) - card.refresh_us / 2)
            assert expected is not None
            if k < until:
                read = card.tick(k) + rng.randint(300, 600)
                seen[k] = Refresh(
                    round(expected[0]), card.counter_mj(k), math.ceil(expected[1]), card.power_mw(read)
                )

    for number, at in enumerate(moments):
        heard = at + rng.randint(100, 400)
        readings[number] = CounterReading(at, None, heard - at, "moment", float(card.power_mw(heard)))
        behind = card.index(heard) + 1
        look(behind)
        if behind not in seen:
            middle, half = _bracket(card, behind, rng)
            model.learn(middle, half)
            assert model.period_us is not None
            if behind - 1 not in seen:
                doubt = half + model.period_error_us + model.jitter_us
                seen[behind - 1] = Refresh(
                    round(middle - model.period_us), card.counter_mj(behind - 1), math.ceil(doubt)
                )
            read = card.tick(behind) + rng.randint(100, 400)
            seen[behind] = Refresh(
                round(middle), card.counter_mj(behind), math.ceil(half), card.power_mw(read)
            )
            looks = [behind + 1 + i for i in range(LOOKS_BEHIND)]
    look(looks[-1] + 1)
    return DeviceBoundaries(readings, Refreshes([seen[k] for k in sorted(seen)]))


def _bracket(card: Card, index: int, rng: random.Random) -> tuple[float, float]:
    """Middle and half-width of the bracket around a tick that was watched for."""
    half_us = rng.uniform(15, 40)
    return card.tick(index) + rng.uniform(-half_us, half_us), half_us


@dataclass(frozen=True)
class Window:
    """The caller's window as it was billed, joules."""

    best: float
    low: float
    high: float
    truth: float
    method: str

    @property
    def error_pct(self) -> float:
        """Relative error."""
        return 100 * (self.best - self.truth) / self.truth

    @property
    def half_pct(self) -> float:
        """Half-width of the interval on the side of the truth, of the truth."""
        half = self.high - self.best if self.truth > self.best else self.best - self.low
        return 100 * half / self.truth


def bill(card: Card, start_us: int, end_us: int, rng: random.Random) -> Window:
    """Bill a window as the kit does."""
    found = DeviceMeter(
        samples(card, start_us - RUN_US, end_us + RUN_US, rng),
        boundaries(card, (start_us, end_us), rng),
        Sampling(),
        LIMITS,
    ).measure(0, 1)
    assert found.energy_mj is not None and found.low_j is not None and found.high_j is not None
    truth = card.truth_j(start_us, end_us)
    return Window(found.energy_mj / 1000, found.low_j, found.high_j, truth, found.method)


def _line(lengths_us: Iterable[float], watts: Iterable[float]) -> Steps:
    at = itertools.accumulate(map(round, lengths_us), initial=0)
    return Steps(tuple(zip(at, watts, strict=False)))


def pieces(rng: random.Random, start_us: int, end_us: int) -> Steps:
    """Any power for 60 to 700 ms, then any other."""
    n = (end_us + RUN_US) // 60_000
    return _line((rng.randint(60, 700) * 1e3 for _ in range(n)), (rng.randint(75, 700) for _ in range(n)))


def step(rng: random.Random, start_us: int, end_us: int) -> Steps:
    """Idle, a stage that starts up to 30 ms late and ends up to 10 ms late, idle."""
    begin, end = start_us + rng.randint(0, 30_000), end_us + rng.randint(0, 10_000)
    return Steps(((0, 75.0), (begin, rng.uniform(300, 700)), (end, 75.0)))


def dips(rng: random.Random, start_us: int, end_us: int) -> Steps:
    """Training steps: 50 to 250 ms near 620 W, dips of 5 to 40 ms between them."""
    n = (end_us + RUN_US) // 55_000
    lengths = itertools.chain.from_iterable(
        (rng.uniform(50_000, 250_000), rng.uniform(5_000, 40_000)) for _ in range(n)
    )
    watts = itertools.chain.from_iterable(
        (min(700.0, max(300.0, rng.gauss(620, 25))), rng.uniform(150, 420)) for _ in range(n)
    )
    return _line(lengths, watts)


def noise(rng: random.Random, start_us: int, end_us: int) -> Steps:
    """Any power for 2 to 40 ms, then any other."""
    n = (end_us + RUN_US) // 15_000
    return _line((rng.uniform(2_000, 40_000) for _ in range(n)), (rng.uniform(75, 700) for _ in range(n)))


LOADS: Mapping[str, Callable[[random.Random, int, int], Steps]] = {
    "pieces": pieces,
    "step": step,
    "dips": dips,
    "noise": noise,
}


@dataclass(frozen=True)
class Setting:
    """A cell of the grid.

    Attributes:
        load: of `LOADS`.
        length_us: of the windows.
        refresh_us: of the counter.
        in_phase: whether power refreshes with the counter; else at any phase of its own.
        sensor_us: refresh of power; that of the counter by default.
        window_us: see `Card`.
    """

    load: str
    length_us: int
    refresh_us: int
    in_phase: bool
    sensor_us: int | None = None
    window_us: int = 0

    def window(self, seed: int) -> Window:
        """One random window."""
        rng = random.Random(f"{self.load} {seed}")
        start = 5_000_000 + rng.randrange(3_000_000)
        end = start + self.length_us
        sensor_us = self.sensor_us or self.refresh_us
        phase = rng.randrange(self.refresh_us)
        sensor_phase = phase if self.in_phase else rng.randrange(sensor_us)
        wave = LOADS[self.load](rng, start, end)
        card = Card((wave,), self.refresh_us, phase, sensor_us, sensor_phase, self.window_us)
        return bill(card, start, end, rng)


@dataclass(frozen=True)
class Summary:
    """What the windows of a setting say; all but the shares in % of the true energy.

    Attributes:
        ratio: mean half-width over that of intervals scaled to cover exactly 95 %.
        stepped: share of windows with a step at both ends.
    """

    mean: float
    p95: float
    worst: float
    bias: float
    coverage: float
    half: float
    ratio: float
    stepped: float

    @classmethod
    def of(cls, windows: Iterable[Window]) -> Summary:
        """Sum up."""
        found = list(windows)
        error = np.array([w.error_pct for w in found])
        half = np.maximum(1e-9, [w.half_pct for w in found])
        size = np.abs(error)
        return cls(
            mean=float(size.mean()),
            p95=float(np.quantile(size, 0.95)),
            worst=float(size.max()),
            bias=float(error.mean()),
            coverage=float(np.mean(size <= half)),
            half=float(np.mean(half)),
            ratio=1 / float(np.quantile(size / half, 0.95)),
            stepped=float(np.mean([w.method == "counter_step" for w in found])),
        )


def misses(setting: Setting, s: Summary) -> list[str]:
    """The bars that a setting misses, in words."""
    second = setting.length_us >= 1_000_000
    bars = [("coverage >= 93 %", s.coverage >= 0.93), ("half-width <= 1.5 x", s.ratio <= 1.5)]
    if setting.load == "step":
        bars.append(("bias <= 0.1 %", abs(s.bias) <= 0.1))
    if setting.refresh_us == 20_000:
        bars.append(("p95 <= 0.3 %", s.p95 <= 0.3) if second else ("p95 <= 2 %", s.p95 <= 2))
    elif setting.load == "pieces" and second:
        bars += [("mean <= 0.05 %", s.mean <= 0.05), ("p95 <= 0.3 %", s.p95 <= 0.3)]
    return [name for name, held in bars if not held]


GRID = tuple(
    Setting(load, length_us, refresh_us, in_phase)
    for length_us in (1_000_000, 300_000)
    for load in LOADS
    for refresh_us in (100_000, 20_000)
    for in_phase in (True, False)
)
