"""Power waveforms with exact antiderivatives, written apart from the C ones they are checked against.

Times are microseconds since the lab's origin and may be negative; power is right continuous. Watt times
microsecond is microjoule, so an antiderivative is in microjoules, up to a constant of its own.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

_MASK = (1 << 64) - 1


def lab_hash(seed: int, index: int) -> int:
    """Uniform 64 bits of (seed, index): the splitmix64 finaliser, as in waveform.c."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Waveform(Protocol):
    """What a device plays. Several on one device add up."""

    def power_w(self, tau_us: float) -> float:
        """Power in watts, `tau_us` after the lab's origin."""

    def energy_uj(self, tau_us: float) -> float:
        """Antiderivative of the power in microjoules; only differences mean anything."""

    def bounds_w(self) -> tuple[float, float]:
        """Least and greatest power in watts."""

    def line(self) -> str:
        """The waveform as the fake library's config spells it."""


@dataclass(frozen=True)
class Const:
    """The same power for ever."""

    watts: float

    def power_w(self, tau_us: float) -> float:
        return self.watts

    def energy_uj(self, tau_us: float) -> float:
        return self.watts * tau_us

    def bounds_w(self) -> tuple[float, float]:
        return self.watts, self.watts

    def line(self) -> str:
        return f"const {self.watts!r}"


@dataclass(frozen=True)
class Square:
    """`high_w` for the first `duty` of each period that starts at `phase_us`, `low_w` for the rest."""

    low_w: float
    high_w: float
    period_us: int
    duty: float = 0.5
    phase_us: int = 0

    @property
    def high_us(self) -> int:
        """Microseconds spent high in each period."""
        return round(self.duty * self.period_us)

    def power_w(self, tau_us: float) -> float:
        return self.high_w if (tau_us - self.phase_us) % self.period_us < self.high_us else self.low_w

    def energy_uj(self, tau_us: float) -> float:
        periods, rest = divmod(tau_us - self.phase_us, self.period_us)
        high_us = periods * self.high_us + min(rest, self.high_us)
        return self.low_w * tau_us + (self.high_w - self.low_w) * high_us

    def bounds_w(self) -> tuple[float, float]:
        return min(self.low_w, self.high_w), max(self.low_w, self.high_w)

    def line(self) -> str:
        return f"square {self.low_w!r} {self.high_w!r} {self.period_us} {self.high_us} {self.phase_us}"


@dataclass(frozen=True)
class Ramp:
    """A straight line from `from_w` at `start_us` to `to_w` at `end_us`, flat on both sides."""

    from_w: float
    to_w: float
    start_us: int
    end_us: int

    def power_w(self, tau_us: float) -> float:
        x = min(max((tau_us - self.start_us) / (self.end_us - self.start_us), 0.0), 1.0)
        return self.from_w + (self.to_w - self.from_w) * x

    def energy_uj(self, tau_us: float) -> float:
        before = min(tau_us - self.start_us, 0.0)
        inside = min(max(tau_us - self.start_us, 0.0), self.end_us - self.start_us)
        after = max(tau_us - self.end_us, 0.0)
        slope = (self.to_w - self.from_w) / (self.end_us - self.start_us)
        return self.from_w * (before + inside) + slope * inside * inside / 2 + self.to_w * after

    def bounds_w(self) -> tuple[float, float]:
        return min(self.from_w, self.to_w), max(self.from_w, self.to_w)

    def line(self) -> str:
        return f"ramp {self.from_w!r} {self.to_w!r} {self.start_us} {self.end_us}"


@dataclass(frozen=True)
class Sine:
    """`mean_w + amplitude_w * sin(2 pi tau / period + phase)`."""

    mean_w: float
    amplitude_w: float
    period_us: int
    phase_rad: float = 0.0

    def _angle(self, tau_us: float) -> float:
        return 2 * math.pi * (tau_us % self.period_us) / self.period_us + self.phase_rad

    def power_w(self, tau_us: float) -> float:
        return self.mean_w + self.amplitude_w * math.sin(self._angle(tau_us))

    def energy_uj(self, tau_us: float) -> float:
        swing = self.amplitude_w * self.period_us / (2 * math.pi)
        return self.mean_w * tau_us - swing * math.cos(self._angle(tau_us))

    def bounds_w(self) -> tuple[float, float]:
        return self.mean_w - abs(self.amplitude_w), self.mean_w + abs(self.amplitude_w)

    def line(self) -> str:
        return f"sine {self.mean_w!r} {self.amplitude_w!r} {self.period_us} {self.phase_rad!r}"


@dataclass(frozen=True)
class Noise:
    """A new level, uniform in [low, high], each `segment_us`; the `count` levels of `seed` repeat."""

    low_w: float
    high_w: float
    segment_us: int
    seed: int = 0
    count: int = 1024

    @cached_property
    def levels_w(self) -> tuple[float, ...]:
        """The `count` levels of one cycle in watts."""
        span = self.high_w - self.low_w
        units = ((lab_hash(self.seed, i) >> 11) * 2.0**-53 for i in range(self.count))
        return tuple(self.low_w + span * unit for unit in units)

    @cached_property
    def _upto(self) -> tuple[float, ...]:
        return tuple(math.fsum(self.levels_w[:i]) * self.segment_us for i in range(self.count + 1))

    def power_w(self, tau_us: float) -> float:
        return self.levels_w[int(tau_us // self.segment_us) % self.count]

    def energy_uj(self, tau_us: float) -> float:
        cycles, rest = divmod(tau_us, self.segment_us * self.count)
        i, inside = divmod(rest, self.segment_us)
        return cycles * self._upto[-1] + self._upto[int(i)] + self.levels_w[int(i)] * inside

    def bounds_w(self) -> tuple[float, float]:
        return min(self.levels_w), max(self.levels_w)

    def line(self) -> str:
        return f"noise {self.low_w!r} {self.high_w!r} {self.segment_us} {self.count} {self.seed}"


def _points_line(points: Sequence[tuple[int, float]]) -> str:
    return " ".join([str(len(points)), *(f"{at} {watts!r}" for at, watts in points)])


@dataclass(frozen=True)
class Steps:
    """Power jumps to the watts of each (us, watts) pair at its time; the first level holds before it."""

    points: tuple[tuple[int, float], ...]

    def _index(self, tau_us: float) -> int:
        return max(bisect_right(self.points, tau_us, key=lambda point: point[0]) - 1, 0)

    def power_w(self, tau_us: float) -> float:
        return self.points[self._index(tau_us)][1]

    @cached_property
    def _upto(self) -> tuple[float, ...]:
        parts = [0.0]
        for (start, watts), (end, _) in zip(self.points, self.points[1:], strict=False):
            parts.append(parts[-1] + watts * (end - start))
        return tuple(parts)

    def energy_uj(self, tau_us: float) -> float:
        i = self._index(tau_us)
        at, watts = self.points[i]
        return self._upto[i] + watts * (tau_us - at)

    def bounds_w(self) -> tuple[float, float]:
        return min(w for _, w in self.points), max(w for _, w in self.points)

    def line(self) -> str:
        return "steps " + _points_line(self.points)


@dataclass(frozen=True)
class Trace:
    """Straight lines between recorded (us, watts) points, held at both ends; `repeat_us` plays it in a loop.

    With `repeat_us` the points must lie in [0, repeat_us].
    """

    points: tuple[tuple[int, float], ...]
    repeat_us: int = 0

    @cached_property
    def _upto(self) -> tuple[float, ...]:
        parts = [0.0]
        for (start, a), (end, b) in zip(self.points, self.points[1:], strict=False):
            parts.append(parts[-1] + (a + b) / 2 * (end - start))
        return tuple(parts)

    def _once_w(self, tau_us: float) -> float:
        i = bisect_right(self.points, tau_us, key=lambda point: point[0]) - 1
        if i < 0 or i == len(self.points) - 1:
            return self.points[max(i, 0)][1]
        (start, a), (end, b) = self.points[i], self.points[i + 1]
        return a + (b - a) * (tau_us - start) / (end - start)

    def _once_uj(self, tau_us: float) -> float:
        i = max(bisect_right(self.points, tau_us, key=lambda point: point[0]) - 1, 0)
        at, watts = self.points[i]
        return self._upto[i] + (watts + self._once_w(tau_us)) / 2 * (tau_us - at)

    def power_w(self, tau_us: float) -> float:
        return self._once_w(tau_us % self.repeat_us if self.repeat_us else tau_us)

    def energy_uj(self, tau_us: float) -> float:
        if not self.repeat_us:
            return self._once_uj(tau_us)
        loops, rest = divmod(tau_us, self.repeat_us)
        return loops * (self._once_uj(self.repeat_us) - self._once_uj(0)) + self._once_uj(rest)

    def bounds_w(self) -> tuple[float, float]:
        return min(w for _, w in self.points), max(w for _, w in self.points)

    def line(self) -> str:
        return f"trace {self.repeat_us} " + _points_line(self.points)


AnyWaveform: TypeAlias = Const | Square | Ramp | Sine | Noise | Steps | Trace


def random_waveform(seed: int, low_w: float = 60.0, high_w: float = 700.0) -> tuple[AnyWaveform, ...]:
    """One to three waveforms that add up to something between `low_w` and `high_w` watts, drawn by `seed`.

    Periods reach from 30 ms, faster than a sensor that refreshes each 100 ms, to 7 s.
    """
    rng = random.Random(seed)
    idle = low_w + rng.random() * 0.1 * (high_w - low_w)
    parts = rng.randint(1, 3)
    room = (high_w - idle) / parts
    waves: list[AnyWaveform] = [Const(idle)]
    for _ in range(parts):
        top = room * rng.uniform(0.3, 1.0)
        period_us = int(10 ** rng.uniform(4.5, 6.85))
        kind = rng.randrange(6)
        if kind == 0:
            waves.append(Square(0.0, top, period_us, rng.uniform(0.1, 0.9), rng.randrange(period_us)))
        elif kind == 1:
            waves.append(Sine(top / 2, top / 2, period_us, rng.uniform(0, 2 * math.pi)))
        elif kind == 2:
            waves.append(Noise(0.0, top, period_us, rng.randrange(2**31), 256))
        elif kind == 3:
            start_us = rng.randrange(10_000_000)
            ends = rng.sample([0.0, top], 2)
            waves.append(Ramp(ends[0], ends[1], start_us, start_us + period_us))
        elif kind == 4:
            marks = sorted(rng.sample(range(20_000_000), 12))
            waves.append(Steps(tuple((at, rng.uniform(0, top)) for at in marks)))
        else:
            marks = sorted(rng.sample(range(10 * period_us), 16))
            waves.append(Trace(tuple((at, rng.uniform(0, top)) for at in marks), repeat_us=10 * period_us))
    return tuple(waves)
