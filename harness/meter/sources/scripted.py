"""Devices that replay a CSV file: for tests and demonstrations. What it gives is simulated, and labelled so.

Columns `time_s,device,power_mw,energy_mj`: from `time_s` after the start on, the device shows these values;
an empty cell is a read that fails. A counter moves at its rows, as a real one moves at its refreshes. At its
last row a device ends: after that, reads fail. Used as `--source scripted:FILE.csv`.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.meter.clocks import mono_us
from harness.meter.sources.base import Device, Found, Measure, Reading, Wanted
from harness.meter.visible import ALL

ARGUMENT_IS_FILE = True
_COLUMNS = ("time_s", "device", "power_mw", "energy_mj")
_ENDED = 1  # stands for an instrument's code where the script holds no value


@dataclass
class _Script:
    """One device's rows: when (us after the start), and what it shows from then on."""

    at_us: list[int] = field(default_factory=list)
    power_mw: list[int | None] = field(default_factory=list)
    energy_mj: list[int | None] = field(default_factory=list)


class ScriptedDevice(Device):
    """A device of the file.

    Args:
        index: Its number in the file.
        script: What it shows.
        start_us: Start of the replay, CLOCK_MONOTONIC.
        file: Name of the file, for its model's name.
    """

    def __init__(self, index: int, script: _Script, start_us: int, file: str) -> None:
        self.index = index
        self.uuid = str(start_us)  # a sampler that takes over goes on where this one was
        self._script = script
        self._start_us = start_us
        self._file = file
        given: dict[str, list[int | None]]
        given = {"energy": script.energy_mj, "instant": script.power_mw, "average": [None]}
        self.methods = {name: "absent" if set(rows) == {None} else "field" for name, rows in given.items()}
        reads = [word for word, name in (("counter", "energy"), ("power", "instant")) if self._has(name)]
        self.measures = Measure(
            "scripted", "gpu", "mJ", "script", tuple(reads), "simulated", f"scripted {index}"
        )

    def _has(self, quantity: str) -> bool:
        return self.methods[quantity] != "absent"

    def read(self) -> Reading:
        """What the script says at this moment."""
        at_us = mono_us()
        reading, script = Reading(at_us, 0), self._script
        place = bisect_right(script.at_us, at_us - self._start_us) - 1
        if 0 <= place < len(script.at_us) - 1:
            reading.energy, reading.power_mw = script.energy_mj[place], script.power_mw[place]
        for quantity, value in (("energy", reading.energy), ("instant", reading.power_mw)):
            if value is None and self._has(quantity):
                reading.fail(quantity, _ENDED)
        return reading

    def describe(self) -> dict[str, Any]:
        """The manifest's entry: its model names the file."""
        return super().describe() | {"model": f"scripted ({self._file})"}


def discover(wanted: Wanted) -> Found:
    """The devices of the file that `wanted.argument` names.

    Raises:
        KitError: The file cannot be read, or lacks a device that was asked for.
    """
    if wanted.devices == [] or wanted.known == []:
        return Found(reason="not asked for (devices: none)")
    if wanted.argument is None:
        raise KitError("the source needs a file", where="scripted", expected="--source scripted:FILE.csv")
    path = Path(wanted.argument)
    scripts = _read(path)
    known = None if wanted.known is None else {int(index): int(start) for index, start in wanted.known}
    listed = None if wanted.devices == [ALL] else wanted.devices
    chosen = listed if known is None else [str(index) for index in known]
    now_us = mono_us()
    devices: list[Device] = []
    for name in [str(index) for index in sorted(scripts)] if chosen is None else chosen:
        index = int(name) if name.isdecimal() else -1
        if index not in scripts:
            have = ", ".join(map(str, sorted(scripts)))
            raise KitError(
                f"device {name!r} is not in the script", where=str(path), expected=f"one of {have}"
            )
        start_us = now_us if known is None else known[index]
        devices.append(ScriptedDevice(index, scripts[index], start_us, path.name))
    return Found(devices=devices)


def _read(path: Path) -> dict[int, _Script]:
    scripts: dict[int, _Script] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    time_s, device, power, energy = (row[name].strip() for name in _COLUMNS)
                    at_us, script = round(float(time_s) * 1e6), scripts.setdefault(int(device), _Script())
                    values = [int(cell) if cell else None for cell in (power, energy)]
                except (KeyError, AttributeError, ValueError, OverflowError):
                    raise KitError(
                        f"row {number} is not {','.join(_COLUMNS)}",
                        where=str(path),
                        expected="seconds, a number of a device, mW and mJ as whole numbers or empty",
                    ) from None
                if int(device) < 0 or (script.at_us and at_us <= script.at_us[-1]):
                    raise KitError(
                        f"row {number}: time does not rise, or the device is negative", where=str(path)
                    )
                script.at_us.append(at_us)
                script.power_mw.append(values[0])
                script.energy_mj.append(values[1])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"the script cannot be read: {error}", where=str(path)) from None
    if not scripts:
        raise KitError("the script has no rows", where=str(path), expected=",".join(_COLUMNS))
    return scripts
