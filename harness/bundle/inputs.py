"""A bundle's raw rows in the shapes that the accounting takes: the one bridge between files and joules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.accounting.series import (
    NO_BOUNDARY,
    CounterSeries,
    DeviceLimits,
    PowerSeries,
    Sampling,
    ZoneSource,
)
from harness.bundle.reader import Bundle
from harness.spec import Protocol

_SERIES = ("node_id", "source", "device_id", "zone", "session", "unit", "range")
_NULLS = {"boundary": NO_BOUNDARY, "power_mw": -1, "value": 0}
_NUMBERS = ("mono_us", "t_us", "value", "boundary", "uncertainty_us", "power_mw")


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


class _Gathered:
    """The rows of one counter, as they come by."""

    def __init__(self) -> None:
        self.columns: dict[str, list[npt.NDArray[Any]]] = {
            name: [] for name in (*_NUMBERS, "valid", "method")
        }

    def take(self, name: str) -> npt.NDArray[Any]:
        """One column, whole, and let go of its pieces. A constant one is a view of a single number."""
        pieces = self.columns.pop(name)
        firsts = {piece[0].item() for piece in pieces}
        if len(firsts) == 1 and all((piece == piece[0]).all() for piece in pieces):
            return np.broadcast_to(pieces[0][:1], (sum(map(len, pieces)),))
        return np.concatenate(pieces)


def counter_series(counters: pa.Table | Iterable[pa.RecordBatch]) -> list[CounterSeries]:
    """Every cumulative counter of table `counters`, one series an instrument, zone and session.

    A month of RAPL is millions of rows: pass `bundle.iter_batches("counters", encoded=True)`, and what is
    held at once is the series alone.

    Args:
        counters: Rows with the protocol's columns, in its order; strings may be dictionary encoded.
    """
    words: list[str] = []
    gathered: dict[tuple[Any, ...], _Gathered] = {}
    for batch in counters.to_batches() if isinstance(counters, pa.Table) else counters:
        if not batch.num_rows:
            continue
        numbers: dict[str, npt.NDArray[Any]] = {
            name: _int64(batch.column(name), _NULLS.get(name, 0)) for name in _NUMBERS
        }
        numbers["valid"] = batch.column("value").is_valid().to_numpy(zero_copy_only=False)
        numbers["method"] = _indices(batch.column("method"), words)
        edges = [0, *(np.flatnonzero(_changes(batch)) + 1).tolist(), batch.num_rows]
        for start, stop in pairwise(edges):
            key = tuple(batch.column(name)[start].as_py() for name in _SERIES)
            columns = gathered.setdefault(key, _Gathered()).columns
            for name, values in numbers.items():
                columns[name].append(values[start:stop].copy())
    return [_counter(key, rows, words) for key, rows in gathered.items()]


def _counter(key: tuple[Any, ...], rows: _Gathered, words: list[str]) -> CounterSeries:
    head = dict(zip(_SERIES, key, strict=True))
    return CounterSeries(
        source=head["source"],
        node_id=head["node_id"],
        device_id=head["device_id"],
        zone=head["zone"],
        session=head["session"],
        unit=head["unit"],
        wrap_range=head["range"],
        valid=rows.take("valid"),
        method=_Words(words, rows.take("method")),
        **{name: rows.take(name) for name in _NUMBERS},
    )


def _changes(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Whether each row but the first belongs to another series than the one before."""
    changes = np.zeros(batch.num_rows - 1, np.bool_)
    for name in _SERIES:
        array = batch.column(name)
        if not pa.types.is_integer(array.type):
            array = array.dictionary_encode().indices
        codes = pc.fill_null(array.cast(pa.int64()), np.iinfo(np.int64).min).to_numpy()
        changes |= codes[1:] != codes[:-1]
    return changes


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


def power_series(bundle: Bundle) -> Iterator[PowerSeries]:
    """Every power series of a bundle, one at a time; only what the accounting needs is read."""
    for key, arrays in bundle.iter_power(("mono_us", "power_mw", "energy_counter_mj")):
        yield PowerSeries(
            node_id=key.node_id,
            device_id=key.device_id,
            session=key.session,
            mono_us=arrays["mono_us"],
            power_mw=arrays["power_mw"],
            power_valid=arrays["power_mw_valid"],
            counter_mj=arrays["energy_counter_mj"],
            counter_valid=arrays["energy_counter_mj_valid"],
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


def _int64(array: pa.Array, null: int = 0) -> npt.NDArray[np.int64]:
    if array.null_count:
        array = pc.fill_null(array, null)
    values: npt.NDArray[np.int64] = array.cast(pa.int64()).to_numpy()
    return values
