"""What the sampler notices while it reads: failing devices, counters that jump, and its own lateness."""

from __future__ import annotations

from typing import Any

from harness.meter.sources.base import ZONE_UNCERTAINTY_US, Reading, Zone

ZONE_MAX_W = 1000.0
"""As in `harness.accounting.rapl`, which the sampler process is too light to import; a test compares."""

_GPU_IS_LOST = 15  # NVML_ERROR_GPU_IS_LOST

Notice = tuple[str, str, dict[str, Any]]
"""(event kind, severity, detail)."""


class GpuWatch:
    """Turns errors and jumps of one GPU's readings into events: one when they begin, one when they end."""

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        self._failing: dict[str, tuple[int, int]] = {}  # quantity -> (NVML code, failed reads)
        self._energy_mj: int | None = None

    def is_calm(self, energy_mj: int) -> bool:
        """Whether a reading without failures, with this counter value, gives rise to no event."""
        last_mj, self._energy_mj = self._energy_mj, energy_mj
        if self._failing or (last_mj is not None and energy_mj < last_mj):
            self._energy_mj = last_mj
            return False
        return True

    def notice(self, reading: Reading) -> list[Notice]:
        """Events that this reading gives rise to."""
        last_mj = self._energy_mj
        notices: list[Notice] = []
        errors = reading.errors or {}
        for quantity, code in errors.items():
            if quantity not in self._failing:
                kind = "gpu_lost" if code == _GPU_IS_LOST else "nvml_error"
                notices.append((kind, "error", {"quantity": quantity, "nvml_code": code}))
            self._failing[quantity] = (code, self._failing.get(quantity, (code, 0))[1] + 1)
        for quantity in [name for name in self._failing if name not in errors]:
            code, count = self._failing.pop(quantity)
            detail = {"quantity": quantity, "nvml_code": code, "failed_reads": count, "recovered": True}
            notices.append(("nvml_error", "info", detail))
        if reading.energy is not None:
            if last_mj is not None and reading.energy < last_mj:
                detail = {"before_mj": last_mj, "after_mj": reading.energy}
                notices.append(("counter_reset", "warning", detail))
            self._energy_mj = reading.energy
        return notices


class ZoneWatch:
    """Notices a counter of a zone that starts again, by the rule that the reader of the log applies."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._last: tuple[int, int] | None = None

    def notice(self, mono_us: int, value: int) -> dict[str, Any] | None:
        """Detail of a reset; None for a step that the zone can have drawn, or a wrap."""
        last, self._last = self._last, (mono_us, value)
        if last is None:
            return None
        step = value - last[1]
        if step < 0 and self._zone.range is not None:
            step += self._zone.range
        if 0 <= step <= (mono_us - last[0] + ZONE_UNCERTAINTY_US) * ZONE_MAX_W:
            return None
        return {"zone": self._zone.label, "before": last[1], "after": value}


class LatenessHistogram:
    """How late the ticks were: counts per power of two of microseconds, small however long the run."""

    def __init__(self) -> None:
        self._counts = [0] * 40
        self._max_us = 0

    def add(self, late_us: int) -> None:
        """Count one tick."""
        late_us = max(0, late_us)
        self._counts[late_us.bit_length()] += 1
        self._max_us = max(self._max_us, late_us)

    def summary(self) -> dict[str, int]:
        """Median and 95th percentile (upper edges of their buckets) and maximum, in us."""
        return {
            "jitter_p50_us": self._quantile(0.50),
            "jitter_p95_us": self._quantile(0.95),
            "jitter_max_us": self._max_us,
        }

    def _quantile(self, share: float) -> int:
        needed = share * sum(self._counts)
        running = 0
        for bits, count in enumerate(self._counts):
            running += count
            if running >= needed and running:
                return min((1 << bits) - 1, self._max_us)
        return 0
