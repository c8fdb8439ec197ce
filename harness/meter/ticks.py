"""When the energy counter ticks, and stage boundaries aligned to those ticks.

An energy counter is refreshed every 20-100 ms and stands still in between, so the difference of two readings is exact
only for a window whose two ends are refreshes ("ticks"). A boundary therefore watches the counter until it moves and
takes the moment half-way between the last reading of the old value and the first of the new one. How close those two
readings lie is the boundary's uncertainty; it is what limits the accuracy of a short stage (power at the edge times
uncertainty), so the watch sleeps far from the expected tick and spins near it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

NO_TICK_US = 600_000
"""Longest wait for a tick when the refresh period is unknown; six times the slowest refresh seen on a card."""

_SPIN_US = 200  # spin this long before the earliest expected tick: longer than a sleep overshoots
_FINE_SLEEP_S = 60e-6  # between looks when the tick can come at any moment
_GUARD_SLEEP_S = 8e-3  # between looks when no tick is expected: only notices that the expectation was wrong
_FADING_US = 700.0
_CALM_S = 1e-3  # with this much time before the next look a sample can be taken without widening a bracket
_MAX_WINDOW_US = 3_000.0  # an expectation vaguer than this is no better than looking all the time


class CounterSource(Protocol):
    """A device whose energy counter can be read (`GpuSource`, or a stand-in in tests)."""

    index: int

    def read_energy(self) -> int | None:
        """The counter in mJ, None when the read failed."""


@dataclass
class TickModel:
    """Expected tick times of one counter, learned from the ticks seen so far.

    The counter is taken to refresh on a regular grid; `jitter_us` is how far ticks were seen from it. On a card whose
    refreshes follow no grid the jitter grows until `expect` gives up and the watch looks all the time instead.
    """

    last_us: float | None = None
    last_error_us: float = 0.0
    period_us: float | None = None
    period_error_us: float = 0.0
    jitter_us: float = 0.0

    def expect(self, after_us: float) -> tuple[float, float] | None:
        """The next tick after `after_us` as (time, half-width), or None when it cannot be told well enough."""
        if self.last_us is None or self.period_us is None:
            return None
        count = max(1.0, -(-(after_us - self.last_us) // self.period_us))
        half_width = self._half_width(count)
        if half_width > _MAX_WINDOW_US:
            return None
        return self.last_us + count * self.period_us, half_width

    def _half_width(self, count: float) -> float:
        return self.last_error_us + count * self.period_error_us + 2 * self.jitter_us + 30.0

    def is_fading(self, now_us: float) -> bool:
        """Whether the next tick is worth a look now, before the expectation becomes too vague to use.

        Each such look lengthens the base over which the period is known, so they become rare: at tenfold intervals.
        """
        if self.last_us is None or self.period_us is None or self.jitter_us > _MAX_WINDOW_US / 4:
            return False
        count = (now_us - self.last_us) / self.period_us
        return _FADING_US < self._half_width(count) < _MAX_WINDOW_US

    def learn(self, time_us: float, error_us: float) -> None:
        """Take in a tick seen at `time_us`, known to within `error_us`."""
        last, period = self.last_us, self.period_us
        self.last_us, previous_error, self.last_error_us = time_us, self.last_error_us, error_us
        if last is None or time_us <= last:
            return
        elapsed = time_us - last
        slack = error_us + previous_error
        if period is None or elapsed < 0.75 * period:
            # The first pair, or a tick between two known ones: the period is (at most) this.
            self.period_us, self.period_error_us = elapsed, slack
            return
        count = max(1, round(elapsed / period))
        residual = abs(elapsed - count * period)
        if count * self.period_error_us + slack > period / 4:
            return  # too long ago to tell how many ticks passed: keep the period, only the phase is new
        expected = slack + count * self.period_error_us
        self.jitter_us = max(0.7 * self.jitter_us, residual - expected)
        if slack / count < self.period_error_us:
            self.period_us, self.period_error_us = elapsed / count, slack / count


@dataclass(frozen=True)
class Tick:
    """A boundary reading of one device.

    Attributes:
        mono_us: When the counter took the value `energy_mj`.
        uncertainty_us: Half the time between the readings before and after the tick.
        energy_mj: The counter after the tick; None when it could not be read.
        method: "tick", "interpolated" or "immediate" (no tick was seen, the reading is as old as it may be).
    """

    device_id: int
    mono_us: int
    uncertainty_us: int
    energy_mj: int | None
    method: str


@dataclass
class _Pending:
    source: CounterSource
    model: TickModel
    value: int | None = None
    seen_us: float = 0.0
    expected: tuple[float, float] | None = None
    ticks: list[Tick] = field(default_factory=list)


def _now_us() -> float:
    return time.monotonic_ns() / 1000


def _look(pending: _Pending) -> Tick | None:
    before = _now_us()
    value = pending.source.read_energy()
    after = _now_us()
    if value is None:
        return None
    if pending.value is None or value == pending.value:
        pending.value, pending.seen_us = value, before
        return None
    # The old value was still there when the earlier read began, the new one when this read ended.
    error = (after - pending.seen_us) / 2
    middle = pending.seen_us + error
    low, high = pending.seen_us, after
    if pending.expected is not None and error > pending.expected[1]:
        # A reader that lost the processor saw a wide bracket: where the grid says more, believe the grid.
        low = max(low, pending.expected[0] - pending.expected[1])
        high = min(high, pending.expected[0] + pending.expected[1])
        if low < high:
            middle, error = (low + high) / 2, (high - low) / 2
    pending.value, pending.seen_us = value, before
    return Tick(pending.source.index, round(middle), round(error + 0.5), value, "tick")


def watch_ticks(
    sources: Sequence[CounterSource],
    models: dict[int, TickModel],
    *,
    count: int = 1,
    timeout_us: int = NO_TICK_US,
    idle: Callable[[bool], Any] = lambda calm: None,
) -> dict[int, list[Tick]]:
    """Wait until every counter has ticked `count` times, or for `timeout_us` without a tick.

    Args:
        sources: The devices, watched together.
        models: What is known of each device's ticks; updated.
        count: Ticks to wait for.
        timeout_us: When a device is given up; its list is then short.
        idle: Called between looks, with whether no tick is near; the sampler keeps its schedule with it.

    Returns:
        The ticks of each device, by device id.
    """
    begin = _now_us()
    waiting = [_Pending(source, models[source.index]) for source in sources]
    ticks: dict[int, list[Tick]] = {source.index: [] for source in sources}
    for pending in waiting:
        _look(pending)
        pending.expected = pending.model.expect(pending.seen_us)
    deadline = {pending.source.index: begin + timeout_us for pending in waiting}
    while waiting:
        pause = _GUARD_SLEEP_S
        for pending in list(waiting):
            tick = _look(pending)
            now = _now_us()
            if tick is not None:
                pending.model.learn(tick.mono_us, tick.uncertainty_us)
                pending.expected = pending.model.expect(tick.mono_us)
                deadline[tick.device_id] = now + timeout_us
                ticks[tick.device_id].append(tick)
                if len(ticks[tick.device_id]) == count:
                    waiting.remove(pending)
                continue
            if now > deadline[pending.source.index]:
                waiting.remove(pending)
                continue
            pause = min(pause, _pause_s(pending, now))
        if not waiting:
            break
        if pause > 0:
            idle(pause >= _CALM_S)
            time.sleep(pause)
    return ticks


def _pause_s(pending: _Pending, now_us: float) -> float:
    """How long the watch may sleep for this device's sake."""
    if pending.expected is None:
        return _FINE_SLEEP_S
    time_us, half_width = pending.expected
    if now_us > time_us + half_width:
        pending.expected = None  # it did not come when it should have: look all the time
        return _FINE_SLEEP_S
    until_us = time_us - half_width - _SPIN_US - now_us
    if until_us <= 0:
        return 0.0
    return min(_GUARD_SLEEP_S, until_us / 1e6)


def interpolated(
    source: CounterSource, model: TickModel, power_mw: int | None, average_mw: int | None
) -> Tick:
    """A boundary at this very moment: the last tick's counter value plus INSTANT power times the time since.

    Not waiting costs certainty: the uncertainty covers the whole time since the last tick, or a whole refresh when the
    tick times are not known.
    """
    energy = source.read_energy()
    now = _now_us()
    period = model.period_us or 100_000.0
    expected = model.expect(now)
    age, slack = period / 2, period / 2
    if expected is not None:
        age, slack = max(0.0, now - (expected[0] - period)), expected[1]
    power = power_mw if power_mw is not None else average_mw
    if energy is not None and power is not None:
        energy += round(power * age / 1e6)
    elif energy is not None:
        slack = period
    uncertainty = max(slack, age / 2)
    return Tick(source.index, round(now), round(uncertainty), energy, "interpolated")
