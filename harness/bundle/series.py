"""A run's raw rows in the shapes that the accounting takes: one series an instrument and session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.accounting.series import NO_BOUNDARY, CounterSeries, PowerSeries
from harness.bundle.arrays import LOWEST, numbers, validity
from harness.errors import KitError

POWER_KEY = ("node_id", "device_id", "session")
ACCOUNTED = ("mono_us", "power_mw", "energy_counter_mj")
"""Columns of power that the accounting needs."""

_COUNTER_KEY = ("node_id", "source", "device_id", "zone", "session", "unit", "range")
_NULLS = {"boundary": NO_BOUNDARY, "power_mw": -1, "value": 0}
_NUMBERS = ("mono_us", "t_us", "value", "boundary", "uncertainty_us", "power_mw")


class SeriesKey(NamedTuple):
    """One power series: a device of a node in one life of the meter."""

    node_id: str
    device_id: int
    session: int


class PowerRows:
    """The rows of one power series as arrays, which are kept for the next series.

    A month of samples fills them once: fresh memory costs more than the arithmetic on it.

    Args:
        columns: Fields to hold. A nullable one holds 0 where it is null.
    """

    def __init__(self, columns: Iterable[pa.Field]) -> None:
        self.key = SeriesKey("", 0, 0)
        self.rows = 0
        self.values: dict[str, npt.NDArray[Any]] = {}
        self.valid: dict[str, npt.NDArray[Any]] = {}
        for column in columns:
            self.values[column.name] = np.empty(0, column.type.to_pandas_dtype())
            if column.nullable:
                self.valid[column.name] = np.empty(0, np.bool_)

    def start(self, key: SeriesKey) -> None:
        """Forget the rows and begin another series."""
        self.key, self.rows = key, 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        end = self.rows + batch.num_rows
        for arrays in (self.values, self.valid):
            for name, old in arrays.items():
                if old.shape[0] < end:
                    arrays[name] = np.empty(max(end, old.shape[0] * 5 // 4), old.dtype)
                    arrays[name][: self.rows] = old[: self.rows]
        for name, values in self.values.items():
            array = batch.column(name)
            valid = validity(array)
            if name in self.valid:
                self.valid[name][self.rows : end] = True if valid is None else valid
            values[self.rows : end] = numbers(array, valid)
        self.rows = end

    def array(self, name: str) -> npt.NDArray[Any]:
        """(rows,) values of a column."""
        return self.values[name][: self.rows]

    def pair(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """(rows,) values of a nullable column and which of them are there."""
        return self.array(name), self.valid[name][: self.rows]

    def series(self) -> PowerSeries:
        """What the accounting takes; views of these arrays."""
        power, power_valid = self.pair("power_mw")
        counter, counter_valid = self.pair("energy_counter_mj")
        return PowerSeries(*self.key, self.array("mono_us"), power, power_valid, counter, counter_valid)


def power_pieces(
    batches: Iterable[pa.RecordBatch], folder: Path | None = None
) -> Iterator[tuple[SeriesKey, pa.RecordBatch]]:
    """Rows of power in stored order, cut where the series changes and at the ends of batches.

    Raises:
        KitError: The rows of a series are in two places.
    """
    seen: set[SeriesKey] = set()
    last: SeriesKey | None = None
    for batch in batches:
        for start, stop in _runs(batch, POWER_KEY):
            key = SeriesKey(*(batch.column(name)[start].as_py() for name in POWER_KEY))
            if key != last and key in seen:
                raise KitError(
                    f"rows of {key} are in two places",
                    where="table power" if folder is None else str(folder / "power"),
                    expected="rows in key order",
                    fix=None if folder is None else f"kit validate {folder}",
                )
            seen.add(key)
            last = key
            yield key, batch.slice(start, stop - start)


def power_series(batches: Iterable[pa.RecordBatch], folder: Path | None = None) -> Iterator[PowerRows]:
    """Every power series, one after another, each in arrays of its own.

    Args:
        batches: Rows of power in key order: `node_id`, `device_id`, `session` and the columns wanted.
        folder: The bundle they come from, for messages.
    """
    rows: PowerRows | None = None
    for key, piece in power_pieces(batches, folder):
        if rows is None or rows.key != key:
            if rows is not None:
                yield rows
            rows = PowerRows(f for f in piece.schema if f.name not in POWER_KEY)
            rows.start(key)
        rows.add(piece)
    if rows is not None:
        yield rows


class _Words(Sequence[str]):
    """A column of few words and many rows: an index of one byte a row."""

    def __init__(self, words: list[str], indices: npt.NDArray[np.uint8]) -> None:
        self._words = words
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> _Words: ...

    def __getitem__(self, index: int | slice) -> str | _Words:
        if isinstance(index, slice):
            return _Words(self._words, self._indices[index])
        return self._words[int(self._indices[index])]


_Pieces = dict[str, list[npt.NDArray[Any]]]
"""The rows of one counter as they come by, column by column."""


def _whole(columns: _Pieces, name: str) -> npt.NDArray[Any]:
    """One column, whole, and let go of its pieces. A constant one is a view of a single number."""
    pieces = columns.pop(name)
    firsts = {piece[0].item() for piece in pieces}
    if len(firsts) == 1 and all((piece == piece[0]).all() for piece in pieces):
        return np.broadcast_to(pieces[0][:1], (sum(map(len, pieces)),))
    return np.concatenate(pieces)


def counter_series(counters: pa.Table | Iterable[pa.RecordBatch]) -> list[CounterSeries]:
    """Every cumulative counter of table `counters`, one series an instrument, zone and session.

    A month of RAPL is millions of rows: pass `bundle.iter_batches("counters", encoded=True)`, and what is
    held at once is the series alone.
    """
    words: list[str] = []
    gathered: dict[tuple[Any, ...], _Pieces] = {}
    for batch in counters.to_batches() if isinstance(counters, pa.Table) else counters:
        if not batch.num_rows:
            continue
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in _NUMBERS:
            column = batch.column(name)
            arrays[name] = numbers(column, validity(column), _NULLS.get(name, 0)).astype(np.int64)
        valid = validity(batch.column("value"))
        arrays["valid"] = np.ones(batch.num_rows, np.bool_) if valid is None else valid
        arrays["method"] = _indices(batch.column("method"), words)
        for start, stop in _runs(batch, _COUNTER_KEY):
            key = tuple(batch.column(name)[start].as_py() for name in _COUNTER_KEY)
            columns = gathered.setdefault(key, {})
            for name, values in arrays.items():
                columns.setdefault(name, []).append(values[start:stop].copy())
    return [_counter(key, rows, words) for key, rows in gathered.items()]


def _counter(key: tuple[Any, ...], rows: _Pieces, words: list[str]) -> CounterSeries:
    head = dict(zip(_COUNTER_KEY, key, strict=True))
    return CounterSeries(
        source=head["source"],
        node_id=head["node_id"],
        device_id=head["device_id"],
        zone=head["zone"],
        session=head["session"],
        unit=head["unit"],
        wrap_range=head["range"],
        valid=_whole(rows, "valid"),
        method=_Words(words, _whole(rows, "method")),
        **{name: _whole(rows, name) for name in _NUMBERS},
    )


def _runs(batch: pa.RecordBatch, key: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of each run of rows with one and the same key."""
    if not batch.num_rows:
        return
    changes = np.zeros(batch.num_rows - 1, np.bool_)
    for name in key:
        array = batch.column(name)
        if not pa.types.is_integer(array.type):
            array = array.dictionary_encode().indices
        codes = numbers(array, validity(array), LOWEST)
        changes |= codes[1:] != codes[:-1]
    yield from pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), batch.num_rows])


def _indices(array: pa.Array, words: list[str]) -> npt.NDArray[np.uint8]:
    """Places of an array's strings in `words`, which grows by the new ones."""
    encoded = array.dictionary_encode()
    places = []
    for word in encoded.dictionary.to_pylist():
        if word not in words:
            words.append(word)
        places.append(words.index(word))
    found: npt.NDArray[np.uint8] = np.array(places, np.uint8)[encoded.indices.to_numpy()]
    return found
