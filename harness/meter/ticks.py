"""When the energy counter ticks, and stage boundaries aligned to those ticks.

An energy counter is refreshed every 20-100 ms and stands still in between, so the difference of two readings
is exact only for a window whose two ends are refreshes ("ticks"). A boundary therefore watches the counter
until it moves and takes the moment half-way between the last reading of the old value and the first of the
new one. How close those two readings lie is the boundary's uncertainty; it is what limits the accuracy of a
short stage (power at the edge times uncertainty), so the watch sleeps far from the expected tick and spins
near it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

NO_TICK_US = 600_000
"""Longest wait for a tick when the refresh period is unknown; six times the slowest seen on a card."""

_SPIN_US = 200  # spin this long before the earliest expected tick: longer than a sleep overshoots
_FINE_SLEEP_US = 60.0  # between looks when the tick can come at any moment
_GUARD_SLEEP_US = (
    8_000.0  # between looks when no tick is expected: only notices that the expectation was wrong
)
_FADING_US = 700.0
_CALM_S = 1e-3  # with this much time before the next look a sample can be taken without widening a bracket
_WIDE_US = 60.0  # a bracket wider than this is compared with the grid
_MARGIN_US = 40.0  # of an expectation: what a read itself takes
_JITTER_DECAY = 0.98  # a tick; it takes fifty quiet ones to trust a counter again
_DRIFT = 1e-6  # by how much the card's clock and ours may drift apart
_MAX_SEEN = 16
_INTERPOLATIONS = 5  # reads until one lies clear of the ticks
_MAX_WINDOW_US = 3_000.0  # an expectation vaguer than this is no better than looking all the time


class CounterSource(Protocol):
    """A device whose energy counter can be read (`sources.base.Device`, or a stand-in in tests)."""

    index: int

    def read_energy(self) -> int | None:
        """The counter in mJ, None when the read failed."""


@dataclass
class TickModel:
    """Expected tick times of one counter, learned from the ticks seen so far.

    The counter is taken to refresh on a regular grid. Every tick seen is a bracket in time, and period and
    phase are bounded by what all brackets allow together, so that one sharp bracket among many wide ones,
    seen by a reader that rarely gets the processor, sharpens the whole grid. `jitter_us` is how far ticks
    were seen off the grid; on a card whose refreshes follow no grid it grows until `expect` gives up and the
    watch looks all the time instead.

    Attributes:
        period_us: The refresh period; None until two ticks were seen.
        period_error_us: Half-width of what the period can be.
        jitter_us: Largest recent deviation from the grid.
    """

    period_us: float | None = None
    period_error_us: float = 0.0
    jitter_us: float = 0.0
    _seen: list[_Seen] = field(default_factory=list)

    def expect(self, after_us: float) -> tuple[float, float] | None:
        """The next tick after `after_us` as (time, half-width), None when it cannot be told well enough."""
        if not self._seen or self.period_us is None:
            return None
        count = max(1, math.ceil((after_us - self._seen[-1].middle_us) / self.period_us))
        low, high = self._span(count)
        half_width = self._with_margin(high - low)
        if half_width > _MAX_WINDOW_US:
            return None
        return (low + high) / 2, half_width

    def _span(self, count: int) -> tuple[float, float]:
        """Where tick number `count` after the last one seen lies, by all brackets; jitter left out."""
        assert self.period_us is not None
        shortest, longest = self.period_us - self.period_error_us, self.period_us + self.period_error_us
        index = self._seen[-1].index + count
        low, high = -math.inf, math.inf
        for seen in self._seen:
            steps = index - seen.index
            low = max(low, seen.low_us + steps * shortest)
            high = min(high, seen.high_us + steps * longest)
        if low <= high:
            return low, high
        # Off the grid by its jitter: the last one is what counts.
        last = self._seen[-1]
        return last.low_us + count * shortest, last.high_us + count * longest

    def _with_margin(self, width_us: float) -> float:
        return width_us / 2 + 3 * self.jitter_us + _MARGIN_US

    def fades_at_us(self, limit_us: float = _FADING_US) -> float:
        """From when on the next tick is known to no better than +-`limit_us`, and so is worth a look.

        Each such look lengthens the base over which the period is known, so that they become rare. Infinity
        where no look would help: nothing is known, or the jitter is what blurs the expectation.
        """
        if not self._seen or self.period_us is None or self.jitter_us > _MAX_WINDOW_US / 4:
            return math.inf
        below, count = 0, 1
        while self._blur_us(count) <= limit_us:
            below, count = count, 2 * count
        while count - below > 1:
            middle = (below + count) // 2
            below, count = (middle, count) if self._blur_us(middle) <= limit_us else (below, middle)
        return self._seen[-1].middle_us + below * self.period_us

    def _blur_us(self, count: int) -> float:
        low, high = self._span(count)
        return (high - low) / 2

    def narrow(self, seen_us: float, before_us: float, after_us: float) -> tuple[float, float]:
        """Bracket of a tick that a slow or late reader saw, made as narrow as the grid allows.

        Args:
            seen_us: When the older value was still there.
            before_us: Start of the read that gave the newer value.
            after_us: Its end.

        Returns:
            (earliest, latest) moment at which the counter can have taken the newer value: that of the last
            tick up to some moment of the read. The whole stretch where the grid is not known well enough, or
            contradicts it.
        """
        if not self._seen or self.period_us is None:
            return seen_us, after_us
        count = max(1, round((after_us - self._seen[-1].middle_us) / self.period_us))
        grid_low, grid_high = self._span(count)
        half_width, middle = self._with_margin(grid_high - grid_low), (grid_low + grid_high) / 2
        if half_width > self.period_us / 4:
            return seen_us, after_us
        # The last tick that surely came before the read began, and the last one that can have come before it
        # ended.
        first = math.floor((before_us - half_width - middle) / self.period_us)
        last = math.floor((after_us + half_width - middle) / self.period_us)
        # A tick before the older value was seen did not end that value.
        first = max(first, math.ceil((seen_us - half_width - middle) / self.period_us))
        low = max(seen_us, middle + first * self.period_us - half_width)
        high = min(after_us, middle + last * self.period_us + half_width)
        return (low, high) if low < high else (seen_us, after_us)

    def learn(self, time_us: float, error_us: float) -> None:
        """Take in a tick seen at `time_us`, known to within `error_us`."""
        if not self._seen:
            self._seen = [_Seen(0, time_us - error_us, time_us + error_us)]
            return
        last = self._seen[-1]
        elapsed = time_us - last.middle_us
        if elapsed <= 0:
            return
        if self.period_us is None or elapsed < 0.75 * self.period_us:
            # The first pair, or a tick between two known ones: the period is (at most) this.
            second = _Seen(1, time_us - error_us, time_us + error_us)
            if (second.width_us + last.width_us) / 2 > elapsed / 5:
                self._seen = [second]  # too blurred to be a measure
                return
            self._seen = [replace(last, index=0), second]
            self._bound_period()
            return
        count = max(1, round(elapsed / self.period_us))
        fresh = _Seen(last.index + count, time_us - error_us, time_us + error_us)
        if count * self.period_error_us + last.width_us / 2 > self.period_us / 4:
            # Too long ago to tell how many ticks passed: only the phase is new, and the period if it is any
            # good.
            self._seen = [fresh]
            if self.period_error_us > self.period_us / 10:
                self.period_us = None
            return
        if error_us > self.period_us / 4:
            return  # it could be this tick or the next one: nothing to learn from
        low, high = self._span(count)
        off_grid = max(0.0, fresh.low_us - high, low - fresh.high_us)
        self.jitter_us = max(_JITTER_DECAY * self.jitter_us, off_grid)
        self._seen.append(fresh)
        if off_grid > self.period_us / 4:
            self._seen = [fresh]
        elif len(self._seen) > _MAX_SEEN:
            # The ends give the base, the sharpest brackets the rest.
            self._seen.remove(max(self._seen[1:-1], key=lambda seen: seen.width_us))
        self._bound_period()

    def _bound_period(self) -> None:
        if len(self._seen) < 2:
            return
        low, high, blur = 0.0, math.inf, 2 * self.jitter_us
        for later, one in enumerate(self._seen):
            for other in self._seen[:later]:
                steps = one.index - other.index
                low = max(low, (one.low_us - other.high_us - blur) / steps)
                high = min(high, (one.high_us - other.low_us + blur) / steps)
        self.period_us = (low + high) / 2
        # Two clocks never run quite alike.
        self.period_error_us = abs(high - low) / 2 + _DRIFT * self.period_us


@dataclass(frozen=True)
class _Seen:
    """A tick that was seen: its number on the grid, and between which two moments it happened."""

    index: int
    low_us: float
    high_us: float

    @property
    def middle_us(self) -> float:
        return (self.low_us + self.high_us) / 2

    @property
    def width_us(self) -> float:
        return self.high_us - self.low_us


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
    quiet_until_us: float = 0.0  # no tick is expected before
    rest_until_us: float = 0.0  # no look is due before


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
    low, high = pending.seen_us, after
    if high - low > _WIDE_US:
        # The reader lost the processor, or the driver took its time: more than one tick may lie in between.
        low, high = pending.model.narrow(low, before, after)
    pending.value, pending.seen_us = value, before
    return Tick(pending.source.index, round((low + high) / 2), round((high - low) / 2 + 0.5), value, "tick")


def watch_ticks(
    sources: Sequence[CounterSource],
    models: dict[int, TickModel],
    *,
    count: int = 1,
    timeout_us: int = NO_TICK_US,
    calm_s: float = _CALM_S,
    spin: bool = True,
    idle: Callable[[bool], Any] = lambda calm: None,
) -> dict[int, list[Tick]]:
    """Wait until every counter has ticked `count` times, or for `timeout_us` without a tick.

    Args:
        sources: The devices, watched together.
        models: What is known of each device's ticks; updated.
        count: Ticks to wait for.
        timeout_us: When a device is given up; its list is then short.
        calm_s: How long no tick must be expected for the time between two looks to count as calm.
        spin: Whether to look without a pause near an expected tick. A boundary is worth it; a look
            that only keeps the model fresh is content with short sleeps.
        idle: Called between looks, with whether no tick is near; the sampler keeps its schedule with it. A
            true answer ends the watch.

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
        quiet_us = wake_us = math.inf
        for pending in list(waiting):
            now = _now_us()
            if now < pending.rest_until_us:
                # No look at a device whose tick is far: it would only widen the bracket of one that is near.
                quiet_us, wake_us = min(quiet_us, pending.quiet_until_us), min(wake_us, pending.rest_until_us)
                continue
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
            elif now > deadline[pending.source.index]:
                waiting.remove(pending)
                continue
            pause_us = max(_pause_us(pending, now), 0.0 if spin else _FINE_SLEEP_US)
            pending.quiet_until_us = now + pause_us
            pending.rest_until_us = now + min(pause_us, _GUARD_SLEEP_US)
            quiet_us, wake_us = min(quiet_us, pending.quiet_until_us), min(wake_us, pending.rest_until_us)
        if not waiting:
            break
        now = _now_us()
        if wake_us > now:
            if idle(quiet_us - now >= calm_s * 1e6):
                break
            left_us = min(wake_us, now + _GUARD_SLEEP_US) - _now_us()  # less what was done meanwhile
            if left_us > 0:
                time.sleep(left_us / 1e6)
    return ticks


def _pause_us(pending: _Pending, now_us: float) -> float:
    """How long this device needs no look, as far as its expected tick goes."""
    if pending.expected is None:
        return _FINE_SLEEP_US
    time_us, half_width = pending.expected
    if now_us > time_us + half_width:
        pending.expected = None  # it did not come when it should have: look all the time
        return _FINE_SLEEP_US
    until_us = time_us - half_width - _SPIN_US - now_us
    return max(0.0, until_us)


def interpolated(
    source: CounterSource, model: TickModel, power_mw: int | None, average_mw: int | None
) -> Tick:
    """A boundary at this very moment: the last tick's counter value plus INSTANT power times the time since.

    Not waiting costs certainty: the uncertainty covers the whole time since the last tick. Where the tick
    times or the power are not known, or every read lies at a tick, the counter is taken as it stands, up to a
    whole refresh old.
    """
    period = model.period_us or 100_000.0
    power = power_mw if power_mw is not None else average_mw
    for _ in range(_INTERPOLATIONS):
        before = _now_us()
        energy = source.read_energy()
        after = _now_us()
        now, expected = (before + after) / 2, model.expect(before)
        if expected is None or power is None:
            break
        next_us, slack = expected
        age = now - (next_us - period)
        # A value from around a tick, or from a read that lasted over one, could be the older or the newer.
        if before - (next_us - period) > slack and after < next_us - slack:
            if energy is not None:
                energy += round(power * age / 1e6)
            return Tick(source.index, round(now), round(max(slack, age / 2)), energy, "interpolated")
        time.sleep(min(2 * slack, 2_000.0) / 1e6)
    return Tick(source.index, round(after), round(period + after - before), energy, "immediate")
