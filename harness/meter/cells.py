"""The refreshes of each counter around a boundary, between which it is placed when the log is sealed.

A boundary is a moment that its caller stamped. The counter's value there lies between that of the tick before
and that of the tick after. The one before stands in the counter when the boundary is heard of; the one after
is watched for. Two looks more, a refresh apart, tell whether power is steady at that scale.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from harness.journal.records import JournalWriter
from harness.meter.clocks import mono_us, utc_at
from harness.meter.sources.base import Device, Reading
from harness.meter.ticks import MARGIN_US, Tick, TickModel, TickWatch

LOOKS_BEHIND = 2
"""Refreshes behind the first one that are looked at as well."""

_CLEAR_US = 200  # behind the latest moment at which a tick is expected
_WIDE = 0.25  # of a refresh: a tick known no better says nothing of the one before it


class CellReader:
    """Watches for ticks after boundaries and journals what it sees, as records of type `tick`.

    Args:
        devices: All devices.
        models: What is known of each device's ticks; updated.
        journal: Where to write.
        session: The session's number.
        idle: As of `TickWatch`.
        silent: Told of a device whose counter does not tick.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        models: dict[int, TickModel],
        journal: JournalWriter,
        session: int,
        *,
        idle: Callable[[bool], bool],
        silent: Callable[[int], None],
    ) -> None:
        self._devices = {device.index: device for device in devices}
        self._models = models
        self._journal = journal
        self._session = session
        self._idle = idle
        self._watch = TickWatch(models, idle=idle, on_tick=self._ticked, on_silence=silent)
        self._last_us = dict.fromkeys(self._devices, -math.inf)  # the last tick written down
        self._looks: dict[int, tuple[int, float]] = {}  # device -> looks left, when the next is due

    def follow(self, device: Device, reading: Reading) -> None:
        """Watch for the tick after a boundary, beside which the counter was read."""
        if reading.energy is not None:
            self._watch.want(device, seen=(reading.energy, reading.mono_us - reading.read_us / 2))

    def watch(self) -> None:
        """Until every counter that is followed has ticked."""
        self._watch.run()

    def _ticked(self, tick: Tick) -> None:
        device, interval = self._devices[tick.device_id], self._models[tick.device_id].interval()
        power_mw = _power(device.read())
        if interval is not None and tick.uncertainty_us < _WIDE * interval[0]:
            before_us = tick.mono_us - interval[0]
            doubt_us = math.ceil(tick.uncertainty_us + interval[1])
            # Where the older value was last seen before that, the tick then may have ended it.
            told = tick.before_us >= before_us + doubt_us
            if told and self._last_us[tick.device_id] < before_us - interval[0] / 2:
                self._write(tick.device_id, round(before_us), doubt_us, tick.before_mj, None)
        self._write(tick.device_id, tick.mono_us, tick.uncertainty_us, tick.energy_mj, power_mw)
        self._look_after(tick.device_id, LOOKS_BEHIND, tick.mono_us)

    def _write(self, device: int, at_us: int, doubt_us: int, value: int, power_mw: int | None) -> None:
        self._last_us[device] = at_us
        self._journal.append_record(
            {
                "type": "tick",
                "session": self._session,
                "device_id": device,
                "mono_us": at_us,
                "t_us": utc_at(at_us),
                "uncertainty_us": doubt_us,
                "value": value,
                "power_mw": power_mw,
            }
        )

    def _look_after(self, device: int, left: int, after_us: float) -> None:
        """Plan a look behind the next tick; none where nobody knows when that is."""
        expected = self._models[device].expect(after_us + 1)
        if not left or expected is None:
            self._looks.pop(device, None)
        else:
            self._looks[device] = left, expected[0] + 2 * expected[1] + _CLEAR_US

    def due_us(self) -> float:
        """When the next look is due; infinity for none."""
        return min((due_us for _, due_us in self._looks.values()), default=math.inf)

    def look_again(self) -> None:
        """Take the looks that are due: the last tick is known without having been seen."""
        for index, (left, due_us) in list(self._looks.items()):
            if mono_us() < due_us:
                continue
            model, reading = self._models[index], self._devices[index].read()
            begin_us = reading.mono_us - reading.read_us / 2
            expected = model.known(begin_us)
            if expected is None or model.period_us is None:
                del self._looks[index]
                continue
            next_us, doubt_us = expected
            last_us = next_us - model.period_us
            # Twice the doubt: of a tick that comes later than was thought the value is not there yet.
            clear_us = 2 * doubt_us + MARGIN_US
            clear = (
                begin_us - last_us > clear_us and reading.mono_us + reading.read_us / 2 < next_us - clear_us
            )
            if clear and reading.energy is not None and last_us > self._last_us[index] + model.period_us / 2:
                self._write(index, round(last_us), math.ceil(doubt_us), reading.energy, _power(reading))
            self._look_after(index, left - 1, reading.mono_us)

    def finish(self) -> None:
        """See everything through that was begun."""
        self._watch.run()
        while (due_us := self.due_us()) < math.inf:
            self._idle(True)
            time.sleep(min(5e-3, max(0.0, due_us - mono_us()) / 1e6))
            self.look_again()


def _power(reading: Reading) -> int | None:
    return reading.power_mw if reading.power_mw is not None else reading.average_mw
