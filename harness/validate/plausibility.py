"""Level 3: what no accounting forbids and no real machine shows. Every rule may be waived with a reason.

Three files hold the rules: this one power, counters and sampling, `authenticity` the shape of the readings,
`claims` what was done with the energy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.accounting.counter import GPU_MAX_W
from harness.accounting.rapl import ZONE_MAX_W, ZONE_REFRESH_US
from harness.accounting.series import Sampling
from harness.accounting.unused import devices_reserved, unused_devices
from harness.bundle.reader import event_detail
from harness.validate.claims import card_watts
from harness.validate.context import Context, device_spans
from harness.validate.findings import Hit
from harness.validate.power_facts import SeriesFacts
from harness.validate.power_signal import SignalFacts
from harness.validate.registry import rule

STAGES = "stages.parquet"
POWER = "power.parquet"
COUNTERS = "counters.parquet"

SOURCE_ABSENT = "source_absent"
RESTARTS = ("counter_reset", "sampler_lost", "x-codecarbon_lost", "gpu_lost")
RESTART_FLAGS = frozenset({"counter_reset", "rapl_reset", "cpu_estimate_restarted"})

OVER_SHARE = 0.001
"""Share of readings that may pass the limit: regulation follows the load by milliseconds."""

OVER_COUNT = 10
OVER_US = 5_000_000
"""So many readings and so long say something by themselves; the share of a short series is one reading."""

BELOW_SHARE = 0.01
LATE_SHARE = 0.01
GAP_SHARE = 0.01
UTIL_SHARE = 0.05
"""Utilisation lags power by its window, so some readings of any changing load contradict each other."""

MANY = 200
"""Periods from which a share of 1 % means something."""

SAMPLER_SHARE = 0.05
"""Of one core; a sampler that takes more is part of what it measures."""

SAMPLER_MIN_S = 60.0

FLOOR_US = 10_000_000
"""A window so long has a mean; below it a refresh of the counter may fall outside."""

CARD_FACTOR = 1.5
"""Vendors of boards go above the reference card by less."""


def _signals(ctx: Context) -> Iterator[tuple[SeriesFacts, SignalFacts, str]]:
    for facts in ctx.facts.seen:
        if facts.signal is not None:
            yield facts, facts.signal, f"device {facts.key.device_id}, session {facts.key.session}"


def _measured(ctx: Context) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stages whose counter and integral both speak."""
    for number, row in enumerate(ctx.stages):
        known = (row["gpu_energy_counter_j"], row["gpu_energy_integral_j"], row["gpu_counter_vs_integral"])
        if None not in known and row["gpu_energy_method"] != "imported":
            yield number, row


@rule("E301")
def power_below_limit(ctx: Context) -> Iterator[Hit]:
    """Hardly a reading lies above 1.15 x the power limit in force."""
    period_us = int(ctx.manifest["sampling"]["nominal_period_us"])
    for _, signal, name in _signals(ctx):
        count, worst, limit = signal.over
        many = count >= OVER_COUNT and count * period_us >= OVER_US
        if many and count > OVER_SHARE * signal.samples:
            observed = f"{name}: {count} readings above the limit, up to {worst / 1000:g} W"
            yield Hit(POWER, observed, f"at most 1.15 x {limit / 1000:g} W", count=count)


@rule("W302")
def power_above_idle(ctx: Context) -> Iterator[Hit]:
    """Hardly a reading lies below 0.9 x what the device draws in idle stages."""
    for _, signal, name in _signals(ctx):
        if signal.idle_mw and signal.below_idle > BELOW_SHARE * signal.samples:
            observed = f"{name}: {signal.below_idle} readings below 0.9 x the idle power"
            yield Hit(POWER, observed, f"at least 0.9 x {signal.idle_mw / 1000:g} W", count=signal.below_idle)


def disagreement_bar(ctx: Context, joules: float, device_us: int, window_us: int) -> float:
    """How far counter and integral may part: 15 % where a device's power is low or time short, else 5 %."""
    bars = ctx.protocol.tolerances
    low = window_us < bars.short_stage_us or joules / max(device_us, 1) * 1e6 < bars.low_power_mean_w
    return bars.counter_vs_integral_finding_low_power if low else bars.counter_vs_integral_finding


def length_us(row: dict[str, Any]) -> int:
    """Device time of a row: the sum of its devices' windows."""
    return sum(end - start for _, start, end in device_spans(row))


@rule("W303")
def counter_and_integral(ctx: Context) -> Iterator[Hit]:
    """Counter and integral of a stage agree, as far as the samples can tell."""
    for number, row in _measured(ctx):
        apart = row["gpu_counter_vs_integral"]
        devices, length = max(1, len(row["device_ids"])), length_us(row)
        if row["samples"] < devices * ctx.protocol.sampling.min_samples:
            continue  # a handful of samples says nothing of the counter; label C407 names the stage
        bar = disagreement_bar(ctx, row["gpu_energy_integral_j"], length, length // devices)
        # The flag holds that the difference is more than the samples' own doubt.
        if abs(apart) > bar and "counter_disagrees" in row["flags"]:
            joules = abs(row["gpu_energy_counter_j"] - row["gpu_energy_integral_j"])
            observed = f"{ctx.named(row)}: the counter says {apart:+.1%} against the integral"
            yield Hit(STAGES, observed, f"at most {bar:.0%} apart", (number,), joules)


@rule("E304")
def run_counter_and_integral(ctx: Context) -> Iterator[Hit]:
    """Over the whole run counter and integral agree."""
    rows = [row for _, row in _measured(ctx) if row["parent_uid"] is None]
    counter = sum(row["gpu_energy_counter_j"] for row in rows)
    integral = sum(row["gpu_energy_integral_j"] for row in rows)
    length = sum(length_us(row) for row in rows)
    if integral <= 0 or length < ctx.protocol.tolerances.short_stage_us:
        return
    disputed = sum(row["gpu_energy_integral_j"] for row in rows if "counter_disagrees" in row["flags"])
    apart, bar = counter / integral - 1, disagreement_bar(ctx, integral, length, length)
    if abs(apart) > bar and disputed > bar * integral:
        observed = f"the counters say {counter:.6g} J, the power samples {integral:.6g} J ({apart:+.1%})"
        yield Hit(STAGES, observed, f"at most {bar:.0%} apart", (), abs(counter - integral))


@rule("E305")
def boundaries_between_samples(ctx: Context) -> Iterator[Hit]:
    """The counter at a boundary lies between the samples before and after it."""
    for facts in ctx.facts.seen:
        for found in facts.misfits:
            low, high, value = found.low_mj, found.high_mj, found.mark.value_mj
            outside = max(low - value, value - high) / 1000
            observed = f"device {facts.key.device_id}, boundary {found.mark.boundary}: {value} mJ"
            yield Hit("counters.parquet", observed, f"{low} to {high} mJ, as power samples show", (), outside)


@rule("E312")
def zones_rise_slowly(ctx: Context) -> Iterator[Hit]:
    """No counter is negative, and no package or dram zone counts faster than any of them could draw."""
    measured = {
        source.name: tuple(source.parts[part] for part in ("cpu", "dram") if part in source.parts)
        for source in ctx.protocol.sources
        if source.method is not None and source.state == "measured"
    }
    for series in ctx.facts.counters:
        name = f"{series.source} {series.zone or f'device {series.device_id}'}, session {series.session}"
        good = series.valid
        times, values = series.mono_us[good], series.value[good]
        negative = np.flatnonzero(values < 0)
        if negative.size:
            observed = f"{name}: {int(values[negative[0]])} {series.unit}"
            yield Hit(COUNTERS, observed, "0 or more", (), None, int(negative.size))
        # psys is the whole platform, accelerators included, and enters no energy.
        one_zone = (series.zone or "").startswith(measured.get(series.source, "\0"))
        if not one_zone or values.shape[0] < 2:
            continue
        step, span = np.diff(values), np.diff(times) + ZONE_REFRESH_US
        fast = np.flatnonzero(step > span * ZONE_MAX_W)
        if fast.size:
            joules = float((step[fast] - span[fast] * ZONE_MAX_W).sum()) / 1e6
            observed = f"{name}: {step[fast[0]] / span[fast[0]]:.6g} W at mono_us {times[fast[0] + 1]}"
            yield Hit(COUNTERS, observed, f"at most {ZONE_MAX_W:g} W", (), joules, int(fast.size))


@rule("E314")
def energy_within_limit(ctx: Context) -> Iterator[Hit]:
    """No device of a stage used more than 1.25 x its power limit x the stage's time and one refresh."""
    refresh_us = Sampling().counter_refresh_us
    limits = ctx.most_mw
    for number, row in enumerate(ctx.stages):
        parts = [
            (f", device {device}", limits.get(device, GPU_MAX_W * 1000), end - start + refresh_us)
            for device, start, end in device_spans(row)
        ]
        energies = row["device_energy_j"]
        if energies is None or len(energies) != len(parts):
            most = [mw for _, mw, _ in parts] or [GPU_MAX_W * 1000]
            length = row["mono_end_us"] - row["mono_start_us"] + refresh_us
            energies, parts = [row["gpu_energy_j"]], [("", sum(most), length)]
        for energy, (where, most_mw, length) in zip(energies, parts, strict=True):
            most_j = most_mw * length * 1e-9
            if energy is not None and energy > most_j:
                observed = f"{ctx.named(row)}{where}: {energy:.6g} J"
                expected = f"at most {most_j:.6g} J, {most_mw / 1000:g} W x {length / 1e6:g} s"
                yield Hit(STAGES, observed, expected, (number,), energy - most_j)


@rule("W313")
def restarts_recorded(ctx: Context) -> Iterator[Hit]:
    """A counter that starts again has an event that says why."""
    explained = {e["session"] for e in ctx.events if e["kind"] in RESTARTS}
    for number, row in enumerate(ctx.stages):
        found = sorted(RESTART_FLAGS & set(row["flags"]))
        if found and row["session"] not in explained:
            observed = f"{ctx.named(row)}: {', '.join(found)}"
            yield Hit(STAGES, observed, f"an event such as {RESTARTS[0]}", (number,), row["gpu_energy_j"])


@rule("W315")
def sources_started(ctx: Context) -> Iterator[Hit]:
    """Every source that was expected started."""
    for number, event in enumerate(ctx.events):
        if event["kind"] == SOURCE_ABSENT:
            source = event_detail(event).get("source", "a source")
            observed = f"session {event['session']}: {source} did not start"
            yield Hit("events.parquet", observed, "its readings", (number,))


@rule("W316")
def devices_used(ctx: Context) -> Iterator[Hit]:
    """Something of the run was seen on every device that it is billed for."""
    if devices_reserved(ctx.manifest):
        return
    # High power without a kernel is a reading to doubt (W309), no idle card.
    readings = [
        (facts.key.device_id, signal.util_samples, 100 if signal.idle_but_hot else signal.util_max)
        for facts, signal, _ in _signals(ctx)
    ]
    unused = unused_devices(ctx.facts.stages, readings, ctx.protocol.kinds("idle"))
    for device, joules in unused.items():
        count = sum(samples for known, samples, _ in readings if known == device)
        observed = f"device {device}: no kernel in {count} readings"
        yield Hit(STAGES, observed, "work on every billed device, or `devices: all`", (), joules)


@rule("W306")
def sampled_often_enough(ctx: Context) -> Iterator[Hit]:
    """99 % of the periods are at most twice the nominal one."""
    for _, signal, name in _signals(ctx):
        if signal.periods >= MANY and signal.late > LATE_SHARE * signal.periods:
            observed = (
                f"{name}: {signal.late} of {signal.periods} periods are longer than twice the nominal one"
            )
            yield Hit(POWER, observed, "at most 1 %", count=signal.late)


@rule("W307")
def time_covered(ctx: Context) -> Iterator[Hit]:
    """At most 1 % of the measured time lies in gaps."""
    rows = [row for row in ctx.stages if row["parent_uid"] is None and row["gpu_energy_method"] != "imported"]
    length = sum(length_us(row) for row in rows)
    gaps = sum(row["gap_us"] for row in rows)
    if length >= ctx.protocol.tolerances.short_stage_us and gaps > GAP_SHARE * length:
        joules = sum(row["energy_in_gaps_j"] or 0.0 for row in rows)
        numbers = tuple(i for i, row in enumerate(ctx.stages) if row["gap_us"] and row["parent_uid"] is None)
        observed = (
            f"{gaps / 1e6:.1f} s of {length / 1e6:.1f} s of device time lie in gaps ({gaps / length:.1%})"
        )
        yield Hit(STAGES, observed, "at most 1 %", numbers, joules)


@rule("W308")
def limit_as_sampled(ctx: Context) -> Iterator[Hit]:
    """The power limit in the manifest is the first that the samples carry."""
    first: dict[int, tuple[int, int]] = {}
    for facts, signal, _ in _signals(ctx):
        if signal.limit_mw is not None:
            seen = facts.key.session, signal.limit_mw
            first[facts.key.device_id] = min(seen, first.get(facts.key.device_id, seen))
    changed = any(row["kind"] == "power_limit_change" for row in ctx.events)
    last = max((facts.key.session for facts in ctx.facts.seen), default=0)
    for device, stated in ctx.limits_mw.items():
        session, held = first.get(device, (0, stated))
        # A later session brings the device's limit of its own start into the manifest.
        if stated is not None and stated != held and not changed and session == last:
            observed = f"device {device}: power_limit_mw {stated} in the manifest"
            yield Hit("manifest.json", observed, f"{held}, as the samples say")


@rule("W309")
def utilisation_and_power(ctx: Context) -> Iterator[Hit]:
    """A card without kernels draws little, and one that always runs kernels draws more than an idle one."""
    for _, signal, name in _signals(ctx):
        bar = UTIL_SHARE * signal.util_samples
        if signal.util_samples < MANY:
            continue
        if signal.idle_but_hot > bar:
            observed = f"{name}: {signal.idle_but_hot} readings of high power while no kernel ran"
            yield Hit(POWER, observed, "at most 5 % of the readings", count=signal.idle_but_hot)
        if signal.busy_but_cold > bar:
            observed = f"{name}: {signal.busy_but_cold} readings of idle power while kernels ran all the time"
            yield Hit(POWER, observed, "at most 5 % of the readings", count=signal.busy_but_cold)


@rule("W310")
def sampler_is_cheap(ctx: Context) -> Iterator[Hit]:
    """The sampler takes at most a twentieth of a core; ticks that it missed show as late periods (W306)."""
    for entry in ctx.manifest["sampling"]["sessions"]:
        cpu, wall = entry.get("sampler_cpu_s"), entry.get("sampler_wall_s")
        name = f"session {entry['session']}"
        if cpu is not None and wall is not None and wall >= SAMPLER_MIN_S and cpu > SAMPLER_SHARE * wall:
            observed = f"{name}: the sampler took {cpu / wall:.1%} of a core"
            yield Hit("manifest.json", observed, f"at most {SAMPLER_SHARE:.0%}")


@rule("E317")
def floors_kept(ctx: Context) -> Iterator[Hit]:
    """Nothing that is called measured draws less than such an instrument's least, ten seconds long."""
    zones: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for series in ctx.facts.counters:
        if series.zone is not None:
            zones[(series.node_id, series.session, series.source)].add(series.zone)
    for number, row in enumerate(ctx.facts.stages):
        window = row["mono_end_us"] - row["mono_start_us"]
        if window < FLOOR_US:
            continue
        for source in ctx.protocol.sources:
            for part, floor_mw in source.floor_mw.items():
                begins = source.parts[part]
                joules = row[f"{part}_energy_j"]
                if begins == "device":
                    units, length = len(row["device_ids"]), length_us(row)
                    mine = row["gpu_energy_method"].startswith(("counter", "power"))
                else:
                    names = zones[(row["node_id"], row["session"], source.name)]
                    units, length = sum(name.startswith(begins) for name in names), window
                    mine = row[f"{part}_energy_method"] == source.method
                least = floor_mw * 1e-9 * (length if begins == "device" else length * units)
                if mine and units and length and joules is not None and joules < least:
                    observed = f"{ctx.named(row)}: {part} {joules / window * 1e6:.3g} W by {source.name}"
                    expected = f"at least {floor_mw / 1000:g} W for each of {units}"
                    yield Hit(STAGES, observed, expected, (number,), least - joules)


@rule("E318")
def card_as_known(ctx: Context) -> Iterator[Hit]:
    """No known card has a limit, or draws a stage long, half again above what its vendor states."""
    known = {
        d["device_id"]: (d, card_watts(str(d["model"]), ctx.protocol.version))
        for d in ctx.manifest["hardware"]["devices"]
    }
    for device, (stated, watts) in known.items():
        for name in ("power_limit_mw", "default_power_limit_mw"):
            if watts is not None and stated.get(name) and stated[name] > CARD_FACTOR * watts * 1000:
                observed = f"device {device} ({stated['model']}): {name} {stated[name]}"
                yield Hit("manifest.json", observed, f"at most {CARD_FACTOR} x {watts:g} W")
    for number, row in enumerate(ctx.facts.stages):
        energies = row["device_energy_j"] or ()
        for (device, start, end), joules in zip(device_spans(row), energies, strict=False):
            watts = known.get(device, ({}, None))[1]
            if (
                watts is not None
                and end - start >= FLOOR_US
                and joules > CARD_FACTOR * watts * (end - start) * 1e-6
            ):
                observed = f"{ctx.named(row)}, device {device}: {joules / (end - start) * 1e6:.0f} W"
                yield Hit(STAGES, observed, f"at most {CARD_FACTOR} x {watts:g} W", (number,), joules)
