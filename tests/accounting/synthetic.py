"""A made-up run whose joules are known: devices of piecewise constant power, counters, RAPL zones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.accounting.series import CounterSeries, PowerSeries
from harness.accounting.stages import derive_stages
from harness.bundle.derive import device_limits, sampling_rules
from harness.bundle.series import counter_series

EPOCH_US = 1_790_000_000_000_000
S = 1_000_000


@dataclass(frozen=True)
class Stage:
    """A stage of the made-up run; times in seconds since the start of the session."""

    name: str
    kind: str
    start_s: float
    end_s: float
    watts: float
    devices: tuple[int, ...] | None = None
    status: str = "completed"
    tokens: int | None = None


DEFAULT = (
    Stage("prepare", "preprocess", 2.0, 42.0, 120.0),
    Stage("cache", "teacher_logits", 42.0, 102.0, 650.0, tokens=2_000_000),
    Stage("train", "student_train", 110.3, 210.3, 600.0, tokens=1_000_000),
    Stage("eval", "evaluate", 210.3, 250.0, 400.0, tokens=50_000),
)


@dataclass
class Run:
    """Raw rows and recorded stages; change them before `write`."""

    stages: list[dict[str, Any]]
    power: dict[str, np.ndarray]
    counters: list[dict[str, Any]]
    events: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    manifest: dict[str, Any]
    energy_j: Callable[[int, float, float], float]
    end_s: float
    derived: list[dict[str, Any]] = field(default_factory=list)

    def power_series(self) -> list[PowerSeries]:
        found = []
        for device in np.unique(self.power["device_id"]):
            for session in np.unique(self.power["session"]):
                pick = (self.power["device_id"] == device) & (self.power["session"] == session)
                if pick.any():
                    arrays = {name: values[pick] for name, values in self.power.items()}
                    found.append(
                        PowerSeries(
                            "node-00",
                            int(device),
                            int(session),
                            arrays["mono_us"],
                            arrays["power_mw"],
                            arrays["power_mw_valid"],
                            arrays["energy_counter_mj"],
                            arrays["energy_counter_mj_valid"],
                        )
                    )
        return found

    def counter_series(self) -> list[CounterSeries]:
        import pyarrow as pa

        from harness.spec import load_protocol

        schema = load_protocol().arrow_schema("counters")
        rows = sorted(
            self.counters,
            key=lambda r: tuple(
                (r[k] is not None, r[k] if r[k] is not None else 0)
                for k in ("node_id", "source", "device_id", "zone", "session", "mono_us", "boundary")
            ),
        )
        return counter_series(pa.Table.from_pylist(rows, schema))

    def derive(self) -> list[dict[str, Any]]:
        from harness.spec import load_protocol

        return derive_stages(
            self.stages,
            self.power_series(),
            self.counter_series(),
            sampling_rules(load_protocol(), self.manifest),
            device_limits(self.manifest),
        )

    def write(self, folder: Path, protocol: Any = None) -> Path:
        import pyarrow as pa

        from harness.bundle import BundleWriter

        writer = BundleWriter(folder, protocol)
        size = self.power["mono_us"].shape[0]
        columns: dict[str, Any] = {"node_id": ["node-00"] * size}
        for name in ("device_id", "session", "t_us", "mono_us"):
            columns[name] = self.power[name]
        for name in ("power_mw", "energy_counter_mj"):
            columns[name] = pa.array(self.power[name], mask=~self.power[f"{name}_valid"])
        if "mem_used_mib" in self.power:
            columns["mem_used_mib"] = self.power["mem_used_mib"]
        order = np.lexsort((columns["mono_us"], columns["session"], columns["device_id"]))
        writer.write_table("power", pa.table(columns).take(pa.array(order)).to_pylist())
        writer.write_table("counters", self.counters)
        writer.write_table("events", [*self.events, *self._reports()])
        writer.write_table("artifacts", self.artifacts)
        writer.write_table("stages", self.derived or self.derive())
        writer.write_manifest(self.manifest)
        return folder

    def _reports(self) -> list[dict[str, Any]]:
        """One event a stage that counted tokens; none where the run says itself what was reported."""
        if any(event["kind"] == "stage_tokens" for event in self.events):
            return []
        found: list[dict[str, Any]] = []
        for row in self.stages:
            names = ("tokens_trained", "tokens_processed", "tokens_positions", "tokens_generated")
            counts = {name: row[name] for name in names if row.get(name) is not None}
            if counts:
                at = row["mono_end_us"] - 1000
                found.append(
                    {
                        "event_id": len(self.events) + len(found), "session": row["session"],
                        "t_us": at + EPOCH_US, "mono_us": at, "kind": "stage_tokens",
                        "stage_uid": row["stage_uid"], "device_id": None, "severity": "info",
                        "detail": json.dumps(counts, sort_keys=True, separators=(",", ":")),
                    }
                )  # fmt: skip
        return found


def make_run(
    stages: tuple[Stage, ...] = DEFAULT,
    *,
    devices: int = 2,
    idle_w: float = 80.0,
    end_s: float = 255.0,
    rapl: bool = False,
    codecarbon: bool = False,
    session: int = 0,
    mono0: int = 1_000 * S,
    method: str = "tick",
) -> Run:
    """A run of one session; device d draws `watts + 10 d`; boundaries fall on the counter's 0.1 s ticks,
    or between them where they are moments (`method="moment"`).
    """

    def watts(device: int, t: np.ndarray) -> np.ndarray:
        p = np.full(t.shape, idle_w)
        for stage in stages:
            if stage.devices is None or device in stage.devices:
                p = np.where((t >= stage.start_s) & (t < stage.end_s), stage.watts, p)
        return p + 10.0 * device

    knots = np.unique([0.0, end_s + 100, *(s.start_s for s in stages), *(s.end_s for s in stages)])

    def energy_j(device: int, a: float, b: float) -> float:
        cuts = np.unique(np.concatenate(([a, b], knots[(knots > a) & (knots < b)])))
        return float(np.sum(watts(device, (cuts[1:] + cuts[:-1]) / 2) * np.diff(cuts)))

    def counter_mj(device: int, t: float) -> int:
        return 123_456_789 + round(1000 * energy_j(device, 0.0, t))

    def refresh(t: float) -> float:
        """The last one at or before a time; a boundary that is a moment lies inside a cell."""
        phase = 0.037 if method == "moment" else 0.0
        return float(np.floor((t - phase) * 10 + 1e-6) / 10 + phase)

    ticks = np.arange(0.25, end_s + 1, 0.5)
    power: dict[str, list[Any]] = {
        n: [] for n in ("device_id", "session", "t_us", "mono_us", "power_mw", "energy_counter_mj")
    }
    for device in range(devices):
        power["device_id"] += [device] * len(ticks)
        power["session"] += [session] * len(ticks)
        mono = np.rint(ticks * S).astype(np.int64) + mono0 + 37 * device
        power["mono_us"] += mono.tolist()
        power["t_us"] += (mono + EPOCH_US).tolist()
        power["power_mw"] += np.rint(1000 * watts(device, ticks)).astype(int).tolist()
        power["energy_counter_mj"] += [counter_mj(device, refresh(t)) for t in ticks]
    arrays = {
        name: np.array(
            values,
            dtype={"device_id": np.int16, "session": np.int16, "power_mw": np.int32}.get(name, np.int64),
        )
        for name, values in power.items()
    }
    for name in ("power_mw", "energy_counter_mj"):
        arrays[f"{name}_valid"] = np.ones(arrays["mono_us"].shape, bool)

    edges = sorted({1.0, end_s, *(s.start_s for s in stages), *(s.end_s for s in stages)})
    number = {edge: i + 100 * session for i, edge in enumerate(edges)}

    def at(edge: float) -> int:
        return round(edge * S) + mono0

    counters: list[dict[str, Any]] = []
    base = {
        "node_id": "node-00",
        "session": session,
        "uncertainty_us": 1000,
        "power_mw": None,
        "device_id": None,
        "zone": None,
        "range": None,
    }
    around = sorted({round(refresh(edge) + k / 10, 3) for edge in edges for k in range(-2, 4)})
    for tick in around if method == "moment" else ():
        for device in range(devices):
            stamp = {"t_us": at(tick) + EPOCH_US, "mono_us": at(tick), "boundary": None, "method": "tick"}
            power_mw = round(1000 * float(watts(device, np.array([tick]))[0]))
            row = {"device_id": device, "source": "nvml", "unit": "mJ", "power_mw": power_mw}
            row |= {"value": counter_mj(device, tick), "uncertainty_us": 50}
            counters.append({**base, **stamp, **row})
    for edge in edges:
        stamp = {"t_us": at(edge) + EPOCH_US, "mono_us": at(edge), "boundary": number[edge], "method": method}
        shown = edge - 0.001 if method == "moment" else edge
        for device in range(devices):
            counters.append(
                {
                    **base,
                    **stamp,
                    "source": "nvml",
                    "device_id": device,
                    "value": None if method == "moment" else counter_mj(device, edge),
                    "unit": "mJ",
                    "power_mw": round(1000 * float(watts(device, np.array([shown]))[0])),
                }
            )
    zones = (
        {"package-0": 90.0, "package-1": 60.0, "dram-0": 12.0, "core-0": 70.0, "psys": 300.0} if rapl else {}
    )
    zones |= {"cpu": 35.0, "ram": 5.0} if codecarbon else {}
    for zone, zone_w in zones.items():
        source = "codecarbon" if zone in ("cpu", "ram") else "rapl"
        wrap = None if source == "codecarbon" else 4_000_000_000
        times = [(float(t), None) for t in ticks] + [(float(e), number[e]) for e in edges]
        for t, mark in sorted(times, key=lambda x: (x[0], x[1] is not None)):
            value = round((zone_w * t + 3_900) * 1e6) if wrap else round(zone_w * t * 1e6)
            counters.append(
                {
                    **base,
                    "t_us": at(t) + EPOCH_US,
                    "mono_us": at(t),
                    "boundary": mark,
                    "method": "immediate" if wrap else "poll",
                    "source": source,
                    "zone": zone,
                    "value": value % wrap if wrap else value,
                    "unit": "uJ",
                    "range": wrap,
                }
            )
    rows = []
    for uid, stage in enumerate(stages):
        mine = list(stage.devices if stage.devices is not None else range(devices))
        a, b = at(stage.start_s), at(stage.end_s)
        rows.append(
            {
                "stage_uid": uid + 100 * session,
                "name": stage.name,
                "stage": stage.kind,
                "parent_uid": None,
                "attempt": 1,
                "status": stage.status,
                "node_id": "node-00",
                "session": session,
                "clock_id": "c0ffee",
                "t_start_us": a + EPOCH_US,
                "t_end_us": b + EPOCH_US,
                "mono_start_us": a,
                "mono_end_us": b,
                "boundary_start": number[stage.start_s],
                "boundary_end": number[stage.end_s],
                "device_ids": mine,
                "device_start_us": [a] * len(mine),
                "device_end_us": [b] * len(mine),
                "tokens_trained": stage.tokens if stage.kind == "student_train" else None,
                "tokens_processed": stage.tokens,
                "tokens_positions": None,
                "tokens_generated": None,
                "token_denominator": None,
                "exit_code": 0 if stage.status == "completed" else 1,
                "command_sha256": None,
                "process_cpu_s": None,
                "flags": [],
                "produces": [],
                "consumes": [],
            }
        )
    manifest = {
        "name": "synthetic",
        "method": "kd",
        "status": "complete",
        "created_t_us": EPOCH_US + mono0,
        "labels": ["simulated"],
        "pipeline": {},
        "hardware": {
            "devices": [
                {
                    "device_id": d,
                    "vendor": "nvidia",
                    "model": "Lab GPU",
                    "mem_mib": 81920,
                    "power_limit_mw": 700_000,
                    "default_power_limit_mw": 700_000,
                    "mig": False,
                    "persistence": True,
                    "counter_supported": True,
                    "instant_supported": True,
                    "average_supported": True,
                    "counter_scope": "gpu",
                }
                for d in range(devices)
            ],
            "cpu_model": None,
            "cpu_count": 2,
            "mem_mib": None,
        },
        "software": dict.fromkeys(
            (
                "kit_version",
                "python",
                "driver",
                "cuda",
                "torch",
                "git_commit",
                "git_dirty",
                "lock_sha256",
                "image_digest",
            )
        ),
        "sampling": {
            "nominal_period_us": 500_000,
            "sampler_version": "test",
            "clock": "CLOCK_MONOTONIC",
            "sessions": [],
        },
        "boundary": {
            "gpu": "measured" if devices else "absent",
            "cpu": "measured" if rapl else "estimated" if codecarbon else "absent",
            "dram": "measured" if rapl else "estimated" if codecarbon else "absent",
        },
        "factors": {"pue": None, "region": None},
        "reference_tokens": None,
        "shared_node": False,
    }
    events = [
        {
            "event_id": 0,
            "session": session,
            "t_us": EPOCH_US + mono0,
            "mono_us": mono0,
            "kind": "session_start",
            "stage_uid": None,
            "device_id": None,
            "severity": "info",
            "detail": None,
        }
    ]
    return Run(rows, arrays, counters, events, [], manifest, energy_j, end_s)


def join(first: Run, second: Run) -> Run:
    """Two sessions of one run."""
    power = {name: np.concatenate((first.power[name], second.power[name])) for name in first.power}
    events = [{**event, "event_id": i} for i, event in enumerate(first.events + second.events)]
    return replace(
        first,
        stages=first.stages + second.stages,
        power=power,
        counters=first.counters + second.counters,
        events=events,
    )
