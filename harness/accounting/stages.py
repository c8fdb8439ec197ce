"""From recorded stages and raw readings to every derived column; seal, validate and report all use this.

    plan = Plan(stage_rows, counters, sampling, limits)
    parts = [plan.measure(series) for series in power_series]     # pure; may run in threads
    derivation = plan.finish(parts)

`derive_stages` does the three steps in one call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.accounting.boundaries import (
    UNATTRIBUTED,
    UNATTRIBUTED_UID,
    DeviceBoundaries,
    Row,
    SessionKey,
    find_holes,
    hole_row,
    read_sessions,
)
from harness.accounting.counter import worst_method
from harness.accounting.device import DeviceEnergy, DeviceMeter
from harness.accounting.error_model import Spread, joint
from harness.accounting.processor import ABSENT, PartEnergy, ProcessorMeter
from harness.accounting.series import CounterSeries, DeviceLimits, PowerSeries, Sampling

DeviceKey = tuple[str, int, int]
"""node_id, device_id, session."""

DERIVED_FLAGS = frozenset(
    {
        "counter_reset",
        "counter_stuck",
        "counter_missing",
        "counter_disagrees",
        "counter_glitch",
        "counter_late",
        "counter_boundary_missing",
        "gpu_unmeasured",
        "gap",
        "short_stage",
        "zero_power_readings",
        "excess_power_readings",
        "cpu_estimated",
        "cpu_estimate_restarted",
        "rapl_wrap_ambiguous",
        "rapl_boundary_missing",
        "rapl_glitch",
        "rapl_reset",
        "rapl_stuck",
        "rapl_mirror",
        "rapl_zone_missing",
    }
)
"""Flags that follow from raw rows; any other word in `flags` was recorded and is kept."""

GPU_COLUMNS = (
    "device_energy_j",
    "gpu_energy_j",
    "gpu_energy_j_low",
    "gpu_energy_j_high",
    "gpu_energy_counter_j",
    "gpu_energy_integral_j",
    "gpu_energy_method",
    "gpu_energy_boundary_j",
    "gpu_energy_gap_j",
    "energy_in_gaps_j",
    "gpu_counter_vs_integral",
)
SAMPLE_COLUMNS = ("samples", "missed_samples", "longest_gap_us", "gap_us")


class SessionTotal(NamedTuple):
    """GPU energy of one session from its first to its last boundary, measured as one window.

    Attributes:
        gpu_mj: integer mJ by device; None where nothing was measured.
        low_j: lower end of the 95 % interval over all devices that were measured; the shared ticks inside
            cancel, so it is tighter than a sum of stages.
        high_j: upper end.
    """

    node_id: str
    session: int
    gpu_mj: Mapping[int, int | None]
    low_j: float
    high_j: float


class Derivation(NamedTuple):
    """All rows of `stages`, recorded and derived columns together, and the totals to check them against."""

    stages: list[dict[str, Any]]
    sessions: list[SessionTotal]


class DevicePart(NamedTuple):
    """What one device contributes to the rows of one session."""

    key: DeviceKey
    by_row: Mapping[int, DeviceEnergy]
    total_mj: int | None
    random: Spread
    bound: Spread


class Plan:
    """Which window of which device has to be accounted for, worked out before any sample is read.

    Args:
        stage_rows: rows of `stages`; recorded columns count, `unattributed` rows are made again.
        counters: every series of `counters`.
        sampling: rules of the protocol, with the run's own nominal period.
        limits: device_id -> what is known of the device.
    """

    def __init__(
        self,
        stage_rows: Iterable[Row],
        counters: Sequence[CounterSeries],
        sampling: Sampling,
        limits: Mapping[int, DeviceLimits] | None = None,
    ) -> None:
        self._sampling = sampling
        self._limits = dict(limits or {})
        self._counters = list(counters)
        recorded = [dict(row) for row in stage_rows if row["stage"] != UNATTRIBUTED]
        self._sessions = read_sessions(recorded, self._counters)
        self._rows: dict[SessionKey, list[dict[str, Any]]] = {key: [] for key in self._sessions}
        for row in recorded:
            self._rows[(str(row["node_id"]), int(row["session"]))].append(row)
        uid = UNATTRIBUTED_UID
        self._whole: dict[int, bool] = {}
        for key in sorted(self._sessions, key=lambda k: (k[1], k[0])):
            session, rows = self._sessions[key], self._rows[key]
            roots = [row for row in rows if row.get("parent_uid") is None]
            for hole in find_holes(session, roots):
                rows.append(hole_row(session, hole, uid))
                self._whole[uid] = hole.whole
                uid += 1

    @property
    def device_keys(self) -> set[DeviceKey]:
        """Every device and session that has boundaries."""
        return {(node, d, s) for (node, s), session in self._sessions.items() for d in session.devices}

    def measure(self, series: PowerSeries) -> DevicePart | None:
        """Account for one device in one session; None if no boundary concerns it. Pure."""
        key = (series.node_id, series.device_id, series.session)
        session = self._sessions.get((series.node_id, series.session))
        boundaries = session.devices.get(series.device_id) if session else None
        if boundaries is None:
            return None
        limits = self._limits.get(series.device_id, DeviceLimits())
        meter = DeviceMeter(series, boundaries, self._sampling, limits)
        by_row = {
            int(row["stage_uid"]): meter.measure(int(row["boundary_start"]), int(row["boundary_end"]))
            for row in self._rows[(series.node_id, series.session)]
            if series.device_id in row["device_ids"]
        }
        return DevicePart(key, by_row, *meter.total())

    def finish(self, parts: Iterable[DevicePart | None]) -> Derivation:
        """Put the devices' parts together; a device without a power series has its counter alone."""
        by_key = {part.key: part for part in parts if part is not None}
        for node, device, number in sorted(self.device_keys - by_key.keys()):
            part = self.measure(PowerSeries(node, device, number))
            if part is not None:
                by_key[part.key] = part
        stages: list[dict[str, Any]] = []
        totals: list[SessionTotal] = []
        for key, session in self._sessions.items():
            processor = ProcessorMeter(
                [c for c in self._counters if (c.node_id, c.session) == key], self._sampling.zone_sources
            )
            for row in self._rows[key]:
                uid = int(row["stage_uid"])
                mine = [by_key[(key[0], int(d), key[1])].by_row[uid] for d in row["device_ids"]]
                window = tuple(session.mono_us[int(row[f"boundary_{side}"])] for side in ("start", "end"))
                numbers = (int(row["boundary_start"]), int(row["boundary_end"]))
                cpu = dram = ABSENT
                if self._whole.get(uid, True):
                    cpu = processor.measure("cpu", (window[0], window[1]), numbers)
                    dram = processor.measure("dram", (window[0], window[1]), numbers)
                stages.append(self._complete(row, mine, cpu, dram))
            totals.append(_session_total(key, session.devices, by_key))
        stages.sort(key=lambda row: int(row["stage_uid"]))
        totals.sort(key=lambda t: (t.session, t.node_id))
        return Derivation(stages, totals)

    def _complete(
        self, row: dict[str, Any], devices: Sequence[DeviceEnergy], cpu: PartEnergy, dram: PartEnergy
    ) -> dict[str, Any]:
        """Add the derived columns to a row."""
        flags = {str(f) for f in row.get("flags") or () if f not in DERIVED_FLAGS}
        out = dict(row)
        if row.get("gpu_energy_method") == "imported" and not any(d.energy_mj is not None for d in devices):
            # Nothing raw to recompute from: the figure stands as it was stated, and its method says so.
            out.update({name: row.get(name) for name in (*GPU_COLUMNS, *SAMPLE_COLUMNS)})
        else:
            out.update(_gpu_columns(devices))
            flags |= {fault for device in devices for fault in device.faults}
            fewest = min((d.integral.samples for d in devices), default=self._sampling.min_samples)
            if fewest < self._sampling.min_samples and row["stage"] != UNATTRIBUTED:
                flags.add("short_stage")
        for part, name in ((cpu, "cpu"), (dram, "dram")):
            if row.get(f"{name}_energy_method") == "imported" and part.energy_j is None:
                continue
            out[f"{name}_energy_j"] = part.energy_j
            out[f"{name}_energy_j_low"] = part.low_j
            out[f"{name}_energy_j_high"] = part.high_j
            out[f"{name}_energy_method"] = part.method
            flags |= set(part.faults)
        estimates = {source.method for source in self._sampling.zone_sources if not source.measured}
        if estimates & {out["cpu_energy_method"], out["dram_energy_method"]}:
            flags.add("cpu_estimated")
        out["flags"] = sorted(flags)
        return out


def _gpu_columns(devices: Sequence[DeviceEnergy]) -> dict[str, Any]:
    """Sum of the devices; a sum with an unknown part is unknown."""
    parts = [d.energy_mj for d in devices]
    energies = [p for p in parts if p is not None]
    measured = bool(devices) and len(energies) == len(parts)
    counters = [d.counter_mj for d in devices if d.counter_mj is not None]
    integrals = [d.integral.energy_j for d in devices if d.integral.energy_j is not None]
    counter_j = sum(counters) / 1000 if devices and len(counters) == len(devices) else None
    integral_j = math.fsum(integrals) if devices and len(integrals) == len(devices) else None
    best = sum(energies) / 1000 if measured else None
    out: dict[str, Any] = {
        "device_energy_j": [e / 1000 for e in energies] if measured or not devices else None,
        "gpu_energy_j": best,
        "gpu_energy_j_low": None,
        "gpu_energy_j_high": None,
        "gpu_energy_counter_j": counter_j,
        "gpu_energy_integral_j": integral_j,
        "gpu_energy_method": worst_method([d.method for d in devices]) if measured else "absent",
        "gpu_energy_boundary_j": None,
        "gpu_energy_gap_j": None,
        "energy_in_gaps_j": None
        if integral_j is None
        else math.fsum(d.integral.energy_in_gaps_j for d in devices),
        "gpu_counter_vs_integral": counter_j / integral_j - 1
        if counter_j is not None and integral_j
        else None,
        "samples": sum(d.integral.samples for d in devices),
        "missed_samples": sum(d.integral.missed for d in devices),
        "longest_gap_us": max((d.integral.longest_gap_us for d in devices), default=0),
        "gap_us": sum(d.integral.gap_us for d in devices),
    }
    if best is not None:
        whole = joint([d.random for d in devices], [d.bound.linear(d.doubt) for d in devices])
        out["gpu_energy_j_low"] = max(0.0, best - whole.low_j)
        out["gpu_energy_j_high"] = best + whole.high_j
        out["gpu_energy_boundary_j"] = joint([d.boundary for d in devices]).half_j
        random = [d.gap for d in devices if d.bound != d.gap]
        out["gpu_energy_gap_j"] = joint(random, [d.gap for d in devices if d.bound == d.gap]).half_j
    return out


def _session_total(
    key: SessionKey, devices: Mapping[int, DeviceBoundaries], parts: Mapping[DeviceKey, DevicePart]
) -> SessionTotal:
    mine = {d: parts[(key[0], d, key[1])] for d in sorted(devices)}
    best = sum(part.total_mj or 0 for part in mine.values()) / 1000
    whole = joint([part.random for part in mine.values()], [part.bound for part in mine.values()])
    return SessionTotal(
        node_id=key[0],
        session=key[1],
        gpu_mj={d: part.total_mj for d, part in mine.items()},
        low_j=max(0.0, best - whole.low_j),
        high_j=best + whole.high_j,
    )


def derive_stages(
    stage_rows: Iterable[Row],
    power_series: Iterable[PowerSeries],
    counters: Sequence[CounterSeries],
    sampling: Sampling,
    limits: Mapping[int, DeviceLimits] | None = None,
) -> list[dict[str, Any]]:
    """Rows of `stages` with every derived column, `unattributed` rows included, sorted by stage_uid.

    Args:
        stage_rows: recorded columns of each stage attempt; `unattributed` rows among them are made again.
        power_series: one (node, device, session) at a time; only one is held at once.
        counters: every series of `counters`.
        sampling: rules of the protocol, with the run's own nominal period.
        limits: device_id -> what is known of the device.
    """
    plan = Plan(stage_rows, counters, sampling, limits)
    return plan.finish([plan.measure(series) for series in power_series]).stages
