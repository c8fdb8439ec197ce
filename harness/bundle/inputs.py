"""A bundle's raw rows in the shapes that the accounting takes: the one bridge between files and joules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.accounting.series import NO_BOUNDARY, CounterSeries, DeviceLimits, PowerSeries, Sampling
from harness.bundle.reader import Bundle
from harness.spec import Protocol

_SERIES = ("node_id", "source", "device_id", "zone", "session", "unit", "range")


def counter_series(counters: pa.Table) -> list[CounterSeries]:
    """Every cumulative counter of table `counters`, one series an instrument, zone and session.

    Args:
        counters: Table with the protocol's columns, in its order; strings may be dictionary encoded.
    """
    if not counters.num_rows:
        return []
    columns = {name: counters.column(name).combine_chunks() for name in counters.schema.names}
    changes = np.zeros(counters.num_rows, np.bool_)
    for name in _SERIES:
        array = columns[name]
        if not pa.types.is_integer(array.type):
            array = array.dictionary_encode().indices
        codes = pc.fill_null(array.cast(pa.int64()), np.iinfo(np.int64).min).to_numpy()
        changes[1:] |= codes[1:] != codes[:-1]
    starts = [0, *np.flatnonzero(changes).tolist()]
    found = []
    for start, stop in zip(starts, [*starts[1:], counters.num_rows], strict=True):
        part = {name: array.slice(start, stop - start) for name, array in columns.items()}
        head = {name: part[name][0].as_py() for name in _SERIES}
        found.append(
            CounterSeries(
                source=head["source"],
                node_id=head["node_id"],
                device_id=head["device_id"],
                zone=head["zone"],
                session=head["session"],
                unit=head["unit"],
                wrap_range=head["range"],
                mono_us=_int64(part["mono_us"]),
                t_us=_int64(part["t_us"]),
                value=_int64(part["value"]),
                valid=part["value"].is_valid().to_numpy(zero_copy_only=False),
                boundary=_int64(part["boundary"], NO_BOUNDARY),
                uncertainty_us=_int64(part["uncertainty_us"]),
                power_mw=_int64(part["power_mw"], -1),
                method=_words(part["method"]),
            )
        )
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
    )


def device_limits(manifest: Mapping[str, Any]) -> dict[int, DeviceLimits]:
    """What the manifest knows of each device, by device_id."""
    return {
        int(device["device_id"]): DeviceLimits(
            max_mw=device.get("power_limit_mw"), instant=device.get("instant_supported") is not False
        )
        for device in manifest["hardware"]["devices"]
    }


def _int64(array: pa.Array, null: int = 0) -> npt.NDArray[np.int64]:
    if array.null_count:
        array = pc.fill_null(array, null)
    values: npt.NDArray[np.int64] = array.cast(pa.int64()).to_numpy()
    return values


def _words(array: pa.Array) -> list[str]:
    """Strings of a column; equal ones share one object, a zone may have millions of rows."""
    encoded = array.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [words[index] for index in encoded.indices.to_numpy().tolist()]
