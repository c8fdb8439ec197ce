"""When the energy counter ticks.

An energy counter is refreshed every 20-100 ms and stands still in between, so a reading tells the energy of
the last refresh ("tick"), not of the moment it was read at. A watch looks at the counter until it moves and
takes the moment half-way between the last reading of the old value and the first of the new one. How close
those two readings lie is the tick's uncertainty; it limits the accuracy of a stage whose boundary lies next
to it (power times uncertainty), so the watch sleeps far from the expected tick and spins near it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

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
MARGIN_US = 40.0
"""Of an expectation: what a read itself takes."""

_JITTER_DECAY = 0.98  # a tick; it takes fifty quiet ones to trust a counter again
_DRIFT = 1e-6  # by how much the card's clock and ours may drift apart
_MAX_JUDGED = 50  # as many as jitter remembers
_MAX_SEEN = 8
_MIN_INTERVALS = 4  # before the next may be told from them
_FEW = 8
"""Of `n` ticks those furthest off are not yet the furthest there are: their spread counts 1 + 8 / n times.

With that one in a hundred or fewer lies outside, at 0.3 to 8 % of jitter (tests/meter/test_ticks.py).
"""
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
    _intervals_us: list[float] = field(default_factory=list)
    _judged: int = 0
    _latest: _Seen | None = None

    def interval(self) -> tuple[float, float] | None:
        """Length between a tick and the next and its half-width; None until a few were seen in a row.

        By the grid where the counter follows one, else by the latest that were seen.
        """
        count = len(self._intervals_us)
        if max(count, self._judged) < _MIN_INTERVALS:
            return None
        low, high = min(self._intervals_us, default=math.inf), max(self._intervals_us, default=0.0)
        period_us = self.period_us
        if period_us is not None and period_us < 1.5 * low and self.jitter_us <= period_us / 20:
            return period_us, self.period_error_us + self._off_grid_us()  # both ends are off the grid
        if count < _MIN_INTERVALS:
            return None
        return (low + high) / 2, (high - low) / 2 + (1 + _FEW / count) * (high - low + MARGIN_US) / 2

    def expect(self, after_us: float) -> tuple[float, float] | None:
        """When the next tick after `after_us` is looked for, as (time, half-width); None: nobody can tell."""
        known = self.known(after_us)
        return None if known is None else (known[0], known[1] + MARGIN_US)

    def known(self, after_us: float) -> tuple[float, float] | None:
        """The next tick after `after_us` by the grid as (time, half-width); None where that is too vague."""
        if not self._seen or self.period_us is None:
            return None
        count = max(1, math.ceil((after_us - self._seen[-1].middle_us) / self.period_us))
        low, high = self._span(count)
        half_width = (high - low) / 2 + self._off_grid_us()
        if half_width + MARGIN_US > _MAX_WINDOW_US:
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
            earliest, latest = seen.low_us + steps * shortest, seen.high_us + steps * longest
            # Calls of max and min would be most of what a boundary costs.
            low = earliest if earliest > low else low
            high = latest if latest < high else high
        if low <= high:
            return low, high
        # Off the grid by its jitter: the last one is what counts.
        last = self._seen[-1]
        return last.low_us + count * shortest, last.high_us + count * longest

    def _with_margin(self, width_us: float) -> float:
        return width_us / 2 + self._off_grid_us() + MARGIN_US

    def _off_grid_us(self) -> float:
        """How far off the grid a tick may lie."""
        return 3 * (1 + _FEW / max(1, self._judged)) * self.jitter_us

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

    def unsettled(self, now_us: float, limit_us: float) -> bool:
        """Whether more ticks are wanted before anything is measured: the next is known to no better than
        +-`limit_us`, or nothing says yet how long before it the last one was. False where none was seen."""
        return self.fades_at_us(limit_us) <= now_us or (self._latest is not None and self.interval() is None)

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

    def learn(self, time_us: float, error_us: float, *, in_a_row: bool = True) -> None:
        """Take in a tick seen at `time_us`, known to within `error_us`.

        Args:
            time_us: When it was.
            error_us: Half the width of its bracket.
            in_a_row: Whether the counter was watched ever since the tick before it.
        """
        before, self._latest = self._latest, _Seen(0, time_us - error_us, time_us + error_us)
        if not self._seen or before is None:
            self._seen = [self._latest]
            return
        # A tick that was missed would lie in this bracket, which then were a third of the interval at least.
        interval_us = time_us - before.middle_us
        if in_a_row and error_us + before.width_us / 2 < interval_us / 5:
            self._intervals_us = [*self._intervals_us, interval_us][-_MAX_SEEN:]
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
        self._judged = min(self._judged + 1, _MAX_JUDGED)
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
                shortest = (one.low_us - other.high_us - blur) / steps
                longest = (one.high_us - other.low_us + blur) / steps
                low = shortest if shortest > low else low
                high = longest if longest < high else high
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


class Tick(NamedTuple):
    """A refresh of one counter.

    Attributes:
        mono_us: When the counter took the value `energy_mj`.
        uncertainty_us: Half the time between the readings before and after the tick.
        energy_mj: The counter after the tick.
        before_mj: The counter as it was seen before it.
        before_us: When that was still seen.
    """

    device_id: int
    mono_us: int
    uncertainty_us: int
    energy_mj: int
    before_mj: int
    before_us: float


@dataclass
class _Pending:
    source: CounterSource
    model: TickModel
    value: int | None = None
    seen_us: float = 0.0
    expected: tuple[float, float] | None = None
    left: int = 1  # ticks still wanted
    in_a_row: bool = False  # one was seen since it is watched
    deadline_us: float = math.inf  # given up then
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
    last = pending.value, pending.seen_us
    pending.value, pending.seen_us = value, before
    middle, half = round((low + high) / 2), round((high - low) / 2 + 0.5)
    return Tick(pending.source.index, middle, half, value, *last)


class TickWatch:
    """Looks at counters until each has ticked as often as wanted; devices can join while it runs.

    Args:
        models: What is known of each device's ticks; updated.
        timeout_us: When a device without a tick is given up.
        calm_s: How long no tick must be expected for the time between two looks to count as calm.
        spin: Whether to look without a pause near an expected tick. A boundary is worth it; a look
            that only keeps the model fresh is content with short sleeps.
        idle: Called between looks, with whether no tick is near; the sampler keeps its schedule with it. A
            true answer ends the watch.
        on_tick: Told of each tick at once.
        on_silence: Told of a device that is given up.
    """

    def __init__(
        self,
        models: dict[int, TickModel],
        *,
        timeout_us: int = NO_TICK_US,
        calm_s: float = _CALM_S,
        spin: bool = True,
        idle: Callable[[bool], Any] = lambda calm: None,
        on_tick: Callable[[Tick], None] = lambda tick: None,
        on_silence: Callable[[int], None] = lambda device_id: None,
    ) -> None:
        self._models = models
        self._timeout_us = timeout_us
        self._calm_s = calm_s
        self._spin = spin
        self._idle = idle
        self._on_tick = on_tick
        self._on_silence = on_silence
        self._waiting: dict[int, _Pending] = {}

    def want(self, source: CounterSource, count: int = 1, seen: tuple[int, float] | None = None) -> None:
        """Wait for so many ticks of a device from now on; for no fewer than it is watched for already.

        Args:
            source: The device.
            count: Ticks to wait for.
            seen: A value of its counter and when the read that gave it began: waiting begins there, and no
                tick between that read and the next is lost. None: it is read now.
        """
        pending = self._waiting.get(source.index)
        if pending is not None:
            pending.left = max(pending.left, count)
            return
        pending = _Pending(source, self._models[source.index], left=count)
        if seen is None:
            _look(pending)
        else:
            pending.value, pending.seen_us = seen
        pending.expected = pending.model.expect(pending.seen_us)
        pending.deadline_us = _now_us() + self._timeout_us
        self._waiting[source.index] = pending

    def run(self) -> None:
        """Until every device has ticked as often as wanted, or was given up."""
        while self._waiting:
            quiet_us = wake_us = math.inf
            for pending in list(self._waiting.values()):
                now = _now_us()
                if now >= pending.rest_until_us:
                    self._visit(pending, now)
                if pending.source.index in self._waiting:
                    # No look at a device whose tick is far: it would only widen the bracket of one that is
                    # near.
                    quiet_us = min(quiet_us, pending.quiet_until_us)
                    wake_us = min(wake_us, pending.rest_until_us)
            now = _now_us()
            if self._waiting and wake_us > now:
                if self._idle(quiet_us - now >= self._calm_s * 1e6):
                    return
                left_us = min(wake_us, now + _GUARD_SLEEP_US) - _now_us()  # less what was done meanwhile
                if left_us > 0:
                    time.sleep(left_us / 1e6)

    def _visit(self, pending: _Pending, now: float) -> None:
        tick = _look(pending)
        now = _now_us()
        if tick is not None:
            pending.model.learn(tick.mono_us, tick.uncertainty_us, in_a_row=pending.in_a_row)
            pending.in_a_row = True
            pending.expected = pending.model.expect(tick.mono_us)
            pending.deadline_us = now + self._timeout_us
            pending.left -= 1
            if not pending.left:
                del self._waiting[tick.device_id]
            self._on_tick(tick)
        elif now > pending.deadline_us:
            del self._waiting[pending.source.index]
            self._on_silence(pending.source.index)
        pause_us = max(_pause_us(pending, now), 0.0 if self._spin else _FINE_SLEEP_US)
        pending.quiet_until_us = now + pause_us
        pending.rest_until_us = now + min(pause_us, _GUARD_SLEEP_US)


def watch_ticks(
    sources: Sequence[CounterSource], models: dict[int, TickModel], *, count: int = 1, **options: Any
) -> dict[int, list[Tick]]:
    """Wait until every counter has ticked `count` times, or was given up.

    Args:
        sources: The devices, watched together.
        models: What is known of each device's ticks; updated.
        count: Ticks to wait for.
        **options: Of `TickWatch`.

    Returns:
        The ticks of each device, by device id; fewer than `count` where it was given up.
    """
    ticks: dict[int, list[Tick]] = {source.index: [] for source in sources}
    watch = TickWatch(models, on_tick=lambda tick: ticks[tick.device_id].append(tick), **options)
    for source in sources:
        watch.want(source, count)
    watch.run()
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
