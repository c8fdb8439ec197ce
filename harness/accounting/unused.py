"""Devices that a run is billed for and did nothing on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness.accounting.boundaries import UNATTRIBUTED, Row

UNUSED_PCT = 5
"""Highest utilisation of a device that nobody uses: the driver's own work shows as a percent or two."""

UNUSED_SAMPLES = 10
"""Readings that it takes to say so: five seconds."""


def unused_devices(
    rows: Iterable[Row], readings: Iterable[tuple[int, int, int]], idle_kinds: Collection[str]
) -> dict[int, float | None]:
    """Devices on which no kernel was seen, with their joules in the total; None where these are unknown.

    Of a device whose utilisation cannot be read nothing is said.

    Args:
        rows: Rows of `stages`.
        readings: Of each power series: device_id, readings of utilisation, the highest of them in %.
        idle_kinds: Kinds of stages in which nothing is to run.
    """
    samples: dict[int, int] = defaultdict(int)
    highest: dict[int, int] = defaultdict(int)
    for device, count, percent in readings:
        samples[device] += count
        highest[device] = max(highest[device], percent)
    billed: set[int] = set()
    joules: dict[int, list[float | None]] = defaultdict(list)
    for row in rows:
        if row["parent_uid"] is not None:
            continue
        if row["stage"] != UNATTRIBUTED and row["stage"] not in idle_kinds:
            billed |= set(row["device_ids"])
        for device, energy in zip(row["device_ids"], row["device_energy_j"] or (), strict=False):
            joules[device].append(energy)
    return {
        device: _sum(joules[device])
        for device in sorted(billed)
        if samples[device] >= UNUSED_SAMPLES and highest[device] <= UNUSED_PCT
    }


def devices_reserved(manifest: Mapping[str, Any]) -> bool:
    """Whether the run asked for every device of the machine, used or not."""
    return bool(manifest["pipeline"].get("devices") == "all")


def _sum(energies: Iterable[float | None]) -> float | None:
    known = [energy for energy in energies if energy is not None]
    return math.fsum(known) if known else None
