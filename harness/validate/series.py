"""One pass over every power series: accounting, clock steps, falls of the counter. One device at a time a
thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from harness.accounting import Derivation, Plan, PowerSeries
from harness.accounting.stages import DevicePart
from harness.bundle import Bundle, SeriesKey
from harness.bundle.inputs import counter_series, device_limits, sampling_rules

Rows = list[dict[str, object]]

ACCOUNTED = ("mono_us", "power_mw", "energy_counter_mj")


@dataclass(frozen=True)
class SeriesFacts:
    """What a series shows beside its energy.

    Attributes:
        key: node, device, session.
        first_us: first sample, CLOCK_MONOTONIC.
        last_us: last sample.
        steps: (mono_us, step_us) where UTC jumped against the monotonic clock.
        falls: mono_us at which the energy counter was lower than before.
    """

    key: SeriesKey
    first_us: int
    last_us: int
    steps: tuple[tuple[int, int], ...] = ()
    falls: tuple[int, ...] = ()


@dataclass
class Recomputation:
    """Derived columns of all stages, and what was seen on the way."""

    derivation: Derivation
    series: list[SeriesFacts] = field(default_factory=list)


def recompute(bundle: Bundle, *, step_us: int | None = None, threads: int = 2) -> Recomputation:
    """Derive every column of `stages` from the raw rows of a bundle.

    Args:
        bundle: an open bundle.
        step_us: also look for clock steps of at least this size and for falls of the counter.
        threads: devices worked on at the same time; each holds one series.

    Raises:
        KitError: a table cannot be read.
    """
    plan = Plan(
        bundle.table("stages").to_pylist(),
        counter_series(bundle.table("counters")),
        sampling_rules(bundle.protocol, bundle.manifest),
        device_limits(bundle.manifest),
    )
    keys = bundle.power_devices()
    columns = ACCOUNTED if step_us is None else (*ACCOUNTED, "t_us")

    def one(key: SeriesKey) -> tuple[DevicePart | None, SeriesFacts | None]:
        for _, arrays in bundle.iter_power(columns, series=[key]):
            series = PowerSeries(
                node_id=key.node_id,
                device_id=key.device_id,
                session=key.session,
                mono_us=arrays["mono_us"],
                power_mw=arrays["power_mw"],
                power_valid=arrays["power_mw_valid"],
                counter_mj=arrays["energy_counter_mj"],
                counter_valid=arrays["energy_counter_mj_valid"],
            )
            facts = None if step_us is None else _look(key, series, arrays["t_us"], step_us)
            return plan.measure(series), facts
        return None, None

    with ThreadPoolExecutor(max(1, threads)) as pool:
        results = list(pool.map(one, keys))
    derivation = plan.finish(part for part, _ in results)
    return Recomputation(derivation, [facts for _, facts in results if facts is not None])


def _look(key: SeriesKey, series: PowerSeries, t_us: np.ndarray, step_us: int) -> SeriesFacts:
    mono = series.mono_us
    if not mono.shape[0]:
        return SeriesFacts(key, 0, 0)
    apart = np.diff(t_us - mono)
    jumps = np.flatnonzero(np.abs(apart) >= step_us)
    valid = series.counter_valid
    counter, times = series.counter_mj, mono
    if not valid.all():
        counter, times = counter[valid], mono[valid]
    falls = np.flatnonzero(np.diff(counter) < 0)
    return SeriesFacts(
        key=key,
        first_us=int(mono[0]),
        last_us=int(mono[-1]),
        steps=tuple((int(mono[i + 1]), int(apart[i])) for i in jumps),
        falls=tuple(int(times[i + 1]) for i in falls),
    )


Recompute = Callable[[Bundle], Recomputation]
