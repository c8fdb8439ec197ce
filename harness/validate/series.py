"""One pass over the power table: accounting, clock steps, falls of the counter. Bounded in memory.

One thread decodes row groups into arrays, others account for the series that are complete; the arrays are
used again for the next series, because fresh memory costs more than the arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.accounting import Derivation, Plan, PowerSeries
from harness.accounting.stages import DevicePart
from harness.bundle import Bundle, SeriesKey
from harness.bundle.digest import type_name
from harness.bundle.files import open_parquet, read_groups
from harness.bundle.inputs import counter_series, device_limits, sampling_rules
from harness.errors import KitError

_KEY = ("node_id", "device_id", "session")
_ACCOUNTED = ("mono_us", "power_mw", "energy_counter_mj")
_TYPES: dict[str, npt.DTypeLike] = {
    "mono_us": np.int64,
    "t_us": np.int64,
    "power_mw": np.int32,
    "energy_counter_mj": np.int64,
}


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


class _Buffer:
    """Arrays of one series, grown as rows come and kept for the next series."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.key: SeriesKey | None = None
        self.rows = 0
        self._values = {name: np.empty(0, dtype=_TYPES[name]) for name in columns}
        self._valid = {name: np.empty(0, dtype=np.bool_) for name in ("power_mw", "energy_counter_mj")}

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


def recompute(bundle: Bundle, *, step_us: int | None = None, threads: int = 2) -> Recomputation:
    """Derive every column of `stages` from the raw rows of a bundle.

    Args:
        bundle: an open bundle.
        step_us: also look for clock steps of at least this size and for falls of the counter.
        threads: threads besides the one that reads; each holds one series.

    Raises:
        KitError: a table cannot be read, or power is not in key order.
    """
    plan = Plan(
        bundle.table("stages").to_pylist(),
        counter_series(bundle.iter_batches("counters", encoded=True)),
        sampling_rules(bundle.protocol, bundle.manifest),
        device_limits(bundle.manifest),
    )
    columns = _ACCOUNTED if step_us is None else (*_ACCOUNTED, "t_us")

    def account(buffer: _Buffer) -> tuple[DevicePart | None, SeriesFacts | None]:
        facts = None if step_us is None else _look(buffer, step_us)
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
    return Recomputation(plan.finish(parts), facts)


def _pieces(bundle: Bundle, columns: tuple[str, ...]) -> Iterator[tuple[SeriesKey, pa.Table]]:
    """Rows of power in stored order, cut where the series changes and at row groups."""
    spec = bundle.protocol.tables["power"]
    for path in bundle.files("power"):
        file = open_parquet(path, dictionaries=["node_id"])
        stored = {f.name: type_name(f.type) for f in file.schema_arrow}
        for name in (*_KEY, *columns):
            if stored.get(name) != spec.column(name).type:
                raise KitError(
                    f"column {name!r} is {stored.get(name, 'missing')}",
                    where=str(path),
                    expected=spec.column(name).type,
                )
        for group in range(file.num_row_groups):
            table = read_groups(file, path, [group], [*_KEY, *columns], threads=True).unify_dictionaries()
            for key, start, stop in _runs(table, path):
                yield key, table.slice(start, stop - start)


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


def _look(buffer: _Buffer, step_us: int) -> SeriesFacts:
    key = buffer.key or SeriesKey("", 0, 0)
    series = buffer.series()
    mono = series.mono_us
    apart = np.diff(buffer.array("t_us") - mono)
    jumps = np.flatnonzero((apart >= step_us) | (apart <= -step_us))
    counter, times = series.counter_mj, mono
    if not series.counter_valid.all():
        counter, times = counter[series.counter_valid], mono[series.counter_valid]
    falls = np.flatnonzero(counter[1:] < counter[:-1])
    return SeriesFacts(
        key=key,
        first_us=int(mono[0]),
        last_us=int(mono[-1]),
        steps=tuple((int(mono[i + 1]), int(apart[i])) for i in jumps),
        falls=tuple(int(times[i + 1]) for i in falls),
    )
