"""Dense recordings of what a GPU's instruments show, and the moments at which a shown value changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from harness.doctor.inventory import module_power_mw
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


def power_usage_mw(source: GpuSource) -> int | None:
    """The older PowerUsage; None when it fails or shows 0."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetPowerUsage(source.handle)) or None
    except pynvml.NVMLError:
        return None


def record(sources: Sequence[GpuSource], seconds: float) -> dict[int, Recording]:
    """Read every instrument of every GPU about each millisecond.

    Returns:
        The recordings by NVML index.
    """
    names = [instrument.name for instrument in fields(Recording)]
    rows: dict[int, dict[str, list[tuple[int, int, int]]]] = {}
    for source in sources:
        rows[source.index] = {name: [] for name in names}
    has_module = {source.index for source in sources if module_power_mw(source.handle) is not None}
    end_us = mono_us() + round(seconds * 1e6)
    while (begin_us := mono_us()) < end_us:
        for source in sources:
            before = mono_us()
            reading = source.read()
            between = mono_us()
            # Without field 186 the power is PowerUsage, which has a column of its own.
            instant_mw = reading.power_mw if source.methods["instant"] == "field" else None
            usage_mw = power_usage_mw(source)
            after = mono_us()
            module_mw = module_power_mw(source.handle) if source.index in has_module else None
            for name, begin, end, value in (
                ("energy", before, between, reading.energy),
                ("instant", before, between, instant_mw),
                ("average", before, between, reading.average_mw),
                ("usage", between, after, usage_mw),
                ("module", after, mono_us(), module_mw),
            ):
                if value is not None:  # failed reads are left out
                    rows[source.index][name].append((begin, end, value))
        spent_s = (mono_us() - begin_us) / 1e6
        time.sleep(max(POLL_S - spent_s, spent_s * (1 / _SHARE_OF_A_CORE - 1), 0.0))
    return {
        index: Recording(**{name: Shown(*np.array(own[name], dtype=float).reshape(-1, 3).T) for name in own})
        for index, own in rows.items()
    }
