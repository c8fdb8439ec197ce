"""The one recompute: raw rows to the derived columns of every stage.

Sealing and imports write what it gives, validation compares it with what is stored, reports and experiments
show it. The arithmetic is `harness.accounting`; here rows are brought to it, a series at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from harness.accounting import CounterSeries, Plan
from harness.accounting.series import DeviceLimits, Sampling, ZoneSource
from harness.accounting.stage_scales import Bars, Sharing
from harness.accounting.stages import DevicePart, SessionTotal
from harness.bundle.reader import Bundle
from harness.bundle.series import ACCOUNTED, POWER_KEY, PowerRows, counter_series, power_pieces
from harness.errors import KitError
from harness.spec import Protocol

Seen = TypeVar("Seen")

MAX_DEVICES = 1024
"""Devices that one stage may bill: each is measured by itself, and a list can name one again and again."""


@dataclass(frozen=True)
class Derived(Generic[Seen]):
    """What the raw rows give.

    Attributes:
        stages: All rows of `stages`, `unattributed` ones included, recorded and derived columns together.
        sessions: GPU energy of each session as one window, to check the sum of the stages against.
        counters: The counters it was made from.
        seen: What `look` returned, by series.
    """

    stages: list[dict[str, Any]]
    sessions: list[SessionTotal]
    counters: list[CounterSeries]
    seen: list[Seen]


def derive(
    stages: Iterable[Mapping[str, Any]],
    counters: pa.Table | Iterable[pa.RecordBatch],
    power: Iterable[pa.RecordBatch],
    sampling: Sampling,
    limits: Mapping[int, DeviceLimits],
    *,
    columns: Iterable[str] = ACCOUNTED,
    look: Callable[[PowerRows], Seen] | None = None,
    threads: int = 2,
    folder: Path | None = None,
) -> Derived[Seen]:
    """Derive every column of `stages` from raw rows, wherever they come from.

    One thread takes rows, others account for the series that are complete; what is held is a series a thread.

    Args:
        stages: Rows of `stages`; recorded columns count, `unattributed` rows are made again.
        counters: Rows of `counters`.
        power: Rows of `power` in key order.
        sampling: Rules of the protocol with the period of the run.
        limits: device_id -> what is known of the device.
        columns: Columns of power to hand to `look`, those of the accounting among them.
        look: Called with each series, in a thread.
        threads: Threads, the one that takes rows included.
        folder: The bundle that the rows come from, for messages.

    Raises:
        KitError: The rows of a power series are in two places.
    """
    series = counter_series(counters)
    plan = Plan(stages, series, sampling, limits)

    def account(rows: PowerRows) -> tuple[DevicePart | None, list[Seen]]:
        return plan.measure(rows.series()), [look(rows)] if look is not None else []

    workers = max(1, threads - 1)
    running: list[tuple[PowerRows, Future[tuple[DevicePart | None, list[Seen]]]]] = []
    parts: list[DevicePart | None] = []
    seen: list[Seen] = []

    def collect() -> PowerRows:
        rows, future = running.pop(0)
        part, found = future.result()
        parts.append(part)
        seen.extend(found)
        return rows

    with ThreadPoolExecutor(workers) as pool:

        def submit(rows: PowerRows) -> Future[tuple[DevicePart | None, list[Seen]]]:
            if threads > 1:
                return pool.submit(account, rows)
            done: Future[tuple[DevicePart | None, list[Seen]]] = Future()
            done.set_result(account(rows))
            return done

        rows: PowerRows | None = None
        for key, piece in power_pieces(power, folder):
            if rows is None or rows.key != key:
                if rows is not None:
                    running.append((rows, submit(rows)))
                if len(running) <= workers:
                    rows = PowerRows(piece.schema.field(name) for name in columns)
                else:
                    rows = collect()
                rows.start(key)
            rows.add(piece)
        if rows is not None:
            running.append((rows, submit(rows)))
        while running:
            collect()
    done = plan.finish(parts)
    return Derived(done.stages, done.sessions, series, seen)


def derive_bundle(
    bundle: Bundle,
    *,
    stages: list[dict[str, Any]] | None = None,
    columns: Iterable[str] = ACCOUNTED,
    look: Callable[[PowerRows], Seen] | None = None,
    threads: int = 2,
) -> Derived[Seen]:
    """Derive every column of `stages` from the raw rows of a bundle; arguments as of `derive`.

    Its own `stages` are read where none are given.

    Raises:
        KitError: A table cannot be read, power is not in key order, or a list of devices is too long.
    """
    columns = list(columns)
    stages = bundle.records("stages") if stages is None else stages
    longest = max((len(row["device_ids"]) for row in stages), default=0)
    if longest > MAX_DEVICES:
        raise KitError(
            f"bills a stage to {longest} devices",
            where=str(bundle.folder / "stages.parquet"),
            expected=f"at most {MAX_DEVICES}, each once",
        )
    return derive(
        stages,
        bundle.iter_batches("counters", encoded=True),
        bundle.iter_batches("power", [*POWER_KEY, *columns], encoded=True),
        sampling_rules(bundle.written, bundle.manifest),
        device_limits(bundle.manifest, bundle.records("events")),
        columns=columns,
        look=look,
        threads=threads,
        folder=bundle.folder,
    )


def sampling_rules(protocol: Protocol, manifest: Mapping[str, Any]) -> Sampling:
    """The protocol's sampling rules with the period this run declared."""
    return Sampling(
        nominal_period_us=int(manifest["sampling"]["nominal_period_us"]),
        gap_factor=protocol.sampling.gap_factor,
        min_samples=protocol.sampling.min_samples,
        disagreement_rel=protocol.tolerances.counter_vs_integral_remark,
        zone_sources=zone_sources(protocol),
    )


def zone_sources(protocol: Protocol) -> tuple[ZoneSource, ...]:
    """The protocol's sources of CPU and DRAM energy, the preferred one first."""
    return tuple(
        ZoneSource(source.name, source.parts, source.method, source.state != "estimated")
        for source in protocol.sources_of("cpu", ranked=False)
        if source.method is not None
    )


def sharing(bundle: Bundle) -> Sharing:
    """Which scales the stages of a bundle share, with what other bundles name in the same way (4.4)."""
    hardware, run = bundle.manifest["hardware"], str(bundle.manifest.get("run_id", bundle.folder.name))
    states = bundle.written.method_states()
    return Sharing(
        devices={
            int(d["device_id"]): d.get("scale_id") or f"{run}/{d['device_id']}" for d in hardware["devices"]
        },
        machine=hardware.get("scale_id") or run,
        estimated={method for method, state in states.items() if state == "estimated"},
        bars=scale_bars(bundle.written),
    )


def scale_bars(protocol: Protocol) -> Bars:
    """The protocol's ranges of shared scales."""
    bars = protocol.tolerances
    estimate = (bars.estimate_low, bars.estimate_high)
    return Bars(bars.sensor_rel, estimate, bars.program_rel, bars.estimate_stage_rel)


def device_limits(
    manifest: Mapping[str, Any], events: Iterable[Mapping[str, Any]] = ()
) -> dict[int, DeviceLimits]:
    """What is known of each device, by device_id.

    Args:
        manifest: The run's manifest; its power limits are those of the last session.
        events: Rows of the events table: where `power_limit_change` names a higher limit of an earlier time,
            that one bounds what the device can have drawn.
    """
    highest: dict[int, int] = {}
    for event in events:
        if event["kind"] == "power_limit_change" and event["device_id"] is not None:
            device_id, detail = int(event["device_id"]), json.loads(event["detail"] or "{}")
            named = [detail.get("before_mw"), detail.get("after_mw")]
            highest[device_id] = max(
                [highest.get(device_id, 0), *(mw for mw in named if isinstance(mw, int))]
            )
    limits = {}
    for device in manifest["hardware"]["devices"]:
        device_id, limit_mw = int(device["device_id"]), device.get("power_limit_mw")
        if limit_mw is not None:
            limit_mw = max(limit_mw, highest.get(device_id, 0))
        limits[device_id] = DeviceLimits(
            max_mw=limit_mw, instant=device.get("instant_supported") is not False
        )
    return limits
