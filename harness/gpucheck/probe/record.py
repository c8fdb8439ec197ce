"""Dense recordings of what a GPU's instruments show, and the moments at which a shown value changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.meter.clocks import mono_us
from harness.meter.sources.nvml import GpuSource

Floats = npt.NDArray[np.float64]
POLL_S = 0.001
_SHARP_US = 1_000.0
_SHARE_OF_A_CORE = 0.5  # a driver whose calls take milliseconds must not be kept busy all the time


@dataclass(frozen=True)
class Shown:
    """What one instrument showed: value i was read between `begin_us[i]` and `end_us[i]`."""

    begin_us: Floats
    end_us: Floats
    value: Floats

    @property
    def at_us(self) -> Floats:
        """The middle of each read."""
        return (self.begin_us + self.end_us) / 2

    def between(self, start_us: float, end_us: float) -> Shown:
        """The reads inside a window."""
        keep = (self.begin_us >= start_us) & (self.end_us <= end_us)
        return Shown(self.begin_us[keep], self.end_us[keep], self.value[keep])

    def changes(self) -> Changes:
        """When the shown value changed, sharp ones only."""
        moved = np.flatnonzero(np.diff(self.value)) + 1
        low, high = self.begin_us[moved - 1], self.end_us[moved]
        return Changes((low + high) / 2, (high - low) / 2, self.value[moved]).sharp()


@dataclass(frozen=True)
class Changes:
    """Moments at which a shown value changed, each known to `half_width_us`, and the value after it."""

    at_us: Floats
    half_width_us: Floats
    value: Floats

    def __len__(self) -> int:
        return len(self.at_us)

    def sharp(self) -> Changes:
        """Those that are well known: a reader that lost the processor for a while brackets a change badly."""
        if not len(self):
            return self
        keep = self.half_width_us <= max(3.0 * float(np.median(self.half_width_us)), _SHARP_US)
        return Changes(self.at_us[keep], self.half_width_us[keep], self.value[keep])


@dataclass(frozen=True)
class Recording:
    """What a GPU showed over a stretch of time; an instrument the card lacks is an empty `Shown`.

    Values are mJ for `energy`, mW for the others.
    """

    energy: Shown
    instant: Shown
    average: Shown
    usage: Shown
    module: Shown


class _Rows:
    """Growing columns of (begin, end, value); failed reads are left out."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def add(self, begin_us: int, end_us: int, value: int | None) -> None:
        if value is not None:
            self.rows.append((begin_us, end_us, value))

    def shown(self) -> Shown:
        table = np.array(self.rows, dtype=np.float64).reshape(-1, 3)
        return Shown(table[:, 0], table[:, 1], table[:, 2])


def usage_reader(source: GpuSource) -> Callable[[], int | None]:
    """Reads the older PowerUsage in mW; None when it fails or shows 0."""
    import pynvml

    def read() -> int | None:
        try:
            return int(pynvml.nvmlDeviceGetPowerUsage(source.handle)) or None
        except pynvml.NVMLError:
            return None

    return read


def module_reader(source: GpuSource) -> Callable[[], int | None] | None:
    """Reads the module's INSTANT power in mW, None for a card that is no part of a module."""
    import pynvml

    field: Any = [(pynvml.NVML_FI_DEV_POWER_INSTANT, 1)]

    def read() -> int | None:
        try:
            value = pynvml.nvmlDeviceGetFieldValues(source.handle, field)[0]
        except pynvml.NVMLError:
            return None
        return int(value.value.uiVal) or None if value.nvmlReturn == 0 else None

    return None if read() is None else read


def record(sources: Sequence[GpuSource], seconds: float) -> dict[int, Recording]:
    """Read every instrument of every GPU about each millisecond.

    Returns:
        The recordings by NVML index.
    """
    names = ("energy", "instant", "average", "usage", "module")
    rows = {source.index: {name: _Rows() for name in names} for source in sources}
    readers = [(source, usage_reader(source), module_reader(source)) for source in sources]
    end_us = mono_us() + round(seconds * 1e6)
    while (begin_us := mono_us()) < end_us:
        for source, usage, module in readers:
            own = rows[source.index]
            before = mono_us()
            reading = source.read()
            between = mono_us()
            own["energy"].add(before, between, reading.energy)
            if source.methods["instant"] == "field":  # else it is PowerUsage, which has a column of its own
                own["instant"].add(before, between, reading.power_mw)
            own["average"].add(before, between, reading.average_mw)
            value = usage()
            after = mono_us()
            own["usage"].add(between, after, value)
            if module is not None:
                own["module"].add(after, mono_us(), module())
        spent_s = (mono_us() - begin_us) / 1e6
        time.sleep(max(POLL_S - spent_s, spent_s * (1 / _SHARE_OF_A_CORE - 1), 0.0))
    return {
        index: Recording(**{name: column.shown() for name, column in own.items()})
        for index, own in rows.items()
    }
