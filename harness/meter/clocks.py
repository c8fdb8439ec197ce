"""The two clocks of a log: CLOCK_MONOTONIC for durations, UTC for people; and the watch between them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

CLOCK_STEP_EVENT_US = 50_000
"""A change of (UTC - monotonic) from which a clock step is recorded (protocol: 50 ms)."""


def mono_us() -> int:
    """CLOCK_MONOTONIC in microseconds."""
    return time.monotonic_ns() // 1000


def utc_us() -> int:
    """UTC since the Unix epoch in microseconds."""
    return time.time_ns() // 1000


def utc_at(at_us: int) -> int:
    """UTC at a moment of CLOCK_MONOTONIC, by how the two clocks stand now; all in microseconds."""
    return utc_us() - (mono_us() - at_us)


def clock_id() -> str:
    """A name for this machine's monotonic clock: times compare only under one clock id.

    Derived from the boot id, hashed so that it cannot be linked to the machine; "unknown" where the kernel
    shows none.
    """
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
    return hashlib.sha256(f"distill-energy-clock:{boot_id}".encode()).hexdigest()[:16]


class ClockWatch:
    """Notices steps of the wall clock against the monotonic one."""

    def __init__(self, threshold_us: int = CLOCK_STEP_EVENT_US) -> None:
        self._threshold_us = threshold_us
        self._offset_us: int | None = None

    def step_us(self, t_us: int, now_mono_us: int) -> int | None:
        """The size of a step since the last call (signed, in us), or None when the clocks agree."""
        offset = t_us - now_mono_us
        previous, self._offset_us = self._offset_us, offset
        if previous is None or abs(offset - previous) < self._threshold_us:
            return None
        return offset - previous
