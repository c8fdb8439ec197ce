"""One pass over the power table: accounting, clocks, counters, the signal itself. Bounded in memory.

One thread decodes row groups into arrays, others account for the series that are complete; the arrays are
used again for the next series, because fresh memory costs more than the arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.accounting import CounterSeries, Derivation, Plan, PowerSeries
from harness.accounting.stages import DevicePart
from harness.bundle import Bundle, SeriesKey
from harness.bundle.digest import type_name
from harness.bundle.files import open_parquet, read_groups
from harness.bundle.inputs import counter_series, device_limits, sampling_rules
from harness.errors import KitError
from harness.spec.versions import WIDENINGS
from harness.validate.signal import SignalFacts, look_at

_KEY = ("node_id", "device_id", "session")
_ACCOUNTED = ("mono_us", "power_mw", "energy_counter_mj")
_WATCHED = ("t_us", "util_pct", "power_limit_mw")
_TYPES: dict[str, npt.DTypeLike] = {
    "mono_us": np.int64,
    "t_us": np.int64,
    "power_mw": np.int32,
    "energy_counter_mj": np.int64,
    "util_pct": np.uint8,
    "power_limit_mw": np.int32,
}
_NULLABLE = ("power_mw", "energy_counter_mj", "util_pct", "power_limit_mw")


@dataclass(frozen=True)
class Mark:
    """A counter reading at a stage boundary, to be held against the samples around it."""

    boundary: int
    mono_us: int
    value_mj: int


@dataclass(frozen=True)
class Watch:
    """What to look for in the series beside their energy.

    Attributes:
        step_us: clock steps of at least this size.
        period_us: nominal sampling period.
        marks: counter readings at boundaries, by series.
        idle: windows of idle stages, by series.
        limits_mw: power limit of a device by the manifest.
    """

    step_us: int
    period_us: int = 500_000
    marks: Mapping[SeriesKey, Sequence[Mark]] = field(default_factory=dict)
    idle: Mapping[SeriesKey, Sequence[tuple[int, int]]] = field(default_factory=dict)
    limits_mw: Mapping[int, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Misfit:
    """A boundary reading that does not lie between the samples before and after it, all in mJ."""

    mark: Mark
    low_mj: int
    high_mj: int
    slack_mj: float


@dataclass(frozen=True)
class SeriesFacts:
    """What a series shows beside its energy.

    Attributes:
        key: node, device, session.
        first_us: first sample, CLOCK_MONOTONIC.
        last_us: last sample.
        steps: (mono_us, step_us) where UTC jumped against the monotonic clock.
        falls: mono_us at which the energy counter was lower than before.
        misfits: boundary readings outside the samples around them.
        signal: what the power readings look like.
    """

    key: SeriesKey
    first_us: int
    last_us: int
    steps: tuple[tuple[int, int], ...] = ()
    falls: tuple[int, ...] = ()
    misfits: tuple[Misfit, ...] = ()
    signal: SignalFacts | None = None


@dataclass
class Recomputation:
    """Derived columns of all stages, and what was seen on the way."""

    derivation: Derivation
    series: list[SeriesFacts] = field(default_factory=list)
    counters: list[CounterSeries] = field(default_factory=list)


class _Buffer:
    """Arrays of one series, grown as rows come and kept for the next series."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.key: SeriesKey | None = None
        self.rows = 0
        self._values = {name: np.empty(0, dtype=_TYPES[name]) for name in columns}
        self._valid = {name: np.empty(0, dtype=np.bool_) for name in columns if name in _NULLABLE}

    def start(self, key: SeriesKey) -> None:
        self.key, self.rows = key, 0

    def add(self, table: pa.Table) -> None:
        """Append rows; nulls become 0 with a false beside them."""
        size = table.num_rows
        self._grow(self.rows + size)
        at = self.rows
        for name, values in self._values.items():
            for chunk in table.column(name).chunks:
                part = slice(at, at + len(chunk))
                if name in self._valid:
                    self._valid[name][part] = chunk.is_valid() if chunk.null_count else True
                values[part] = chunk.fill_null(0) if chunk.null_count else chunk
                at = part.stop
            at = self.rows
        self.rows += size

    def _grow(self, rows: int) -> None:
        for arrays in (self._values, self._valid):
            for name, old in arrays.items():
                if old.shape[0] < rows:
                    fresh: npt.NDArray[Any] = np.empty(max(rows, old.shape[0] * 5 // 4), dtype=old.dtype)
                    fresh[: self.rows] = old[: self.rows]
                    arrays[name] = fresh

    def array(self, name: str) -> npt.NDArray[Any]:
        return self._values[name][: self.rows]

    def pair(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """A nullable column: values and which of them are there."""
        return self._values[name][: self.rows], self._valid[name][: self.rows]

    def series(self) -> PowerSeries:
        key = self.key or SeriesKey("", 0, 0)
        return PowerSeries(
            node_id=key.node_id,
            device_id=key.device_id,
            session=key.session,
            mono_us=self.array("mono_us"),
            power_mw=self.array("power_mw"),
            power_valid=self._valid["power_mw"][: self.rows],
            counter_mj=self.array("energy_counter_mj"),
            counter_valid=self._valid["energy_counter_mj"][: self.rows],
        )


def recompute(bundle: Bundle, *, watch: Watch | None = None, threads: int = 2) -> Recomputation:
    """Derive every column of `stages` from the raw rows of a bundle.

    Args:
        bundle: an open bundle.
        watch: also look for what is wrong with clocks, counters and signals.
        threads: threads besides the one that reads; each holds one series.

    Raises:
        KitError: a table cannot be read, or power is not in key order.
    """
    counters = counter_series(bundle.iter_batches("counters", encoded=True))
    plan = Plan(
        bundle.table("stages").to_pylist(),
        counters,
        sampling_rules(bundle.written, bundle.manifest),
        device_limits(bundle.manifest, bundle.table("events", ["kind", "device_id", "detail"]).to_pylist()),
    )
    columns = _ACCOUNTED if watch is None else (*_ACCOUNTED, *_WATCHED)

    def account(buffer: _Buffer) -> tuple[DevicePart | None, SeriesFacts | None]:
        facts = None if watch is None else _look(buffer, watch)
        return plan.measure(buffer.series()), facts

    workers = max(1, threads - 1)
    free = [_Buffer(columns) for _ in range(workers + 1)]
    running: list[tuple[_Buffer, Future[tuple[DevicePart | None, SeriesFacts | None]]]] = []
    parts: list[DevicePart | None] = []
    facts: list[SeriesFacts] = []

    def collect() -> None:
        buffer, future = running.pop(0)
        part, seen_facts = future.result()
        parts.append(part)
        if seen_facts is not None:
            facts.append(seen_facts)
        free.append(buffer)

    with ThreadPoolExecutor(workers) as pool:
        seen: set[SeriesKey] = set()
        buffer: _Buffer | None = None
        for key, piece in _pieces(bundle, columns):
            if buffer is None or buffer.key != key:
                if key in seen:
                    raise KitError(
                        f"rows of {key} are in two places",
                        where=str(bundle.folder / "power"),
                        expected="rows in key order",
                        fix=f"kit validate {bundle.folder}",
                    )
                seen.add(key)
                if buffer is not None:
                    running.append((buffer, pool.submit(account, buffer)))
                if not free:
                    collect()
                buffer = free.pop()
                buffer.start(key)
            buffer.add(piece)
        if buffer is not None:
            running.append((buffer, pool.submit(account, buffer)))
        while running:
            collect()
    return Recomputation(plan.finish(parts), facts, counters)


def _pieces(bundle: Bundle, columns: tuple[str, ...]) -> Iterator[tuple[SeriesKey, pa.Table]]:
    """Rows of power in stored order, cut where the series changes and at row groups."""
    spec = bundle.protocol.tables["power"]
    for path in bundle.files("power"):
        file = open_parquet(path, dictionaries=["node_id"])
        stored = {f.name: type_name(f.type) for f in file.schema_arrow}
        for name in (*_KEY, *columns):
            wanted = spec.column(name).type
            if stored.get(name) != wanted and (wanted, stored.get(name)) not in WIDENINGS:
                raise KitError(
                    f"column {name!r} is {stored.get(name, 'missing')}",
                    where=str(path),
                    expected=wanted,
                )
        for group in range(file.num_row_groups):
            table = read_groups(file, path, [group], [*_KEY, *columns], threads=True).unify_dictionaries()
            table = _narrowed(table, {n: t for n in columns if (t := spec.column(n).type) != stored[n]}, path)
            for key, start, stop in _runs(table, path):
                yield key, table.slice(start, stop - start)


def _narrowed(table: pa.Table, types: dict[str, str], path: Path) -> pa.Table:
    """Columns that a newer minor version has widened (6.5), in the type of this one."""
    for name, wanted in types.items():
        at = table.schema.get_field_index(name)
        try:
            table = table.set_column(at, name, table.column(name).cast(pa.from_numpy_dtype(_TYPES[name])))
        except pa.ArrowInvalid as error:
            raise KitError(
                f"column {name!r} does not fit: {error}", where=str(path), expected=wanted
            ) from None
    return table


def _runs(table: pa.Table, path: Path) -> Iterator[tuple[SeriesKey, int, int]]:
    if not table.num_rows:
        return
    edges = np.zeros(table.num_rows, dtype=np.bool_)
    for name in (*_KEY, "mono_us"):
        if table.column(name).null_count:
            raise KitError(f"column {name!r} holds nulls and may not", where=str(path))
    for name in _KEY:
        column = table.column(name).combine_chunks()
        codes = np.asarray(column.indices if pa.types.is_dictionary(column.type) else column)
        edges[1:] |= codes[1:] != codes[:-1]
    starts = [0, *np.flatnonzero(edges).tolist()]
    for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
        yield SeriesKey(*(table.column(name)[start].as_py() for name in _KEY)), start, stop


REFRESH_US = 100_000
"""Slowest refresh of an energy counter seen on real cards: how old a value can be."""


def _look(buffer: _Buffer, watch: Watch) -> SeriesFacts:
    key = buffer.key or SeriesKey("", 0, 0)
    series = buffer.series()
    mono = series.mono_us
    apart = np.diff(buffer.array("t_us") - mono)
    jumps = np.flatnonzero((apart >= watch.step_us) | (apart <= -watch.step_us))
    counter, times = series.counter_mj, mono
    if not series.counter_valid.all():
        counter, times = counter[series.counter_valid], mono[series.counter_valid]
    falls = np.flatnonzero(counter[1:] < counter[:-1])
    peak = float(series.power_mw[series.power_valid].max()) if series.power_valid.any() else 0.0
    return SeriesFacts(
        key=key,
        first_us=int(mono[0]),
        last_us=int(mono[-1]),
        steps=tuple((int(mono[i + 1]), int(apart[i])) for i in jumps),
        falls=tuple(int(times[i + 1]) for i in falls),
        misfits=tuple(_misfits(times, counter, watch.marks.get(key, ()), peak)),
        signal=look_at(
            mono,
            series.power_mw,
            series.power_valid,
            period_us=watch.period_us,
            limit_mw=buffer.pair("power_limit_mw"),
            util_pct=buffer.pair("util_pct"),
            device_limit_mw=watch.limits_mw.get(key.device_id),
            idle_windows=watch.idle.get(key, ()),
        ),
    )


def _misfits(
    times: npt.NDArray[np.int64], counter: npt.NDArray[np.int64], marks: Sequence[Mark], peak_mw: float
) -> Iterator[Misfit]:
    """Boundary readings that no rising counter can have shown between the samples around them.

    An interpolated reading may run ahead of the counter by what one refresh holds, hence the slack.
    """
    slack = peak_mw * REFRESH_US * 1e-6 + 1
    for mark in marks:
        before = int(np.searchsorted(times, mark.mono_us, side="right")) - 1
        after = int(np.searchsorted(times, mark.mono_us, side="left"))
        if before < 0 or after >= times.shape[0]:
            continue
        low, high = int(counter[before]), int(counter[after])
        if low <= high and not low - slack <= mark.value_mj <= high + slack:
            yield Misfit(mark, low, high, slack)
